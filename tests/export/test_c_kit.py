"""The folder of an export to C as a library: each manifest against its format's rules, each build from scratch."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from policypress.export.c import CExportConfig, export_c
from policypress.export.c_kit import library_name, manifests
from policypress.measure.microcontroller import TARGETS, missing_tools
from policypress.testing import make_policy

COMMON = ("-Os", "-w", "-ffunction-sections", "-fdata-sections", "-DARDUINO=10819")
AVR = ("-mmcu=atmega328p", "-DF_CPU=16000000L", *COMMON)
SAMD = ("-mcpu=cortex-m0plus", "-mthumb", *COMMON)
STM32 = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-mthumb", *COMMON)
CORES = {
    "avr": ("avr-", AVR, ("-std=gnu11", "-flto", "-fno-fat-lto-objects"), ("-std=gnu++11", "-fno-exceptions")),
    "samd": ("arm-none-eabi-", SAMD, ("-std=gnu11",), ("-std=gnu++11", "-fno-rtti", "-fno-exceptions")),
    "stm32": ("arm-none-eabi-", STM32, ("-std=gnu17",), ("-std=gnu++17", "-fno-rtti", "-fno-exceptions")),
}
"""Flags of platform.txt of ArduinoCore-avr 1.8.6, ArduinoCore-samd 1.8.13 and Arduino_Core_STM32 2.7: compiler.c.flags
and compiler.cpp.flags, without those that write dependencies."""


PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
"""Where tools are looked for: those of PyPI lie beside the interpreter."""


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool, path=PLACES) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(missing)}")


def run(*command: str | Path, folder: Path, **more: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "PATH": PLACES, **more},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two exports: "hand", and "foot" without floats."""
    place = tmp_path_factory.mktemp("kit") / "libraries"
    place.mkdir()
    policy = dataclasses.replace(
        make_policy("integer", "vector"), provenance={"algo": 'so"me\\', "env": "naïve\nRobot-v0"}
    )
    config = CExportConfig("hand", vectors=4, check=False)
    export_c(policy, place / "hand", config)
    export_c(policy, place / "foot", dataclasses.replace(config, name="foot", integer_only=True))
    return place


def test_everything_in_the_folder_is_plain_text(libraries: Path) -> None:
    for file in (libraries / "hand").rglob("*"):
        assert file.is_dir() or file.read_bytes().isascii()
    assert sorted(path.name for path in (libraries / "hand").iterdir()) == [
        "CMakeLists.txt", "Makefile", "README.md", "examples", "export.json", "include", "library.json",
        "library.properties", "src", "zephyr",
    ]  # fmt: skip


def test_files_in_folders_are_no_less_ours(tmp_path: Path) -> None:
    config = CExportConfig("hand", vectors=2, check=False)
    policy = make_policy("integer", "vector")
    export_c(policy, tmp_path / "hand", config)
    (tmp_path / "hand/src/mine.c").write_text("mine")
    with pytest.raises(Exception, match=r"src/mine\.c, which no export wrote"):
        export_c(policy, tmp_path / "hand", config)
    (tmp_path / "hand/src/mine.c").unlink()
    (tmp_path / "hand/build").mkdir()
    (tmp_path / "hand/build/hand.o").write_text("")
    (tmp_path / "hand/notes").mkdir()
    with pytest.raises(Exception, match="holds notes, which no export wrote"):
        export_c(policy, tmp_path / "hand", config)
    (tmp_path / "hand/notes").rmdir()
    export_c(policy, tmp_path / "hand", config)
    assert not (tmp_path / "hand/build").exists()


def test_an_earlier_layout_is_replaced(tmp_path: Path) -> None:
    facts = {"format": "policypress c export 3", "files": ["export.json", "hand.c", "hand.h"]}
    (tmp_path / "export.json").write_text(json.dumps(facts))
    (tmp_path / "hand.c").write_text("old")
    export_c(make_policy("integer", "vector"), tmp_path, CExportConfig("hand", vectors=2, check=False))
    assert not (tmp_path / "hand.c").exists()
    assert (tmp_path / "src/hand.c").exists()


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["hand", "Arduino_thing"])
def test_arduinos_rules_of_library_properties(name: str) -> None:
    """Arduino library specification 1.5 rev. 2.2, and the schema of arduino-lint 1.3 (specification, permissive)."""
    found = properties(manifests(name, "A policy: ünï.", "0.1.0.dev3")["library.properties"])
    required = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert required <= set(found) <= required | {"includes", "depends", "dot_a_linkage", "ldflags", "precompiled"}
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.\-]{0,62}", found["name"])
    assert not found["name"].lower().startswith("arduino")  # Arduino's own
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["version"])
    assert found["category"] in (
        "Display", "Communication", "Signal Input/Output", "Sensors", "Device Control", "Timing", "Data Storage",
        "Data Processing", "Other",
    )  # fmt: skip
    assert re.match(r"https?://", found["url"])
    assert all(found[key] and found[key].isascii() for key in required)
    assert not found["maintainer"].lower().startswith("arduino")


