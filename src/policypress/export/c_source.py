"""C99 text of a policy's program: constants, the network, its interface and its self test."""

from __future__ import annotations

import ctypes
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.export.compile import STRICT
from policypress.policy.observations import Answers
from policypress.policy.policy import Policy
from policypress.runtime import lower
from policypress.runtime.lower import Fields, Program
from policypress.runtime.native import Network, Step
from policypress.tables import contract_rows

if TYPE_CHECKING:
    from policypress.export.c import CExport
    from policypress.export.c_payload import Unpacked

Choices = NDArray[np.int64] | None

_TYPES = {
    "float32": "float",
    "float64": "double",
    "uint8": "uint8_t",
    "int8": "int8_t",
    "uint16": "uint16_t",
    "int16": "int16_t",
    "uint32": "uint32_t",
    "int32": "int32_t",
    "int64": "int64_t",
}
_TENSORS = ("ENGINE_U8", "ENGINE_S32", "ENGINE_F32")
_FORMS = ("ENGINE_DENSE", "ENGINE_PACKED", "ENGINE_SPARSE", "ENGINE_REAL")
_STEP_NAMES: dict[str, tuple[str, ...]] = {
    "kind": (
        *("ENGINE_LAYER", "ENGINE_RELU", "ENGINE_TANH", "ENGINE_MAX_POOL", "ENGINE_PAD", "ENGINE_FLATTEN"),
        "ENGINE_ADD",
    ),
    "form": _FORMS,
    "finish": ("ENGINE_KEEP", "ENGINE_REQUANTIZE", "ENGINE_TABLE"),
    "source_type": _TENSORS,
    "second_type": _TENSORS,
    "target_type": _TENSORS,
}
_INT64 = lower.DTYPES.index("int64")
_INPUT_NAMES = {"dtype": tuple(f"ENGINE_{dtype.upper()}" for dtype in lower.DTYPES), "target_type": _TENSORS}
_OUTPUT_NAMES = {
    "kind": ("ENGINE_BOX", "ENGINE_DISCRETE", "ENGINE_MULTI_DISCRETE", "ENGINE_MULTI_BINARY"),
    "source_type": _TENSORS,
}
_WIDTH = 116
ID = "\0id\0"
"""Stands for the export's number, eight hexadecimal digits, in the texts of this module."""
_OTHER_MACROS = ("ENGINE_API", "PAYLOAD_API", "CODER_DECODE_ONLY")
_ROM, _FLASH = "static const ENGINE_ROM", "static const ENGINE_FLASH"


def uses(program: Program, *, integer_only: bool) -> dict[str, int]:
    """Which parts of engine.c the program needs, by the macro that leaves each out when it is 0."""
    steps = program.steps
    layers = [step for step in steps if step["kind"] == lower.LAYER and step["source_type"] != lower.F32]
    types = {step[f"{end}_type"] for step in steps for end in ("source", "target")}
    forms = {step["form"] for step in layers}
    walks = {step["source_type"] for step in steps if step["kind"] in (lower.LAYER, lower.RELU)}
    return {
        "ENGINE_USE_IMAGES": bool({step["kind"] for step in steps} & {lower.MAX_POOL, lower.PAD, lower.FLATTEN}),
        "ENGINE_USE_WIDE": lower.S32 in walks,
        "ENGINE_USE_DENSE": lower.DENSE in forms,
        "ENGINE_USE_SPARSE": lower.SPARSE in forms,
        "ENGINE_USE_PACKED": sum({1 << step["bits"] for step in layers if step["form"] == lower.PACKED}),
        "ENGINE_USE_FLOAT": lower.F32 in types,
        "ENGINE_USE_DOUBLE": not integer_only and ("mean" in program.input or program.input["dtype"] == _INT64),
        "ENGINE_USE_ENDS": not integer_only,
    }


