"""Observations that a policy can be asked: recorded, usual, random and extreme ones; which of them are legal, and the
reference's answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError
from policypress.policy import reference
from policypress.policy.contract import TestVectors
from policypress.policy.ops import Cell
from policypress.policy.state import initial_state, part_sizes, state_before

if TYPE_CHECKING:
    from policypress.policy.policy import Policy


ROWS = 8
"""So many episodes of a policy with a state run side by side."""


class Answers(NamedTuple):
    """What the reference answers: raw ``observations`` (count, *shape), float32 ``outputs`` (count, outputs) of the
    last layer, and ``actions`` (count, *action shape)."""

    observations: NDArray[Any]
    outputs: NDArray[np.float32]
    actions: NDArray[Any]


def answers(policy: Policy, count: int, seed: int = 0) -> Answers:
    """The reference's answers to at most ``count`` of ``observations``, those left out that it refuses. A recurrent
    policy is asked one after another in one episode."""
    asked = accepted(policy, observations(policy, count, seed))
    outputs = sequence(policy, asked)[0]
    return Answers(asked, outputs, reference.act(policy.action, outputs))


def recorded(policy: Policy, seen: NDArray[Any]) -> TestVectors:
    """Test vectors of the reference's answers to ``seen`` (count, *shape): of a recurrent policy one after another in
    one episode. Raises ObservationError if one of them is refused."""
    outputs = sequence(policy, seen)[0]
    return TestVectors(seen, outputs, reference.act(policy.action, outputs))


def sequence(policy: Policy, seen: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """The reference's outputs (count, outputs) for ``seen`` (count, *shape), and what its last layer gives before they
    are scaled. A recurrent policy is asked one after another in one episode."""
    x = reference.observe(policy.observation, seen)
    outputs, last, state = list[NDArray[np.float32]](), list[NDArray[Any]](), initial_state(policy, len(x))
    for rows in np.split(x, len(x)) if policy.state_size and len(x) else [x]:
        record: list[NDArray[Any]] = []
        answer, state = reference.step(policy, rows, state[: len(rows)], record)
        outputs.append(answer)
        last.append(record[-1])
    return np.concatenate(outputs), np.concatenate(last)


class Turn(NamedTuple):
    """A step of sequences side by side: ``observations`` (rows, *shape), the states ``before`` (rows, ``state_size``),
    the reference's ``outputs`` and the states ``after``."""

    observations: NDArray[Any]
    before: NDArray[Any]
    outputs: NDArray[np.float32]
    after: NDArray[Any]


