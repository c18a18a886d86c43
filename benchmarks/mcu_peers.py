"""Policies on an emulated Cortex-M beside what others make of the same networks, counted in one run.

    python benchmarks/mcu_peers.py [--emlearn FOLDER] [--peer NAME=FOLDER]

Networks: random dense ones of three shapes, and trained sparse policies of results/, which peers run in their shape,
dense. Peers: plain loops of int8 and float32 (-O3 in place of -O2), emlearn where it is installed or in FOLDER, and
those of the user, by a folder each that holds their sources and a `peer.json` (see `yours`). int8 peers take the
input's codes and give codes of the outputs, by the tensors of `policypress export --to tflite --ends integer`; float
peers run the same network without rounding, floats in and floats out; plain loops of int8 and ours give the last
layer's sums.

Nobody's sources are part of this project. Instructions are QEMU's, as docs/microcontrollers.md describes. Exit code 1
if ours, or the loops of int8, differ from the reference anywhere, or a float peer by more than a thousandth of the
largest output.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

import policypress as pp
from policypress.errors import ExportError
from policypress.export.c_text import definition
from policypress.export.tflite import encode_tflite
from policypress.measure.microcontroller import (
    EMPTY_INSTRUCTIONS,
    Target,
    expected_answers,
    find_target,
    footprint,
    measure_on_target,
    require_tools,
    run_firmware,
)
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.observations import random_observations, recorded
from policypress.policy.ops import InputQuantization, Layer, Requantization
from policypress.testing import stored_policies

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ((17, 256, 256, 6), (17, 24, 24, 6), (48, 512, 256, 128, 12))
TRAINED = ("cheetah-90", "cheetah-98", "keep-cheetah")
COLUMNS = (("cortex-m4", "-O2"), ("cortex-m4", "-Os"), ("cortex-m0", "-O2"), ("cortex-m0", "-Os"))
RIGHT = 1e-3  # of the largest output, that a float peer may be off
FLAGS = ("-mthumb", "-ffunction-sections", "-fdata-sections", "-w")
CXX_FLAGS = ("-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-fno-use-cxa-atexit")
INTEGER_HEADER = """#pragma once
#include <stdint.h>
#ifdef __cplusplus
extern "C"
#endif
void policy_run(const int32_t *codes, int32_t *outputs);
"""
FLOAT_HEADER = """#pragma once
#include <stdint.h>
typedef float policy_observation;
typedef float policy_action;
#ifdef __cplusplus
extern "C"
#endif
int policy_predict(const policy_observation *observation, policy_action *action);
"""


# Networks


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer as a TensorFlow Lite file has it: int8 ``weight`` (out, in), int32 ``bias``, multiplier and shift of
    kernels, zero points and limits. ``real`` and ``real_bias`` are float32, of codes in and codes out."""

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    multiplier: int
    shift: int
    input_zero: int
    output_zero: int
    low: int
    real: NDArray[np.float32]
    real_bias: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Network:
    """``codes`` (count, inputs) and exact ``sums`` (count, outputs), int32; ``output_scale``: a code of the outputs in
    the file ``model``."""

    name: str
    policy: pp.Policy
    observations: NDArray[Any]
    codes: NDArray[np.int32]
    sums: NDArray[np.int32]
    model: bytes
    layers: tuple[Dense, ...]
    output_scale: float

    @property
    def widths(self) -> list[int]:
        return [self.layers[0].weight.shape[1], *(len(layer.weight) for layer in self.layers)]


