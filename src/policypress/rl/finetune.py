"""Pressing by training on: the agent itself under the callback, or a student that was distilled from it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from policypress.config import Environment, PressConfig
from policypress.errors import UnsupportedError
from policypress.files import replace_file
from policypress.policy.policy import Policy
from policypress.rl import checkpoint
from policypress.rl.adapters import adapter_for
from policypress.rl.callback import CompressionCallback, divergence
from policypress.rl.distill import Distillation, check_config
from policypress.rl.environments import make_env
from policypress.rl.evaluate import ASKED_EPISODES, TRAINING_SEED, evaluate
from policypress.rl.freeze import freeze
from policypress.rl.method import Method, Pressing
from policypress.rl.runs import Progress
from policypress.rl.sources import OpenedAgent, states_for
from policypress.rl.statistics import normalized_env, read_vecnormalize
from policypress.rl.student_training import StudentTraining, check_student_training

REBUILT_STEPS = 10_000
"""Environment steps that the agent acts, without learning, to fill a replay buffer that its file does not hold."""
_CHECKPOINTS = 50
_INPUTS = 2_000  # observations on which the agent is asked how it explores


class Finetune(Method):
    """The agent's own algorithm: it trains a distilled student on where widths are given, else the agent itself."""

    def check(self, agent: OpenedAgent, config: PressConfig) -> None:
        if config.student.hidden:
            check_student_training(agent)
            check_config(agent.teacher, config.student)
            return
        model = _trainable(agent)
        adapter_for(model).trained_graph(model)  # what cannot learn on is known before anybody trusts a file
        if not agent.source.trust:
            raise UnsupportedError(
                "finetune needs the agent's optimizer and settings, which are read by unpickling: add --trust if you "
                "trust the file, or use --method distill."
            )

    def pace(self, agent: OpenedAgent, config: PressConfig) -> float:
        """Environment steps a second in which a student is trained on, measured on those of ``config``."""
        with self.prepare(agent, config, None) as work:
            assert isinstance(work, DistilledTraining)
            return work.pace()

    @contextmanager
    def prepare(
        self, agent: OpenedAgent, config: PressConfig, folder: Path | None, jobs: int = 1
    ) -> Iterator[Pressing]:
        _trainable(agent)
        env = _environment(config.environment, agent.vecnormalize, training=True)
        try:
            if not config.student.hidden:
                yield Training(agent.source.agent, env, config, folder)
                return
            student = config.student
            with states_for(agent.teacher, config.environment, student.seed, student.disturbances) as (teacher, states):
                yield DistilledTraining(agent, Distillation(teacher, states, student, folder), env, config, folder)
        finally:
            env.close()


def _trainable(agent: OpenedAgent) -> BaseAlgorithm:
    if agent.model is None:
        raise UnsupportedError(
            f"{agent.source.agent} is no agent that Stable-Baselines3 can train on: use --method distill."
        )
    return agent.model