class Constants:
    """Constant arrays of a program, equal ones once; ``qualifier``: what their definitions begin with."""

    def __init__(self, unpacked: Unpacked | None = None, qualifier: str = "static const") -> None:
        self._qualifier = qualifier
        self.text: list[str] = [] if unpacked is None else [unpacked.text]
        self.bytes = 0 if unpacked is None else unpacked.payload_bytes
        self._unpacked = {} if unpacked is None else unpacked.arrays
        self._names: dict[tuple[str, bytes], str] = {}

    def name(self, wanted: str, array: NDArray[Any]) -> str:
        """Name of the array with these values, defined if it is new."""
        key = (array.dtype.name, np.ascontiguousarray(array).tobytes())
        if key not in self._names:
            self._names[key] = wanted
            self.bytes += len(key[1])
            self.text.append(definition(f"{self._qualifier} {_TYPES[array.dtype.name]} {wanted}", array))
        return self._names[key]

    def fields(self, fields: Fields, prefix: str, names: Mapping[str, tuple[str, ...]]) -> str:
        """A designated initializer; zeros are left to C."""
        parts = []
        for field, value in fields.items():
            if f"{prefix}_{field}" in self._unpacked:
                text = self._unpacked[f"{prefix}_{field}"]
            elif isinstance(value, np.ndarray):
                # An empty array cannot be defined in C, and is not read.
                text = self.name(f"{prefix}_{field}", value) if value.size else "NULL"
            elif field in names:
                text = names[field][value]
            elif not value:
                continue
            else:
                text = literal(np.asarray(value)[()])
            parts.append(f".{field} = {text}")
        return "{" + ", ".join(parts) + "}"


def runtime(*files: str, included: tuple[str, ...] = ()) -> str:
    """The text of ``files`` of the runtime, in it those of its own that they include, each once, but ``included``."""
    seen = set(included)

    def text(file: str) -> str:
        seen.add(file)
        found = resources.files("policypress.runtime").joinpath(file).read_text(encoding="ascii")
        return re.sub(r'#include "(.+)"\n', lambda m: "" if m[1] in seen else text(m[1]), found)

    return "\n".join(text(file) for file in files)


def definition(declarator: str, array: NDArray[Any]) -> str:
    """``declarator[n] = {...};`` with every value exact."""
    values = ", ".join(literal(value) for value in array.ravel())
    lines = textwrap.fill(values, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return f"{declarator}[{array.size}] = {{\n{lines}\n}};"


def literal(value: Any) -> str:
    """A C99 literal of exactly this value: decimal integers, hexadecimal floats."""
    if isinstance(value, (np.floating, float)):
        suffix = "f" if isinstance(value, np.float32) else ""
        if math.isinf(value):
            return ("-" if value < 0 else "") + ("HUGE_VALF" if suffix else "HUGE_VAL")
        mantissa, exponent = float(value).hex().split("p")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}{suffix}"
    number = int(value)
    return {-(2**31): "INT32_MIN", -(2**63): "INT64_MIN"}.get(number, str(number))  # C negates what follows the sign


def comment(lines: Sequence[str]) -> str:
    """A block comment; nothing in ``lines`` can end it or upset a compiler."""
    safe = []
    for line in lines:
        plain = "".join(c if " " <= c <= "~" else "." for c in line)
        plain = re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)|\\$", r"\g<0> ", plain)
        safe += textwrap.wrap(plain, _WIDTH - 3, subsequent_indent="  ") or [""]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in safe), " */"])


def network(program: Program, name: str, unpacked: Unpacked | None = None) -> tuple[str, Constants, int]:
    """The file NAME.c, its constants, and the bytes of its structures where pointers have 4 bytes."""
    constants = Constants(unpacked)
    steps = _steps(program, constants)
    entry = constants.fields(program.input, "input", _INPUT_NAMES)
    leave = constants.fields(program.output, "output", _OUTPUT_NAMES)
    body = f"""\
static const engine_step steps[{len(program.steps)}] = {{
{steps}
}};

static const engine_network network = {{
    .steps = steps,
    .step_count = {len(program.steps)},
    .work_size = {program.work_size},
    .observation_size = {program.observation_size},
    .action_size = {program.action_size},
    .input = {_folded(entry)},
    .output = {_folded(leave)},
}};

int {name}_predict_rows(const {name}_observation *observations, size_t rows, {name}_action *actions,
                        engine_word *work) {{
    return engine_predict(&network, observations, rows, actions, work);
}}

int {name}_outputs(const {name}_observation *observations, size_t rows, float *outputs, engine_word *work) {{
    return engine_outputs(&network, observations, rows, outputs, work);
}}

int {name}_predict_in(const {name}_observation *observation, {name}_action *action, engine_word *work) {{
    return engine_predict(&network, observation, 1, action, work);
}}

int {name}_predict(const {name}_observation *observation, {name}_action *action) {{
    static engine_word work[ENGINE_WORDS({name.upper()}_WORK_BYTES)];
    return {name}_predict_in(observation, action, work);
}}
"""
    text = _source(name, uses(program, integer_only=False), unpacked, constants.text, body)
    return text, constants, len(program.steps) * _size32(Step) + _size32(Network)


