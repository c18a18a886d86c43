"""What a file of another framework is once it is open: a black box, and where it is understood a chain of layers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.compression.answers import TOLERANCE, compare, probes
from policypress.compression.freeze import freeze_graph
from policypress.compression.graph import Graph
from policypress.errors import PolicypressError, UnsupportedError
from policypress.importers.chain import Chain, chain_of
from policypress.importers.signals import Kept, NotUnderstood, Signal, Value, observation
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import MAX_VALUES
from policypress.policy.policy import Policy

MAX_BYTES = 2**28
"""Of a file, and of what it unpacks to: a policy that can be pressed has 32 MB of weights at most."""
_ACTIONS = ("action", "actions", "mean", "mu", "output", "continuous_actions", "deterministic_action", "mean_action")
"""What the output is called that is meant where a file has several."""
_REASON = 200
_EPISODES, _STEPS = (0.1, 1.0, 10.0), 64
"""Scales of the observations, and steps, of the episodes in which what remembers is compared."""
_LONG, _PROMISED = 1000, 1e-5
"""Steps of the last one, of scale 1, and what is promised of it: beyond, rounding itself has grown in the state."""

Run = Callable[[NDArray[Any]], NDArray[Any]]
"""Answers (n, outputs) of a file's own runtime for raw observations (n, *shape)."""
Steps = Callable[[NDArray[Any], Sequence[Any]], tuple[NDArray[Any], list[Any]]]
"""The same of a runtime that keeps a state: ``steps(observations, states)`` gives the answers and the states behind
them. ``states``: of each row what it gave for the observation before, None where an episode begins."""


Follow = Callable[[Signal], tuple[Value, Kept]]
"""What a file answers to the signal of one observation (1, *shape), and what it keeps then."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A policy in files of another framework.

    ``format``: its name. ``shape``: of one observation; None where neither the file nor anybody says. ``dtype``: of
    observations. ``run``: its own runtime. ``chain``, ``graph`` and ``policy`` (float32): what was understood, None of
    a black box, and then ``unknown`` is the first operation that was not. ``steps``: its runtime where it keeps a
    state, and ``run`` then begins an episode in every row. ``metadata``: what the file says of the robot, texts or JSON
    values. ``files``: all that it is in. ``parameters``: the numbers of its network; None where only its code knows.
    ``follow``: what it makes of a signal in the place of its observation; None where there is nothing to follow.
    """

    format: str
    shape: tuple[int, ...] | None
    dtype: str
    run: Run
    chain: Chain | None = None
    graph: Graph | None = None
    policy: Policy | None = None
    unknown: str = ""
    steps: Steps | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    parameters: int | None = None
    follow: Follow | None = None

    @property
    def understood(self) -> bool:
        return self.policy is not None

    def rows(self) -> dict[str, str]:
        """What it is in words, a row each."""
        rows = {"format": self.format}
        if self.understood:
            what = ", pruned and quantized"
            if self.graph is not None and self.graph.norm is not None:
                what = " and imitated, by a student without LayerNorm"
            elif self.chain is not None and self.chain.joined:
                what = " and imitated, by a student that is one network"
            rows["layers"] = f"understood: it can be frozen, exported{what}"
            if self.chain is not None and self.chain.cells:
                rows["memory"] = ", then ".join(self.chain.cells)
        else:
            rows["layers"] = f"a black box, which can be distilled; not understood: {self.unknown or 'its shape'}"
            shape = "not said" if self.shape is None else f"{self.dtype} array of shape {self.shape}"
            rows["takes"] = shape + (", and keeps a state" if self.steps is not None else "")
        told = {name: value for name, value in self.metadata.items() if not name.startswith("policypress.")}
        return rows | {name: json.dumps(value)[:_REASON] for name, value in told.items()}

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "format": self.format,
            "understood": self.understood,
            "unknown": self.unknown,
            "observation_shape": None if self.shape is None else list(self.shape),
            "stateful": self.steps is not None,
            "metadata": self.metadata,
        }

    def shaped(self, shape: tuple[int, ...], who: str) -> Opened:
        """The same for observations of ``shape``, which ``who`` gives; UnsupportedError for another than the file's."""
        chain = self.chain
        if self.shape is not None and len(shape) == 1 and math.prod(self.shape) == shape[0]:
            if chain is not None:
                normal = chain.normalization
                if normal is not None:
                    normal = replace(normal, mean=normal.mean.reshape(shape), var=normal.var.reshape(shape))
                chain = replace(chain, shape=shape, normalization=normal)
        elif self.shape not in (None, shape):
            raise UnsupportedError(
                f"{who} gives observations of shape {shape}, but {self.files[0]} takes {self.shape}: give what it was "
                "trained on."
            )
        return replace(self, shape=shape, chain=chain)


