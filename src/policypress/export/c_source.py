"""The file NAME.c of an export to C: the engine, with what it leaves out, and the policy's network for it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from policypress.errors import unknown
from policypress.export import c_int16
from policypress.export.c_text import WIDTH, Constants, avr_limit, comment, file, folded, runtime
from policypress.policy.policy import Policy
from policypress.runtime.lower import Output, Program, Step
from policypress.runtime.structures import Dtype, Finish, Form, Kind, Type, size_of

if TYPE_CHECKING:
    from policypress.export.c_int16 import Int16
    from policypress.export.c_payload import Unpacked

_OTHER_MACROS = ("ENGINE_API", "ENGINE_OBSERVES", "PAYLOAD_API", "CODER_DECODE_ONLY")
_ROM = "static const ENGINE_ROM"


def uses(program: Program, *, integer_only: bool) -> dict[str, int]:
    """Which parts of engine.c the program needs, by the macro that leaves each out when it is 0."""
    steps, entry, leave = program.steps, program.input, program.output
    layers = [step for step in steps if step.kind == Kind.LAYER and step.source_type != Type.F32]
    kinds = {step.kind for step in steps}
    forms = {step.form for step in layers}
    walks = {step.source_type for step in steps if step.kind in (Kind.LAYER, Kind.RELU)}
    windows = bool(kinds & {Kind.MAX_POOL, Kind.PAD, Kind.FLATTEN})
    images = any(step.height * step.width > 1 or step.out_height * step.out_width > 1 for step in steps)
    tables = any(step.table is not None for step in steps)
    limits = any((step.low, step.high) != (0, 255) for step in layers if step.multiplier is not None)
    special = not all(_is_usual(step) or _is_kept(step) for step in layers)
    return {
        "ENGINE_USE_KERNELS": 0,
        "ENGINE_USE_IMAGES": images or windows or entry.channels > 1 or bool(entry.pixel_codes),
        "ENGINE_USE_WINDOWS": windows,
        "ENGINE_USE_RELU": Kind.RELU in kinds,
        "ENGINE_USE_ADD": Kind.ADD in kinds,
        "ENGINE_USE_STATE": bool(program.state_size),
        "ENGINE_USE_CELLS": bool(kinds & {Kind.GRU, Kind.LSTM}),
        "ENGINE_USE_GRU": Kind.GRU in kinds,
        "ENGINE_USE_LSTM": Kind.LSTM in kinds,
        "ENGINE_USE_SECOND": bool(kinds & {Kind.ADD, Kind.GRU, Kind.LSTM}),
        "ENGINE_USE_WIDE": Type.S32 in walks,
        "ENGINE_USE_LONG": any(step.wide for step in layers),
        "ENGINE_USE_CLIP": any(step.multiplier is not None and step.reach >= 2**23 for step in layers),
        "ENGINE_USE_PER_OUTPUT": any(step.per_output for step in layers),
        "ENGINE_USE_LIMITS": limits,
        "ENGINE_USE_CODES": limits or special or tables or Kind.ADD in kinds,
        "ENGINE_USE_USUAL": any(_is_usual(step) for step in layers),
        "ENGINE_USE_FINISHES": special,
        "ENGINE_USE_DENSE": bool(forms & {Form.DENSE, Form.FOURS}),
        "ENGINE_USE_FOURS": Form.FOURS in forms,
        "ENGINE_USE_SPARSE": Form.SPARSE in forms,
        "ENGINE_USE_QUARTERS": max(
            [-(-step.channels // 32) for step in layers if step.form == Form.QUARTERS], default=0
        ),
        "ENGINE_USE_COUNTS": any(step.counts is not None for step in steps),
        "ENGINE_USE_PACKED": sum({1 << step.bits for step in layers if step.form == Form.PACKED}),
        "ENGINE_USE_TABLES": tables,
        "ENGINE_USE_FUNCTIONS": sum({1 << step.function for step in steps if step.kind == Kind.ACTIVATE}),
        "ENGINE_USE_LAYER_NORM": Kind.LAYER_NORM in kinds,
        "ENGINE_USE_FLOAT": any(Type.F32 in (step.source_type, step.target_type) for step in steps),
        "ENGINE_USE_DOUBLE": not integer_only and (entry.mean is not None or entry.dtype == Dtype.INT64),
        "ENGINE_USE_DTYPES": 0 if integer_only else 1 << entry.dtype,
        "ENGINE_USE_ACTIONS": 0 if integer_only else 1 << leave.kind,
        "ENGINE_USE_SQUASH": not integer_only and bool(leave.squash),
        "ENGINE_USE_WIDE_ACTIONS": not integer_only and bool(leave.wide),
        "ENGINE_USE_ENDS": not integer_only,
    }


def _is_usual(step: Step) -> bool:
    return step.finish == Finish.REQUANTIZE and not step.wide and step.target_type == Type.U8


def _is_kept(step: Step) -> bool:
    return step.finish == Finish.KEEP and not step.relu


def network(
    program: Program, name: str, unpacked: Unpacked | None = None, int16: Int16 | None = None
) -> tuple[str, Constants, int]:
    """The file NAME.c, its constants, and the bytes of its structures where pointers have 4 bytes."""
    used = uses(program, integer_only=False)
    constants = Constants(used, unpacked)
    steps = _steps(program, constants)
    entry = constants.fields("engine_input", program.input, "input")
    leave = constants.fields("engine_output", program.output, "output")
    one, many, state, states, size = "", "", "NULL", "NULL", ""
    if program.state_size:
        size = f"    .state_size = {program.state_size},\n"
        one, many, state, states = f" {name}_state *state,", f" {name}_state *states,", "state", "states"
    observes = "" if int16 is None else c_int16.observes(program.input, int16, constants)
    body = f"""\
{observes}static const engine_step steps[{len(program.steps)}] = {{
{steps}
}};

