"""The file NAME.h of an export to C."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from policypress.errors import unknown
from policypress.export.c_int16 import Int16
from policypress.export.c_metadata import action_meaning, observation_lines, robot
from policypress.export.c_text import ID, TYPES, comment, macro, runtime
from policypress.policy.contract import ActionTransform
from policypress.policy.description import contract_rows
from policypress.policy.policy import Policy
from policypress.runtime.lower import Program


@dataclass(frozen=True)
class About:
    """What a header says beside the policy: policypress's ``version``, whether weights come from a ``payload`` that is
    unpacked, ``sha256`` of the policy's payload, how ``int16`` observations are read, and lines on ``resources``."""

    version: str
    payload: bool
    sha256: str
    int16: Int16 | None
    resources: tuple[str, ...]


def header(policy: Policy, program: Program, name: str, about: About) -> str:
    """The file NAME.h."""
    upper, observation, action = name.upper(), policy.observation, policy.action
    size = math.prod(action.shape)
    order = "one after another" if len(observation.shape) == 1 else f"{observation.shape} in C order, the last fastest"
    taken, given = TYPES[observation.dtype], "as the environment gives them: scaling, normalization and"
    given += " quantization happen inside."
    if about.int16 is not None:
        taken = "int16_t"
        given = f"codes c that are worth c * {upper}_OBSERVATION_SCALES[i] each, rounded to float32."
    lines = [
        *_heading(policy, name, about),
        f"Observation: {program.input.size} {taken} values, {order}, {given}",
        *observation_lines(policy),
        *_action_lines(policy),
        *_state_lines(policy, name),
        f"Answers are those of the policy's reference, bit for bit ({name}_self_test).",
    ]
    scales = ""
    if about.int16 is not None:
        scales = f"#define {upper}_OBSERVATION_SCALES {macro(about.int16.scale)} /* what code 1 is worth */\n"
    one, many, rows = "", "", "one after another"
    if policy.state_size:
        one, many, rows = f" {name}_state *state,", f" {name}_state *states,", "each with a state of its own"
    body = f"""\
#define {upper}_OBSERVATION_SIZE {program.input.size} /* values of an observation */
#define {upper}_ACTION_SIZE {size} /* values of an action */
#define {upper}_OUTPUT_SIZE {program.output.outputs} /* outputs of the last layer */
#define {upper}_WORK_BYTES {program.work_size} /* memory that a call needs */
{scales}{_state(policy, name)}
typedef {taken} {name}_observation;
typedef {TYPES[action.dtype]} {name}_action;

/* The action for an observation. Not for two threads at once: its work memory is static. ENGINE_OK (0), or why not. */
int {name}_predict(const {name}_observation *observation,{one} {name}_action *action);

/* The same in memory of the caller: `engine_word work[ENGINE_WORDS({upper}_WORK_BYTES)]`. */
int {name}_predict_in(const {name}_observation *observation,{one} {name}_action *action, engine_word *work);

/* Actions of `rows` observations, {rows}; `work` has rows * {upper}_WORK_BYTES bytes. */
int {name}_predict_rows(const {name}_observation *observations, size_t rows,{many} {name}_action *actions,
                        engine_word *work);

/* The same up to the last layer's outputs, before they become actions: rows * {upper}_OUTPUT_SIZE. */
int {name}_outputs(const {name}_observation *observations, size_t rows,{many} float *outputs, engine_word *work);
"""
    functions = ("predict", "predict_in", "predict_rows", "outputs", *(("reset",) if policy.state_size else ()))
    return _header(name, lines, functions, body + robot(policy, name), about)


def integer_header(policy: Policy, program: Program, name: str, about: About) -> str:
    """The file NAME.h of a build without floats."""
    assert policy.input is not None
    upper, observation, action, entry = name.upper(), policy.observation, policy.action, program.input
    inverse, scale, zeros = policy.input.inverse_scale, policy.layers[-1].scale, policy.input.zero_point
    outputs = program.output.outputs
    before = "x = "
    before += "pixel / 255" if observation.image else "the observation's value as float32"
    if observation.normalization is not None:
        n = observation.normalization
        before = (
            f"x = (float)clip((observation - mean) / sqrt(var + {n.epsilon!r}), -{n.clip!r}, {n.clip!r}) in double,"
            " mean and var being those of the policy's normalization"
        )
    which = "i" if inverse.size > 1 else "0"
    lines = [
        *_heading(policy, name, about),
        f"No instruction of floating point. Codes: {entry.size} of int32_t, of values {observation.shape} in C"
        " order, the last fastest:",
        f"  code[i] = clip(rint(x[i] * inverse_scale[{which}]){'' if zeros is None else f' - zero_point[{which}]'},"
        f" {entry.low}, {entry.high}) in float32, rint halves to even,",
        f"  {before}.",
        *observation_lines(policy),
        f"Sums: {outputs} of int32_t, the last layer's accumulators. In real units output[i] = (float)sums[i] *"
        f" scale[{'i' if scale.size > 1 else '0'}].",
        *_action_lines(policy),
        *_state_lines(policy, name),
        f"Sums are those of the policy's reference, integer for integer ({name}_self_test).",
    ]
    state = f" {name}_state *state," if policy.state_size else ""
    points = "" if zeros is None else f"\n#define {upper}_ZERO_POINTS {macro(zeros)}"
    body = f"""\
#define {upper}_OBSERVATION_SIZE {entry.size} /* codes of an observation */
#define {upper}_OUTPUT_SIZE {outputs} /* sums */
#define {upper}_ACTION_SIZE {math.prod(action.shape)} /* values of an action */
#define {upper}_WORK_BYTES {program.work_size} /* memory that a call needs */
#define {upper}_CODE_LOW ({entry.low})
#define {upper}_CODE_HIGH {entry.high}
{_state(policy, name)}
/* The scales, where something else is to use them: `static const float scale[] = {upper}_SCALES;`. */
#define {upper}_INVERSE_SCALES {macro(inverse)}
#define {upper}_SCALES {macro(scale)}{points}

/* The sums for codes, which are clipped to the limits first. Not for two threads at once: its work memory is static. */
void {name}_run(const int32_t codes[],{state} int32_t sums[]);

/* The same in memory of the caller: `engine_word work[ENGINE_WORDS({upper}_WORK_BYTES)]`. */
void {name}_run_in(const int32_t codes[],{state} int32_t sums[], engine_word *work);
"""
    body += _choice(name, action)
    functions = ["run", "run_in"]
    functions += ["choose"] * (action.kind != "box") + ["reset"] * bool(policy.state_size)
    return _header(name, lines, functions, body + robot(policy, name), about)


