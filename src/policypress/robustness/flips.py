"""Bits that flip in memory: in what a policy's frozen form keeps in flash, and in the codes that it computes in RAM.

Flash holds, layer by layer, what ``Flash.parts`` lists: codes of weights that are not zero (two's complement of their
own number of bits; where they stand is left alone), biases (32 bits), multipliers and shifts of requantizations (8 and
5 bits), and the scales that are used, of the input and of the last layer (31 bits; they have no sign). Float policies
have weights and biases of 32 bits. Tables of activations are left alone.

A flip is the bit itself, so that a second flip of it is none. What a device would then compute is computed by the usual
engine, which has no room for a few of the values: a code of -2**(bits - 1) counts as its neighbour, an accumulator that
would overflow saturates by its bias, a multiplier below 16 is shifted up, a shift of 0 counts as 1, a number that is
infinite or none as the largest one.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError
from policypress.policy import reference
from policypress.policy.description import layer_titles
from policypress.policy.ops import (
    FLOAT_BITS,
    INT32_MAX,
    Activation,
    Cell,
    Layer,
    Op,
    Range,
    Requantization,
    Residual,
    weight_limit,
)
from policypress.policy.policy import Policy
from policypress.policy.state import Memory, initial_state
from policypress.rl.evaluate import Act, constant_action
from policypress.robustness.sensors import stream

Words = NDArray[np.uint32]

MOST_FLIPS = 1024
"""Of one policy: fewer flips are the first of as many."""
_LEAST_MULTIPLIER, _MOST_SHIFT = 16, 31
_SAMPLES = 8
"""Values of a part of which each bit is tried."""
_ASKED = 64
_SCALES = np.float32(2.0**-64), np.float32(2.0**64)
"""A scale beyond is as good as none, or as infinite: outputs stay finite."""


@dataclass(frozen=True, eq=False)
class Part:
    """Stored ``words`` of one kind, of so many ``bits`` each: ``field`` of the layer ``layer`` (-1: the input)."""

    layer: int
    field: str
    words: Words
    bits: int


class Bit(NamedTuple):
    """Bit ``bit`` (0: the least) of the value ``value`` of the part ``part``."""

    part: int
    value: int
    bit: int


class Flash:
    """What the frozen form of ``policy`` keeps."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.parts = tuple(_parts(policy))
        self._ends = np.cumsum([part.words.size * part.bits for part in self.parts])
        self._titles = layer_titles([layer.is_conv for layer in policy.layers])

    @property
    def bits(self) -> int:
        return int(self._ends[-1])

    def bit(self, address: int) -> Bit:
        """The bit at ``address``, from 0 to ``bits`` - 1."""
        part = int(np.searchsorted(self._ends, address, "right"))
        return Bit(part, *divmod(address - (int(self._ends[part - 1]) if part else 0), self.parts[part].bits))

    def drawn(self, count: int, rng: np.random.Generator) -> list[Bit]:
        """``count`` different bits, all if there are no more: the first of ``MOST_FLIPS`` in random order."""
        addresses = rng.choice(self.bits, min(self.bits, MOST_FLIPS), replace=False)
        return [self.bit(int(address)) for address in addresses[:count]]

    def title(self, bit: Bit) -> str:
        """What a bit is part of, in words."""
        part = self.parts[bit.part]
        return "input scale" if part.layer < 0 else f"{self._titles[part.layer]} {part.field}"

    def flipped(self, flips: Iterable[Bit]) -> Policy:
        """The policy after ``flips``: a bit that is flipped twice is as it was."""
        words: dict[int, Words] = {}
        for (part, value, bit), times in Counter(flips).items():
            if times % 2:
                words.setdefault(part, self.parts[part].words.copy())[value] ^= np.uint32(1 << bit)
        if not words:
            return self.policy
        changed = {(self.parts[i].layer, self.parts[i].field): found for i, found in words.items()}
        return _rebuilt(self.policy, changed)