static const engine_network network = {{
    .steps = steps,
    .step_count = {len(program.steps)},
    .work_size = {program.work_size},
    .observation_size = {program.observation_size},
    .action_size = {program.action_size},
{size}    .input = {folded(entry)},
    .output = {folded(leave)},
}};

int {name}_predict_rows(const {name}_observation *observations, size_t rows,{many} {name}_action *actions,
                        engine_word *work) {{
    return engine_predict(&network, observations, rows, actions, {states}, work);
}}

int {name}_outputs(const {name}_observation *observations, size_t rows,{many} float *outputs, engine_word *work) {{
    return engine_outputs(&network, observations, rows, outputs, {states}, work);
}}

int {name}_predict_in(const {name}_observation *observation,{one} {name}_action *action, engine_word *work) {{
    return engine_predict(&network, observation, 1, action, {state}, work);
}}

int {name}_predict(const {name}_observation *observation,{one} {name}_action *action) {{
    static engine_word work[ENGINE_WORDS({name.upper()}_WORK_BYTES)];
    return {name}_predict_in(observation,{" state," if one else ""} action, work);
}}
{_reset(program, name)}"""
    text = _source(name, used, unpacked, constants.text, body, int16 is not None)
    return text, constants, len(program.steps) * size_of("engine_step", used) + size_of("engine_network", used)


def _reset(program: Program, name: str) -> str:
    """The function NAME_reset; nothing for a policy without a state."""
    if not program.state_size:
        return ""
    return f"""
void {name}_reset({name}_state *state) {{
    for (size_t i = 0; i < {program.state_size}; i++)
        state[i] = 0;
}}
"""


def integer_network(
    policy: Policy, program: Program, name: str, unpacked: Unpacked | None = None
) -> tuple[str, Constants, int]:
    """The file NAME.c of a build without floats, its constants, and the bytes of its structures."""
    used = uses(program, integer_only=True)
    constants = Constants(used, unpacked, _ROM)
    steps = _steps(program, constants)
    entry, leave = program.input, program.output
    tensor, code = "int32_t *to = (int32_t *)(void *)(bytes + {})", "limited(codes[i])"
    if entry.target_type == Type.U8:
        tensor, code = (
            "unsigned char *to = bytes + {}",
            f"(unsigned char)(limited(codes[i]) + {entry.target_zero})",
        )
    state, given, step = "", "", "\n        engine_step_run(&steps[i], bytes, 1);"
    if program.state_size:
        state, given = f" {name}_state *state,", " state,"
        step = f""" {{
        if (steps[i].kind < ENGINE_RECALL)
            engine_step_run(&steps[i], bytes, 1);
        else
            engine_step_remember(&steps[i], bytes, 1, state, {program.state_size});
    }}"""
    body = f"""\
static const engine_step steps[{len(program.steps)}] = {{
{steps}
}};

static int32_t limited(int32_t code) {{
    return code < {entry.low} ? {entry.low} : code > {entry.high} ? {entry.high} : code;
}}