def integer_network(
    policy: Policy, program: Program, name: str, unpacked: Unpacked | None = None
) -> tuple[str, Constants, int]:
    """The file NAME.c of a build without floats, its constants, and the bytes of its structures."""
    constants = Constants(unpacked, _ROM)
    steps = _steps(program, constants)
    entry, leave = program.input, program.output
    tensor, code = "int32_t *to = (int32_t *)(void *)(bytes + {})", "limited(codes[i])"
    if entry["target_type"] == lower.U8:
        tensor, code = (
            "unsigned char *to = bytes + {}",
            f"(unsigned char)(limited(codes[i]) + {entry['target_zero']})",
        )
    body = f"""\
static const engine_step steps[{len(program.steps)}] = {{
{steps}
}};

static int32_t limited(int32_t code) {{
    return code < {entry["low"]} ? {entry["low"]} : code > {entry["high"]} ? {entry["high"]} : code;
}}

void {name}_run_in(const int32_t codes[], int32_t sums[], engine_word *work) {{
    unsigned char *bytes = (unsigned char *)work;
    {tensor.format(entry["target"])};
    size_t at = 0;
    for (size_t p = 0; p < {entry["pixels"]}; p++)
        for (size_t c = 0; c < {entry["channels"]}; c++, at++) {{
            const size_t i = c * {entry["pixels"]} + p;
            to[at] = {code};
        }}
    for (size_t i = 0; i < {len(program.steps)}; i++)
        engine_step_run(&steps[i], bytes, 1);
    memcpy(sums, bytes + {leave["source"]}, {leave["outputs"]} * sizeof *sums);
}}

void {name}_run(const int32_t codes[], int32_t sums[]) {{
    static engine_word work[ENGINE_WORDS({name.upper()}_WORK_BYTES)];
    {name}_run_in(codes, sums, work);
}}
"""
    if policy.action.kind != "box":
        body += "\n" + _choose(policy, leave, name, constants)
    text = _source(name, uses(program, integer_only=True), unpacked, constants.text, body)
    return text, constants, len(program.steps) * _size32(Step)


def _choose(policy: Policy, leave: Fields, name: str, constants: Constants) -> str:
    """Argmax of the sums times their scales, as float32 would compare them, in integers; their signs if binary."""
    if policy.action.kind == "multi-binary":
        return f"""\
void {name}_choose(const int32_t sums[], int32_t choices[]) {{
    for (size_t i = 0; i < {leave["outputs"]}; i++)
        choices[i] = sums[i] > 0;
}}
"""
    scale = policy.layers[-1].scale
    bits = scale.view(np.uint32)
    biased = (bits >> 23).astype(np.int32)  # scales are positive
    significand = np.where(biased > 0, bits & 0x7FFFFF | 0x800000, bits).astype(np.uint32)
    exponent = (np.maximum(biased, 1) - 150).astype(np.int16)
    at = "output" if scale.size > 1 else "0"
    names = constants.name("scale_significand", significand), constants.name("scale_exponent", exponent)
    text = f"""\
/* value / 2^shift, rounded to the nearest integer, halves to even; shift from 1 to 63. */
static uint64_t rounded(uint64_t value, unsigned shift) {{
    const uint64_t half = (uint64_t)1 << (shift - 1), whole = value >> shift, rest = value - (whole << shift);
    return whole + (rest > half || (rest == half && (whole & 1)));
}}

static int length(uint64_t value) {{
    int bits = 0;
    for (; value; value >>= 1)
        bits++;
    return bits;
}}

/*
 * (float)sum * scale, the scale being significand * 2^exponent: the bits of the float32 that IEEE 754 rounds to, as a
 * signed integer. Its order is that of the floats.
 */
static int32_t scaled(int32_t sum, size_t output) {{
    uint64_t value = sum < 0 ? 0u - (uint32_t)sum : (uint32_t)sum;
    int exponent = {names[1]}[{at}], lowest, bits = length(value);
    int32_t result;
    if (bits > 24) {{ /* the sum as a float */
        value = rounded(value, (unsigned)(bits - 24));
        exponent += bits - 24;
    }}
    value *= {names[0]}[{at}];
    bits = length(value);
    lowest = exponent + bits - 24; /* of the bits that a float has room for */
    lowest = lowest < -149 ? -149 : lowest;
    if (lowest > exponent)
        value = rounded(value, (unsigned)(lowest - exponent));
    else
        value <<= exponent - lowest;
    result = value ? (int32_t)(((uint32_t)(lowest + 149) << 23) + (uint32_t)value) : 0;
    return sum < 0 ? -result : result;
}}
"""
    if at == "0":
        text = text.replace("int32_t sum, size_t output)", "int32_t sum)")
    value = "scaled(sums[i], i)" if at == "output" else "scaled(sums[i])"
    text += f"""
/* Index of the largest of sums[first] to sums[end - 1], the first of equals. */
static int32_t largest(const int32_t sums[], size_t first, size_t end) {{
    size_t best = first;
    int32_t most = INT32_MIN;
    for (size_t i = first; i < end; i++) {{
        const int32_t value = {value};
        if (value > most) {{
            most = value;
            best = i;
        }}
    }}
    return (int32_t)(best - first);
}}
"""
    if policy.action.kind == "discrete":
        start = f" + {policy.action.start}" if policy.action.start else ""
        return f"""{text}
int32_t {name}_choose(const int32_t sums[]) {{
    return largest(sums, 0, {leave["outputs"]}){start};
}}
"""
    sizes = constants.name("group_sizes", leave["nvec"])
    return f"""{text}
void {name}_choose(const int32_t sums[], int32_t choices[]) {{
    size_t first = 0;
    for (size_t g = 0; g < {leave["groups"]}; first += (size_t){sizes}[g++])
        choices[g] = largest(sums, first, first + (size_t){sizes}[g]);
}}
"""