def _parts(policy: Policy) -> Iterator[Part]:
    integer, layers = policy.input is not None, policy.layers
    if policy.input is not None:
        yield Part(-1, "scale", policy.input.inverse_scale.view(np.uint32), 31)
    for index, layer in enumerate(layers):
        weight = layer.weight[layer.weight != 0]
        if weight.size and layer.weight_bits == FLOAT_BITS:
            yield Part(index, "weight", weight.view(np.uint32), 32)
        elif weight.size:
            mask = np.uint32(2**layer.weight_bits - 1)
            yield Part(index, "weight", weight.astype(np.int32).view(np.uint32) & mask, layer.weight_bits)
        yield Part(index, "bias", layer.bias.view(np.uint32), 32)
        if layer.requantize is not None:
            yield Part(index, "multiplier", layer.requantize.multiplier.view(np.uint32), 8)
            yield Part(index, "shift", layer.requantize.shift.view(np.uint32), 5)
        elif layer.weight_bits != FLOAT_BITS and (not integer or index == len(layers) - 1):
            yield Part(index, "scale", layer.scale.view(np.uint32), 31)


def _rebuilt(policy: Policy, words: dict[tuple[int, str], Words]) -> Policy:
    """``policy`` with these stored words, by layer and field, in place of its own."""
    numbers, ranges = iter(range(len(policy.layers))), list(_ranges(policy))

    def layer_of(layer: Layer) -> Layer:
        index = next(numbers)
        found = {field: stored for (at, field), stored in words.items() if at == index}
        return _layer(layer, found, ranges[index]) if found else layer

    def ops_of(ops: Sequence[Op]) -> tuple[Op, ...]:
        made: list[Op] = []
        for op in ops:
            if isinstance(op, Layer):
                made.append(layer_of(op))
            elif isinstance(op, Residual):
                made.append(dataclasses.replace(op, body=ops_of(op.body)))
            elif isinstance(op, Cell):
                made.append(dataclasses.replace(op, input=layer_of(op.input), recurrent=layer_of(op.recurrent)))
            else:
                made.append(op)
        return tuple(made)

    quantization = policy.input
    if quantization is not None and (stored := words.get((-1, "scale"))) is not None:
        quantization = dataclasses.replace(quantization, inverse_scale=_scale(stored, quantization.inverse_scale))
    return dataclasses.replace(policy, ops=ops_of(policy.ops), input=quantization, test_vectors=None)


def _ranges(policy: Policy) -> Iterator[Range | None]:
    """Of the codes that each layer takes, in the order in which layers run; None where there are none."""

    def within(ops: Iterable[Op], codes: Range) -> Iterator[Range]:
        for op in ops:
            if isinstance(op, Layer):
                yield codes
            elif isinstance(op, Cell):
                yield codes
                yield op.codes(*codes)
            else:
                yield from within(op.children, codes)
            codes = op.codes(*codes)

    if policy.input is None:
        yield from (None for _ in policy.layers)
    else:
        yield from within(policy.ops, (policy.input.low, policy.input.high))


def _layer(layer: Layer, words: dict[str, Words], codes: Range | None) -> Layer:
    changes: dict[str, Any] = {}
    if (stored := words.get("weight")) is not None:
        weight = layer.weight.copy()
        weight[weight != 0] = _weights(stored, layer.weight_bits)
        changes["weight"] = weight
    if (stored := words.get("bias")) is not None:
        changes["bias"] = stored.view(np.int32) if layer.bias.dtype == np.int32 else _finite(stored.view(np.float32))
    if (stored := words.get("scale")) is not None:
        changes["scale"] = _scale(stored, layer.scale)
    if layer.requantize is not None and ("multiplier" in words or "shift" in words):
        multiplier = words.get("multiplier", layer.requantize.multiplier.view(np.uint32))
        shift = words.get("shift", layer.requantize.shift.view(np.uint32))
        changes["requantize"] = _requantization(layer.requantize, multiplier, shift)
    changed = dataclasses.replace(layer, **changes)
    if codes is None:
        return changed
    room = INT32_MAX - (changed.reach(*codes) - np.abs(changed.bias.astype(np.int64)))
    bias = np.clip(changed.bias, -room, room).astype(np.int32)
    return dataclasses.replace(changed, bias=bias)


def _weights(stored: Words, bits: int) -> NDArray[Any]:
    if bits == FLOAT_BITS:
        return _finite(stored.view(np.float32))
    sign, limit = 1 << (bits - 1), weight_limit(bits)
    codes = (stored.astype(np.int64) ^ sign) - sign
    return np.asarray(np.maximum(codes, -limit), np.int8)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = float(np.finfo(np.float32).max)
    return np.nan_to_num(values, nan=largest, posinf=largest, neginf=-largest)