def with_chain(opened: Opened, follow: Follow) -> Opened:
    """``opened`` with its chain, if what ``follow`` gives is one that answers as its own runtime does.

    Raises UnsupportedError for what answers otherwise when it is asked again, or not with finite numbers.
    """
    check_answers(opened)
    opened = replace(opened, follow=follow)
    assert opened.shape is not None
    try:
        chain = chain_of(*follow(observation((1, *opened.shape), batched=True)))
        graph = chain.graph()
        policy = freeze_graph(graph, observation_of(opened, chain), action_of_chain(chain))
        _compare(opened, chain, policy)
        if opened.steps is not None:
            _compare_episodes(opened, opened.steps, chain, policy)
    except NotUnderstood as error:
        return replace(opened, unknown=str(error))
    except RecursionError:
        return replace(opened, unknown="so many operations one after another")
    except PolicypressError as error:  # layers that no policy has, or other answers
        return replace(opened, unknown=str(error).rstrip("."))
    return replace(opened, chain=chain, graph=graph, policy=policy)


def observation_of(opened: Opened, chain: Chain | None = None) -> ObservationTransform:
    """What a policy in this file takes: an image where it divides bytes by 255."""
    assert opened.shape is not None
    normal = chain.normalization if chain is not None else None
    if normal is not None and opened.dtype == "uint8" and len(opened.shape) == 3 and normal.clip == math.inf:
        deviation = np.sqrt(normal.var + normal.epsilon)
        if not normal.mean.any() and np.allclose(deviation, 255.0, 1e-6, 0.0):
            return ObservationTransform(opened.shape, "uint8", image=True, frame_stack=opened.shape[0])
    return ObservationTransform(opened.shape, opened.dtype, normalization=normal)


def check_answers(opened: Opened) -> None:
    """Asks it twice; UnsupportedError if it answers otherwise, or not with finite numbers (n, outputs)."""
    if opened.shape is None:
        return
    who = str(opened.files[0]) if opened.files else "the policy"
    _, x = next(found for found in probes(opened.shape) if found[0] == 1.0)
    x = _raw(x, opened.dtype)
    first, again = opened.run(x), opened.run(x)
    if first.ndim != 2 or len(first) != len(x) or not first.shape[1]:
        raise UnsupportedError(f"{who} answers {len(x)} observations with shape {first.shape}: give (n, outputs).")
    if not np.isfinite(first).all():
        raise UnsupportedError(
            f"{who} answers ordinary observations with NaN or infinite values: its weights are not finite, or it takes "
            "observations of another scale."
        )
    if not np.array_equal(first, again):
        raise UnsupportedError(
            f"{who} answers the same observations otherwise when it is asked again: it draws at random, or keeps a "
            "state that nothing resets."
        )