def header(policy: Policy, program: Program, name: str, version: str, payload: bool) -> str:
    """The file NAME.h."""
    upper, observation, action = name.upper(), policy.observation, policy.action
    size = math.prod(action.shape)
    order = "one after another" if len(observation.shape) == 1 else f"{observation.shape} in C order, the last fastest"
    lines = [
        *_heading(policy, name, version),
        f"Observation: {program.input['size']} {_TYPES[observation.dtype]} values, {order}, as the environment gives",
        "them: scaling, normalization and quantization happen inside.",
        *_action_lines(policy),
        f"Answers are those of the policy's reference, bit for bit ({name}_self_test).",
    ]
    body = f"""\
#define {upper}_OBSERVATION_SIZE {program.input["size"]} /* values of an observation */
#define {upper}_ACTION_SIZE {size} /* values of an action */
#define {upper}_OUTPUT_SIZE {program.output["outputs"]} /* outputs of the last layer */
#define {upper}_WORK_BYTES {program.work_size} /* memory that a call needs */

typedef {_TYPES[observation.dtype]} {name}_observation;
typedef {_TYPES[action.dtype]} {name}_action;

/* The action for an observation. Not for two threads at once: its work memory is static. ENGINE_OK (0), or why not. */
int {name}_predict(const {name}_observation *observation, {name}_action *action);

/* The same in memory of the caller: `engine_word work[ENGINE_WORDS({upper}_WORK_BYTES)]`. */
int {name}_predict_in(const {name}_observation *observation, {name}_action *action, engine_word *work);

/* Actions of `rows` observations, one after another; `work` has rows * {upper}_WORK_BYTES bytes. */
int {name}_predict_rows(const {name}_observation *observations, size_t rows, {name}_action *actions,
                        engine_word *work);

/* The same up to the last layer's outputs, before they become actions: rows * {upper}_OUTPUT_SIZE. */
int {name}_outputs(const {name}_observation *observations, size_t rows, float *outputs, engine_word *work);
"""
    functions = ("predict", "predict_in", "predict_rows", "outputs")
    return _header(name, lines, functions, body, payload)