class DistilledTraining:
    """A student that is distilled, if ``distillation`` has not come to its end, and then trained on in ``env``."""

    def __init__(
        self, agent: OpenedAgent, distillation: Distillation, env: VecEnv, config: PressConfig, folder: Path | None
    ) -> None:
        self._agent, self._distillation, self._env = agent, distillation, env
        self._config, self._folder = config, folder
        self._training: StudentTraining | None = None

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Distils and trains, or until the first checkpoint after ``seconds``; whether it is finished."""
        deadline = time.monotonic() + seconds
        distilling = None if progress is None else lambda done, of, _: progress(done, of, None)
        if not self._distillation.run(distilling, seconds):
            return False
        self._training = self._begun()
        return self._training.run(progress, deadline - time.monotonic())

    def pace(self) -> float:
        """Environment steps of training a second, measured on those of ``config``."""
        self._distillation.run()
        return self._begun().pace()

    def _begun(self) -> StudentTraining:
        start, inputs = self._distillation.compressor, self._distillation.inputs(_INPUTS)
        return StudentTraining(self._agent, start, inputs, self._env, self._config, self._folder)

    def freeze(self) -> Policy:
        return self._distillation.freeze() if self._training is None else self._training.freeze()


class Training:
    """An agent that goes on learning for ``config.steps`` steps in ``env``; it is unpickled from ``agent``, or from
    the checkpoint in ``folder`` if there is one."""

    def __init__(self, agent: Path, env: VecEnv, config: PressConfig, folder: Path | None) -> None:
        self._config = config
        self._saved = None if folder is None else folder / "agent.zip"
        if self._saved is not None and self._saved.exists():
            self._model: Any = checkpoint.load(self._saved, config.algo, env=env)
        else:
            self._model = checkpoint.load(agent, config.algo, env=env)
            self._model.num_timesteps = 0
        self._model.set_logger(Logger(None, []))  # the usual one leaves a folder behind in the temporary one

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Trains what is left to train, or until the first checkpoint after ``seconds``; whether it is finished."""
        model, config = self._model, self._config
        if isinstance(model, OffPolicyAlgorithm):
            _rebuild_buffer(model)
        with divergence(model):
            model.learn(
                config.steps - model.num_timesteps,
                callback=[
                    CompressionCallback(config.student.compression, config.steps, returns=self._returns),
                    _Checkpoints(self._saved, config.steps, progress, seconds),
                ],
                reset_num_timesteps=False,
                log_interval=None,
            )
        return bool(model.num_timesteps >= config.steps)

    def freeze(self) -> Policy:
        return self._frozen(unfinished=False)

    def _frozen(self, unfinished: bool) -> Policy:
        told = {**self._config.environment.as_dict(), "finetuned": self._config.steps}
        return freeze(self._model, provenance=told, unfinished=unfinished)

    def _returns(self) -> float:
        low, _ = evaluate(self._frozen(unfinished=True), episodes=ASKED_EPISODES, seed=TRAINING_SEED).interval
        return low


def _environment(environment: Environment, vecnormalize: Path | None, training: bool) -> VecEnv:
    frames, single = environment.frame_stack, replace(environment, frame_stack=1)
    env: VecEnv = DummyVecEnv([lambda: Monitor(make_env(single, training=training, flat=False))])
    if vecnormalize is None:
        return VecFrameStack(env, frames) if frames > 1 else env
    if frames == 1:
        return normalized_env(vecnormalize, env)
    statistics = read_vecnormalize(vecnormalize)
    if statistics is not None and statistics.fits(env.observation_space):
        return VecFrameStack(normalized_env(vecnormalize, env), frames)
    return normalized_env(vecnormalize, VecFrameStack(env, frames))


def _rebuild_buffer(model: OffPolicyAlgorithm) -> None:
    """Fills an empty replay buffer with what the agent does now, exploration included."""
    assert model.replay_buffer is not None
    assert model.env is not None
    model.learning_starts = 0
    if model.replay_buffer.size():
        return
    done = model.num_timesteps
    _, callback = model._setup_learn(REBUILT_STEPS, None, reset_num_timesteps=False)
    frequency = TrainFreq(REBUILT_STEPS, TrainFrequencyUnit.STEP)
    model.collect_rollouts(model.env, callback, frequency, model.replay_buffer, learning_starts=0)
    model.num_timesteps = done


class _Checkpoints(BaseCallback):
    """Saves the agent now and then, and reports; training ends with the first checkpoint after ``seconds``."""

    def __init__(self, path: Path | None, steps: int, progress: Progress | None, seconds: float) -> None:
        super().__init__()
        self._path, self._steps, self._progress = path, steps, progress
        self._deadline = time.monotonic() + seconds
        self._over = False
        self._every = max(1, steps // _CHECKPOINTS)
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self._every

    def _on_step(self) -> bool:
        if not isinstance(self.model, OnPolicyAlgorithm):
            self._save_if_due()
        return not self._over

    def _on_rollout_start(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):  # a checkpoint within a rollout would lose its steps
            self._save_if_due()

    def _save_if_due(self) -> None:
        if self.num_timesteps < self._next:
            return
        self._next = self.num_timesteps + self._every
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(self._path) as partial, partial.open("wb") as file:
                self.model.save(file)
        if self._progress is not None:
            self._progress(min(self.num_timesteps, self._steps), self._steps, None)
        self._over = time.monotonic() >= self._deadline