def _scale(stored: Words, before: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales as they are stored; those that changed, within ``_SCALES``."""
    scale = stored.view(np.float32)
    return np.where(scale == before, before, np.clip(_finite(scale), *_SCALES))


def _requantization(before: Requantization, multiplier: Words, shift: Words) -> Requantization:
    """(acc * m + half) >> s is the same for 2 m and s + 1; of a multiplier of 0 nothing is left."""
    size = max(multiplier.size, shift.size)
    m, s = (np.broadcast_to(words, size).astype(np.int32) for words in (multiplier, shift))
    m, s = np.maximum(m, 1), np.where(m == 0, _MOST_SHIFT, s)
    while (small := m < _LEAST_MULTIPLIER).any():
        m[small] *= 2
        s[small] += 1
    return dataclasses.replace(before, multiplier=m, shift=np.clip(s, 1, _MOST_SHIFT).astype(np.int32))


# Critical bits


class Critical(NamedTuple):
    """A bit, and the mean change of an action where it flips: in half ranges of actions of a Box (in the actions' own
    units where they have no bounds), the share of other choices elsewhere; 1 where there is no action any more."""

    bit: Bit
    change: float


def criticality(flash: Flash, seen: NDArray[Any], rng: np.random.Generator) -> list[Critical]:
    """Single flips of every bit of up to 8 values of each part, drawn at random, the worst first: what they change of
    the actions at up to 64 observations of ``seen`` (count, *shape), each as if an episode began there."""
    seen = seen[np.linspace(0, len(seen) - 1, min(len(seen), _ASKED)).astype(int)]
    usual = flash.policy.predict(seen)[0]
    found = []
    for number, part in enumerate(flash.parts):
        for value in rng.choice(part.words.size, min(_SAMPLES, part.words.size), replace=False):
            for bit in range(part.bits):
                flip = Bit(number, int(value), bit)
                try:
                    actions = flash.flipped([flip]).predict(seen)[0]
                except ObservationError:
                    found.append(Critical(flip, 1.0))
                else:
                    found.append(Critical(flip, _change(flash.policy, usual, actions)))
    return sorted(found, key=lambda one: -one.change)


def _change(policy: Policy, usual: NDArray[Any], actions: NDArray[Any]) -> float:
    action = policy.action
    if action.kind != "box" or action.low is None or action.high is None:
        return float(np.mean(usual != actions))
    half = (action.high.astype(np.float64) - action.low) / 2
    return float(
        np.mean(np.abs(usual.astype(np.float64) - actions) / np.where(np.isfinite(half) & (half > 0), half, 1))
    )


def by_place(flash: Flash, found: Sequence[Critical]) -> list[dict[str, Any]]:
    """Mean change by part and place of the bit (0: the least), the worst first."""
    changes: dict[tuple[str, int], list[float]] = {}
    for bit, change in found:
        changes.setdefault((flash.title(bit), bit.bit), []).append(change)
    rows = [
        {"part": part, "bit": bit, "change": float(np.mean(values)), "tried": len(values)}
        for (part, bit), values in changes.items()
    ]
    return sorted(rows, key=lambda row: -row["change"])


# Acting


class _Failing:
    """Actions of episodes whose policy may give numbers that are none: from then on the action is zero, as a driver's
    that refuses them, to the episode's end."""

    def __init__(self) -> None:
        self._failed: set[int] = set()

    def action(self, index: int, env: Any, given: Any) -> Any:
        """``given()``, or zero."""
        if index not in self._failed:
            try:
                return given()
            except ObservationError:
                self._failed.add(index)
        return constant_action(env.action_space)


def acting_flipped(flash: Flash, count: int, seed: int, worst: Sequence[Bit] | None = None) -> Act:
    """What a policy does after ``count`` flips in flash: of random bits, others in each episode; or of the first of
    ``worst``, the same in all. More flips are the same and others."""
    episodes: dict[int, tuple[Policy, Any]] = {}
    failing = _Failing()

    def policy_in(index: int) -> Policy:
        bits = flash.drawn(count, stream("flash", seed + index)) if worst is None else worst[:count]
        return flash.flipped(bits)

    def act(observations: dict[int, Any], envs: dict[int, Any]) -> list[Any]:
        for index in episodes.keys() - observations.keys():
            del episodes[index]
        actions = []
        for index, observation in observations.items():
            if index not in episodes:
                episodes[index] = policy_in(index), None

            def given(index: int = index, observation: Any = observation) -> Any:
                policy, state = episodes[index]
                action, after = policy.predict(observation[None], state)
                episodes[index] = policy, after
                return action[0]

            actions.append(failing.action(index, envs[index], given))
        return actions

    return act


def acting_in_flipped_memory(policy: Policy, probability: float, seed: int) -> Act:
    """What ``policy`` does where each bit of its input's codes, and of what its layers, activations, residual blocks
    and cells pass on, flips with ``probability`` in each step; float32 values have 32 bits. By the reference."""
    episodes: dict[int, tuple[np.random.Generator, NDArray[Any]]] = {}
    failing = _Failing()

    def act(observations: dict[int, Any], envs: dict[int, Any]) -> list[Any]:
        for index in episodes.keys() - observations.keys():
            del episodes[index]
        for index in observations.keys() - episodes.keys():
            episodes[index] = stream("ram", seed + index), initial_state(policy, 1)[0]
        x = reference.observe(policy.observation, np.stack(list(observations.values())))
        state = np.stack([episodes[index][1] for index in observations])
        flips = [episodes[index][0] for index in observations]
        outputs, after = _with_flips(policy, x, state, flips, probability)
        for index, row in zip(observations, after, strict=True):
            episodes[index] = episodes[index][0], row
        found = reference.act(policy.action, np.nan_to_num(outputs))

        def given(row: int) -> Any:
            if not np.isfinite(outputs[row]).all():
                raise ObservationError("The network's values overflow.")
            return found[row]

        return [
            failing.action(index, envs[index], lambda row=row: given(row)) for row, index in enumerate(observations)
        ]

    return act


def _with_flips(
    policy: Policy, x: NDArray[np.float32], state: NDArray[Any], rows: Sequence[np.random.Generator], probability: float
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """``reference.step`` with flips between operations."""
    memory = Memory(state)
    with np.errstate(all="ignore"):  # flipped floats can be anything
        if policy.input is None:
            x = _flip_floats(x, rows, probability)
            for op in policy.ops:
                x = reference.run_float((op,), x, [], memory)
                if op is not policy.ops[-1] and isinstance(op, Layer | Activation | Residual | Cell):
                    x = _flip_floats(x, rows, probability)
            return x, memory.state
        codes: Range = policy.input.low, policy.input.high
        q = _flip_codes(reference.quantize_input(policy.input, x), codes, rows, probability)
        for op in policy.ops:
            q, codes = reference.run_integer((op,), q, [], memory), op.codes(*codes)
            if op is not policy.ops[-1] and isinstance(op, Layer | Activation | Residual | Cell):
                q = _flip_codes(q, codes, rows, probability)
        return q.astype(np.float32) * policy.layers[-1].scale, memory.state


def _masks(
    shape: tuple[int, ...], bits: int, rows: Sequence[np.random.Generator], probability: float
) -> NDArray[np.int64]:
    """For each row the bits of its values that flip."""
    size = int(np.prod(shape[1:]))
    masks = np.zeros((len(rows), size), np.int64)
    for row, rng in enumerate(rows):
        count = rng.binomial(size * bits, probability)
        if count:
            value, bit = np.divmod(rng.choice(size * bits, count, replace=False), bits)
            np.bitwise_xor.at(masks[row], value, np.int64(1) << bit)
    return masks.reshape(shape)


def _flip_codes(
    q: NDArray[np.int64], codes: Range, rows: Sequence[np.random.Generator], probability: float
) -> NDArray[np.int64]:
    low, high = codes
    bits = high.bit_length() if low >= 0 else 1 + max(high.bit_length(), (-low - 1).bit_length())
    flipped = q ^ _masks(q.shape, bits, rows, probability)
    if low < 0:  # two's complement
        sign = 1 << (bits - 1)
        flipped = ((flipped & (2 * sign - 1)) ^ sign) - sign
    return np.asarray(np.clip(flipped, low, high), np.int64)


def _flip_floats(
    x: NDArray[np.float32], rows: Sequence[np.random.Generator], probability: float
) -> NDArray[np.float32]:
    masks = _masks(x.shape, 32, rows, probability).astype(np.uint32)
    return (np.ascontiguousarray(x).view(np.uint32) ^ masks).view(np.float32)