def random_dense(widths: tuple[int, ...]) -> pp.Policy:
    """A policy without zeros whose codes use their range, of float32 observations from -4 to 4."""
    rng = np.random.default_rng(sum(widths))
    ops = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        magnitude = np.clip(np.abs(rng.normal(size=(outputs, inputs))) * 40 + 1, 1, 127)
        weight = (magnitude * rng.choice([-1, 1], magnitude.shape)).astype(np.int8)
        typical = 70 * np.sqrt(float((weight.astype(float) ** 2).sum()) / outputs)  # size of a sum
        shift = int(np.log2(255 * typical / 100))
        ratio = (np.array([part], np.int32) for part in (round(100 / typical * 2**shift), shift))
        requantize = Requantization(*ratio, 0, 255) if index + 2 < len(widths) else None
        bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
        scale = np.array([0.7 / typical], np.float32)
        ops.append(Layer(weight, bias, 8, scale, requantize is not None, requantize, name=f"layer{index}"))
    high = np.ones(widths[-1], np.float32)
    policy = pp.Policy(
        tuple(ops),
        ObservationTransform((widths[0],), "float32"),
        ActionTransform("box", (widths[-1],), squash=True, low=-high, high=high),
        InputQuantization(np.full(widths[0], 127 / 4, np.float32), -127, 127, 8),
        baseline_bytes=4 * sum(op.weight.size for op in ops),
    )
    return dataclasses.replace(policy, test_vectors=recorded(policy, random_observations(policy, 4, 0)))


def network(name: str, policy: pp.Policy, observations: NDArray[Any]) -> Network:
    """The policy's integers, and what TensorFlow Lite's kernels would multiply by (``QuantizeMultiplier`` of its
    quantization_util.cc)."""
    model = encode_tflite(policy, "int8", "integer")
    graph = schema.ModelT.InitFromPackedBuf(model, 0)
    tensors, layers = graph.subgraphs[0].tensors, []
    full = [op for op in graph.subgraphs[0].operators if len(op.inputs) == 3]
    for layer, op in zip(policy.layers, full, strict=True):
        taken, weights, biases, given = (tensors[index] for index in (*op.inputs, op.outputs[0]))
        weight = np.asarray(graph.buffers[weights.buffer].data).view(np.int8).reshape(layer.weight.shape)
        bias = np.asarray(graph.buffers[biases.buffer].data).view(np.int32)
        scales = [float(tensor.quantization.scale[0]) for tensor in (taken, weights, given)]
        part, shift = np.frexp(scales[0] * scales[1] / scales[2])
        ratio = layer.scale.astype(np.float64)
        if layer.requantize is not None:
            ratio = np.ldexp(layer.requantize.multiplier.astype(np.float64), -layer.requantize.shift)
        zero = int(given.quantization.zeroPoint[0])
        layers.append(
            Dense(
                weight, bias, round(float(part) * 2**31), int(shift), int(taken.quantization.zeroPoint[0]), zero,
                zero if layer.requantize is not None else -127,
                (layer.weight * ratio).astype(np.float32), (layer.bias * ratio).astype(np.float32),
            )
        )  # fmt: skip
    codes, sums = expected_answers(policy, observations, True)
    scale = float(tensors[graph.subgraphs[0].outputs[0]].quantization.scale[0])
    return Network(name, policy, observations, codes, sums, model, tuple(layers), scale)


# Peers: what they are made from, and what their answers are held against


@dataclass(frozen=True)
class Made:
    """A peer for a network: ``text`` of the adapter, C or C++, compiled with ``flags``, and the peer's own ``sources``,
    each with its flags. ``answers``: "sums" of the last layer, "codes" of outputs, or "floats", which it takes too.
    ``optimize``: what the compiler is told in place of an option; ``header``: text of ``network.h`` beside it."""

    text: str
    answers: str
    flags: tuple[str, ...] = ()
    sources: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    cxx: bool = False
    optimize: dict[str, str] = field(default_factory=dict)
    header: str = ""

    @property
    def floats(self) -> bool:
        return self.answers == "floats"


def _arrays(made: Network, kind: str) -> str:
    """Weights, biases and buffers of every layer."""
    lines = []
    for index, (layer, width) in enumerate(zip(made.layers, made.widths[1:], strict=True)):
        weight, bias = (layer.real, layer.real_bias) if kind == "float" else (layer.weight, layer.bias)
        of_bias = "float" if kind == "float" else "int32_t"
        lines.append(definition(f"static const {kind} w{index}", weight))
        lines.append(definition(f"static const {of_bias} b{index}", bias))
        lines.append(f"static {kind} x{index + 1}[{width}];")
    return "\n".join([f"static {kind} x0[{made.widths[0]}];", *lines])