def integer_header(policy: Policy, program: Program, name: str, version: str, payload: bool) -> str:
    """The file NAME.h of a build without floats."""
    assert policy.input is not None
    upper, observation, action, entry = name.upper(), policy.observation, policy.action, program.input
    inverse, scale, zeros = policy.input.inverse_scale, policy.layers[-1].scale, policy.input.zero_point
    outputs = program.output["outputs"]
    before = "x = "
    before += "pixel / 255" if observation.image else "the observation's value as float32"
    if observation.normalization is not None:
        n = observation.normalization
        before = (
            f"x = (float)clip((observation - mean) / sqrt(var + {n.epsilon!r}), -{n.clip!r}, {n.clip!r}) in double,"
            " mean and var being VecNormalize's"
        )
    which = "i" if inverse.size > 1 else "0"
    lines = [
        *_heading(policy, name, version),
        f"No instruction of floating point. Codes: {entry['size']} of int32_t, of values {observation.shape} in C"
        " order, the last fastest:",
        f"  code[i] = clip(rint(x[i] * inverse_scale[{which}]){'' if zeros is None else f' - zero_point[{which}]'},"
        f" {entry['low']}, {entry['high']}) in float32, rint halves to even,",
        f"  {before}.",
        f"Sums: {outputs} of int32_t, the last layer's accumulators. In real units output[i] = (float)sums[i] *"
        f" scale[{'i' if scale.size > 1 else '0'}].",
        *_action_lines(policy),
        f"Sums are those of the policy's reference, integer for integer ({name}_self_test).",
    ]
    points = "" if zeros is None else f"\n#define {upper}_ZERO_POINTS {_macro(zeros)}"
    body = f"""\
#define {upper}_OBSERVATION_SIZE {entry["size"]} /* codes of an observation */
#define {upper}_OUTPUT_SIZE {outputs} /* sums */
#define {upper}_ACTION_SIZE {math.prod(action.shape)} /* values of an action */
#define {upper}_WORK_BYTES {program.work_size} /* memory that a call needs */
#define {upper}_CODE_LOW ({entry["low"]})
#define {upper}_CODE_HIGH {entry["high"]}

/* The scales, where something else is to use them: `static const float scale[] = {upper}_SCALES;`. */
#define {upper}_INVERSE_SCALES {_macro(inverse)}
#define {upper}_SCALES {_macro(scale)}{points}

/* The sums for codes, which are clipped to the limits first. Not for two threads at once: its work memory is static. */
void {name}_run(const int32_t codes[], int32_t sums[]);

/* The same in memory of the caller: `engine_word work[ENGINE_WORDS({upper}_WORK_BYTES)]`. */
void {name}_run_in(const int32_t codes[], int32_t sums[], engine_word *work);
"""
    if action.kind == "discrete":
        body += f"""
/* The action for sums: index of the largest output in float32, the first of equals{_from(action.start)}. */
int32_t {name}_choose(const int32_t sums[]);
"""
    elif action.kind == "multi-discrete":
        body += f"""
/* The action for sums: index of the largest output of every group in float32, the first of equals. */
void {name}_choose(const int32_t sums[], int32_t choices[]);
"""
    elif action.kind == "multi-binary":
        body += f"""
/* The action for sums: 1 for every output above 0, else 0. */
void {name}_choose(const int32_t sums[], int32_t choices[]);
"""
    functions = ("run", "run_in", *(("choose",) if action.kind != "box" else ()))
    return _header(name, lines, functions, body, payload)


def vectors(name: str, answers: Answers, payload: bool) -> str:
    """The file NAME_vectors.c: observations, what the reference answers, and the self test."""
    upper, (seen, outputs, actions) = name.upper(), answers
    arrays = [
        definition(f"static const {name}_observation observations", seen),
        definition("static const float outputs", outputs),
        definition(f"static const {name}_action actions", actions),
    ]
    size = outputs.shape[1]
    body = f"""\
int {name}_self_test(void) {{
    static engine_word work[ENGINE_WORDS({upper}_WORK_BYTES)];
    static float output[{size}];
    static {name}_action action[{upper}_ACTION_SIZE];
{_start(name, payload)}    for (int i = 0; i < {len(seen)}; i++) {{
        const {name}_observation *observation = observations + i * {upper}_OBSERVATION_SIZE;
        if ({name}_outputs(observation, 1, output, work) != ENGINE_OK ||
            memcmp(output, outputs + i * {size}, sizeof output) != 0 ||
            {name}_predict_in(observation, action, work) != ENGINE_OK ||
            memcmp(action, actions + i * {upper}_ACTION_SIZE, sizeof action) != 0)
            return i + 1;
    }}
    return 0;
}}
"""
    return _file(name, arrays, body)


