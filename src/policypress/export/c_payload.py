"""The entropy-coded payload in an export to C: its bytes as a constant, and what unpacks them into RAM at the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from policypress.export.c_text import definition
from policypress.policy.canonical import canonical
from policypress.policy.ops import Cell, Layer, Op, Requantization, Residual
from policypress.policy.patterns import fits_any
from policypress.policy.payload import payload_costs, payload_structure, short_input
from policypress.policy.policy import Policy
from policypress.runtime.lower import Program, lower
from policypress.runtime.structures import Form, Kind

_LINE_BYTES = 12  # a coder_line
_MEMORY_BYTES = 9788  # a payload_memory, where pointers have 4 bytes
_NARROW = """\
/* A multiplier or shift for each output, in bytes. */
static void narrow(const int32_t *from, uint8_t *to, size_t have, size_t want) {
    const int32_t first = from[0];
    for (size_t i = 0; i < want; i++)
        to[i] = (uint8_t)(have > 1 ? from[i] : first);
}

"""


@dataclass
class Unpacked:
    """C that unpacks a payload: ``text`` with the data, the arrays in RAM and NAME_init; ``arrays``: what stands for
    each array of the program; whether the payload has a ``short`` form, is of a ``recurrent`` policy, and may have
    ``patterns`` N:M; bytes of it, of RAM for the arrays and for unpacking them where pointers have 4 bytes, and of each
    layer in the payload."""

    text: str
    arrays: dict[str, str]
    short: bool
    recurrent: bool
    patterns: bool
    payload_bytes: int
    ram_bytes: int
    layer_bytes: list[int]


def program_of(policy: Policy) -> tuple[Program, Policy]:
    """The program with dense weights, and the policy whose payload has its arrays."""
    smallest = canonical(dataclasses.replace(policy, test_vectors=None))
    return lower(smallest, lambda layer, pairs: Form.DENSE), smallest


def unpacked(policy: Policy, program: Program, name: str) -> Unpacked:
    """The C for the ``policy`` and ``program`` that ``program_of`` returned."""
    data, costs, _ = payload_costs(policy)
    walk = _Walk(policy, program)
    columns = max(step.dense.shape[1] for step in program.steps if step.dense is not None)
    table = ",\n".join(f"    {{{values}, {rows}, {n}}}" for values, rows, n in walk.table)
    fixes = "\n".join(f"    {fix};" for fix in walk.fixes)
    bytes_of = definition("static const uint8_t payload", np.frombuffer(data, np.uint8))
    text = f"""\
{bytes_of}

/* What the payload becomes, in RAM. */
{chr(10).join(walk.declarations)}

static const payload_array arrays[{len(walk.table)}] = {{
{table}
}};

{_NARROW if walk.ratios else ""}\
/* The share of `zero` taken off the biases, and (channels, positions) of each row turned to (positions, channels). */
static void settle(int8_t *weight, int32_t *bias, size_t rows, size_t channels, size_t positions, int32_t zero,
                   int8_t *row) {{
    const size_t n = channels * positions;
    for (size_t r = 0; r < rows; r++, weight += n) {{
        int32_t sum = 0;
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < positions; p++) {{
                sum += weight[c * positions + p];
                row[p * channels + c] = weight[c * positions + p];
            }}
        for (size_t i = 0; i < n; i++)
            weight[i] = row[i];
        bias[r] = (int32_t)((uint32_t)bias[r] - (uint32_t)zero * (uint32_t)sum);
    }}
}}