def test_arduino_finds_sources_headers_and_example(libraries: Path) -> None:
    """src/ is compiled with its folders and is the include path; an example's sketch is called as its folder."""
    found = properties((libraries / "hand/library.properties").read_text())
    for header in found["includes"].split(","):
        assert (libraries / "hand/src" / header).is_file()
    assert (libraries / "hand/examples/loop/loop.ino").is_file()
    assert not list((libraries / "hand").glob("*.c"))
    assert library_name("arduino" + "x" * 60) == ("policy_arduino" + "x" * 60)[:63]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["hand", "foot", "both"])
def test_the_flags_of_arduinos_cores_build_the_library_and_its_sketch(
    core: str, name: str, libraries: Path, tmp_path: Path
) -> None:
    tools, machine, c, cpp = CORES[core]
    if shutil.which(f"{tools}g++") is None:
        pytest.skip(f"{tools}g++ is not here.")
    if core == "avr" and name != "foot":
        pytest.skip("float64 has 32 bits on an AVR: --integer-only is for it")
    names = ["hand", "foot"] if name == "both" else [name]
    includes = [f"-I{libraries / one / 'src'}" for one in names]
    objects = []
    for one in names:
        for source in sorted((libraries / one / "src").glob("*.c")):
            objects.append(tmp_path / f"{source.name}.o")
            run(f"{tools}gcc", *machine, *c, f"-I{source.parent}", "-c", source, "-o", objects[-1], folder=tmp_path)
    stub = "#include <stdint.h>\nunsigned long micros();\nunsigned long micros() { return 0; }\n"
    for one in names:
        sketch = (libraries / one / "examples/loop/loop.ino").read_text()
        turn = "int main() { setup(); for (;;) loop(); }\n" if one == names[-1] else ""
        text = stub + sketch + turn
        if turn == "":
            text = re.sub(r"\b(setup|loop|micros)\(\)", r"\1_\1()", text)
        (tmp_path / f"{one}.cpp").write_text(text)
        objects.append(tmp_path / f"{one}.cpp.o")
        strict = [flag for flag in machine if flag != "-w"] + ["-Wall", "-Wextra", "-Werror"]
        run(f"{tools}g++", *strict, *cpp, *includes, "-c", f"{one}.cpp", "-o", objects[-1], folder=tmp_path)
    specs = ["--specs=nosys.specs", "--specs=nano.specs"] if core != "avr" else ["-flto", "-fuse-linker-plugin"]
    run(f"{tools}gcc", *machine, *specs, "-Wl,--gc-sections", *objects, "-o", "firmware.elf", folder=tmp_path)


def test_platformios_manifest(libraries: Path) -> None:
    found = json.loads((libraries / "hand/library.json").read_text())
    assert found["license"] == "MIT"
    for header in found["headers"]:
        assert (libraries / "hand" / found["build"]["includeDir"] / header).is_file()
    for example in found["examples"]:
        assert all((libraries / "hand" / example["base"] / file).is_file() for file in example["files"])
    assert (libraries / "hand" / found["build"]["srcDir"] / "hand.c").is_file()


