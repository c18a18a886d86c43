"""Settings: frozen, validated dataclasses that travel as JSON with a version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from policypress.errors import ConfigError

CONFIG_VERSION = 1
FLOAT_BITS = 32

TRAINED = ("sac", "ddpg", "td3", "tqc", "dqn", "ppo", "a2c")
"""Algorithms whose agents are pressed while they learn."""
ALGORITHMS = ("sac", "ddpg", "td3", "tqc", "crossq", "dqn", "qrdqn", "ppo", "trpo", "a2c")
"""Algorithms whose agents are frozen, and pressed after training; ``rl.adapters`` has one adapter each."""

Allocation = Literal["erk", "uniform", "ivanov2025", "global"]
Schedule = Literal["cubic", "linear", "one-shot", "constant"]
Criterion = Literal["magnitude", "flow", "random"]
PruningMethod = Literal["gradual", "set"]
Granularity = Literal["auto", "tensor", "channel"]
WeightRange = Literal["mse", "minmax", "learned"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "allocation": ("erk", "uniform", "ivanov2025", "global"),
    "schedule": ("cubic", "linear", "one-shot", "constant"),
    "criterion": ("magnitude", "flow", "random"),
    "pruning": ("gradual", "set"),
    "granularity": ("auto", "tensor", "channel"),
    "weight_range": ("mse", "minmax", "learned"),
}

T = TypeVar("T")


@dataclass(frozen=True)
class CompressionConfig:
    """How a network is pruned and quantized while it learns. The default changes nothing.

    ``prune_start``, ``prune_end``, ``quantize_start`` and ``observe`` are fractions of the nominal training steps.
    """

    sparsity: float = 0.0
    """Fraction of the deployed network's weights that end as zero; biases are never pruned."""
    pruning: PruningMethod = "gradual"
    """"gradual": more and more weights go, by ``schedule``; "set": sparse from ``prune_start`` on, and in every
    iteration some live weights go and as many come back elsewhere."""
    allocation: Allocation = "erk"
    schedule: Schedule = "cubic"
    criterion: Criterion = "magnitude"
    """"magnitude" of the weight itself; "flow": of all paths through it, which empties whole units."""
    prune_start: float = 0.2
    prune_end: float = 0.8
    prune_iterations: int = 600
    prune_auxiliary: bool = False
    """Also prune heads that training needs and nobody deploys (SAC's ``log_std``), as the paper does."""
    weight_bits: int = FLOAT_BITS
    """2 to 8, or 32 for no quantization."""
    activation_bits: int = 8
    """2 to 8, or 0 for float32 activations (weight-only numerics)."""
    input_bits: int = 8
    """2 to 16; one scale per input feature."""
    granularity: Granularity = "auto"
    """Weight scales: "tensor", "channel", or "auto": per channel for convolutions, per tensor for Linear."""
    weight_range: WeightRange = "mse"
    """"mse" tracks the scale of least squared error (Lloyd-Max), "minmax" the largest magnitude; "learned" follows the
    gradient of the loss (Esser et al. 2020)."""
    rate_weight: float = 0.0
    """Weight of the bits that a weight takes in the payload, a part of the loss while quantizing: more of it gives
    coarser weights and more zeros. Needs weight_range="learned"; in units of the loss."""
    quantize_start: float = 0.85
    observe: float = 0.05
    """How long before ``quantize_start`` ranges are measured; 0 starts cold, as the paper does."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}.")
        if not 0.0 <= self.sparsity < 1.0:
            raise ConfigError(
                f"sparsity={self.sparsity} must be at least 0 and below 1, for example "
                f"sparsity={_share(self.sparsity, 0.95):g}."
            )
        if self.criterion == "flow" and self.prune_auxiliary:
            raise ConfigError(
                "criterion=flow ranks the weights of the deployed network alone: leave prune_auxiliary off."
            )
        if not 0.0 <= self.prune_start <= self.prune_end:
            raise ConfigError(
                f"prune_start={self.prune_start} and prune_end={self.prune_end} must satisfy "
                "0 <= prune_start <= prune_end, for example 0.2 and 0.8."
            )
        if self.prune_iterations < 1:
            raise ConfigError(f"prune_iterations={self.prune_iterations} must be at least 1.")
        if self.weight_bits != FLOAT_BITS and not 2 <= self.weight_bits <= 8:
            raise ConfigError(f"weight_bits={self.weight_bits} must be 2 to 8, or 32 for no quantization.")
        if self.activation_bits != 0 and not 2 <= self.activation_bits <= 8:
            raise ConfigError(f"activation_bits={self.activation_bits} must be 2 to 8, or 0 for float activations.")
        if not 2 <= self.input_bits <= 16:
            raise ConfigError(f"input_bits={self.input_bits} must be 2 to 16.")
        if self.rate_weight < 0.0 or (self.rate_weight and not (self.quantizes and self.weight_range == "learned")):
            raise ConfigError(
                f"rate_weight={self.rate_weight} must be at least 0, and needs weight_bits of 2 to 8 and "
                "weight_range=learned."
            )
        if self.quantize_start < 0.0 or self.observe < 0.0:
            raise ConfigError("quantize_start and observe must not be negative, for example 0.85 and 0.05.")

    @property
    def prunes(self) -> bool:
        return self.sparsity > 0.0

    @property
    def quantizes(self) -> bool:
        return self.weight_bits != FLOAT_BITS

    def check_reachable(self, steps: int, total_steps: int, learning_starts: int = 0) -> None:
        """Raises ConfigError when a window of this config cannot be reached in ``total_steps`` training steps."""
        if self.prunes and round(self.prune_end * steps) > total_steps:
            raise ConfigError(
                f"pruning would end at step {self.prune_end * steps:.0f}, after the last step {total_steps}: "
                "lower prune_end or train longer."
            )
        if self.prunes and learning_starts and self.prune_end * steps <= learning_starts:
            raise ConfigError(
                f"pruning would end at step {self.prune_end * steps:.0f}, before learning starts at step "
                f"{learning_starts}: train longer or lower learning_starts (n_steps of on-policy algorithms)."
            )
        if self.quantizes and self.quantize_start * steps >= total_steps:
            raise ConfigError(
                f"quantization would start at step {self.quantize_start * steps:.0f}, not before the last step "
                f"{total_steps}: lower quantize_start or train longer."
            )
        if self.quantizes and learning_starts and self.quantize_start * steps <= learning_starts:
            raise ConfigError(
                f"quantization would start at step {self.quantize_start * steps:.0f}, before learning starts at "
                f"step {learning_starts}: train longer or lower learning_starts (n_steps of on-policy algorithms)."
            )


@dataclass(frozen=True)
class Environment:
    """How an environment is made, in JSON values: what a run's ``config.json`` and a policy's card keep of it.

    ``env``: an id, "HalfCheetah-v5" or "module:Env-v0", or a class or factory as "module:name"; modules are also looked
    for in the current folder. ``env_kwargs`` go to it, ``wrappers`` around it in this order, each as "module:Class" or
    "module:Class(name=value)". ``frame_stack`` observations are then joined as Stable-Baselines3's VecFrameStack does.
    Raises ConfigError for values that JSON cannot hold.
    """

    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", str(self.env))
        if isinstance(self.wrappers, str) or not all(isinstance(wrapper, str) for wrapper in self.wrappers):
            raise ConfigError(f"wrappers={self.wrappers!r} must be names of classes, for example 'module:Class'.")
        object.__setattr__(self, "wrappers", tuple(self.wrappers))
        hint = ": write a factory that makes the environment, and name that"
        object.__setattr__(self, "env_kwargs", _json_values("env_kwargs", self.env_kwargs, hint))
        _check_numbers(self)
        if self.frame_stack < 1:
            raise ConfigError(f"frame_stack={self.frame_stack} must be at least 1.")

    def as_dict(self) -> dict[str, Any]:
        """The fields that say something: what stands in the provenance of a policy, and makes it again."""
        found = {"env": self.env, "env_kwargs": self.env_kwargs, "wrappers": list(self.wrappers)}
        stacked = {"frame_stack": self.frame_stack} if self.frame_stack > 1 else {}
        return {name: value for name, value in found.items() if value or name == "env"} | stacked


@dataclass(frozen=True)
class TrainConfig:
    """One training run of ``policypress train``; everything that decides the resulting policy."""

    algo: str
    env: str
    steps: int
    """Nominal environment steps; the schedule's fractions refer to them."""
    extension: float = 0.0
    """Training goes on for this fraction of ``steps`` beyond them (0.3 in the paper)."""
    seed: int = 1
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    network: Literal["mlp", "nature", "resnet"] = "mlp"
    hidden: tuple[int, ...] = ()
    """Widths of the deployed network's hidden layers; empty: the algorithm's default."""
    n_envs: int = 1
    algo_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the Stable-Baselines3 algorithm."""
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of Adam, for example weight_decay."""
    eval_every: int = 0
    """Steps between evaluations; 0: twenty over the run."""
    eval_episodes: int = 10
    final_episodes: int = 50
    device: str = "cpu"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """This and the next two: see ``Environment``."""
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "algo", self.algo.lower())
        # As they come back from JSON, so that a config equals its own copy on disk.
        _settle_environment(self)
        _check_numbers(self)
        for name in ("algo_kwargs", "optimizer_kwargs"):
            object.__setattr__(self, name, _json_values(name, getattr(self, name)))
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")
        if self.extension < 0.0:
            raise ConfigError(f"extension={self.extension} must not be negative.")
        if self.n_envs < 1:
            raise ConfigError(f"n_envs={self.n_envs} must be at least 1.")
        if self.network not in ("mlp", "nature", "resnet"):
            raise ConfigError(f"network={self.network!r} is not one of mlp, nature, resnet.")
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"hidden={self.hidden} must be widths of at least 1, for example 24,24.")
        if self.eval_every < 0 or self.eval_episodes < 1 or self.final_episodes < 2:
            raise ConfigError("eval_every must be >= 0, eval_episodes >= 1 and final_episodes >= 2.")

    @property
    def environment(self) -> Environment:
        return Environment(self.env, self.env_kwargs, self.wrappers, self.frame_stack)

    @property
    def total_steps(self) -> int:
        return round(self.steps * (1.0 + self.extension))

    @property
    def evaluation_interval(self) -> int:
        return self.eval_every or max(1, self.total_steps // 20)


@dataclass(frozen=True)
class DistillConfig:
    """One student of a trained agent; everything that decides the resulting policy but the agent itself.

    The schedule's fractions in ``compression`` refer to ``batches``.
    """

    compression: CompressionConfig = field(default_factory=CompressionConfig)
    hidden: tuple[int, ...] = ()
    """Widths of the student's last hidden layers; empty: the agent's own network."""
    batches: int = 100_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    states: int = 100_000
    """Observations that the student learns from, the most that are kept."""
    collections: int = 20
    """How often states are added while the student learns."""
    critic_weight: float = 0.0
    """Weight of what the student's actions lose by the agent's critics, beside the imitation."""
    critic_start: float = 0.5
    """Fraction of ``batches`` from which the critics count."""
    seed: int = 1

    def __post_init__(self) -> None:
        _check_numbers(self)
        for name in ("batches", "batch_size", "collections", "states"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.states < self.batch_size:
            raise ConfigError(f"states={self.states} must be at least batch_size={self.batch_size}.")
        if self.learning_rate <= 0.0:
            raise ConfigError(f"learning_rate={self.learning_rate} must be positive, for example 3e-3.")
        if self.critic_weight < 0.0:
            raise ConfigError(f"critic_weight={self.critic_weight} must not be negative.")
        if not 0.0 <= self.critic_start <= 1.0:
            raise ConfigError(f"critic_start={self.critic_start} must be a fraction of the batches, for example 0.5.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative.")
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"hidden={self.hidden} must be widths of at least 1, for example 24,24.")
        self.compression.check_reachable(self.batches, self.batches)


@dataclass(frozen=True)
class PressConfig:
    """One run of ``policypress compress``; everything that decides the resulting policy.

    ``agent`` and ``vecnormalize`` are the SHA-256 of the files that were pressed ("" for none).
    """

    algo: str
    env: str
    agent: str
    vecnormalize: str = ""
    method: Literal["distill", "ptq", "finetune"] = "distill"
    student: DistillConfig = field(default_factory=DistillConfig)
    """The student; for the methods "ptq" and "finetune" its compression, hidden widths and seed alone count."""
    steps: int = 0
    """Environment steps of the method "finetune"."""
    keep: float = 0.0
    """Share of the agent's return to keep while the payload becomes as small as it gets; 0: one student, no search."""
    minutes: float = 0.0
    """Time for the search."""
    episodes: int = 50
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """This and the next two: see ``Environment``."""
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "algo", self.algo.lower())
        _settle_environment(self)
        _check_numbers(self)
        if self.method not in ("distill", "ptq", "finetune"):
            raise ConfigError(f"method={self.method!r} is not one of distill, ptq, finetune.")
        if self.method == "finetune":
            if self.steps < 1:
                raise ConfigError("say how long to train on, for example --steps 100000.")
            if self.student.hidden:
                raise ConfigError("finetune keeps the agent's own network: leave --hidden out, or use distill.")
            self.student.compression.check_reachable(self.steps, self.steps)
        elif self.steps:
            raise ConfigError(f"steps={self.steps} are those of --method finetune: leave --steps out, or add it.")
        if self.keep and not 0.0 < self.keep <= 1.5:
            raise ConfigError(
                f"keep={self.keep} must be a share of the agent's return, for example {_share(self.keep, 0.95):g}."
            )
        if self.keep and not (self.method == "distill" and self.minutes > 0.0):
            raise ConfigError("keep=... searches among distilled students: give --minutes, and no other --method.")
        if self.keep and not self.student.compression.quantizes:
            raise ConfigError("keep=... searches for a precision: give weight_bits of 2 to 8.")
        if self.minutes and not self.keep:
            raise ConfigError(f"minutes={self.minutes:g} are the time of a search: say what it must keep, --keep 0.95.")
        if self.episodes < 2:
            raise ConfigError(f"episodes={self.episodes} must be at least 2.")

    @property
    def environment(self) -> Environment:
        return Environment(self.env, self.env_kwargs, self.wrappers, self.frame_stack)