def _state_lines(policy: Policy, name: str) -> list[str]:
    if not policy.state_size:
        return []
    return [
        f"State: {policy.state_size} values in memory of the caller, a state for each episode that runs: {name}_reset",
        "before its first observation, then the same state with every one; a call leaves the next state in it.",
    ]


def _state(policy: Policy, name: str) -> str:
    """What declares the state; nothing for a policy without one."""
    if not policy.state_size:
        return ""
    return f"""\
#define {name.upper()}_STATE_SIZE {policy.state_size} /* values of a state */

typedef {"int16_t" if policy.input is not None else "float"} {name}_state;

/* Makes a state of {name.upper()}_STATE_SIZE values the one with which an episode begins. */
void {name}_reset({name}_state *state);
"""


def _choice(name: str, action: ActionTransform) -> str:
    """What declares NAME_choose, if there is one."""
    match action.kind:
        case "box":
            return ""
        case "discrete":
            start = _from(action.start)
            return f"""
/* The action for sums: index of the largest output in float32, the first of equals{start}. */
int32_t {name}_choose(const int32_t sums[]);
"""
        case "multi-discrete":
            what = "index of the largest output of every group in float32, the first of equals"
        case "multi-binary":
            what = "1 for every output above 0, else 0"
        case _:
            unknown(action.kind)
    return f"""
/* The action for sums: {what}. */
void {name}_choose(const int32_t sums[], int32_t choices[]);
"""


def _header(name: str, lines: Sequence[str], functions: Sequence[str], body: str, about: About) -> str:
    upper = name.upper()
    functions = (*(("init",) if about.payload else ()), *functions, "self_test")
    names = "\n".join(f"#define {name}_{function} {name}_{function}_{ID}" for function in functions)
    init = f"""\
/* Unpacks the weights into RAM: once, before all else. 0, or nonzero if the payload is damaged. */
int {name}_init(void);

"""
    return f"""\
/* SPDX-License-Identifier: MIT */
{comment(lines)}
#ifndef {upper}_H
#define {upper}_H 0x{ID}u

#include <stddef.h>
#include <stdint.h>

#define {upper}_VERSION "{about.version}" /* of policypress, which wrote this */
#define {upper}_PAYLOAD_SHA256 "{about.sha256}"

{runtime("engine_call.h")}
#ifdef __cplusplus
extern "C" {{
#endif

/* What the linker calls them: names of this export alone, so that a library of another one is refused. */
{names}

{init if about.payload else ""}{body}
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


def _heading(policy: Policy, name: str, about: About) -> list[str]:
    layers, rows = policy.layers, contract_rows(policy)
    if about.int16 is not None:
        rows["takes"] = f"int16 array of shape {policy.observation.shape}, codes"
    weights, nonzeros = sum(layer.trained_weights for layer in layers), sum(layer.nonzeros for layer in layers)
    return [
        f"{name}: a policy, by policypress {about.version}. Generated: export again instead of editing.",
        "",
        *(f"{key:<9} {value}" for key, value in rows.items()),
        f"weights   {nonzeros:,} of {weights:,} are not zero (sparsity {1 - nonzeros / weights:.2%})",
        f"payload   SHA-256 {about.sha256}, that of policypress pack POLICY FILE --payload-only",
        "",
        *about.resources,
        "",
    ]


def _action_lines(policy: Policy) -> list[str]:
    action = policy.action
    size, kind = math.prod(action.shape), TYPES[action.dtype]
    match action.kind:
        case "discrete":
            return [f"Action: one {kind}, the index of the largest output, the first of equals{_from(action.start)}."]
        case "multi-discrete":
            groups = ", ".join(map(str, action.nvec))
            return [f"Action: {size} {kind} values, in groups of {groups} outputs the index of the largest one each."]
        case "multi-binary":
            return [f"Action: {size} {kind} values, 1 for every output above 0, else 0."]
        case "box":
            return _box_lines(policy)
        case _:
            unknown(action.kind)


def _box_lines(policy: Policy) -> list[str]:
    action = policy.action
    size, kind = math.prod(action.shape), TYPES[action.dtype]
    assert action.low is not None
    assert action.high is not None
    how = "low + 0.5 * (tanh(output) + 1) * (high - low)" if action.squash else "clip(output, low, high)"
    shown = 64
    meaning, source = action_meaning(policy)
    bounds = [
        f"  {i}: [{float(low):.9g}, {float(high):.9g}]{f' {said}' if said else ''}"
        for i, (low, high, said) in enumerate(zip(action.low.ravel(), action.high.ravel(), meaning, strict=True))
    ]
    more = [f"  and {len(bounds) - shown} more"] if len(bounds) > shown else []
    return [f"Action: {size} {kind} values, {how}, with the bounds [low, high]", *bounds[:shown], *more, *source]


def _from(start: int) -> str:
    return f", plus {start}" if start else ""
