"""What makes the folder of an export to C a library of Arduino, PlatformIO, CMake and Zephyr: their manifests.

Sources: the Arduino library specification 1.5, rev. 2.2; PlatformIO's ``library.json``; CMake's ``find_package`` in
config mode; the schema in Zephyr's ``scripts/zephyr_module.py``.
"""

from __future__ import annotations

import json
import re

_NAME = 63  # characters of a library's name that Arduino allows
_TARGETS = frozenset((
    "all", "all_build", "clean", "depend", "edit_cache", "help", "install", "package", "package_source", "preinstall",
    "rebuild_cache", "run_tests", "test", "zero_check",
))  # fmt: skip
"""Names that CMake keeps for targets of its own (CMP0037), in lower case."""


def manifests(name: str, sentence: str, version: str) -> dict[str, str]:
    """The manifests by file; ``sentence``: what the policy is, on a line; ``version``: policypress's."""
    plain = re.sub(r"[^ -~]", ".", sentence)
    number = ".".join((*re.findall(r"\d+", version)[:3], "0", "0", "0")[:3])  # of semantic versioning
    return {
        "library.properties": _arduino(name, plain, number),
        "library.json": _platformio(name, plain, number),
        "CMakeLists.txt": _cmake(name, number),
        "zephyr/module.yml": f"name: {name}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n",
        "zephyr/CMakeLists.txt": _zephyr(name),
        "zephyr/Kconfig": _kconfig(name, plain),
    }


def library_name(name: str) -> str:
    """What Arduino and PlatformIO call the library: ``name``, but names that begin with Arduino are Arduino's own."""
    return f"policy_{name}"[:_NAME] if name.lower().startswith("arduino") else name


def _arduino(name: str, sentence: str, version: str) -> str:
    return f"""\
name={library_name(name)}
version={version}
author=policypress
maintainer=policypress
sentence={sentence}
paragraph=Integers and constants in C99: no allocation, no libm. README.md says how it is called.
category=Data Processing
url=https://example.com/{name}
architectures=*
includes={name}.h,{name}_loop.h
"""


def _platformio(name: str, sentence: str, version: str) -> str:
    found = {
        "name": library_name(name),
        "version": version,
        "description": sentence,
        "keywords": ["reinforcement learning", "policy", "control", "tinyml"],
        "license": "MIT",
        "headers": [f"{name}.h", f"{name}_loop.h"],
        "frameworks": "*",
        "platforms": "*",
        "examples": [{"name": "loop", "base": "examples/loop", "files": ["loop.ino"]}],
        "build": {"includeDir": "include", "srcDir": "src"},
        "export": {"exclude": ["build"]},
    }
    return json.dumps(found, indent=2) + "\n"


def _cmake(name: str, version: str) -> str:
    upper = name.upper()
    target = f"policy_{name}" if name.lower() in _TARGETS else name
    return f"""\
# In a project: add_subdirectory or FetchContent, then target_link_libraries(... {name}::{name}).
# By itself: cmake -S . -B build && cmake --build build && ctest --test-dir build
# For find_package: cmake --install build --prefix PLACE
cmake_minimum_required(VERSION 3.13)
project({name} VERSION {version} LANGUAGES C)
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release)
endif()

add_library({target} STATIC src/{name}.c src/{name}_loop.c src/{name}_vectors.c)
set_target_properties({target} PROPERTIES EXPORT_NAME {name})
add_library({name}::{name} ALIAS {target})
target_include_directories({target} PUBLIC
    $<BUILD_INTERFACE:${{CMAKE_CURRENT_SOURCE_DIR}}/include> $<INSTALL_INTERFACE:include>)
target_compile_features({target} PUBLIC c_std_99)
if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options({target} PRIVATE -ffunction-sections -fdata-sections)
endif()

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
    if(NOT CMAKE_CROSSCOMPILING)
        enable_testing()
        add_executable({name}_test src/{name}_test.c)
        target_compile_definitions({name}_test PRIVATE {upper}_MAIN)
        target_link_libraries({name}_test PRIVATE {target})
        add_test(NAME {name} COMMAND {name}_test)
    endif()
    include(CMakePackageConfigHelpers)
    write_basic_package_version_file({name}ConfigVersion.cmake COMPATIBILITY ExactVersion)
    install(TARGETS {target} EXPORT {name} ARCHIVE DESTINATION lib)
    install(FILES include/{name}.h include/{name}_loop.h DESTINATION include)
    install(EXPORT {name} NAMESPACE {name}:: FILE {name}Config.cmake DESTINATION lib/cmake/{name})
    install(FILES "${{CMAKE_CURRENT_BINARY_DIR}}/{name}ConfigVersion.cmake" DESTINATION lib/cmake/{name})
endif()
"""


def _zephyr(name: str) -> str:
    option = f"CONFIG_POLICYPRESS_{name.upper()}"
    return f"""\
if({option})
  zephyr_include_directories(../include)
  zephyr_library_named(policypress_{name})
  zephyr_library_sources(../src/{name}.c)
  zephyr_library_sources_ifdef({option}_LOOP ../src/{name}_loop.c)
  zephyr_library_sources_ifdef({option}_SELF_TEST ../src/{name}_vectors.c)
endif()
"""


def _kconfig(name: str, sentence: str) -> str:
    option, text = f"POLICYPRESS_{name.upper()}", sentence.replace("\\", ".").replace('"', "'")
    return f"""\
config {option}
	bool "{text}"

if {option}

config {option}_LOOP
	bool "Executor of a fixed rate: {name}_loop.h"
	default y

config {option}_SELF_TEST
	bool "Test vectors and {name}_self_test, which belongs into the product"
	default y

endif
"""
