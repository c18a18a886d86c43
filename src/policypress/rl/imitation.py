"""How far a student is from its teacher: what it learns by, and whether it has learned it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

from policypress.errors import ConfigError
from policypress.policy.contract import ActionTransform
from policypress.rl.teacher import Teacher

DECAY = 0.4
"""Of the batches, the last ones: the learning rate falls to zero."""
_TEMPERATURE = 0.25  # of Q values, in their own standard deviations


def decay(progress: float) -> float:
    """Factor of the learning rate after this share of the batches: 1, then half a cosine to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * max(0.0, (progress - (1.0 - DECAY)) / DECAY)))


def imitation_loss(teacher: Teacher, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far the student's ``outputs`` are from the teacher's, both (n, outputs) before the action transform.

    Actions: mean squared error in units of half the Box's range, nothing where both lie beyond the same bound. Logits:
    Kullback-Leibler divergence, of Bernoulli distributions where choices are binary. Q values: the same of their
    softmax, at a temperature relative to their spread.
    """
    match teacher.imitation:
        case "action":
            return _action_error(teacher.action, outputs, wanted)
        case "logits" | "values":
            return _divergence(teacher.action, outputs, _log_odds(teacher, wanted))


def agreement(teacher: Teacher, outputs: torch.Tensor, wanted: torch.Tensor) -> float:
    """How nearly the student's ``outputs`` give the teacher's actions, both (n, outputs); 1 where they are the same.

    A Box: the share of the actions' variance that is explained, of the worst action. Choices: how likely the teacher
    is to do what the student does over how likely it is to do what it likes best, so that a near tie weighs little.
    """
    action = teacher.action
    match action.kind:
        case "box":
            return _explained(action, outputs, wanted)
        case "multi-binary":
            wanted = _log_odds(teacher, wanted)
            less = torch.exp(-wanted.abs())  # the odds of what the teacher likes less
            return float(torch.where((outputs > 0) == (wanted > 0), 1.0, less).prod(1).mean())
        case "discrete" | "multi-discrete":
            kept = torch.ones(len(wanted))
            for ours, theirs in _by_group(action, outputs, _log_odds(teacher, wanted)):
                likely = theirs.softmax(1)
                kept = kept * likely.gather(1, ours.argmax(1, keepdim=True))[:, 0] / likely.amax(1)
            return float(kept.mean())


def squashed(action: ActionTransform, outputs: torch.Tensor) -> torch.Tensor:
    """Outputs for a Box as actions in units of half its range, [-1, 1]; where it has no bounds, as they are."""
    if action.squash:
        return torch.tanh(outputs)
    centre, half = _range(action)
    return (outputs - centre) / half


def _action_error(action: ActionTransform, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    if not action.squash and not _bounded(action):
        return (outputs - wanted).square().mean()
    error = squashed(action, outputs) - squashed(action, wanted)
    if not action.squash:
        low, high = _bounds(action)
        beyond = ((outputs > high) & (wanted > high)) | ((outputs < low) & (wanted < low))
        error = error.masked_fill(beyond, 0.0)
    return error.square().mean()


def _divergence(action: ActionTransform, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of the student's choices from those whose logits are ``wanted``."""
    match action.kind:
        case "multi-binary":
            share = wanted.sigmoid()
            entropy = F.binary_cross_entropy_with_logits(wanted, share, reduction="none")
            return (F.binary_cross_entropy_with_logits(outputs, share, reduction="none") - entropy).sum(1).mean()
        case "discrete" | "multi-discrete":
            divergences = [
                F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
                for ours, theirs in _by_group(action, outputs, wanted)
            ]
            return torch.stack(divergences).sum()
        case "box":
            raise ConfigError('actions of a Box have no logits and no values: imitate them as "action".')


def _explained(action: ActionTransform, outputs: torch.Tensor, wanted: torch.Tensor) -> float:
    if not action.squash:
        outputs, wanted = (values.clamp(*_bounds(action)) for values in (outputs, wanted))
    ours, theirs = (squashed(action, values) for values in (outputs, wanted))
    missed, variance = (ours - theirs).square().mean(0), theirs.var(0, unbiased=False)
    return float((1.0 - missed / variance.clamp(min=1e-12)).amin())


def _log_odds(teacher: Teacher, wanted: torch.Tensor) -> torch.Tensor:
    """Logits of the teacher's choices."""
    match teacher.imitation:
        case "values":
            return wanted / (_TEMPERATURE * wanted.std(dim=1).mean()).clamp(min=1e-6)
        case "logits" | "action":
            return wanted


def _by_group(
    action: ActionTransform, outputs: torch.Tensor, wanted: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    groups = list(action.nvec) or [outputs.shape[1]]
    return list(zip(outputs.split(groups, dim=1), wanted.split(groups, dim=1), strict=True))


@lru_cache
def _range(action: ActionTransform) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and half of the range of a Box, 0 and 1 where it has no bounds."""
    low, high = _bounds(action)
    bounded = torch.isfinite(high - low)
    return torch.where(bounded, (high + low) / 2, 0.0), torch.where(bounded, (high - low) / 2, 1.0)


@lru_cache
def _bounded(action: ActionTransform) -> bool:
    """Whether a Box has any bound."""
    return bool(torch.isfinite(torch.cat(_bounds(action))).any())


@lru_cache
def _bounds(action: ActionTransform) -> tuple[torch.Tensor, torch.Tensor]:
    assert action.low is not None
    assert action.high is not None
    return torch.from_numpy(action.low.ravel()), torch.from_numpy(action.high.ravel())
