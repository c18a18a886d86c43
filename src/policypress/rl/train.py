"""``policypress train``: one run from nothing to a measured ``.policy``, killed and resumed at will."""

from __future__ import annotations

import csv
import inspect
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from policypress.config import TrainConfig, dumps
from policypress.errors import ConfigError, PolicypressError
from policypress.files import replace_file, write_whole
from policypress.measure.size import sizes
from policypress.policy.policy import Policy
from policypress.rl import checkpoint, dynamics, values
from policypress.rl.adapters import Adapter, adapter_named
from policypress.rl.callback import CompressionCallback, attach, attached_compressor, divergence
from policypress.rl.cost import TrainingCost
from policypress.rl.environments import make_env
from policypress.rl.evaluate import ASKED_EPISODES, FINAL_SEED, TRAINING_SEED, evaluate
from policypress.rl.freeze import freeze
from policypress.rl.runs import Progress, RunFolder

EVALUATION_COLUMNS = (
    *("step", "mean", "low", "high", "episodes", "sparsity", "phase", "numerics", "seconds"),
    *dynamics.COLUMNS,
)


class TrainingFolder(RunFolder[TrainConfig]):
    """What a training run leaves."""

    settings = TrainConfig
    early = ("evaluations.csv", "tensorboard")
    late = ("agent.zip",)

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.agent = self.out / "agent.zip"
        self.evaluations = self.out / "evaluations.csv"
        self.replay = self.checkpoint / "replay"
        self.tensorboard = self.out / "tensorboard"

    def begun(self) -> bool:
        return self.result.exists() or checkpoint.newest_checkpoint(self.checkpoint) is not None