void {name}_run_in(const int32_t codes[],{state} int32_t sums[], engine_word *work) {{
    unsigned char *bytes = (unsigned char *)work;
    {tensor.format(entry.target)};
    size_t at = 0;
    for (size_t p = 0; p < {entry.pixels}; p++)
        for (size_t c = 0; c < {entry.channels}; c++, at++) {{
            const size_t i = c * {entry.pixels} + p;
            to[at] = {code};
        }}
    for (size_t i = 0; i < {len(program.steps)}; i++){step}
    memcpy(sums, bytes + {leave.source}, {leave.outputs} * sizeof *sums);
}}

void {name}_run(const int32_t codes[],{state} int32_t sums[]) {{
    static engine_word work[ENGINE_WORDS({name.upper()}_WORK_BYTES)];
    {name}_run_in(codes,{given} sums, work);
}}
{_reset(program, name)}"""
    body += _choose(policy, leave, name, constants)
    limit = avr_limit("the constants of this policy", constants.bytes, constants.largest)
    text = _source(name, used, unpacked, [*limit, *constants.text], body)
    return text, constants, len(program.steps) * size_of("engine_step", used)


def _choose(policy: Policy, leave: Output, name: str, constants: Constants) -> str:
    """The function NAME_choose and what it needs; nothing for box actions."""
    match policy.action.kind:
        case "box":
            return ""
        case "multi-binary":
            return f"""
void {name}_choose(const int32_t sums[], int32_t choices[]) {{
    for (size_t i = 0; i < {leave.outputs}; i++)
        choices[i] = sums[i] > 0;
}}
"""
        case "discrete":
            start = f" + {policy.action.start}" if policy.action.start else ""
            return f"""{_largest(policy, constants)}
int32_t {name}_choose(const int32_t sums[]) {{
    return largest(sums, 0, {leave.outputs}){start};
}}
"""
        case "multi-discrete":
            text = _largest(policy, constants)
            assert leave.nvec is not None
            sizes = constants.name("group_sizes", leave.nvec)
            return f"""{text}
void {name}_choose(const int32_t sums[], int32_t choices[]) {{
    size_t first = 0;
    for (size_t g = 0; g < {leave.groups}; first += (size_t){sizes}[g++])
        choices[g] = largest(sums, first, first + (size_t){sizes}[g]);
}}
"""
        case _:
            unknown(policy.action.kind)


def _largest(policy: Policy, constants: Constants) -> str:
    """Argmax of the sums times their scales, as float32 would compare them, in integers."""
    scale = policy.layers[-1].scale
    bits = scale.view(np.uint32)
    biased = (bits >> 23).astype(np.int32)  # scales are positive
    significand = np.where(biased > 0, bits & 0x7FFFFF | 0x800000, bits).astype(np.uint32)
    exponent = (np.maximum(biased, 1) - 150).astype(np.int16)
    at = "output" if scale.size > 1 else "0"
    names = constants.name("scale_significand", significand), constants.name("scale_exponent", exponent)
    text = f"""
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
    return text


def _steps(program: Program, constants: Constants) -> str:
    parts = []
    for i, step in enumerate(program.steps):
        if step.layer:
            parts.append(textwrap.indent(comment([step.layer]).replace("/*\n *", "/*").replace("\n */", " */"), "    "))
        parts.append(textwrap.indent(folded(constants.fields("engine_step", step, f"step{i}")) + ",", "    "))
    return "\n".join(parts)


def _source(
    name: str, used: Mapping[str, int], unpacked: Unpacked | None, arrays: list[str], body: str, observes: bool = False
) -> str:
    """The file NAME.c: the engine, with what it leaves out, then the policy. One file, so that they cannot be mixed."""
    given = " || ".join(f"defined({macro})" for macro in (*used, *_OTHER_MACROS))
    given = " \\\n    ".join(textwrap.wrap(given, WIDTH - 8))
    defines = "\n".join(f"#define {macro} {int(value)}" for macro, value in used.items())
    defines += "\n#define ENGINE_OBSERVES" if observes else ""
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
    if unpacked is not None:
        engine += f"""
#define PAYLOAD_API static
#define PAYLOAD_SHORT {int(unpacked.short)}
#define PAYLOAD_RECURRENT {int(unpacked.recurrent)}
#define CODER_PATTERNS {int(unpacked.patterns)}
{runtime("payload.c")}"""
    return file(name, [engine, "/* ---- the policy ---- */", *arrays], body)