def _raw(x: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Observations of ``dtype``: whole numbers up to 255, where it is one of those."""
    if np.dtype(dtype).kind == "f":
        return x.astype(dtype)
    return np.asarray(np.rint(np.abs(x) * 64).clip(0, 127 if dtype == "int8" else 255), dtype)


def rows_of(who: str, answers: Any, count: int) -> NDArray[Any]:
    """What a runtime gave for ``count`` observations as (count, outputs); UnsupportedError for what is no such."""
    found = answers if isinstance(answers, np.ndarray) else np.empty((), object)
    if found.dtype.kind not in "biuf" or found.size % count or (found.ndim and count > 1 and len(found) != count):
        what = f"{found.dtype} of shape {found.shape}" if isinstance(answers, np.ndarray) else type(answers).__name__
        raise UnsupportedError(f"{who} answers {count} observations with {what}: it must give numbers (n, outputs).")
    return found.reshape(count, -1)


def begun(steps: Steps) -> Run:
    """``steps`` where an episode begins in every row."""
    return lambda observations: steps(observations, [None] * len(observations))[0]


def one_by_one(step: Callable[[NDArray[Any], Any], tuple[NDArray[Any], Any]]) -> Steps:
    """Steps of a runtime that takes single observations (1, *shape), with a state."""

    def steps(observations: NDArray[Any], states: Sequence[Any]) -> tuple[NDArray[Any], list[Any]]:
        found = [step(row, state) for row, state in zip(np.split(observations, len(states)), states, strict=True)]
        return np.concatenate([answer for answer, _ in found]), [state for _, state in found]

    return steps


def _compare(opened: Opened, chain: Chain, policy: Policy) -> None:
    """Raises UnsupportedError if the chain answers otherwise than the file's own runtime, where episodes begin."""
    for scale, x in probes(chain.shape):
        met = _met(opened, chain, x)
        answers = policy.predict(met)[0] if chain.kind == "box" else policy.outputs(met)
        _compare_answers(chain, opened.run(met), answers, scale)


def _compare_episodes(opened: Opened, steps: Steps, chain: Chain, policy: Policy) -> None:
    """The same of whole episodes; raises NotUnderstood where rounding grows from step to step."""
    random = np.random.default_rng(0)
    for scale in _EPISODES:
        x = _met(opened, chain, (scale * random.normal(size=(_STEPS, *chain.shape))).astype(np.float32))
        _compare_answers(chain, *_episodes(steps, chain, policy, x), scale)
    x = _met(opened, chain, random.normal(size=(_LONG, *chain.shape)).astype(np.float32))
    try:
        _compare_answers(chain, *_episodes(steps, chain, policy, x), 1.0, _PROMISED)
    except UnsupportedError as error:
        raise NotUnderstood("a state in which rounding grows from step to step") from error


def _episodes(steps: Steps, chain: Chain, policy: Policy, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What the file's own runtime and ``policy`` answer to ``x``, an episode that begins again on the way."""
    own, ours = list[NDArray[Any]](), list[NDArray[Any]]()
    theirs, state = list[Any]([None]), None
    ask = policy.predict if chain.kind == "box" else policy.step
    for number, row in enumerate(np.split(x, len(x))):
        if number == len(x) // 2:
            theirs, state = [None], None
        answer, theirs = steps(row, theirs)
        own.append(answer)
        answer, state = ask(row, state)
        ours.append(answer)
    return np.concatenate(own), np.concatenate(ours)


def _met(opened: Opened, chain: Chain, x: NDArray[np.float32]) -> NDArray[Any]:
    """Observations that become ``x`` where the chain normalizes them."""
    normal = chain.normalization
    if normal is not None:
        x = (normal.mean + np.sqrt(normal.var + normal.epsilon) * x).astype(np.float32)
    return _raw(x, opened.dtype)


def _compare_answers(
    chain: Chain, own: NDArray[Any], ours: NDArray[Any], scale: float, tolerance: float = TOLERANCE
) -> None:
    """Raises UnsupportedError if ``own`` answers (n, outputs) are not ``ours``: actions of a box, or outputs of
    choices."""
    if chain.kind == "box":
        compare("the file's own runtime", own, ours, scale, tolerance=tolerance)
        return
    outputs = ours.astype(np.float64)
    if own.shape[1] == 1 and outputs.shape[1] > 1:
        ordered = np.sort(outputs, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > tolerance * np.abs(outputs).max()
        wrong = (own[:, 0] != outputs.argmax(axis=1)) & clear
        if wrong.any():
            raise UnsupportedError("the file's own runtime chooses otherwise than its layers one after another.")
        return
    odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    share = odds / odds.sum(axis=1, keepdims=True)
    logarithms = bool((own <= 0.0).all())
    compare("the file's own runtime", np.exp(own) if logarithms else own, share, scale, tolerance=tolerance)


def action_of_chain(chain: Chain) -> ActionTransform:
    """What the end of a chain is, where nobody else says more."""
    if chain.kind == "discrete":
        return ActionTransform("discrete", dtype="int64")
    return ActionTransform("box", (chain.outputs,), "float32", chain.squash, chain.low, chain.high)


def named_output(path: Path, names: Sequence[str], wanted: str) -> str:
    """The output that is the action: the only one, the one that is ``wanted``, or the only one with such a name."""
    if wanted:
        if wanted in names:
            return wanted
        raise UnsupportedError(f"{path} has no output {wanted}: it has {', '.join(names)}.")
    if len(names) == 1:
        return names[0]
    likely = [name for name in names if name.lower() in _ACTIONS]
    if len(likely) == 1:
        return likely[0]
    raise UnsupportedError(
        f"{path} has {len(names)} outputs ({', '.join(names)}): say which is the action with --output NAME."
    )


def check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Raises UnsupportedError for observations that no policy takes."""
    if math.prod(shape) > MAX_VALUES or min(shape) < 1 or len(shape) > 3:
        raise UnsupportedError(f"{path} takes observations of shape {shape}: a policy takes one to three dimensions.")


def reason_of(error: Exception) -> str:
    """The first line of an error of a library, for a sentence of ours; of TorchScript's, which begin with a traceback,
    the last."""
    text = str(error).strip()
    if text.startswith("The following operation failed"):
        text = text.rpartition("\n")[2].partition(": ")[2]
    text = re.sub(r"^\[\w+\]\s*:\s*\d+\s*:\s*\w+\s*:\s*", "", text).partition("\n")[0]
    return (text[:_REASON].rstrip(" .:") or type(error).__name__).replace("  ", " ")