def loops_int8(made: Network, unrolled: bool = False) -> Made:
    """Plain loops: products, a 64-bit requantization as the policy's, limits. The last layer gives its sums."""
    widths, calls = made.widths, []
    for index, layer in enumerate(made.policy.layers):
        name = f"x{index}, {widths[index]}, w{index}, b{index}"
        if (ratio := layer.requantize) is None:
            calls.append(f"    sums({name}, outputs, {widths[index + 1]});")
        else:
            numbers = f"{ratio.multiplier[0]}, {ratio.shift[0]}"
            calls.append(f"    dense({name}, x{index + 1}, {widths[index + 1]}, {numbers});")
    text = f"""
#include "policy.h"
{_exact_arrays(made)}
static void dense(const int8_t *x, int n, const int8_t *w, const int32_t *b, int8_t *y, int m, int by, int shift) {{
    for (int o = 0; o < m; o++) {{
        int32_t sum = b[o];
        for (int i = 0; i < n; i++)
            sum += w[o * n + i] * x[i];
        int64_t code = ((int64_t)sum * by + ((int64_t)1 << (shift - 1))) >> shift;
        y[o] = (int8_t)((code < 0 ? 0 : code > 255 ? 255 : code) - 128);
    }}
}}
static void sums(const int8_t *x, int n, const int8_t *w, const int32_t *b, int32_t *y, int m) {{
    for (int o = 0; o < m; o++) {{
        int32_t sum = b[o];
        for (int i = 0; i < n; i++)
            sum += w[o * n + i] * x[i];
        y[o] = sum;
    }}
}}
void policy_run(const int32_t *codes, int32_t *outputs) {{
    for (int i = 0; i < {widths[0]}; i++)
        x0[i] = (int8_t)codes[i];
{chr(10).join(calls)}
}}
"""
    return Made(text, "sums", optimize={"-O2": "-O3 -funroll-loops" if unrolled else "-O3"})


def _exact_arrays(made: Network) -> str:
    """The policy's integers; codes from 0 to 255 are held as int8, 128 less, and biases make up for it."""
    layers = []
    for index, (own, layer) in enumerate(zip(made.policy.layers, made.layers, strict=True)):
        more = 0 if index == 0 else 128 * own.weight.sum(axis=1, dtype=np.int32)
        layers.append(dataclasses.replace(layer, weight=own.weight, bias=(own.bias + more).astype(np.int32)))
    return _arrays(dataclasses.replace(made, layers=tuple(layers)), "int8_t")


def loops_float(made: Network) -> Made:
    """Plain loops in float32."""
    widths, calls = made.widths, []
    for index in range(len(made.layers)):
        last = index + 1 == len(made.layers)
        target = "outputs" if last else f"x{index + 1}"
        given = f"x{index}" if index else "codes"
        of = f"{widths[index]}, w{index}, b{index}, {target}, {widths[index + 1]}, {int(not last)}"
        calls.append(f"    dense({given}, {of});")
    text = f"""
#include "policy.h"
{_arrays(made, "float")}
static void dense(const float *x, int n, const float *w, const float *b, float *y, int m, int relu) {{
    for (int o = 0; o < m; o++) {{
        float sum = b[o];
        for (int i = 0; i < n; i++)
            sum += w[o * n + i] * x[i];
        y[o] = relu && sum < 0.0f ? 0.0f : sum;
    }}
}}
int policy_predict(const float *codes, float *outputs) {{
{chr(10).join(calls)}
    return 0;
}}
"""
    return Made(text, "floats", optimize={"-O2": "-O3"})


def emlearn(made: Network, folder: Path) -> Made:
    """``eml_net_infer`` of emlearn's eml_net.h, whose weights are (in, out)."""
    turned = dataclasses.replace(
        made, layers=tuple(dataclasses.replace(one, real=np.ascontiguousarray(one.real.T)) for one in made.layers)
    )
    names = ["EmlNetActivationRelu"] * (len(made.layers) - 1) + ["EmlNetActivationIdentity"]
    rows = [
        f"    {{{outputs}, {inputs}, w{index}, b{index}, {name}}},"
        for index, (inputs, outputs, name) in enumerate(zip(made.widths[:-1], made.widths[1:], names, strict=True))
    ]
    text = f"""
#include "policy.h"
#include <eml_net.h>
{_arrays(turned, "float")}
static const EmlNetLayer layers[] = {{
{chr(10).join(rows)}
}};
static float one[{max(made.widths)}], two[{max(made.widths)}];
int policy_predict(const float *codes, float *outputs) {{
    EmlNet net = {{{len(rows)}, layers, one, two, {max(made.widths)}}};
    if (eml_net_infer(&net, codes, {made.widths[0]}) != EmlOk)
        return 1;
    for (int i = 0; i < {made.widths[-1]}; i++)
        outputs[i] = two[i];
    return 0;
}}
"""
    return Made(text, "floats", flags=(f"-I{folder}",))


