"""``policypress.compress``: a policy in one call, without a folder to measure and to resume in."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.config import DistillConfig
from policypress.errors import ConfigError
from policypress.policy.policy import Policy
from policypress.rl.agents import Agent, teacher_of
from policypress.rl.distill import Distillation
from policypress.rl.environments import EnvLike, makes_env
from policypress.rl.ptq import Calibration, SequenceCalibration
from policypress.rl.runs import Progress
from policypress.rl.sequences import distilled_over_sequences, over_sequences
from policypress.rl.sources import States, states_for
from policypress.rl.teacher import Teacher


def compress(
    model: BaseAlgorithm | Agent | Teacher,
    env: EnvLike | States,
    config: DistillConfig,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Policy:
    """A small policy that acts as ``model`` does, distilled in minutes; rewards are not looked at.

    ``env``: the environment that the student acts in, its id, a class or function that makes it, or an ``Environment``;
    or a function that gives states. ``folder`` keeps a checkpoint, from which the same call goes on. Raises
    UnsupportedError for agents that cannot be pressed.
    """
    teacher = teacher_of(model)
    if over_sequences(teacher, config):
        with distilled_over_sequences(teacher, _with_episodes(env), config, folder) as work:
            work.run(progress)
            return work.freeze()
    with states_for(teacher, env, config.seed, config.disturbances) as (teacher, states):
        student = Distillation(teacher, states, config, folder)
        student.run(progress)
        return student.freeze()


def post_training(model: BaseAlgorithm | Agent | Teacher, env: EnvLike | States, config: DistillConfig) -> Policy:
    """What everybody tries first: magnitude pruning in one go and ranges measured on the agent's own states, without
    any training (one-shot pruning, post-training quantization)."""
    teacher = teacher_of(model)
    if teacher.remembers:
        episodes = SequenceCalibration(teacher, _with_episodes(env), config)
        episodes.run()
        return episodes.freeze()
    with states_for(teacher, env, config.seed) as (teacher, states):
        copy = Calibration(teacher, states, config)
        copy.run()
        return copy.freeze()


def _with_episodes(env: EnvLike | States) -> EnvLike:
    if not makes_env(env):
        raise ConfigError("what remembers is pressed over episodes, not over states alone: give an environment.")
    return env  # type: ignore[return-value]