def train(config: TrainConfig, out: Path, *, resume: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Trains, freezes, evaluates and writes everything under ``out``; returns the contents of ``result.json``.

    A finished run with the same config is returned as it is, never run again. An unfinished one goes on from its last
    checkpoint if ``resume``, at most 1 % of its steps behind. Raises RunError when ``out`` holds something else,
    ConfigError for settings that contradict each other.
    """
    folder = TrainingFolder(out)
    adapter = check(config)
    with folder.opened(config, resume) as finished:
        if finished is not None:
            return finished
        try:
            return _run(config, folder, adapter, progress)
        except PolicypressError:
            if not folder.begun():
                folder.remove()
            raise


def _run(config: TrainConfig, folder: TrainingFolder, adapter: Adapter, progress: Progress | None) -> dict[str, Any]:
    # One thread: on these small networks more only wait for each other, and the same seed gives the same bytes.
    torch.set_num_threads(1)
    found = checkpoint.newest_checkpoint(folder.checkpoint)
    env = training_env(config)
    try:
        model, state = _model(config, folder, adapter, env, found)
        run = _RunCallback(config, folder, adapter, state, progress)
        pressing = [
            CompressionCallback(config.compression, config.steps, returns=run.returns),
            values.ValueCallback(config.values, config.steps),
        ]
        model.set_logger(configure(str(folder.tensorboard), ["tensorboard"]))
        with divergence(model):
            model.learn(
                config.total_steps - model.num_timesteps,
                callback=[*(pressing if adapter.descends else []), run],
                reset_num_timesteps=found is None,
                log_interval=None,
            )
        run.evaluate_if_due(final=True)
        run.save()
        return _finish(config, folder, model, adapter, run)
    finally:
        env.close()


def _finish(
    config: TrainConfig, folder: TrainingFolder, model: BaseAlgorithm, adapter: Adapter, run: _RunCallback
) -> dict[str, Any]:
    policy = _freeze(config, model, adapter)
    evaluation = evaluate(policy, episodes=config.final_episodes, seed=FINAL_SEED).as_dict()
    policy = replace(policy, results={"evaluation": evaluation})
    with replace_file(folder.agent) as partial:
        model.save(partial)
    result = {
        "config": json.loads(dumps(config)),
        "steps": model.num_timesteps,
        "wall_seconds": round(run.seconds, 1),
        "evaluation": evaluation,
        "size": sizes(policy),
        "training": run.cost,
        "numerics": policy.numerics,
        "versions": policy.provenance["versions"],
    }
    return folder.finish(policy, result)


def read_evaluations(out: Path) -> list[dict[str, str]]:
    """The learning curve of a run, one row an evaluation (EVALUATION_COLUMNS)."""
    return list(csv.DictReader(io.StringIO(TrainingFolder(out).evaluations.read_text())))


def _freeze(config: TrainConfig, model: BaseAlgorithm, adapter: Adapter, unfinished: bool = False) -> Policy:
    baseline = adapter.default_parameters(model) * 4 if config.hidden else None
    compression = json.loads(dumps(config.compression)) if config.compression != type(config.compression)() else None
    return freeze(
        model,
        baseline_bytes=baseline,
        provenance={**config.environment.as_dict(), "compression": compression, "train": json.loads(dumps(config))},
        unfinished=unfinished,
    )


def training_env(config: TrainConfig) -> DummyVecEnv:
    """What the agent of a run learns in."""
    return DummyVecEnv([lambda: Monitor(make_env(config.environment, training=True)) for _ in range(config.n_envs)])


def _model(
    config: TrainConfig, folder: TrainingFolder, adapter: Adapter, env: DummyVecEnv, found: Path | None
) -> tuple[Any, dict[str, Any]]:
    if found is not None:
        model: Any = checkpoint.load(found / "agent.zip", config.algo, env=env, device=config.device)
        # Loading seeded the environment for the run's first episode; it starts one of its own instead.
        env.seed(config.seed + model.num_timesteps)
        values.prepare(model, config.values)
        checkpoint.map_replay_buffer(model, folder.replay, resume=True)
        return model, checkpoint.restore_checkpoint(model, found)
    model = new_model(config, adapter, env)
    values.prepare(model, config.values)
    checkpoint.map_replay_buffer(model, folder.replay, resume=False)
    return model, {}


def new_model(config: TrainConfig, adapter: Adapter, env: DummyVecEnv) -> Any:
    """The agent of a run before its first step; ConfigError for settings that its algorithm refuses."""
    kwargs = dict(config.algo_kwargs)
    buffer = inspect.signature(adapter.model_class).parameters.get("buffer_size")
    if isinstance(kwargs.get("train_freq"), list):  # JSON has no tuples
        kwargs["train_freq"] = tuple(kwargs["train_freq"])
    if buffer is not None:
        # A buffer larger than the run is never filled: the same training, less memory.
        kwargs["buffer_size"] = min(int(kwargs.get("buffer_size", buffer.default)), config.total_steps + config.n_envs)
    policy_kwargs = adapter.policy_kwargs(config) or None
    try:
        return adapter.model_class(
            adapter.policies["vector" if config.network == "mlp" else "image"],
            env,
            policy_kwargs=policy_kwargs,
            seed=config.seed,
            device=config.device,
            **kwargs,
        )
    except MemoryError as error:
        setting, example = ("buffer_size", 100_000) if buffer is not None else ("n_steps", 256)
        raise ConfigError(
            f"a buffer of {kwargs.get(setting)} transitions does not fit into memory: lower it, for example "
            f"--set {setting}={example}."
        ) from error
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(f"{adapter.model_class.__name__} refuses these settings: {reason}.") from error


def check(config: TrainConfig) -> Adapter:
    """Raises ConfigError or UnsupportedError for everything that can be wrong before the first step."""
    adapter = adapter_named(config.algo)
    known = inspect.signature(adapter.model_class).parameters
    ours = {
        "policy",
        "env",
        "policy_kwargs",
        "seed",
        "device",
        "tensorboard_log",
        "verbose",
        "_init_setup_model",
    }
    if wrong := sorted(name for name in config.algo_kwargs if name not in known or name in ours):
        raise ConfigError(
            f"{adapter.model_class.__name__} takes no setting {', '.join(wrong)}; it takes "
            f"{', '.join(name for name in known if name not in ours)}."
        )
    for name, value in config.algo_kwargs.items():
        if isinstance(value, str) and isinstance(known[name].default, int | float):
            raise ConfigError(f"{name}={value!r} is not a number: give one as in {name}={known[name].default}.")
    env = make_env(config.environment, training=False)
    try:
        adapter.check_spaces(env.observation_space, env.action_space)
        image = isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 3
        if image != (config.network != "mlp"):
            better = "nature or --network resnet" if image else "mlp"
            raise ConfigError(
                f"network={config.network} does not fit {config.env}'s observations: use --network {better}."
            )
    finally:
        env.close()
    # A trial shows what only the agent itself can tell, before anything is written.
    small = config
    if "buffer_size" in known:
        small = replace(config, n_envs=1, algo_kwargs={**config.algo_kwargs, "buffer_size": 1})
    trial = training_env(small)
    try:
        model = new_model(small, adapter, trial)
        learning_starts = adapter.learning_starts(model)
        config.compression.check_reachable(config.steps, config.total_steps, learning_starts)
        if learning_starts >= config.total_steps:
            raise ConfigError(f"learning starts at step {learning_starts}, after the last one: train longer.")
        if adapter.descends or config.compression.prunes or config.compression.quantizes:
            attach(model, config.compression, config.steps)
        values.prepare(model, config.values)
    finally:
        trial.close()
    return adapter


class _RunCallback(BaseCallback):
    """Evaluations of the policy as it would be deployed, checkpoints and progress."""

    def __init__(
        self,
        config: TrainConfig,
        folder: TrainingFolder,
        adapter: Adapter,
        state: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self._config, self._folder, self._adapter, self._progress = config, folder, adapter, progress
        self._rows: list[dict[str, Any]] = state.get("evaluations", [])
        self._visited = dynamics.Visited()
        if "visited" in state:  # checkpoints of earlier versions have none
            self._visited.load_state_dict(state["visited"])
        self._seconds_before = float(state.get("seconds", 0.0))
        self._started = time.monotonic()
        self._cost: TrainingCost | None = None
        self._cost_before = state.get("cost")
        self._checkpoint_every = max(1, config.total_steps // 100)
        self._next_checkpoint = self._checkpoint_every

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, sessions before a resume included."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def cost(self) -> dict[str, int] | None:
        """What training took so far; None where what is trained is not what is deployed."""
        return None if self._cost is None else self._cost.so_far(self.model)

    def _on_training_start(self) -> None:
        if self._adapter.while_learning and self._adapter.descends:
            self._cost = TrainingCost(self._adapter, self.model)
            if self._cost_before is not None:
                self._cost.load_state_dict(self._cost_before)
        self._next_checkpoint = self.num_timesteps + self._checkpoint_every
        self._report()

    def _on_step(self) -> bool:
        self._visited(self.locals.get("new_obs"))  # ARS plays in processes and tells none
        self.evaluate_if_due()
        if isinstance(self.model, OffPolicyAlgorithm):
            self._save_if_due()
        if self.n_calls % 50 == 0:
            self._report()
        return True

    def _on_rollout_start(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm):  # a checkpoint within a rollout would lose its steps
            self._save_if_due()

    def _save_if_due(self) -> None:
        if self.num_timesteps >= self._next_checkpoint:
            self._next_checkpoint += self._checkpoint_every
            self.save()

    def evaluate_if_due(self, final: bool = False) -> None:
        last = int(self._rows[-1]["step"]) if self._rows else 0
        every = self._config.evaluation_interval
        due = self.num_timesteps // every > last // every or final
        if not due or last == self.num_timesteps:
            return
        model: Any = self.model
        policy = self._deployed()
        met = dynamics.Met(policy.observation.image)
        result = evaluate(policy, episodes=self._config.eval_episodes, seed=TRAINING_SEED, met=met)
        compressor = attached_compressor(model)
        low, high = result.interval
        row = {
            "step": self.num_timesteps,
            "mean": round(result.mean, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "episodes": len(result.returns),
            "sparsity": round(compressor.sparsity if compressor else 0.0, 6),
            "phase": compressor.phase.name.lower() if compressor else "float",
            "numerics": policy.numerics,
            "seconds": round(self.seconds, 1),
            **dynamics.dynamics(self._adapter, model, policy, met, self._visited),
        }
        self._rows.append(row)
        for name, value in (self.cost or {}).items():
            self.logger.record(f"training/{name}", value)
        for name in ("mean", "low", "high", *dynamics.COLUMNS):
            if row[name] is not None:
                self.logger.record(f"evaluation/{name}", row[name])
        self.logger.dump(self.num_timesteps)
        text = io.StringIO()
        writer = csv.DictWriter(text, EVALUATION_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_whole(self._folder.evaluations, text.getvalue())
        self._report()

    def returns(self) -> float:
        """The lower end of the interval of what the policy would return if it were deployed now."""
        low, _ = evaluate(self._deployed(), episodes=ASKED_EPISODES, seed=TRAINING_SEED).interval
        return low

    def _deployed(self) -> Policy:
        model: Any = self.model
        return _freeze(self._config, model, self._adapter, unfinished=True)

    def save(self) -> None:
        model: Any = self.model
        state = {"evaluations": self._rows, "seconds": self.seconds, "visited": self._visited.state_dict()}
        if self._cost is not None:
            self._cost.so_far(model)
            state["cost"] = self._cost.state_dict()
        checkpoint.save_checkpoint(model, self._folder.checkpoint, state)

    def _report(self) -> None:
        if self._progress is not None:
            latest = float(self._rows[-1]["mean"]) if self._rows else None
            self._progress(min(self.num_timesteps, self._config.total_steps), self._config.total_steps, latest)