int {name}_init(void) {{
    static payload_memory memory;
    static coder_line columns[{columns + 2}];
    int8_t *row = (int8_t *)columns;
    memory.w.columns = columns;
    if (payload_decode(payload, sizeof payload, arrays, {len(walk.table)}, {payload_structure(data)}u, &memory) != 0)
        return 1;
{fixes}
    return 0;
}}
"""
    layer_bytes = [round(cost.total / 8) for cost in costs]
    ram = walk.ram + _MEMORY_BYTES + _LINE_BYTES * (columns + 2)
    assert policy.input is not None
    short = short_input(policy.input) is not None
    patterns = any(fits_any(layer.weight.reshape(len(layer.weight), -1)) for layer in policy.layers)
    return Unpacked(text, walk.arrays, short, policy.state_size > 0, patterns, len(data), ram, layer_bytes)


@dataclass
class _Walk:
    """Goes through the operations in the order of the payload."""

    policy: Policy
    program: Program
    declarations: list[str] = field(default_factory=list)
    table: list[tuple[str, int, int]] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)
    arrays: dict[str, str] = field(default_factory=dict)
    ram: int = 0
    ratios: bool = False  # whether there are multipliers and shifts

    def __post_init__(self) -> None:
        assert self.policy.input is not None
        size, zeros = self.policy.input.inverse_scale.size, "input_zero_point"
        self._floats("input_inverse_scale", size)
        if self.policy.input.zero_point is not None:
            self._declare(f"static int32_t {zeros}[{size}];", zeros, zeros, 4 * size)
            self.table.append((zeros, size, 0))
        kinds = [step.kind for step in self.program.steps]
        layers, adds = ([i for i, found in enumerate(kinds) if found == kind] for kind in (Kind.LAYER, Kind.ADD))
        self._ops(self.policy.ops, iter(layers), self._sums(self.policy.ops, adds))

    def _sums(self, ops: Iterable[Op], adds: list[int]) -> dict[int, int]:
        """The step that adds up each residual block, by the block's identity: a block ends after those inside it."""
        found: dict[int, int] = {}

        def visit(ops: Iterable[Op]) -> None:
            for op in ops:
                if isinstance(op, Residual):
                    visit(op.body)
                    found[id(op)] = adds[len(found)]

        visit(ops)
        return found

    def _ops(self, ops: Iterable[Op], layers: Iterator[int], adds: dict[int, int]) -> None:
        for op in ops:
            if isinstance(op, Layer):
                self._layer(op, next(layers))
            elif isinstance(op, Cell):
                for layer in op.children:
                    self._layer(layer, next(layers))
            elif isinstance(op, Residual):
                assert op.skip is not None
                assert op.branch is not None
                step = adds[id(op)]
                self._ratio(op.skip, step, "")
                self._ratio(op.branch, step, "second_")
                self._ops(op.body, layers, adds)

    def _layer(self, layer: Layer, step: int) -> None:
        fields = self.program.steps[step]
        if layer is self.policy.ops[-1]:
            self._floats("output_scale", layer.scale.size)
        if layer.requantize is not None:
            self._ratio(layer.requantize, step, "")
        rows, size = len(layer.weight), layer.weight.size
        weight, bias = f"step{step}_weight", f"step{step}_bias"
        self._declare(f"static int32_t {bias}[{rows}];", bias, bias, 4 * rows)
        self._declare(f"static int8_t {weight}[{size}];", weight, weight, size)
        self.table += [(bias, rows, 0), (weight, rows, size // rows)]
        assert fields.turn is not None
        channels, positions = fields.turn
        if channels * positions != size // rows:
            channels, positions = 1, size // rows
        self.fixes.append(f"settle({weight}, {bias}, {rows}, {channels}, {positions}, {fields.source_zero}, row)")

    def _ratio(self, ratio: Requantization, step: int, prefix: str) -> None:
        self.ratios = True
        for kind, values in (("multiplier", ratio.multiplier), ("shift", ratio.shift)):
            array = f"step{step}_{prefix}{kind}"
            have, want = values.size, getattr(self.program.steps[step], prefix + kind).size
            union = f"static union {{ int32_t number[{want}]; uint8_t byte[{4 * want}]; }} {array};"
            self._declare(union, array, f"{array}.byte", 4 * want)
            self.table.append((f"{array}.number", have, 0))
            self.fixes.append(f"narrow({array}.number, {array}.byte, {have}, {want})")

    def _floats(self, array: str, size: int) -> None:
        union = f"static union {{ int32_t bits[{size}]; float value[{size}]; }} {array};"
        self._declare(union, array, f"{array}.value", 4 * size)
        self.table.append((f"{array}.bits", size, 0))

    def _declare(self, declaration: str, array: str, stands: str, size: int) -> None:
        self.declarations.append(declaration)
        self.arrays[array] = stands
        self.ram += size