def yours(made: Network, folder: Path) -> Made:
    """A peer of the user's: ``peer.json`` in ``folder`` says what its ``source`` is (a file beside it that defines
    ``policy_run`` or ``policy_predict`` of ``policy.h`` with the network of ``network.h``), what it ``answers``, and
    which ``flags`` and further ``sources`` (patterns) it is compiled from. Raises ExportError for another file."""
    try:
        told = json.loads((folder / "peer.json").read_text())
        source, answers = folder / told["source"], told["answers"]
        text = source.read_text()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder / 'peer.json'} does not name a source and what it answers: {error}") from None
    if answers not in ("codes", "floats"):
        raise ExportError(f"{folder / 'peer.json'}: answers is {answers!r}, not codes or floats.")
    flags = (f"-I{folder}", *told.get("flags", ()))
    sources = sorted(path for pattern in told.get("sources", ()) for path in folder.glob(pattern))
    header = network_header(made)
    return Made(text, answers, flags, dict.fromkeys(sources, flags), source.suffix != ".c", header=header)


def network_header(made: Network) -> str:
    """``network.h``: sizes, weights and biases of each layer, int8 (``w0``, ``b0``) and float32 (``real0``,
    ``real_bias0``), its numbers as TensorFlow Lite's kernels take them, and the whole file ``network_model``."""
    lines = ["#pragma once", "#include <stdint.h>"]
    lines += [f"#define NETWORK_INPUTS {made.widths[0]}", f"#define NETWORK_OUTPUTS {made.widths[-1]}"]
    lines += [f"#define NETWORK_WIDEST {max(made.widths)}", "/* int8 inputs are codes and NETWORK_INPUT_ZERO. */"]
    lines += [f"#define NETWORK_INPUT_ZERO {made.layers[0].input_zero}"]
    lines += ["/* X(layer, inputs, outputs, input_zero, output_zero, low, multiplier, shift), first to last */"]
    rows = []
    for index, layer in enumerate(made.layers):
        numbers = (layer.input_zero, layer.output_zero, layer.low, layer.multiplier, layer.shift)
        rows.append(f"X({', '.join(map(str, (index, *made.widths[index : index + 2], *numbers)))})")
        lines.append(definition(f"static const int8_t w{index}", layer.weight))
        lines.append(definition(f"static const int32_t b{index}", layer.bias))
        lines.append(definition(f"static const float real{index}", layer.real))
        lines.append(definition(f"static const float real_bias{index}", layer.real_bias))
    lines.append(f"#define NETWORK_LAYERS(X) {' '.join(rows)}")
    model = np.frombuffer(made.model, np.uint8)
    lines.append(definition("__attribute__((aligned(16))) static const unsigned char network_model", model))
    return "\n".join(lines) + "\n"


# Firmware