def _check_numbers(config: Any) -> None:
    """Raises ConfigError for a field of ``config`` that is no number, no whole one or not finite, but should be."""
    for one in fields(config):
        value = getattr(config, one.name)
        if one.type == "int" and not isinstance(value, int):
            raise ConfigError(f"{one.name}={value!r} must be a whole number.")
        if one.type == "float" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ConfigError(f"{one.name}={value!r} must be a finite number.")


def _json_values(name: str, values: Mapping[str, Any], hint: str = "") -> dict[str, Any]:
    """``values`` as they come back from JSON, so that a config equals its own copy on disk."""
    try:
        settled: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name}={values!r} must be finite numbers, strings, booleans or lists of them{hint}."
        ) from error
    return settled


def _settle_environment(config: TrainConfig | PressConfig) -> None:
    environment = config.environment
    for name in ("env_kwargs", "wrappers"):
        object.__setattr__(config, name, getattr(environment, name))


def _share(value: float, example: float) -> float:
    """The share that ``value`` means if it is one in per cent, otherwise ``example``."""
    return value / 100 if 1.0 < value < 100.0 and value == round(value) else example


Config = CompressionConfig | TrainConfig | DistillConfig | PressConfig
_NESTED: dict[str, type[Any]] = {"compression": CompressionConfig, "student": DistillConfig}
_TUPLES = ("hidden", "wrappers")


_LATER = (("pruning", "gradual"),)
"""Settings that came later, with the value that says what was so before: left out, so that files stay as they were."""


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON values, with its version."""
    return {"version": CONFIG_VERSION, **asdict(config, dict_factory=_written)}


def _written(values: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in values if (name, value) not in _LATER}


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of ``to_json``; unknown or missing fields and other versions raise ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{cls.__name__} cannot be read: it is not a JSON object.")
    values = dict(data)
    if values.pop("version", None) != CONFIG_VERSION:
        raise ConfigError(f"this {cls.__name__} is of another version than {CONFIG_VERSION}; write it anew.")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known ones are {', '.join(sorted(known))}.")
    try:
        return _built(cls, values)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"{cls.__name__} cannot be read: {error}.") from error


def _built(cls: type[T], values: Mapping[str, Any]) -> T:
    arguments = {
        name: _built(_NESTED[name], value) if name in _NESTED else tuple(value) if name in _TUPLES else value
        for name, value in values.items()
    }
    return cls(**arguments)


def dumps(config: Config) -> str:
    return json.dumps(to_json(config), indent=2, sort_keys=True)