@needs("pio")
def test_platformio_packs_it(libraries: Path, tmp_path: Path) -> None:
    """Its parser checks every field; but the license's it looks up in a list on the network."""
    shutil.copytree(libraries / "hand", tmp_path / "hand")
    manifest = tmp_path / "hand/library.json"
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "license"}))
    settings = {"PLATFORMIO_CORE_DIR": str(tmp_path / "core"), "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    run("pio", "pkg", "pack", "hand", "-o", "hand.tar.gz", folder=tmp_path, **settings)
    listed = run("tar", "tzf", "hand.tar.gz", folder=tmp_path).split()
    assert {"library.json", "src/hand.c", "include/hand.h", "examples/loop/loop.ino"} <= set(listed)


@pytest.mark.slow
@needs("pio", "cc")
def test_platformio_builds_two_in_one_firmware(libraries: Path, tmp_path: Path) -> None:
    """With a platform of our own, the compiler that is here, and SCons from PyPI in place of PlatformIO's package of
    it: its registry is not asked."""
    python = Path(shutil.which("pio", path=PLACES) or "").resolve().parent / "python"
    if subprocess.run([python, "-c", "import SCons"], capture_output=True).returncode:
        pytest.skip("SCons is not here, where PlatformIO is.")
    scons, platform, app = tmp_path / "core/packages/tool-scons", tmp_path / "platform", tmp_path / "app"
    for folder in (scons, platform / "builder", app / "src"):
        folder.mkdir(parents=True)
    versions = "from platformio.dependencies import get_core_dependencies as d; print(d()['tool-scons'].strip('~'))"
    version = run(python, "-c", versions, folder=tmp_path).strip()
    (scons / "package.json").write_text(json.dumps({"name": "tool-scons", "version": version}))
    spec = {"owner": "platformio", "id": None, "name": "tool-scons", "requirements": None, "uri": None}
    (scons / ".piopm").write_text(json.dumps({"type": "tool", "name": "tool-scons", "version": version, "spec": spec}))
    (scons / "scons.py").write_text("import SCons.Script\nSCons.Script.main()\n")
    about = {"name": "here", "title": "here", "description": "cc", "version": "1.0.0", "packages": {}}
    (platform / "platform.json").write_text(json.dumps(about))
    text = "from platformio.public import PlatformBase\n\n\nclass HerePlatform(PlatformBase):\n    pass\n"
    (platform / "platform.py").write_text(text)
    text = "from SCons.Script import DefaultEnvironment as E\n\nenv = E()\nenv.Default(env.BuildProgram())\n"
    (platform / "builder/main.py").write_text(text)
    (app / "platformio.ini").write_text(f"[env:e]\nplatform = symlink://{platform}\nlib_extra_dirs = {libraries}\n")
    (app / "src/main.c").write_text(BOTH)
    settings = {"PLATFORMIO_CORE_DIR": str(tmp_path / "core"), "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    run("pio", "run", folder=app, **settings)
    run(app / ".pio/build/e/program", folder=app)


BOTH = """
#include <foot_loop.h>
#include <hand_loop.h>
int main(void) {
    return hand_loop_self_test() || foot_loop_self_test();
}
"""


@needs("cmake", "make", "cc")
def test_cmake_builds_tests_and_installs_it(libraries: Path, tmp_path: Path) -> None:
    run("cmake", "-S", libraries / "hand", "-B", "build", folder=tmp_path)
    run("cmake", "--build", "build", folder=tmp_path)
    assert "100% tests passed" in run("ctest", "--test-dir", "build", folder=tmp_path)
    run("cmake", "--install", "build", "--prefix", tmp_path / "installed", folder=tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(use C)\nfind_package(hand REQUIRED)\n"
        "add_executable(use main.c)\ntarget_link_libraries(use PRIVATE hand::hand)\n"
    )
    (tmp_path / "main.c").write_text(BOTH.replace("#include <foot_loop.h>", "").replace("|| foot_loop_self_test()", ""))
    run("cmake", "-S", ".", "-B", "use", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}", folder=tmp_path)
    run("cmake", "--build", "use", folder=tmp_path)
    run(tmp_path / "use/use", folder=tmp_path)


@needs("cmake", "make", "cc")
def test_a_name_that_cmake_keeps_for_itself(tmp_path: Path) -> None:
    export_c(make_policy("integer", "vector"), tmp_path / "test", CExportConfig("test", vectors=2, check=False))
    run("cmake", "-S", "test", "-B", "build", folder=tmp_path)
    run("cmake", "--build", "build", folder=tmp_path)
    run("cmake", "--install", "build", "--prefix", tmp_path / "installed", folder=tmp_path)
    assert "test::test" in (tmp_path / "installed/lib/cmake/test/testConfig.cmake").read_text()


PROJECT = """
cmake_minimum_required(VERSION 3.14)
project(both C)
include(FetchContent)
add_subdirectory({libraries}/hand hand)
FetchContent_Declare(foot SOURCE_DIR {libraries}/foot)
FetchContent_MakeAvailable(foot)
add_executable(both main.c)
target_link_libraries(both PRIVATE hand::hand foot::foot)
"""


@needs("cmake", "make", "cc")
def test_cmake_takes_two_into_one_program(libraries: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT.replace("{libraries}", str(libraries)))
    (tmp_path / "main.c").write_text(BOTH)
    run("cmake", "-S", ".", "-B", "build", folder=tmp_path)
    run("cmake", "--build", "build", folder=tmp_path)
    run(tmp_path / "build/both", folder=tmp_path)


@needs("cmake", "make", "arm-none-eabi-gcc")
def test_cmake_builds_it_for_a_controller(libraries: Path, tmp_path: Path) -> None:
    (tmp_path / "arm.cmake").write_text(
        "set(CMAKE_SYSTEM_NAME Generic)\nset(CMAKE_SYSTEM_PROCESSOR arm)\nset(CMAKE_C_COMPILER arm-none-eabi-gcc)\n"
        'set(CMAKE_C_FLAGS_INIT "-mcpu=cortex-m4 -mthumb")\nset(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)\n'
    )
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={tmp_path / 'arm.cmake'}"
    run("cmake", "-S", libraries / "hand", "-B", "build", toolchain, folder=tmp_path)
    run("cmake", "--build", "build", folder=tmp_path)
    assert "hand_predict" in run("arm-none-eabi-nm", "build/libhand.a", folder=tmp_path)


def test_zephyrs_rules_of_module_yml(libraries: Path) -> None:
    """METADATA_SCHEMA, validate_setting and kconfig_snippet of Zephyr's scripts/zephyr_module.py: keys that it knows,
    the folder of CMake holds a CMakeLists.txt, the file of Kconfig is there."""
    for name in ("hand", "foot"):
        found = yaml.safe_load((libraries / name / "zephyr/module.yml").read_text())
        assert set(found) <= {"name", "build", "tests", "samples", "boards", "blobs"}
        assert found["name"] == name
        assert re.fullmatch(r"[A-Za-z0-9_]+", found["name"])
        build = found["build"]
        known = {"cmake", "kconfig", "cmake-ext", "kconfig-ext", "depends", "settings"}
        assert set(build) <= known
        assert (libraries / name / build["cmake"] / "CMakeLists.txt").is_file()
        assert (libraries / name / build["kconfig"]).is_file()


def test_zephyrs_kconfig_is_read(libraries: Path, tmp_path: Path) -> None:
    kconfiglib = pytest.importorskip("kconfiglib", reason="kconfiglib, which Zephyr reads Kconfig with, is not here.")
    (tmp_path / "Kconfig").write_text("".join(f'source "{libraries}/{n}/zephyr/Kconfig"\n' for n in ("hand", "foot")))
    found = kconfiglib.Kconfig(str(tmp_path / "Kconfig"))
    assert not found.warnings
    options = {"POLICYPRESS_HAND", "POLICYPRESS_HAND_LOOP", "POLICYPRESS_HAND_SELF_TEST"}
    assert {symbol.name for symbol in found.unique_defined_syms if "HAND" in symbol.name} == options
    found.syms["POLICYPRESS_HAND"].set_value(2)
    assert all(found.syms[option].str_value == "y" for option in options)
    assert found.syms["POLICYPRESS_FOOT_LOOP"].str_value == "n"


ZEPHYR = """
cmake_minimum_required(VERSION 3.13)
project(app C)
# What Zephyr's cmake/modules/extensions.cmake has under these names, as far as modules see it.
add_library(zephyr_interface INTERFACE)
macro(zephyr_include_directories)
  foreach(arg ${ARGV})
    get_filename_component(path ${arg} ABSOLUTE)
    target_include_directories(zephyr_interface INTERFACE ${path})
  endforeach()
endmacro()
macro(zephyr_library_named name)
  set(ZEPHYR_CURRENT_LIBRARY ${name})
  add_library(${name} STATIC "")
  target_link_libraries(${name} PUBLIC zephyr_interface)
endmacro()
function(zephyr_library_sources source)
  target_sources(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${source})
endfunction()
function(zephyr_library_sources_ifdef feature)
  if(${${feature}})
    zephyr_library_sources(${ARGN})
  endif()
endfunction()
foreach(name hand foot)
  string(TOUPPER ${name} upper)
  foreach(option "" _LOOP _SELF_TEST)
    set(CONFIG_POLICYPRESS_${upper}${option} y)
  endforeach()
  add_subdirectory(@libraries@/${name}/zephyr ${name})
endforeach()
add_executable(app main.c)
target_link_libraries(app PRIVATE policypress_hand policypress_foot zephyr_interface)
"""


@needs("cmake", "make", "cc")
def test_zephyrs_cmake_builds_both_modules(libraries: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(ZEPHYR.replace("@libraries@", str(libraries)))
    (tmp_path / "main.c").write_text(BOTH)
    run("cmake", "-S", ".", "-B", "build", folder=tmp_path)
    run("cmake", "--build", "build", folder=tmp_path)
    run(tmp_path / "build/app", folder=tmp_path)


@needs("west", "git")
def test_west_takes_it_as_a_project(libraries: Path, tmp_path: Path) -> None:
    def git(folder: Path) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main")
        run("git", *who, "init", "-q", folder=folder)
        run("git", *who, "add", "-A", folder=folder)
        run("git", *who, "commit", "-q", "-m", "all", folder=folder)
        return run("git", "rev-parse", "HEAD", folder=folder).strip()

    shutil.copytree(libraries / "hand", tmp_path / "source")
    revision = git(tmp_path / "source")
    (tmp_path / "top/app").mkdir(parents=True)
    project: dict[str, Any] = {"name": "hand", "url": f"file://{tmp_path}/source", "revision": revision}
    manifest = {"manifest": {"projects": [{**project, "path": "modules/hand"}], "self": {"path": "app"}}}
    (tmp_path / "top/app/west.yml").write_text(yaml.safe_dump(manifest))
    git(tmp_path / "top/app")
    run("west", "init", "-l", "app", folder=tmp_path / "top")
    run("west", "update", folder=tmp_path / "top")
    assert "modules/hand" in run("west", "list", "-f", "{name} {path}", folder=tmp_path / "top")
    assert (tmp_path / "top/modules/hand/zephyr/module.yml").is_file()


@needs("make", "cc")
def test_stm32cubeides_settings_build_it(libraries: Path, tmp_path: Path) -> None:
    """Every source of the folders src/, with the folders include/ on the path, and nothing else."""
    includes = [f"-I{libraries / name / 'include'}" for name in ("hand", "foot")]
    sources = [source for name in ("hand", "foot") for source in sorted((libraries / name / "src").glob("*.c"))]
    (tmp_path / "main.c").write_text(BOTH)
    run("cc", "-std=gnu11", "-Os", "-Wall", "-Werror", *includes, *sources, "main.c", "-o", "both", folder=tmp_path)
    run(tmp_path / "both", folder=tmp_path)


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", ["cortex-m0", "cortex-m4"])
def test_two_in_one_firmware_pass_their_self_tests(target: str, libraries: Path, tmp_path: Path) -> None:
    if "newlib" in missing_tools():
        pytest.skip("newlib is not here.")
    names, chosen = ("hand", "foot"), TARGETS[target]
    sources = [source for name in names for source in sorted((libraries / name / "src").glob("*.c"))]
    includes = [f"-I{libraries / name / 'include'}" for name in names]
    (tmp_path / "main.c").write_text(BOTH)
    with resources.as_file(resources.files("policypress.measure") / "firmware") as firmware:
        link = ["-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", f"-L{firmware}", f"-T{target}.ld"]
        options = [*chosen.flags, "-mthumb", "-std=gnu11", "-Os", "-ffunction-sections", f"-I{firmware}", *includes]
        command = ["arm-none-eabi-gcc", *options, *sources, "main.c", firmware / "startup.c", *link, "-o", "both.elf"]
        run(*command, folder=tmp_path)
    quiet = [
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "null",
        "-semihosting-config",
        "enable=on,target=native",
    ]
    run("qemu-system-arm", "-M", chosen.machine, "-kernel", "both.elf", *quiet, folder=tmp_path)


def test_the_readme_documents_every_way(libraries: Path) -> None:
    text = (libraries / "hand/README.md").read_text()
    for way in ("make -C hand", "cmake -S hand", "arduino-cli compile", "pio ci", "west build", "STM32CubeIDE"):
        assert way in text
    assert max(map(len, text.splitlines())) <= 122
