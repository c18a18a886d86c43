"""Policy files as teachers: a policy that is frozen already, pressed again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from policypress.compression.freeze import outputs_of, steps_of
from policypress.errors import ConfigError, UnsupportedError
from policypress.policy.artifact import MAGIC, PACKED_MAGIC
from policypress.policy.policy import Policy
from policypress.rl.adapters import NAMES, Imitation, adapter_named, imitation_of
from policypress.rl.environments import EnvLike, make_env, name_of
from policypress.rl.evaluate import check_spaces
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.teacher import Teacher, tensor_steps

_KEPT = ("algo", "steps", "seed")
"""What a student's card keeps of its teacher's."""


def is_policy(path: Path) -> bool:
    """Whether a file begins as a ``.policy`` or packed file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)).startswith((MAGIC, PACKED_MAGIC))


def open_policy(source: Source, algo: str | None, env: EnvLike | None) -> OpenedAgent:
    """The policy in a ``.policy`` or packed file, a black box.

    Raises ArtifactError for a file that cannot be read, ConfigError for statistics, which a policy holds itself, and
    for an unknown algorithm or environment, UnsupportedError or ConfigError for a policy that does not fit them.
    """
    if source.vecnormalize is not None:
        raise ConfigError(f"{source.agent} holds the statistics of its observations itself: leave --vecnormalize out.")
    policy = Policy.load(source.agent)
    told = policy.provenance.get("algo")
    if algo is None:
        algo = told if told in NAMES else None
    adapter = adapter_named(algo) if algo else None
    if adapter is not None and told in NAMES and told != adapter.name:
        raise UnsupportedError(f"{source.agent} was trained by {told}, not by {adapter.name}: give --algo {told}.")
    if env is not None:
        made = make_env(env, training=False)
        try:
            if adapter is not None:
                adapter.check_spaces(made.observation_space, made.action_space)
            check_spaces(policy, made, name_of(env))
        finally:
            made.close()
    # What a student learned from values are logits: it was asked for the choices alone.
    distilled = policy.action.kind != "box" and not {"distill", "sequences"}.isdisjoint(policy.provenance)
    imitation: Imitation = "logits" if distilled else imitation_of(policy.action, algo)
    return OpenedAgent(source, algo or "", env, policy_teacher(policy, imitation))


def policy_teacher(policy: Policy, imitation: Imitation) -> Teacher:
    """Who learns from this sees what ``policy`` sees and imitates its outputs, which are an "action", "logits" or
    "values"."""
    told = {name: policy.provenance[name] for name in _KEPT if name in policy.provenance}
    teacher = partial(
        Teacher, None, policy.observation, policy.action, imitation,
        provenance=told, dense_bytes=policy.baseline_bytes, reason="what a .policy file holds is frozen",
    )  # fmt: skip
    if policy.state_size:
        return teacher(steps=tensor_steps(steps_of(policy)))
    run = outputs_of(policy)
    return teacher(answers=lambda x: torch.from_numpy(run(x.numpy())))
