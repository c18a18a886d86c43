"""A policy in words, for tables, C text and JSON alike: its contract in rows, and what people call its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policypress.policy.contract import ActionTransform, ObservationTransform

if TYPE_CHECKING:
    from policypress.policy.policy import Policy


def contract_rows(policy: Policy) -> dict[str, str]:
    """What ``policy`` takes and gives, in what numerics, where it comes from and what it returned: a row each."""
    gives = _action_words(policy.action, len(policy.layers[-1].weight))
    if not any(layer.nonzeros for layer in policy.layers):
        gives += "; constant: no weight is left"
    rows = {"takes": _observation_words(policy.observation), "gives": gives, "numerics": policy.numerics}
    if policy.input is not None:
        rows["input"] = f"{policy.input.bits} bits a feature"
    if policy.state_size:
        rows["remembers"] = f"{policy.state_size:,} values from one observation to the next"
    origin = policy.provenance
    if origin.get("algo"):
        rows["trained"] = ", ".join(f"{key} {origin[key]}" for key in ("algo", "env", "steps", "seed") if key in origin)
    return rows | _return_rows(policy.results.get("evaluation")) | _agreement_rows(policy.results.get("agreement"))


def layer_titles(convolutional: Sequence[bool]) -> list[str]:
    """What people call the layers of a network: "conv 1", "hidden 2", numbered by kind, and "output" for the last.

    ``convolutional``: of every layer in the order it runs, whether it is one.
    """
    titles = []
    for index, conv in enumerate(convolutional):
        number = sum(kind == conv for kind in convolutional[: index + 1])
        titles.append(f"conv {number}" if conv else f"hidden {number}")
    return [*titles[:-1], "output"]


def labelled(title: str, name: str) -> str:
    """A layer's title with what the framework that trained it calls it, "hidden 1 (latent_pi.0)"; it may have none."""
    return f"{title} ({name})" if name else title


def _observation_words(observation: ObservationTransform) -> str:
    takes = f"{observation.dtype} array of shape {observation.shape} or a batch of them"
    if observation.image:
        takes += f", {observation.frame_stack} stacked frames, divided by 255 inside"
    if observation.normalization is not None:
        takes += ", normalized inside"
    return takes


def _action_words(action: ActionTransform, outputs: int) -> str:
    match action.kind:
        case "discrete":
            return f"index of the largest output, from {action.start}"
        case "multi-discrete":
            return f"index of the largest output in each group of {', '.join(map(str, action.nvec))}"
        case "multi-binary":
            return f"{outputs} values, 1 for every output above 0, else 0"
        case "box":
            assert action.low is not None
            assert action.high is not None
            how = _bounds_words(action.low, action.high, "tanh scaled" if action.squash else "clipped")
            return f"{action.dtype} array of shape {action.shape}, {how}"


def _bounds_words(low: NDArray[np.float32], high: NDArray[np.float32], how: str) -> str:
    """Between which numbers actions lie; infinite bounds are none."""
    least, most = low[np.isfinite(low)], high[np.isfinite(high)]
    if not least.size and not most.size:
        return f"not {how}"
    if not least.size or not most.size:
        words = f"at most {float(most.max()):g}" if most.size else f"at least {float(least.min()):g}"
    else:
        words = f"[{float(least.min()):g}, {float(most.max()):g}]"
    some = "" if least.size in (0, low.size) and most.size in (0, high.size) else ", where they have bounds"
    return f"{how} to {words}{some}"


def _agreement_rows(measured: dict[str, Any] | None) -> dict[str, str]:
    if not measured:
        return {}
    interval = f" [{measured['low']:.1%}, {measured['high']:.1%}]" if "low" in measured else ""
    episodes = f"{measured['episodes']} held-out episodes of {measured['recorded']['file']}"
    return {"agreement": f"{measured['mean']:.1%}{interval} over {episodes}, with its agent ({measured['measure']})"}


def _return_rows(measured: dict[str, Any] | None) -> dict[str, str]:
    if not measured:
        return {}
    rows = {
        "return": f"{measured['mean']:.1f} [{measured['low']:.1f}, {measured['high']:.1f}] "
        f"over {measured['episodes']} episodes of {measured['env']}"
    }
    if "ended_early" in measured:  # not on cards of before
        rows["worst tenth"] = f"{measured['worst_tenth']:.1f}"
        rows["ends early"] = f"{measured['ended_early']:.1%} of the episodes, before the limit of time"
    return rows
