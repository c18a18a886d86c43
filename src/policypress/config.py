"""Settings: frozen, validated dataclasses that travel as JSON with a version.

A field annotated with a ``Setting`` is an option of the command line too, with its words, choices and default from
here. Any other field is set in Python only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from policypress.errors import ConfigError

CONFIG_VERSION = 1
FLOAT_BITS = 32
SEARCH_EPISODES = 100
"""Of a measurement at the end of a search, which has chosen among many."""

Allocation = Literal["erk", "uniform", "ivanov2025", "global"]
Schedule = Literal["cubic", "linear", "one-shot", "constant"]
Criterion = Literal["magnitude", "flow", "random", "movement", "snip", "grasp", "activation"]
PruningMethod = Literal["gradual", "one-shot", "static", "set", "rigl", "rewind", "adaptive", "competing"]
FOUND: tuple[PruningMethod, ...] = ("adaptive", "competing")
"""Ways that find the sparsity, ``sparsity`` at most."""
Structure = Literal["unstructured", "1:2", "2:4", "1:4", "1:8", "block4", "units"]
Granularity = Literal["auto", "tensor", "channel"]
WeightRange = Literal["mse", "minmax", "learned"]
PressMethod = Literal["distill", "ptq", "finetune", "evolve"]
MemoryKind = Literal["gru", "lstm", "history"]
LARGEST_MEMORY = 1024
PATTERNS: dict[Structure, tuple[int, int]] = {"1:2": (1, 2), "2:4": (2, 4), "1:4": (1, 4), "1:8": (1, 8)}
"""N:M: of so many neighbouring inputs so many live."""
BY_TRAINING: tuple[Criterion, ...] = ("movement", "snip", "grasp", "activation")
"""Criteria that add up what training does with a weight."""
_MOVES: tuple[PruningMethod, ...] = ("set", "rigl")
Hidden = tuple[int, ...] | Literal["none"]
"""Widths of hidden layers, a student's last ones; (): the algorithm's, or the teacher's; "none": it is linear."""

T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    """Where a number lies: from ``low`` to ``high`` (None: any above), or ``other``, for ``meaning``."""

    low: int
    high: int | None = None
    other: int | None = None
    meaning: str = ""

    def __contains__(self, value: float) -> bool:
        return value == self.other or (self.low <= value and (self.high is None or value <= self.high))

    def __str__(self) -> str:
        span = f"at least {self.low}" if self.high is None else f"{self.low} to {self.high}"
        return span if self.other is None else f"{span}, or {self.other} for {self.meaning}"


@dataclass(frozen=True)
class Setting:
    """What a field's option says: ``text`` without a full stop, the ``part`` of the help that it stands in ("": the
    first), the ``span`` of its numbers, ``shown``, the default in words if its value says little (None: the default
    is not told), and the name of the ``option`` if it is not the field's."""

    text: str
    part: str = ""
    span: Span | None = None
    shown: str | None = ""
    option: str = ""


@dataclass(frozen=True)
class ConfigField:
    """A field of a config: its type, its default (None if it has none), and its ``setting`` if it is an option."""

    name: str
    kind: Any
    default: Any
    setting: Setting | None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a type that is a Literal; () for any other."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()


@cache
def fields_of(cls: Any) -> tuple[ConfigField, ...]:
    """The fields of ``cls``, a config's class, in order."""
    kinds = get_type_hints(cls, include_extras=True)
    found = []
    for one in fields(cls):
        kind, setting = kinds[one.name], None
        if get_origin(kind) is Annotated:
            kind, setting = get_args(kind)
        default = one.default if one.default_factory is MISSING else one.default_factory()
        found.append(ConfigField(one.name, kind, None if default is MISSING else default, setting))
    return tuple(found)


PRUNING, QUANTIZATION, EVALUATION, VALUES = "Pruning", "Quantization", "Evaluation", "How values are learned"
OPENING = "The file"
ENVIRONMENT, STUDENT, SEARCH = "The environment", "The student", "Search for the smallest policy"
OTHER_METHODS = "Other methods"
"""Parts of the help."""