def integer_vectors(
    name: str, codes: NDArray[np.int32], sums: NDArray[np.int32], choices: Choices, payload: bool
) -> str:
    """The file NAME_vectors.c of a build without floats: codes, the reference's sums and choices, the self test."""
    upper = name.upper()
    arrays = [definition(f"{_FLASH} int32_t all_codes", codes), definition(f"{_FLASH} int32_t all_sums", sums)]
    declared = check = ""
    if choices is not None:
        arrays.append(definition(f"{_FLASH} int32_t all_choices", choices.astype(np.int32)))
        if choices.ndim == 1:
            check = f"        if ({name}_choose(sums) != all_choices[i])\n            return (int)i + 1;\n"
        else:
            declared = f"    static int32_t choices[{upper}_ACTION_SIZE];\n"
            check = f"""\
        {name}_choose(sums, choices);
        for (size_t k = 0; k < {upper}_ACTION_SIZE; k++)
            if (choices[k] != all_choices[i * {upper}_ACTION_SIZE + k])
                return (int)i + 1;
"""
    body = f"""\
int {name}_self_test(void) {{
    static int32_t codes[{upper}_OBSERVATION_SIZE], sums[{upper}_OUTPUT_SIZE];
{declared}{_start(name, payload)}    for (size_t i = 0; i < {len(codes)}; i++) {{
        for (size_t k = 0; k < {upper}_OBSERVATION_SIZE; k++)
            codes[k] = all_codes[i * {upper}_OBSERVATION_SIZE + k];
        {name}_run(codes, sums);
        for (size_t k = 0; k < {upper}_OUTPUT_SIZE; k++)
            if (sums[k] != all_sums[i * {upper}_OUTPUT_SIZE + k])
                return (int)i + 1;
{check}    }}
    return 0;
}}
"""
    return _file(name, arrays, body)


def test_program(name: str) -> str:
    """The file NAME_test.c."""
    upper = name.upper()
    return f"""\
/* Generated by policypress: runs the self test. Empty without {upper}_MAIN, so that a project may hold this file. */
#include "{name}.h"

#ifdef {upper}_MAIN
#include <stdio.h>

int main(void) {{
    const int failed = {name}_self_test();
    if (failed)
        printf("{name}: test vector %d differs\\n", failed);
    else
        printf("{name}: all test vectors are the same, bit for bit\\n");
    return failed != 0;
}}
#endif
"""


def makefile(name: str) -> str:
    """The Makefile: lib, test, size."""
    return f"""\
# Generated by policypress. For another machine: make lib CC=arm-none-eabi-gcc AR=arm-none-eabi-ar CFLAGS=...
CFLAGS ?= -O2
SIZE ?= size
BUILD ?= build
# Float results must round as IEEE 754 says: no -ffast-math; on 32-bit x86 add -msse2 -mfpmath=sse.
STRICT := {" ".join(STRICT)}
SECTIONS := -ffunction-sections -fdata-sections

.PHONY: lib test size clean always
lib: $(BUILD)/lib{name}.a

test: $(BUILD)/{name}_test
\t$(BUILD)/{name}_test

size: $(BUILD)/{name}.o
\t$(SIZE) $^

clean:
\trm -rf $(BUILD)

# Always: what is there may be of another compiler, or of other flags.
$(BUILD)/%.o: %.c always
\t@mkdir -p $(BUILD)
\t$(CC) $(STRICT) $(SECTIONS) $(CFLAGS) -D{name.upper()}_MAIN -c $< -o $@

$(BUILD)/lib{name}.a: $(BUILD)/{name}.o
\trm -f $@
\t$(AR) rcs $@ $^

$(BUILD)/{name}_test: $(BUILD)/{name}_test.o $(BUILD)/{name}_vectors.o $(BUILD)/lib{name}.a
\t$(CC) $(CFLAGS) $^ -o $@
"""