def build(made: Made, network: Network, target: Target, optimize: str, cache: Path, place: Path) -> int:
    """Compile the peer into ``place``/firmware.elf; its own objects are kept in ``cache``. Returns bytes of flash."""
    (place / "policy.h").write_text(FLOAT_HEADER if made.floats else INTEGER_HEADER)
    adapter = place / ("policy.cc" if made.cxx else "policy.c")
    adapter.write_text(made.text)
    (place / "network.h").write_text(made.header)
    defines = {"POLICY": "policy", "INTEGER_ONLY": int(not made.floats), "POLICY_INIT": 0, "STATE_VALUES": 0}
    defines |= {"OBSERVATION_VALUES": network.widths[0], "ACTION_VALUES": network.widths[-1]}
    own = [*made.flags, f"-I{place}", *(f"-D{name}={value}" for name, value in defines.items())]
    with resources.as_file(resources.files("policypress.measure") / "firmware") as firmware:
        objects = []
        ours = {adapter: own, firmware / "main.c": own, firmware / "startup.c": own}
        for source, flags in [*ours.items(), *made.sources.items()]:
            kind = ["arm-none-eabi-g++", *CXX_FLAGS] if source.suffix == ".cc" else ["arm-none-eabi-gcc", "-std=gnu11"]
            level = "-O2" if source.parent == firmware else made.optimize.get(optimize, optimize)
            command = [*kind, *level.split(), *target.flags, *FLAGS, *flags, f"-I{firmware}", "-masm-syntax-unified"]
            command += ["-c", str(source)]
            name = f"{source.stem}.o"
            if source in made.sources:
                name = str(cache / f"{hashlib.sha256(' '.join(command).encode()).hexdigest()}.o")
            if source in ours or not Path(name).exists():
                call([*command, "-o", name], place)
            objects.append(name)
        link = ["arm-none-eabi-g++" if made.cxx else "arm-none-eabi-gcc", *target.flags, "-mthumb", "-nostartfiles"]
        link += [
            "--specs=nano.specs",
            "--specs=nosys.specs",
            *objects,
            "-lm",
            "-Wl,--gc-sections",
            "-Wl,--defsym=end=stack_limit",
        ]
        link += ["-Wl,-Map=firmware.map", f"-L{firmware}", f"-T{target.name}.ld", "-o", "firmware.elf"]
        call(link, place)
    return footprint((place / "firmware.map").read_text(encoding="utf-8", errors="replace")).flash


def call(command: list[str], place: Path) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [
            line
            for line in (done.stderr + done.stdout).splitlines()
            if any(w in line for w in ("error:", "undefined", "overflow"))
        ]
        raise ExportError(f"{command[0]} fails: {(lines or ['no reason given'])[0][:300]}")


@dataclass(frozen=True)
class Counted:
    """Instructions and flash; ``off`` says how far answers are from the exact ones, ``wrong`` whether too far."""

    instructions: float
    flash: int
    off: str
    wrong: bool


def measure(made: Made, network: Network, target: Target, optimize: str, cache: Path, count: int) -> Counted:
    with tempfile.TemporaryDirectory(prefix="policypress-") as temporary:
        place = Path(temporary)
        flash = build(made, network, target, optimize, cache, place)
        codes = network.codes[:count]
        given = codes.astype(np.float32) if made.floats else codes
        dtype = np.dtype(np.float32 if made.floats else np.int32)
        found, counts = run_firmware(target, place, given, dtype, network.widths[-1])
    instructions = (counts[3] - counts[6]) * 1e9 / target.hz / len(codes) + EMPTY_INSTRUCTIONS
    sums = network.sums[:count]
    if made.answers == "sums":
        wrong = int((found != sums).any(axis=1).sum())
        return Counted(instructions, flash, "exact" if not wrong else f"{wrong} differ", wrong > 0)
    real = sums * network.policy.layers[-1].scale.astype(np.float64)
    if made.floats:
        wanted = floats(network, codes)
        off = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        return Counted(instructions, flash, "float", off > RIGHT)
    steps = np.abs(found - np.clip(np.rint(real / network.output_scale), -127, 127)).max(axis=1).astype(int)
    share = float((steps > 0).mean())
    return Counted(instructions, flash, f"{share:.0%} off, by {steps.max()}" if share else "0 % off", steps.max() > 100)