@dataclass(frozen=True)
class Opening:
    """What the file of another framework does not say itself; "" where nothing is said."""

    format: Annotated[
        str, Setting("Its format, if it is not found out: onnx, torchscript, weights, networks, function", OPENING)
    ] = ""
    activation: Annotated[
        str, Setting("Of a checkpoint: what stands between its layers, for example elu, tanh or relu", OPENING)
    ] = ""
    output: Annotated[
        str, Setting("Of several outputs the one that is the action; of a checkpoint mean, their first half", OPENING)
    ] = ""
    metadata: Annotated[
        str, Setting("JSON or YAML of the robot: joint_names, default_pose, action_scale, kp, kd, ...", OPENING)
    ] = ""


@dataclass(frozen=True)
class Zipped:
    """What opens the zip of an agent of Stable-Baselines3, beside what it says itself."""

    algo: Annotated[
        str, Setting("Of an agent's zip: the algorithm that trained it, for example ppo", OPENING, shown="as it says")
    ] = ""
    vecnormalize: Annotated[
        str, Setting("Of an agent's zip: the file that VecNormalize.save wrote, if it was trained with it", OPENING)
    ] = ""
    force: Annotated[
        bool, Setting("Open an agent's zip although it says that statistics are missing", OPENING, shown=None)
    ] = False
    trust: Annotated[
        bool, Setting("Open an agent's zip by unpickling, which can run any code in it", OPENING, shown=None)
    ] = False