def readme(policy: Policy, report: CExport, version: str) -> str:
    """The file README.md."""
    name, upper = report.name, report.name.upper()
    if report.integer_only:
        use = f"""\
int32_t codes[{upper}_OBSERVATION_SIZE], sums[{upper}_OUTPUT_SIZE];
/* codes: see {name}.h */
{name}_run(codes, sums);"""
        if policy.action.kind == "discrete":
            use += f"\nint32_t action = {name}_choose(sums);"
        elif policy.action.kind in ("multi-discrete", "multi-binary"):
            use += f"\nint32_t action[{upper}_ACTION_SIZE];\n{name}_choose(sums, action);"
    else:
        use = f"""\
{name}_observation observation[{upper}_OBSERVATION_SIZE] = {{0}};
{name}_action action[{upper}_ACTION_SIZE];
if ({name}_predict(observation, action) != ENGINE_OK)
    /* NaN, infinite or too large: action is not set */;"""
    if report.unpacked_bytes:
        use = f"{name}_init(); /* once: unpacks the weights into RAM */\n{use}"
    contract = "\n".join(f"- {key}: {value}" for key, value in contract_rows(policy).items())
    layers = "\n".join(f"| {c.name or '-'} | {c.form} | {c.weight_bytes:,} |" for c in report.layers)
    return "".join(
        c if c in "\n" or " " <= c <= "~" else "."
        for c in f"""\
# {name}

A policy as C99, by policypress {version}. No allocation, no libm; of libc memcpy, memset and (in the test) memcmp.

{contract}

Add `{name}.c` and `{name}.h` to a project, or the whole folder. No option is needed; `-ffast-math` does not compile.
The engine is in `{name}.c`, with the parts that this policy needs, so policies of several exports go into one program.
Add `{name}_vectors.c` too and call `{name}_self_test()` at every start of the product: 0 means that this compiler and
this chip give the reference's bits, which nothing else can tell.

```c
#include "{name}.h"

{use}
```

`make test` compiles everything under strict warnings and runs {report.vectors} test vectors through it, bit for bit;
`make lib` gives `build/lib{name}.a`, `make size` its bytes.

| layer | weights | bytes |
|---|---|---:|
{layers}

| | bytes |
|---|---:|
| constant arrays, the weights among them | {report.array_bytes:,} |
| constant structures, with pointers of 4 bytes | {report.structure_bytes:,} |
| work memory in RAM | {report.work_bytes:,} |
| unpacked weights in RAM | {report.unpacked_bytes:,} |
| test vectors, in `{name}_vectors.c` alone | {report.vector_bytes:,} |

The engine in `{name}.c` is part of policypress: MIT license, copyright (c) 2026 policypress contributors.
"""
    )


def _header(name: str, lines: Sequence[str], functions: Sequence[str], body: str, payload: bool) -> str:
    upper = name.upper()
    functions = (*(("init",) if payload else ()), *functions, "self_test")
    names = "\n".join(f"#define {name}_{function} {name}_{function}_{ID}" for function in functions)
    init = f"""\
/* Unpacks the weights into RAM: once, before all else. 0, or nonzero if the payload is damaged. */
int {name}_init(void);

"""
    return f"""\
{comment(lines)}
#ifndef {upper}_H
#define {upper}_H 0x{ID}u

#include <stddef.h>
#include <stdint.h>

{runtime("engine_call.h")}
#ifdef __cplusplus
extern "C" {{
#endif

/* What the linker calls them: names of this export alone, so that a library of another one is refused. */
{names}

{init if payload else ""}{body}
/*
 * Call this at every start of the product: 0, or the number of the first test vector whose answer is not the
 * reference's, bit for bit. Then options of the compiler, or the chip, change numbers. In {name}_vectors.c.
 */
int {name}_self_test(void);

#ifdef __cplusplus
}}
#endif
#elif {upper}_H != 0x{ID}u
#error "two exports are called {name}: give one of them another name, policypress export --name"
#endif
"""


def _start(name: str, payload: bool) -> str:
    return f"    if ({name}_init())\n        return -1;\n" if payload else ""


def _heading(policy: Policy, name: str, version: str) -> list[str]:
    layers = policy.layers
    weights, nonzeros = sum(layer.trained_weights for layer in layers), sum(layer.nonzeros for layer in layers)
    return [
        f"{name}: a policy, by policypress {version}. Generated: export again instead of editing.",
        "",
        *(f"{key:<9} {value}" for key, value in contract_rows(policy).items()),
        f"weights   {nonzeros:,} of {weights:,} are not zero (sparsity {1 - nonzeros / weights:.2%})",
        "",
    ]