def turns(policy: Policy, seen: NDArray[Any]) -> Iterator[Turn]:
    """``seen`` (count, *shape) as at most ``ROWS`` sequences side by side of a policy with a state: now and then an
    episode begins, and once the states are any that are legal. Steps that the reference refuses are left out."""
    rng, rows = np.random.default_rng(len(seen)), max(1, min(ROWS, len(seen) // 2))
    state = initial_state(policy, rows)
    for number, start in enumerate(range(0, len(seen) - rows + 1, rows)):
        batch = seen[start : start + rows]
        before = state_before(policy, (state,), rng.random(rows) < 1 / 8, rows)
        if number == 2:
            before = random_state(policy, rows, rng)
        try:
            outputs, state = reference.step(policy, reference.observe(policy.observation, batch), before)
        except ObservationError:
            continue
        yield Turn(batch, before, outputs, state)


def observations(policy: Policy, count: int, seed: int = 0) -> NDArray[Any]:
    """Observations (count, *shape) of the contract's dtype: a third recorded ones of the policy's test vectors (if it
    has some), half of the rest random, half extreme. The policy may refuse some of the extreme ones."""
    rng = np.random.default_rng(seed)
    recorded = policy.test_vectors.observations if policy.test_vectors is not None else None
    parts = []
    if recorded is not None and len(recorded):
        parts.append(recorded[np.linspace(0, len(recorded) - 1, min(len(recorded), -(-count // 3))).astype(int)])
    left = count - sum(map(len, parts))
    parts += [random_observations(policy, left - left // 2, rng), extreme_observations(policy, left // 2, rng)]
    return np.concatenate(parts)[:count]


def random_observations(policy: Policy, count: int, seed: int | np.random.Generator = 0) -> NDArray[Any]:
    """Observations (count, *shape) over the whole range of the input's codes and a little beyond."""
    rng, transform, quantization = np.random.default_rng(seed), policy.observation, policy.input
    shape = (count, *transform.shape)
    if transform.image:
        return rng.integers(0, 256, shape).astype(np.uint8)
    if quantization is None:
        x = 2 * rng.normal(size=shape)
    else:
        scale = quantization.inverse_scale.astype(np.float64)
        codes = rng.uniform(1.2 * quantization.low - 1, 1.2 * quantization.high + 1, shape)
        each = transform.shape if scale.size > 1 else (1,)
        zeros = 0 if quantization.zero_point is None else quantization.zero_point.reshape(each)
        x = (codes + zeros) / scale.reshape(each)
    if transform.normalization is not None:
        n = transform.normalization
        x = x * np.sqrt(n.var + n.epsilon) + n.mean
    return _as(transform.dtype, x)


def usual_observations(policy: Policy, count: int, seed: int | np.random.Generator = 0) -> NDArray[Any]:
    """Observations (count, *shape) as an environment may give them: pixels or small integers uniformly, floats normally
    distributed, with the mean and variance of the policy's normalization if it has one."""
    rng, transform = np.random.default_rng(seed), policy.observation
    shape, dtype = (count, *transform.shape), np.dtype(transform.dtype)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        return rng.integers(max(limits.min, -127), min(limits.max, 255), shape, endpoint=True, dtype=dtype)
    values = rng.normal(size=shape)
    if transform.normalization is not None:
        values = transform.normalization.mean + values * np.sqrt(transform.normalization.var)
    return values.astype(dtype)


def random_state(policy: Policy, count: int, seed: int | np.random.Generator = 0) -> NDArray[Any]:
    """States (count, ``state_size``) of codes, or values, that the policy may have met, extreme ones among them."""
    rng, parts, codes = np.random.default_rng(seed), [initial_state(policy, count)[:, :0]], (0, 0)
    if policy.input is not None:
        codes = policy.input.low, policy.input.high
    sizes = part_sizes(policy.ops, policy.observation.shape)
    for op, size in zip(policy.ops, sizes, strict=True):
        if size and policy.input is None:
            parts.append(rng.normal(size=(count, size)))
        elif isinstance(op, Cell):
            parts += [rng.integers(-limit, limit + 1, (count, op.units)) for limit in op.limits]
        elif size:
            low, high = op.codes(*codes)
            parts.append(rng.integers(low, high + 1, (count, size)))
        if policy.input is not None:
            codes = op.codes(*codes)
    return np.concatenate(parts, axis=1).astype(parts[0].dtype)


def extreme_observations(policy: Policy, count: int, seed: int | np.random.Generator = 0) -> NDArray[Any]:
    """Observations (count, *shape) of the largest, the smallest and the least legal values: everywhere, in places, or
    scaled ones. The policy may refuse some."""
    rng, transform = np.random.default_rng(seed), policy.observation
    dtype = np.dtype(transform.dtype)
    usual = random_observations(policy, count, rng)
    if dtype.kind == "f":
        # What float32 cannot hold is refused, unless a normalization clips it.
        top = float(np.finfo(dtype if transform.normalization is not None else np.float32).max) / 4
        values = np.array([top, -top, 0.0, -0.0, 1e-45, -1e-38, 1e9, -1e5])
        scales = np.array([1e-30, 1e-3, 1e3, 1e6])
    else:
        info = np.iinfo(dtype)
        values, scales = np.array([info.max, info.min, 0], dtype), np.array([1])
    for i, kind in enumerate(rng.permutation(np.arange(count) % 6)):
        match kind:
            case 0:
                usual[i] = values[0]
            case 1:
                usual[i] = values[1]
            case 2:
                usual[i] = rng.choice(values[:2], transform.shape)
            case 3:
                usual[i] = rng.choice(values, transform.shape)
            case 4:
                usual[i] = np.where(rng.random(transform.shape) < 0.2, rng.choice(values, transform.shape), usual[i])
            case _:
                usual[i] = _as(transform.dtype, usual[i] * rng.choice(scales))
    return usual


def _as(dtype: str, x: NDArray[Any]) -> NDArray[Any]:
    """``x`` as the nearest values that the dtype has."""
    if np.dtype(dtype).kind == "f":
        most = float(np.finfo(np.float32).max)
        return np.asarray(np.clip(x, -most, most), dtype)
    info = np.iinfo(dtype)
    # float64 has no int64 maximum: the next lower one it has does not overflow
    top = math.nextafter(float(info.max), 0) if info.max > 2**53 else info.max
    return np.asarray(np.clip(np.rint(x), info.min, top), dtype)


def accepted(policy: Policy, batch: NDArray[Any]) -> NDArray[Any]:
    """The observations of ``batch`` (count, *shape) that the reference does not refuse."""
    return batch[legal(policy, batch)]


def legal(policy: Policy, batch: NDArray[Any]) -> NDArray[np.bool_]:
    """Which observations of ``batch`` (count, *shape) the reference does not refuse: (count,). Of a recurrent policy,
    those that it does not refuse one after another."""
    if policy.state_size:
        return _legal_one_after_another(policy, batch)
    try:
        reference.run(policy, reference.observe(policy.observation, batch))
    except ObservationError:
        if len(batch) == 1:
            return np.zeros(1, np.bool_)
        half = len(batch) // 2
        return np.concatenate([legal(policy, batch[:half]), legal(policy, batch[half:])])
    return np.ones(len(batch), np.bool_)


def _legal_one_after_another(policy: Policy, batch: NDArray[Any]) -> NDArray[np.bool_]:
    found, state = np.zeros(len(batch), np.bool_), initial_state(policy, 1)
    for place, row in enumerate(batch):
        try:
            _, state = reference.step(policy, reference.observe(policy.observation, row), state)
        except ObservationError:
            continue
        found[place] = True
    return found