def floats(network: Network, codes: NDArray[np.int32]) -> NDArray[np.float64]:
    """What the layers give without rounding."""
    x = codes.astype(np.float64)
    for index, layer in enumerate(network.layers):
        x = x @ layer.real.T + layer.real_bias
        x = np.maximum(x, 0) if index + 1 < len(network.layers) else x
    return x


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emlearn", type=Path, help="folder of eml_net.h (where it is installed)")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=FOLDER", help="one of yours; may be repeated"
    )
    parser.add_argument("--count", type=int, default=20, help="observations (20)")
    parser.add_argument("--network", action="append", help="only this one, by its name in the table; may be repeated")
    parser.add_argument("--only", action="append", help="only this peer and ours; may be repeated")
    parser.add_argument("--column", action="append", type=int, choices=range(len(COLUMNS)), help="only this, from 0 on")
    parser.add_argument("--objects", type=Path, help="folder that keeps what is compiled of peers for later runs")
    arguments = parser.parse_args()
    require_tools()
    peers = chosen_peers(arguments)
    columns = [column for index, column in enumerate(COLUMNS) if not arguments.column or index in arguments.column]
    wrong = False
    titles = [f"{target.removeprefix('cortex-').upper()} {optimize}" for target, optimize in columns]
    print(f"| network | by | {' | '.join(titles)} | flash {titles[0]} | answers |")
    print("|---|---|" + "---:|" * (len(columns) + 1) + "---|")
    with tempfile.TemporaryDirectory(prefix="policypress-") as temporary:
        objects = arguments.objects or Path(temporary)
        objects.mkdir(parents=True, exist_ok=True)
        for one in networks(arguments.count, arguments.network):
            for title, make in peers.items():
                cells, flash, off = [], "-", "-"
                for name, optimize in columns:
                    target = find_target(name)
                    try:
                        if make is None:
                            found = ours(one, name, optimize, arguments.count)
                        else:
                            found = measure(make(one), one, target, optimize, objects.resolve(), arguments.count)
                    except ExportError as error:
                        cells.append("-")
                        print(f"{one.name}, {title}, {name} {optimize}: {error}", file=sys.stderr)
                        continue
                    cells.append(f"{found.instructions:,.0f}")
                    wrong |= found.wrong
                    off = found.off
                    flash = f"{found.flash:,}" if (name, optimize) == columns[0] else flash
                print(f"| {one.name} | {title} | {' | '.join(cells)} | {flash} | {off} |", flush=True)
    return int(wrong)


def ours(one: Network, target: str, optimize: str, count: int) -> Counted:
    report = measure_on_target(one.policy, target, one.observations[:count], integer_only=True, optimize=optimize)
    off = "exact" if not report.differing else f"{report.differing} differ"
    return Counted(report.instructions, report.footprint.flash, off, report.differing > 0)


def chosen_peers(arguments: argparse.Namespace) -> dict[str, Callable[[Network], Made] | None]:
    """Every peer whose sources are there, by its title; None is policypress."""
    known: dict[str, Callable[[Network], Made] | None] = {
        "policypress": None,
        "int8 loops": loops_int8,
        "int8 loops, unrolled": lambda one: loops_int8(one, unrolled=True),
        "float loops": loops_float,
    }
    installed = find_spec("emlearn")
    folder = arguments.emlearn
    if folder is None and installed is not None and installed.submodule_search_locations:
        folder = Path(installed.submodule_search_locations[0])
    if folder is None or not (folder / "eml_net.h").is_file():
        where = "it is not installed" if folder is None else f"{folder} has no eml_net.h"
        print(f"Rows of emlearn are left out: {where} (pip install emlearn, or --emlearn FOLDER).", file=sys.stderr)
    else:
        known["emlearn"] = partial(emlearn, folder=folder.resolve())
    for named in arguments.peer:
        name, _, place = named.partition("=")
        known[name] = partial(yours, folder=Path(place).resolve())
    if arguments.only:
        known = {title: make for title, make in known.items() if make is None or title in arguments.only}
    return known


def networks(count: int, names: list[str] | None) -> Iterator[Network]:
    for widths in SHAPES:
        name = "-".join(map(str, widths))
        if not names or name in names:
            policy = random_dense(widths)
            yield network(name, policy, random_observations(policy, count, 1))
    stored = stored_policies(ROOT / "results")
    seen = np.load(ROOT / "examples" / "mcu" / "half-cheetah.npz")["observations"]
    for name in TRAINED:
        if not names or name in names:
            yield network(name, pp.load(stored[name]), seen[:: max(len(seen) // count, 1)][:count].astype(np.float64))


if __name__ == "__main__":
    sys.exit(main())