def _action_lines(policy: Policy) -> list[str]:
    action = policy.action
    size, kind = math.prod(action.shape), _TYPES[action.dtype]
    if action.kind == "discrete":
        return [f"Action: one {kind}, the index of the largest output, the first of equals{_from(action.start)}."]
    if action.kind == "multi-discrete":
        groups = ", ".join(map(str, action.nvec))
        return [f"Action: {size} {kind} values, in groups of {groups} outputs the index of the largest one each."]
    if action.kind == "multi-binary":
        return [f"Action: {size} {kind} values, 1 for every output above 0, else 0."]
    assert action.low is not None
    assert action.high is not None
    how = "low + 0.5 * (tanh(output) + 1) * (high - low)" if action.squash else "clip(output, low, high)"
    shown = 16
    bounds = [
        f"  {i}: [{float(low):.9g}, {float(high):.9g}]"
        for i, (low, high) in enumerate(zip(action.low.ravel(), action.high.ravel(), strict=True))
    ]
    more = [f"  and {len(bounds) - shown} more"] if len(bounds) > shown else []
    return [f"Action: {size} {kind} values, {how}, with the bounds [low, high]", *bounds[:shown], *more]


def _from(start: int) -> str:
    return f", plus {start}" if start else ""


def _macro(values: NDArray[Any]) -> str:
    parts = [literal(value) for value in values]
    lines = textwrap.wrap(", ".join(parts), _WIDTH - 6)
    return "{" + " \\\n    ".join(lines) + "}"


def _steps(program: Program, constants: Constants) -> str:
    parts = []
    for i, (step, layer) in enumerate(zip(program.steps, program.layers, strict=True)):
        names = _STEP_NAMES if step["kind"] == lower.LAYER else {k: v for k, v in _STEP_NAMES.items() if k != "form"}
        if layer:
            parts.append(textwrap.indent(comment([layer]).replace("/*\n *", "/*").replace("\n */", " */"), "    "))
        parts.append(textwrap.indent(_folded(constants.fields(step, f"step{i}", names)) + ",", "    "))
    return "\n".join(parts)


def _folded(text: str) -> str:
    kept = text.replace(" = ", "\0=\0")  # one word
    folded = textwrap.fill(kept, _WIDTH - 4, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False)
    return folded.replace("\0", " ")


def _source(name: str, used: Mapping[str, int], unpacked: Unpacked | None, arrays: list[str], body: str) -> str:
    """The file NAME.c: the engine, with what it leaves out, then the policy. One file, so that they cannot be mixed."""
    payload = unpacked is not None
    given = " || ".join(f"defined({macro})" for macro in (*used, *_OTHER_MACROS))
    given = " \\\n    ".join(textwrap.wrap(given, _WIDTH - 8))
    defines = "\n".join(f"#define {macro} {int(value)}" for macro, value in used.items())
    double = """\
#if defined(__SIZEOF_DOUBLE__) && __SIZEOF_DOUBLE__ < 8
#error "this needs a double of 64 bits: policypress export --integer-only does not"
#endif
"""
    engine = f"""\
#if {given}
#error "{name}.c says itself what it needs of the engine: compile it without -DENGINE_..."
#endif
{double if used["ENGINE_USE_ENDS"] else ""}
/* What this policy needs of the engine. */
#define ENGINE_API static
{defines}

/* From here on to the policy: part of policypress, MIT license, copyright (c) 2026 policypress contributors. */

{runtime("engine.h", "engine.c", included=("engine_call.h",))}"""
    if payload:
        engine += f"""
#define PAYLOAD_API static
{runtime("payload.c")}"""
    return _file(name, [engine, "/* ---- the policy ---- */", *arrays], body)


def _file(name: str, parts: list[str], body: str) -> str:
    """A file of C: what it includes, its parts, the rest."""
    text = "\n\n".join([*parts, body])
    system = [header for header, sign in (("math", "HUGE_VAL"), ("string", "memc")) if sign in text]
    includes = "".join(f"#include <{header}.h>\n" for header in system) + ("\n" if system else "")
    return f"""\
/* Generated by policypress: {name}.h says what this is. */
{includes}#include "{name}.h"

#if {name.upper()}_H != 0x{ID}u
#error "{name}.h is of another export: keep the files of one together, and name exports apart"
#endif

{text}"""


def _size32(structure: type[ctypes.Structure]) -> int:
    """Bytes of a structure where pointers have 4 bytes."""

    def narrow(kind: Any) -> Any:
        if kind is ctypes.c_void_p:
            return ctypes.c_uint32
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure):
            return type(kind.__name__, (ctypes.Structure,), {"_fields_": [(f[0], narrow(f[1])) for f in kind._fields_]})
        return kind

    return ctypes.sizeof(narrow(structure))