@dataclass(frozen=True)
class CompressionConfig:
    """How a network is pruned and quantized while it learns. The default changes nothing.

    ``prune_start``, ``prune_end``, ``quantize_start`` and ``observe`` are fractions of the nominal training steps.
    """

    sparsity: Annotated[
        float,
        Setting(
            "Fraction of the deployed network's weights that end as zero; biases are never pruned; train also takes "
            "auto: as many as the return bears, --pruning adaptive",
            PRUNING,
        ),
    ] = 0.0
    pruning: Annotated[
        PruningMethod,
        Setting(
            "gradual: more and more weights go; one-shot: all at --prune-start; static: at random, before training; "
            "set, rigl: sparse at --prune-start, then some go and come back, at random or where gradients are large; "
            "rewind: in rounds, and what is left starts again; adaptive: in rounds, as long as the return holds, up to "
            "--sparsity; competing: in rounds, as long as sparser copies learn better, for DQN",
            PRUNING,
        ),
    ] = "gradual"
    """See ``policypress.compression.pruning_methods``. ``schedule`` matters to "gradual" alone."""
    keep_return: Annotated[
        float,
        Setting("Share of its own best return that --pruning adaptive keeps", PRUNING, option="keep"),
    ] = 0.95
    structure: Annotated[
        Structure,
        Setting(
            "Which weights of a layer may be zero together: unstructured: any; 1:2, 2:4, 1:4, 1:8: so many of so many "
            "neighbouring inputs live; block4: four neighbouring inputs; units: whole units and channels",
            PRUNING,
        ),
    ] = "unstructured"
    """N:M: of every M neighbouring inputs of a unit at most N live, the most worthy; needs sparsity=1-N/M. "block4" and
    "units" take any sparsity, to the next whole block or unit; the outputs' units all live."""
    critic_sparsity: Annotated[
        float,
        Setting(
            "Fraction of the critics' weights that end as zero, by the same method; they are not deployed", PRUNING
        ),
    ] = 0.0
    """Of the value networks that are trained beside the deployed network, targets included."""
    allocation: Annotated[Allocation, Setting("How the zeros are spread over the layers", PRUNING)] = "erk"
    schedule: Annotated[Schedule, Setting("How the sparsity grows", PRUNING)] = "cubic"
    criterion: Annotated[
        Criterion,
        Setting(
            "What a weight is kept for: its own magnitude, the flow of all paths through it, at random, activation "
            "(how strong what it reads is; of units, what they say), or by gradients: movement away from zero, snip "
            "(effect on the loss), grasp (on its gradient)",
            PRUNING,
        ),
    ] = "magnitude"
    """"magnitude" of the weight itself; "flow": of all paths through it, which empties whole units; by what
    training does: see ``policypress.compression.saliency``."""
    prune_start: Annotated[float, Setting("Fraction of the steps at which pruning starts", PRUNING)] = 0.2
    prune_end: Annotated[float, Setting("Fraction of the steps at which pruning ends", PRUNING)] = 0.8
    prune_iterations: int = 600
    prune_auxiliary: bool = False
    """Also prune heads that training needs and nobody deploys (SAC's ``log_std``), as the paper does."""
    weight_bits: Annotated[
        int, Setting("Bits of a weight", QUANTIZATION, Span(2, 8, FLOAT_BITS, "no quantization"))
    ] = FLOAT_BITS
    activation_bits: Annotated[
        int, Setting("Bits of an activation", QUANTIZATION, Span(2, 8, 0, "float activations"))
    ] = 8
    """0 is weight-only numerics."""
    input_bits: Annotated[int, Setting("Bits of an input; one scale a feature", QUANTIZATION, Span(2, 16))] = 8
    granularity: Annotated[Granularity, Setting("What shares a scale of weights", QUANTIZATION)] = "auto"
    """"auto": per channel for convolutions, per tensor for Linear."""
    weight_range: Annotated[WeightRange, Setting("How the steps of the weights are found", QUANTIZATION)] = "mse"
    """"mse" tracks the scale of least squared error (Lloyd-Max), "minmax" the largest magnitude; "learned" follows the
    gradient of the loss (Esser et al. 2020)."""
    rate_weight: Annotated[
        float,
        Setting(
            "Price of a weight's bits beside the loss, with learned steps; more gives a smaller payload", QUANTIZATION
        ),
    ] = 0.0
    """Weight of the bits that a weight takes in the payload, a part of the loss while quantizing: more of it gives
    coarser weights and more zeros. Needs weight_range="learned"; in units of the loss."""
    quantize_start: Annotated[float, Setting("Fraction of the steps from which integers are trained", QUANTIZATION)] = (
        0.85
    )
    observe: float = 0.05
    """How long before ``quantize_start`` ranges are measured; 0 starts cold, as the paper does."""

    def __post_init__(self) -> None:
        _check_fields(self)
        if not 0.0 <= self.sparsity < 1.0:
            raise ConfigError(
                f"sparsity={self.sparsity} must be at least 0 and below 1, for example "
                f"sparsity={_share(self.sparsity, 0.95):g}."
            )
        if not 0.0 <= self.critic_sparsity < 1.0:
            raise ConfigError(
                f"critic_sparsity={self.critic_sparsity} must be at least 0 and below 1, for example 0.5."
            )
        self._check_structure()
        if not 0.0 < self.keep_return <= 1.0:
            raise ConfigError(f"keep_return={self.keep_return} must be above 0 and at most 1, for example 0.95.")
        if self.pruning in FOUND and self.critic_sparsity:
            raise ConfigError(
                f"pruning={self.pruning} asks how well the deployed network does, and critics are not deployed: leave "
                "critic_sparsity at 0."
            )
        if (
            self.pruning == "competing"
            and self.quantizes
            and self.prune_end > self.quantize_start - self.observe + 1e-9
        ):
            raise ConfigError(
                f"pruning=competing is over before ranges are measured, {self.observe:g} before quantize_start: lower "
                f"prune_end={self.prune_end:g} or raise quantize_start={self.quantize_start:g}."
            )
        if self.pruning == "static" and self.criterion not in ("magnitude", "random"):
            raise ConfigError(
                f"criterion={self.criterion} with pruning=static, whose masks are drawn: leave criterion at magnitude."
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
        if self.rate_weight < 0.0 or (self.rate_weight and not (self.quantizes and self.weight_range == "learned")):
            raise ConfigError(
                f"rate_weight={self.rate_weight} must be at least 0, and needs weight_bits of 2 to 8 and "
                "weight_range=learned."
            )
        if self.quantize_start < 0.0 or self.observe < 0.0:
            raise ConfigError("quantize_start and observe must not be negative, for example 0.85 and 0.05.")

    def _check_structure(self) -> None:
        structure, shares = self.structure, {"sparsity": self.sparsity, "critic_sparsity": self.critic_sparsity}
        if structure == "unstructured":
            return
        if not any(shares.values()):
            example = f"{self._pattern_sparsity:g}" if structure in PATTERNS else "0.5"
            raise ConfigError(f"structure={structure} prunes nothing at sparsity=0.0: give sparsity={example}.")
        for name, share in shares.items():
            if share and structure in PATTERNS and share != self._pattern_sparsity:
                live, group = PATTERNS[structure]
                raise ConfigError(
                    f"{name}={share} with structure={structure}, which leaves {live} of {group}: give "
                    f"{name}={self._pattern_sparsity:g}."
                )
        if self.pruning in FOUND and structure in PATTERNS:
            raise ConfigError(
                f"structure={structure} is whole at sparsity={self._pattern_sparsity:g} alone, and "
                f"pruning={self.pruning} may stop before: take another pruning, or structure=unstructured."
            )
        if self.pruning in _MOVES:
            raise ConfigError(
                f"pruning={self.pruning} moves single weights and would break structure={structure}: take another "
                "pruning, or structure=unstructured."
            )
        if self.allocation == "global" or (structure in PATTERNS and self.allocation != "erk"):
            raise ConfigError(
                f"allocation={self.allocation} would break structure={structure}, which says where zeros are: leave "
                "allocation at erk."
            )

    @property
    def _pattern_sparsity(self) -> float:
        live, group = PATTERNS[self.structure]
        return 1.0 - live / group

    @property
    def of_critics(self) -> CompressionConfig:
        """How critics are pruned."""
        return replace(self, sparsity=self.critic_sparsity, critic_sparsity=0.0)

    @property
    def prunes(self) -> bool:
        return self.sparsity > 0.0

    @property
    def quantizes(self) -> bool:
        return self.weight_bits != FLOAT_BITS

    def check_reachable(self, steps: int, total_steps: int, learning_starts: int = 0) -> None:
        """Raises ConfigError when a window of this config cannot be reached in ``total_steps`` training steps."""
        prunes = self.prunes or self.critic_sparsity > 0.0
        if prunes and round(self.prune_end * steps) > total_steps:
            raise ConfigError(
                f"pruning would end at step {self.prune_end * steps:.0f}, after the last step {total_steps}: "
                "lower prune_end or train longer."
            )
        if prunes and learning_starts and self.prune_end * steps <= learning_starts:
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
    env_kwargs: Annotated[
        dict[str, Any],
        Setting("What the environment is made with, NAME:VALUE, for example use_contact_forces:True", ENVIRONMENT),
    ] = field(default_factory=dict)
    wrappers: Annotated[
        tuple[str, ...],
        Setting(
            "Wrapper around it, module:Class or 'module:Class(name=value)'; the innermost first",
            ENVIRONMENT,
            option="wrapper",
        ),
    ] = ()
    frame_stack: Annotated[int, Setting("Observations joined as VecFrameStack joins them", ENVIRONMENT, Span(1))] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", str(self.env))
        if isinstance(self.wrappers, str) or not all(isinstance(wrapper, str) for wrapper in self.wrappers):
            raise ConfigError(f"wrappers={self.wrappers!r} must be names of classes, for example 'module:Class'.")
        object.__setattr__(self, "wrappers", tuple(self.wrappers))
        hint = ": write a factory that makes the environment, and name that"
        object.__setattr__(self, "env_kwargs", _json_values("env_kwargs", self.env_kwargs, hint))
        _check_fields(self)

    def as_dict(self) -> dict[str, Any]:
        """The fields that say something: what stands in the provenance of a policy, and makes it again."""
        found = {"env": self.env, "env_kwargs": self.env_kwargs, "wrappers": list(self.wrappers)}
        stacked = {"frame_stack": self.frame_stack} if self.frame_stack > 1 else {}
        return {name: value for name, value in found.items() if value or name == "env"} | stacked


@dataclass(frozen=True)
class ValueConfig:
    """How values are learned beside a network that is sparse or small. The default changes nothing."""

    target_steps: Annotated[
        int, Setting("Steps of reward in a value's target, from --target-start on", VALUES, Span(1))
    ] = 1
    target_start: Annotated[
        float, Setting("Fraction of the steps before which a value's target has one step of reward", VALUES)
    ] = 0.1
    buffer_distance: Annotated[
        float,
        Setting(
            "The replay buffer forgets its oldest tenth while the policy acts further than this from what it did then, "
            "half the mean square of actions from -1 to 1, for example 0.2; 0 for never",
            VALUES,
        ),
    ] = 0.0
    optimism: Annotated[
        float,
        Setting(
            "For a small actor: how far a value's target is lifted from the least of the critics towards their mean, 0 "
            "to 1",
            VALUES,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        _check_fields(self)
        if not 0.0 <= self.target_start < 1.0:
            raise ConfigError(f"target_start={self.target_start:g} must be a fraction of the steps, for example 0.1.")
        if self.buffer_distance < 0.0:
            raise ConfigError(f"buffer_distance={self.buffer_distance:g} must not be negative, for example 0.2.")
        if not 0.0 <= self.optimism <= 1.0:
            raise ConfigError(f"optimism={self.optimism:g} must be at least 0 and at most 1, for example 1.")


@dataclass(frozen=True)
class TrainConfig:
    """One training run of ``policypress train``; everything that decides the resulting policy."""

    algo: str
    env: str
    steps: Annotated[int, Setting("Nominal environment steps")]
    """The schedule's fractions refer to them."""
    extension: float = 0.0
    """Training goes on for this fraction of ``steps`` beyond them (0.3 in the paper)."""
    seed: Annotated[int, Setting("Random seed")] = 1
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    values: ValueConfig = field(default_factory=ValueConfig)
    network: Annotated[Literal["mlp", "nature", "resnet"], Setting("mlp; for images nature or resnet")] = "mlp"
    hidden: Annotated[
        Hidden,
        Setting(
            "Widths of the deployed network's hidden layers, for example 24,24, or none for a linear one",
            shown="the algorithm's own",
        ),
    ] = ()
    n_envs: Annotated[int, Setting("Environments stepped together", span=Span(1))] = 1
    algo_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the Stable-Baselines3 algorithm."""
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of Adam, for example weight_decay."""
    eval_every: Annotated[int, Setting("Steps between evaluations", EVALUATION, shown="20 evaluations in all")] = 0
    eval_episodes: Annotated[int, Setting("Episodes an evaluation", EVALUATION)] = 10
    final_episodes: Annotated[int, Setting("Episodes of the last evaluation", EVALUATION)] = 50
    device: Annotated[str, Setting("cpu or cuda")] = "cpu"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """This and the next two: see ``Environment``."""
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "algo", self.algo.lower())
        # As they come back from JSON, so that a config equals its own copy on disk.
        _settle_environment(self)
        _check_fields(self)
        for name in ("algo_kwargs", "optimizer_kwargs"):
            object.__setattr__(self, name, _json_values(name, getattr(self, name)))
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")
        if self.extension < 0.0:
            raise ConfigError(f"extension={self.extension} must not be negative.")
        _check_widths(self.hidden)
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
    hidden: Annotated[
        Hidden,
        Setting(
            "Widths of the student's last hidden layers, for example 24,24, or none for a linear student",
            STUDENT,
            shown="the agent's own network",
        ),
    ] = ()
    hidden_activation: Annotated[
        str,
        Setting(
            "What stands between its hidden layers, which then start from fresh weights: relu, elu, silu, tanh and "
            "their like",
            STUDENT,
            shown="relu, or the agent's own where its layers are narrowed",
        ),
    ] = ""
    batches: Annotated[
        int, Setting("Batches that it learns from, at most: it stops when it has learned all", STUDENT, Span(1))
    ] = 100_000
    batch_size: Annotated[int, Setting("Observations a batch", STUDENT, Span(1))] = 256
    learning_rate: Annotated[float, Setting("Of Adam, at first", STUDENT)] = 1e-3
    states: Annotated[int, Setting("Observations that it learns from, the most that are kept", STUDENT, Span(1))] = (
        100_000
    )
    collections: Annotated[int, Setting("How often states are added while it learns", STUDENT, Span(1))] = 20
    disturbances: Annotated[
        float,
        Setting(
            "How many disturbances begin a step while states are met, for example 0.01: a random action is held a "
            "moment, and whoever acts then recovers",
            STUDENT,
        ),
    ] = 0.0
    falls: Annotated[
        float,
        Setting(
            "Share of every batch, at most, of states shortly before an episode was terminated, for example 0.25",
            STUDENT,
        ),
    ] = 0.0
    fall_steps: Annotated[
        int, Setting("Steps before an episode was terminated from which --falls counts its states", STUDENT, Span(1))
    ] = 200
    critic_weight: Annotated[
        float, Setting("Weight of what its actions lose by the agent's critics, beside the imitation", STUDENT)
    ] = 0.0
    critic_start: Annotated[float, Setting("Fraction of the batches from which the critics count", STUDENT)] = 0.5
    seed: Annotated[int, Setting("Random seed")] = 1
    memory: Annotated[
        str,
        Setting(
            "What it remembers by: gru:16 or lstm:16, a cell of so many units, history:5, its last observations, or "
            "none",
            STUDENT,
        ),
    ] = "none"
    """Before its hidden layers; ``memory_of`` reads it."""

    def __post_init__(self) -> None:
        _check_fields(self)
        memory_of(self.memory)
        if self.states < self.batch_size:
            raise ConfigError(f"states={self.states} must be at least batch_size={self.batch_size}.")
        if self.learning_rate <= 0.0:
            raise ConfigError(f"learning_rate={self.learning_rate} must be positive, for example 3e-3.")
        if not 0.0 <= self.disturbances <= 0.5:
            raise ConfigError(f"disturbances={self.disturbances:g} must be 0 to 0.5 a step, for example 0.01.")
        if not 0.0 <= self.falls <= 0.9:
            raise ConfigError(f"falls={self.falls:g} must be a share of a batch, 0 to 0.9, for example 0.25.")
        if self.critic_weight < 0.0:
            raise ConfigError(f"critic_weight={self.critic_weight} must not be negative.")
        if not 0.0 <= self.critic_start <= 1.0:
            raise ConfigError(f"critic_start={self.critic_start} must be a fraction of the batches, for example 0.5.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative.")
        _check_widths(self.hidden)
        self.compression.check_reachable(self.batches, self.batches)


@dataclass(frozen=True)
class PressConfig:
    """One run of ``policypress compress``; everything that decides the resulting policy.

    ``agent``, ``vecnormalize`` and ``observations`` are the SHA-256 of the files that were pressed, and of the log that
    stands for an environment ("" for none); ``env`` is "" where there is a log.
    """

    algo: str
    env: str
    agent: str
    vecnormalize: str = ""
    observations: str = ""
    method: Annotated[
        PressMethod,
        Setting(
            "distill a student; evolve: change its integers until it returns more, finetune: train on, see --steps for "
            "both; ptq: no training, the baseline",
            OTHER_METHODS,
        ),
    ] = "distill"
    student: DistillConfig = field(default_factory=DistillConfig)
    """The student; for the method "ptq" its compression, hidden widths and seed alone count, and without widths for
    "finetune" too: what that trains on is then the agent's own network, with widths a distilled student."""
    steps: Annotated[int, Setting("Environment steps of --method finetune or evolve", OTHER_METHODS, shown=None)] = 0
    code_rms: Annotated[
        float,
        Setting("Root mean square of the weights' codes for --method evolve: half of it is a bit less", OTHER_METHODS),
    ] = 16.0
    noise: Annotated[
        float,
        Setting(
            "Noise that --method evolve begins with, of the weights' root mean square; 0: whichever of several gets "
            "furthest",
            OTHER_METHODS,
        ),
    ] = 0.0
    keep: Annotated[
        float,
        Setting(
            "Search for the smallest payload that keeps this share of the mean return, for example 0.95, by the lower "
            "end of its interval",
            SEARCH,
            shown=None,
        ),
    ] = 0.0
    """0: no share is asked for; without ``bytes``, one student and no search."""
    keep_worst: Annotated[
        float, Setting("Share of the agent's worst tenth that must be kept beside --keep", SEARCH)
    ] = 0.9
    bytes: Annotated[
        int,
        Setting(
            "Search for the best return in so many bytes of payload; with --keep, until one of them keeps enough",
            SEARCH,
            Span(0),
            shown=None,
        ),
    ] = 0
    minutes: Annotated[float, Setting("Time for the search", SEARCH)] = 0.0
    episodes: Annotated[int, Setting("Episodes of a measurement", span=Span(2))] = 50
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """This and the next two: see ``Environment``."""
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "algo", self.algo.lower())
        _settle_environment(self)
        _check_fields(self)
        if bool(self.env) == bool(self.observations):
            raise ConfigError("states come from an environment or from a log: give --env or --observations.")
        if self.observations and self.method not in ("distill", "ptq"):
            raise ConfigError(f"--method {self.method} plays in the environment: give --env, or leave --method out.")
        if self.student.memory != "none" and (self.searches or self.method != "distill"):
            raise ConfigError(
                f"memory={self.student.memory} is of a student that is distilled alone: leave --keep, --bytes and "
                "--method out, or --memory."
            )
        if self.observations and self.searches:
            raise ConfigError(
                "--keep and --bytes compare returns, which a log does not tell: give --env, or press single students "
                "(--hidden, --rate-weight) and compare their agreement."
            )
        if not 0.5 <= self.code_rms <= 40.0:
            raise ConfigError(f"code_rms={self.code_rms:g} must be 0.5 to 40, for example 16.")
        if not 0.0 <= self.noise <= 2.0:
            raise ConfigError(f"noise={self.noise:g} must be 0 to 2, for example 0.1.")
        compression = self.student.compression
        if self.method == "ptq" and compression.criterion in BY_TRAINING:
            raise ConfigError(
                f"criterion={compression.criterion} looks at training, and --method ptq does none: leave criterion at "
                "magnitude."
            )
        if compression.pruning in FOUND and (self.method != "finetune" or self.student.hidden):
            raise ConfigError(
                f"pruning={compression.pruning} finds the sparsity while the agent's own network learns: use --method "
                "finetune without --hidden, or a search (--keep 0.95 --minutes 30)."
            )
        if compression.critic_sparsity and (self.method != "finetune" or self.student.hidden):
            raise ConfigError(
                f"critic_sparsity={compression.critic_sparsity} is of critics that learn, and none do here: leave it "
                "at 0."
            )
        if self.method == "evolve" and self.steps < 1:
            raise ConfigError("say how long to evolve, for example --steps 1000000.")
        if self.method == "finetune":
            if self.steps < 1:
                raise ConfigError("say how long to train on, for example --steps 100000.")
            if not self.student.hidden:
                self.student.compression.check_reachable(self.steps, self.steps)
        elif self.steps and self.method != "evolve":
            raise ConfigError(f"steps={self.steps} are those of --method finetune or evolve: leave --steps out.")
        if self.keep and not 0.0 < self.keep <= 1.5:
            raise ConfigError(
                f"keep={self.keep} must be a share of the agent's return, for example {_share(self.keep, 0.95):g}."
            )
        if not 0.0 <= self.keep_worst <= 1.5:
            raise ConfigError(
                f"keep_worst={self.keep_worst} must be a share of the agent's worst tenth, for example "
                f"{_share(self.keep_worst, 0.9):g}."
            )
        if self.searches and not (self.method == "distill" and self.minutes > 0.0):
            raise ConfigError("a search (keep, bytes) takes what ways it needs: give --minutes, and no --method.")
        if self.searches and not self.student.compression.quantizes:
            raise ConfigError("a search (keep, bytes) is one for a precision too: give weight_bits of 2 to 8.")
        if self.minutes and not self.searches:
            raise ConfigError(
                f"minutes={self.minutes:g} are the time of a search: say what it must keep, --keep 0.95, or "
                "--bytes 128."
            )

    @property
    def searches(self) -> bool:
        """Whether this is a search, and not one student."""
        return self.keep > 0.0 or self.bytes > 0

    @property
    def environment(self) -> Environment:
        return Environment(self.env, self.env_kwargs, self.wrappers, self.frame_stack)


def _check_fields(config: Any) -> None:
    for one in fields_of(config.__class__):
        check_value(one, getattr(config, one.name))


def check_value(one: ConfigField, value: Any) -> None:
    """Raises ConfigError for a value of the field ``one`` that is none of its choices, no whole or no finite number
    although it should be, or outside its span."""
    if one.choices and value not in one.choices:
        raise ConfigError(f"{one.name}={value!r} is not one of {', '.join(one.choices)}.")
    if one.kind is int and not isinstance(value, int):
        raise ConfigError(f"{one.name}={value!r} must be a whole number.")
    if one.kind is float and not (isinstance(value, int | float) and math.isfinite(value)):
        raise ConfigError(f"{one.name}={value!r} must be a finite number.")
    span = one.setting.span if one.setting else None
    if span is not None and value not in span:
        raise ConfigError(f"{one.name}={value} must be {span}.")


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
_NESTED: dict[str, type[Any]] = {"compression": CompressionConfig, "student": DistillConfig, "values": ValueConfig}


_LATER: tuple[tuple[str, Any], ...] = (
    *(("pruning", "gradual"), ("structure", "unstructured"), ("keep_worst", 0.9), ("bytes", 0), ("code_rms", 16.0)),
    *(("noise", 0.0), ("observations", ""), ("memory", "none"), ("disturbances", 0.0)),
    *(("falls", 0.0), ("fall_steps", 200), ("hidden_activation", ""), ("critic_sparsity", 0.0), ("keep_return", 0.95)),
    *(("target_steps", 1), ("target_start", 0.1), ("buffer_distance", 0.0), ("optimism", 0.0), ("values", {})),
)
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
    read: dict[str, Callable[[Any], Any]] = {"hidden": hidden_of, "wrappers": tuple}
    arguments = {
        name: _built(_NESTED[name], value) if name in _NESTED else read[name](value) if name in read else value
        for name, value in values.items()
    }
    return cls(**arguments)


def memory_of(text: str) -> tuple[MemoryKind, int] | None:
    """The kind and size of a memory, "gru:16", None for "none"; ConfigError for any other text."""
    if text == "none":
        return None
    name, _, size = text.partition(":")
    for kind in get_args(MemoryKind):
        if kind == name and size.isascii() and size.isdecimal() and len(size) < 5 and 1 <= int(size) <= LARGEST_MEMORY:
            found: tuple[MemoryKind, int] = (kind, int(size))
            return found
    known = ", ".join(f"{kind}:N" for kind in get_args(MemoryKind))
    raise ConfigError(f"memory={text!r} is not one of {known} (N from 1 to {LARGEST_MEMORY}) or none.")


def _check_widths(hidden: Hidden) -> None:
    if hidden != "none" and any(width < 1 for width in hidden):
        raise ConfigError(f"hidden={hidden} must be widths of at least 1, for example 24,24.")


def hidden_of(value: Any) -> Hidden:
    """Hidden widths as JSON holds them."""
    return "none" if value == "none" else tuple(value)


def hidden_text(hidden: Hidden) -> str:
    """Hidden widths as tables show them: "24-24", "linear"."""
    return "linear" if hidden == "none" else "-".join(map(str, hidden))


def dumps(config: Config) -> str:
    return json.dumps(to_json(config), indent=2, sort_keys=True)
