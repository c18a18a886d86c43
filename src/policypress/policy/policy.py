"""The frozen policy: integer layers between an observation and an action transform (NumPy only)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from policypress.errors import PolicypressError, UnsupportedError

if TYPE_CHECKING:
    from policypress.runtime.engine import Engine

FLOAT_BITS = 32
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
TANH_INPUT_SCALE = 1 / 64
TANH_INPUT_LIMIT = 255
"""What a Tanh takes in integer numerics: codes of 9 bits worth 1/64 each, from -3.98 to 3.98. Output codes of 8 bits
reach their limit at 3.125, and limits of at most 8 bits keep requantization within float32 and int32."""
ZERO_POINT_LIMIT = 2**15
"""Largest magnitude of an input's zero point: float32 products of that many codes still say which code is meant."""
OBSERVATION_DTYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64")
Numerics = Literal["integer", "weight-only", "float"]
ActionKind = Literal["box", "discrete", "multi-discrete", "multi-binary"]
ACTION_KINDS: tuple[ActionKind, ...] = get_args(ActionKind)


@dataclass(frozen=True, eq=False)
class Requantization:
    """Accumulator to code: ``clip((acc * multiplier + 2**(shift - 1)) >> shift, low, high)``.

    ``multiplier`` is int32 in [16, 256), ``shift`` int32 in [1, 31]; both have shape (1,) or (out,).
    """

    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    low: int
    high: int

    def __post_init__(self) -> None:
        _require_vector("a requantization multiplier", self.multiplier, np.int32)
        _require_vector("a requantization shift", self.shift, np.int32)
        _require(
            bool(np.all((self.multiplier >= 16) & (self.multiplier < 256))),
            "A requantization multiplier must lie in [16, 256)",
        )
        _require(bool(np.all((self.shift >= 1) & (self.shift <= 31))), "A requantization shift must lie in [1, 31]")
        _require(
            INT32_MIN <= self.low < self.high <= INT32_MAX,
            f"A requantization's limits must be ordered int32 values, not [{self.low}, {self.high}]",
        )


@dataclass(frozen=True, eq=False)
class Layer:
    """A fully connected or convolutional layer.

    ``weight``: int8 codes of ``weight_bits`` bits, or float32 when ``weight_bits`` is 32; shape (out, in) or
    (out, in, kernel height, kernel width). ``bias``: int32 in units of the accumulator (integer numerics),
    float32 otherwise; shape (out,). ``scale``: float32 of shape (1,) or (out,); one unit of the accumulator
    in real units (1 for float weights). ``requantize`` is set on the hidden layers of an integer policy and
    includes their ReLU; elsewhere ``relu`` says whether negative outputs become zero. ``trained_shape`` is the
    weight's shape in training, if units were left out since (``canonical``).
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    weight_bits: int
    scale: NDArray[np.float32]
    relu: bool
    requantize: Requantization | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    name: str = ""
    trained_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        label = f"Layer {self.name!r}"
        shape, trained = self.weight.shape, self.trained_shape
        _require(
            not trained or (len(trained) == len(shape) and all(a >= b for a, b in zip(trained, shape, strict=True))),
            f"{label} cannot have been trained in the shape {trained} and have the shape {shape}",
        )
        _require(
            self.weight.ndim in (2, 4) and self.weight.size > 0,
            f"{label} needs a weight of shape (out, in) or (out, in, height, width), not {self.weight.shape}",
        )
        outputs = self.weight.shape[0]
        _require(
            self.bias.shape == (outputs,),
            f"{label} must have a bias of shape ({outputs},), not {self.bias.shape}",
        )
        _require_vector(f"{label}: the scale", self.scale, np.float32)
        _require(bool(np.all(self.scale > 0)), f"{label}: every scale must be positive")
        per_output: list[NDArray[Any]] = [self.scale]
        if self.requantize is not None:
            per_output += [self.requantize.multiplier, self.requantize.shift]
        _require(
            all(vector.size in (1, outputs) for vector in per_output),
            f"{label}: scale, multiplier and shift must hold 1 or {outputs} values",
        )
        _require(
            self.bias.dtype in (np.int32, np.float32) and bool(np.all(np.isfinite(self.bias))),
            f"{label} must have a finite int32 or float32 bias",
        )
        if self.weight_bits == FLOAT_BITS:
            _require(
                self.weight.dtype == np.float32 and bool(np.all(np.isfinite(self.weight))),
                f"{label} must have finite float32 weights because its weight_bits is {FLOAT_BITS}",
            )
            _require(bool(np.all(self.scale == 1)), f"{label} has float weights, so its scale must be 1")
        else:
            _require(
                2 <= self.weight_bits <= 8 and self.weight.dtype == np.int8,
                f"{label} must have int8 weights of 2 to 8 bits (or float32 ones of {FLOAT_BITS}),"
                f" not {self.weight.dtype} of {self.weight_bits}",
            )
            limit = weight_limit(self.weight_bits)
            _require(
                -limit <= int(self.weight.min()) and int(self.weight.max()) <= limit,
                f"{label} must have weights in [-{limit}, {limit}], its weight_bits being {self.weight_bits}",
            )
        _require_window(label, self.weight.shape[2:] or (1, 1), self.stride, self.padding)

    @property
    def is_conv(self) -> bool:
        return self.weight.ndim == 4

    @property
    def nonzeros(self) -> int:
        return int(np.count_nonzero(self.weight))

    @property
    def trained_weights(self) -> int:
        """Number of weights in training, zeros and left out ones included."""
        return math.prod(self.trained_shape) if self.trained_shape else self.weight.size

    @property
    def sparsity(self) -> float:
        """Share of the trained weights that are zero or left out."""
        return 1.0 - self.nonzeros / self.trained_weights


@dataclass(frozen=True)
class Relu:
    """Negative values (or codes) become zero; the scale does not change."""


@dataclass(frozen=True)
class Tanh:
    """Hyperbolic tangent of a layer's outputs.

    In integer numerics the layer is requantized to [-TANH_INPUT_LIMIT, TANH_INPUT_LIMIT], and a table
    (``reference.tanh_table``) turns its codes, worth TANH_INPUT_SCALE each, into signed ones of ``bits`` bits, worth
    1 / ``high`` each. Elsewhere ``bits`` is 0 and the values are float32.
    """

    bits: int = 0

    def __post_init__(self) -> None:
        _require(self.bits == 0 or 2 <= self.bits <= 8, f"A Tanh must have codes of 2 to 8 bits, not {self.bits}")

    @property
    def high(self) -> int:
        """Largest output code in integer numerics."""
        return int(2 ** (self.bits - 1)) - 1


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) becomes one vector in C order."""


@dataclass(frozen=True)
class MaxPool2d:
    """Maximum over windows; positions outside the image never win."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __post_init__(self) -> None:
        _require_window("MaxPool2d", self.kernel, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class Residual:
    """``x + body(x)``. In integer numerics both operands are requantized to one scale, added, and clipped to
    [``low``, ``high``]; the operands' own limits are those of int32. Elsewhere ``skip`` and ``branch`` are
    None.
    """

    body: tuple[Op, ...]
    skip: Requantization | None = None
    branch: Requantization | None = None
    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        _require(len(self.body) > 0, "A residual block needs at least one operation in its body")
        _require(
            (self.skip is None) == (self.branch is None),
            "A residual block requantizes both of its operands or neither",
        )
        for operand in (self.skip, self.branch):
            _require(
                operand is None or (operand.low, operand.high) == (INT32_MIN, INT32_MAX),
                "The limits of a residual block's operands must be those of int32",
            )
        ordered = INT32_MIN <= self.low < self.high <= INT32_MAX
        _require(
            ordered if self.skip is not None else self.low == self.high == 0,
            f"A residual block needs ordered int32 limits when it requantizes and none otherwise,"
            f" not [{self.low}, {self.high}]",
        )


Op = Layer | Relu | Tanh | Flatten | MaxPool2d | Residual


@dataclass(frozen=True, eq=False)
class InputQuantization:
    """Observation to codes: ``clip(rint(x * inverse_scale) - zero_point, low, high)`` in float32.

    ``inverse_scale``: float32, shape (features,) for vectors, (1,) for images. ``zero_point``: int32 of the same
    shape, the code that 0 stands for where values lie far from zero; None if there is none.
    """

    inverse_scale: NDArray[np.float32]
    low: int
    high: int
    bits: int
    zero_point: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        _require_vector("The input's inverse scale", self.inverse_scale, np.float32)
        _require(bool(np.all(self.inverse_scale > 0)), "Every inverse scale of the input must be positive")
        _require(2 <= self.bits <= 16, f"The input must have 2 to 16 bits, not {self.bits}")
        _require(
            -(2**16) <= self.low < self.high <= 2**16 and self.high - self.low < 2**self.bits,
            f"The input's limits [{self.low}, {self.high}] do not fit {self.bits} bits",
        )
        zeros = self.zero_point
        if zeros is None:
            return
        _require_vector("The input's zero point", zeros, np.int32)
        _require(
            zeros.size == self.inverse_scale.size and 0 < int(np.abs(zeros.astype(np.int64)).max()) <= ZERO_POINT_LIMIT,
            f"The input needs one zero point for each inverse scale, in [-{ZERO_POINT_LIMIT}, {ZERO_POINT_LIMIT}] and"
            " not all 0",
        )


@dataclass(frozen=True, eq=False)
class Normalization:
    """VecNormalize's ``clip((x - mean) / sqrt(var + epsilon), -clip, clip)``; mean and var are float64."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    epsilon: float
    clip: float

    def __post_init__(self) -> None:
        for label, moment in (("mean", self.mean), ("variance", self.var)):
            _require(
                moment.dtype == np.float64 and bool(np.all(np.isfinite(moment))),
                f"The {label} of the normalization must be finite float64 values",
            )
        _require(self.mean.shape == self.var.shape, "The normalization's mean and variance differ in shape")
        _require(
            bool(np.isfinite(self.epsilon) and np.all(self.var + self.epsilon > 0)),
            "The normalization's variance plus epsilon must be positive",
        )
        _require(self.clip > 0, f"The normalization's clip must be positive, not {self.clip}")


@dataclass(frozen=True, eq=False)
class ObservationTransform:
    """What ``predict`` accepts and what happens before the first layer.

    ``shape`` and ``dtype`` are those of one observation, channels first for images; ``frame_stack`` is how
    many frames ``shape`` holds; ``image`` divides by 255; ``normalization`` is applied to vectors.
    """

    shape: tuple[int, ...]
    dtype: str
    image: bool = False
    frame_stack: int = 1
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        _require(
            self.dtype in OBSERVATION_DTYPES,
            f"Observations must be of one of the dtypes {', '.join(OBSERVATION_DTYPES)}, not {self.dtype}",
        )
        _require(
            len(self.shape) in (1, 2, 3) and min(self.shape) >= 1,
            f"Observations must have one to three dimensions, none of them empty, not the shape {self.shape}",
        )
        _require(self.frame_stack >= 1, f"frame_stack must be at least 1, not {self.frame_stack}")
        _require(
            not self.image or (self.dtype == "uint8" and len(self.shape) == 3 and self.normalization is None),
            "An image observation must be uint8 of shape (channels, height, width), without normalization",
        )
        _require(
            self.normalization is None or self.normalization.mean.shape == self.shape,
            f"The normalization's mean and variance must have the observation's shape {self.shape}",
        )


@dataclass(frozen=True, eq=False)
class ActionTransform:
    """Network output to environment action.

    ``kind`` "box": tanh if ``squash``, then from [-1, 1] to [``low``, ``high``] if ``squash``, else clip to
    them; returns ``dtype`` of ``shape``. ``kind`` "discrete": the index of the largest output (the first of
    equals), plus ``start``. ``kind`` "multi-discrete": the outputs are groups of ``nvec`` each, one after another,
    and every group gives the index of its largest output; returns int64 of shape (groups,). ``kind`` "multi-binary":
    1 for every output above 0, else 0; returns int64 of shape (outputs,).
    """

    kind: ActionKind
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    squash: bool = False
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    start: int = 0
    nvec: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(self.kind == "multi-discrete" or not self.nvec, "Only multi-discrete actions have an nvec")
        if self.kind == "multi-discrete":
            _require(
                bool(self.nvec) and min(self.nvec) >= 1 and self.shape == (len(self.nvec),),
                f"A multi-discrete action has the shape of its nvec, not {self.shape}, and an nvec of at least 1 each,"
                f" not {self.nvec}",
            )
            _require(
                self.dtype == "int64" and self.low is None and self.high is None
                and not self.squash and self.start == 0,
                "A multi-discrete action has the dtype int64, no bounds, no squashing and no start",
            )  # fmt: skip
            return
        if self.kind == "multi-binary":
            _require(
                len(self.shape) == 1 and self.dtype == "int64" and self.low is None and self.high is None
                and not self.squash and self.start == 0,
                f"A multi-binary action has one dimension, not the shape {self.shape}, the dtype int64, no bounds, no "
                "squashing and no start",
            )  # fmt: skip
            return
        if self.kind == "discrete":
            _require(abs(self.start) < 2**31, f"A discrete action's start must fit 32 bits, not {self.start}")
            _require(
                self.shape == () and self.dtype == "int64" and self.low is None and self.high is None
                and not self.squash,
                "A discrete action has the shape (), the dtype int64, no bounds and no squashing",
            )  # fmt: skip
            return
        _require(self.kind == "box", f"An action is of one of the kinds {', '.join(ACTION_KINDS)}, not {self.kind!r}")
        _require(self.dtype in ("float32", "float64"), f"Box actions are float32 or float64, not {self.dtype}")
        _require(self.start == 0, "Only discrete actions have a start")
        for bound in (self.low, self.high):
            _require(
                bound is not None and bound.dtype == np.float32 and bound.shape == self.shape
                and not bool(np.any(np.isnan(bound)))
                and not (self.squash and not bool(np.all(np.isfinite(bound)))),
                f"Box actions need float32 bounds of shape {self.shape}, finite ones if they are squashed",
            )  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):
            span = np.asarray(self.high) - np.asarray(self.low)
        _require(
            bool(np.all(np.asarray(self.low) <= np.asarray(self.high))),
            "The lower bound of an action exceeds the upper one",
        )
        _require(bool(np.all(np.isfinite(span))) or not self.squash, "A squashed action's bounds lie too far apart")


@dataclass(frozen=True, eq=False)
class TestVectors:
    """Recorded observations and what the reference answered: ``outputs`` of the last layer (float32, before
    the action transform) and ``actions``."""

    __test__ = False  # not a pytest class

    observations: NDArray[Any]
    outputs: NDArray[np.float32]
    actions: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy that needs nothing but NumPy: raw observation in, environment action out.

    ``provenance`` (algorithm, environment, steps, seed, config, versions) and ``results`` (measured returns)
    hold JSON values only. ``baseline_bytes`` is the dense float32 network it stands for, four bytes a
    parameter.
    """

    ops: tuple[Op, ...]
    observation: ObservationTransform
    action: ActionTransform
    input: InputQuantization | None
    baseline_bytes: int
    provenance: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    test_vectors: TestVectors | None = None

    @property
    def numerics(self) -> Numerics:
        if self.input is not None:
            return "integer"
        return "float" if all(layer.weight_bits == FLOAT_BITS for layer in self.layers) else "weight-only"

    # The modules below import the classes above, so they are imported when first needed.

    def __post_init__(self) -> None:
        from policypress.policy.checks import check_accumulators, check_structure

        check_structure(self)
        if self.input is not None:
            check_accumulators(self.ops, self.input)

    def __getstate__(self) -> dict[str, Any]:
        # The engine holds addresses: a copy, or another process, makes its own.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in the order it runs, those inside residual blocks included."""
        return tuple(layers_of(self.ops))

    @cached_property
    def engine(self) -> Engine:
        """The native engine of this policy, made when first needed."""
        from policypress.runtime.native import make_engine

        engine = make_engine(self)
        # From now on this instance's `predict` is C, which takes the same arguments and comes back to the method below
        # for what it does not know: the call costs more than a small policy otherwise.
        if type(self).predict is Policy.predict:  # not past the method of a subclass
            self.__dict__["predict"] = engine.bind(self.predict)
        return engine

    def outputs(self, observations: NDArray[Any], *, reference: bool = False) -> NDArray[np.float32]:
        """Last layer's outputs before the action transform, shape (batch, outputs), for raw observations.

        ``reference``: by the NumPy reference. Raises ObservationError like ``predict``.
        """
        from policypress.policy import reference as numpy_reference

        if not reference:
            found = self.engine.outputs(observations)
            if found is None:
                found = self.engine.outputs(numpy_reference.arrange(self.observation, observations))
            if found is not None:
                return found
        return numpy_reference.run(self, numpy_reference.observe(self.observation, observations))

    def predict(
        self,
        observation: NDArray[Any],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = True,
        *,
        reference: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Action for one observation or a batch, with the signature of Stable-Baselines3's ``predict``.

        ``state`` is returned as it came and ``episode_start`` is ignored: the policy is not recurrent.
        One observation of ``shape`` gives one action; (batch, *shape) gives (batch, *action shape). The native
        engine runs it, or with ``reference`` the NumPy reference, which gives the same bits.
        Raises ObservationError if an observation does not fit, PolicypressError if ``deterministic`` is
        False.
        """
        from policypress.policy import reference as numpy_reference

        if not deterministic:
            raise PolicypressError("A frozen policy is deterministic: call predict(observation, deterministic=True).")
        actions = None if reference else self.engine.predict(observation)
        if actions is not None:
            return actions, state
        batch = numpy_reference.arrange(self.observation, observation)
        actions = None if reference else self.engine.predict(batch)
        if actions is None:  # also where the reference says what is wrong
            outputs = numpy_reference.run(self, numpy_reference.to_network(self.observation, batch))
            actions = numpy_reference.act(self.action, outputs)
        single = np.ndim(observation) == len(self.observation.shape)
        return (np.asarray(actions[0]) if single else actions), state

    def save(self, path: str | Path) -> None:
        """Write the policy to a ``.policy`` file, at once or not at all.

        Raises PolicypressError if it holds what a file cannot, OSError if the file cannot be written.
        """
        from policypress.policy import artifact

        artifact.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Policy in a ``.policy`` or packed file; raises ArtifactError if the file is not a valid one."""
        from policypress.policy import artifact

        return artifact.load(path)

    @classmethod
    def from_payload(
        cls, data: bytes, observation: ObservationTransform, action: ActionTransform, baseline_bytes: int | None = None
    ) -> Policy:
        """Policy of a bare payload (``policypress pack --payload-only``) and the contract that it lacks.

        ``baseline_bytes``: the dense float32 network that ratios compare with; None: one of the payload's own shapes.
        Raises ArtifactError for bytes that are no payload, UnsupportedError for a contract that does not fit.
        """
        from policypress.policy import artifact

        return artifact.from_payload(data, observation, action, baseline_bytes)

    def __repr__(self) -> str:
        layers = self.layers
        weights = sum(layer.trained_weights for layer in layers)
        nonzeros = sum(layer.nonzeros for layer in layers)
        bits = "/".join(str(b) for b in sorted({layer.weight_bits for layer in layers}))
        observation, action = self.observation, self.action
        answer = {
            "box": f"{action.dtype}{list(action.shape)}",
            "discrete": f"{layers[-1].weight.shape[0]} choices",
            "multi-discrete": f"{'x'.join(map(str, action.nvec))} choices",
            "multi-binary": f"{layers[-1].weight.shape[0]} binary choices",
        }[action.kind]
        return (
            f"Policy({observation.dtype}{list(observation.shape)} -> {answer}, {self.numerics},"
            f" {len(layers)} layers, {bits}-bit weights, {nonzeros:,} of {weights:,} nonzero)"
        )


def weight_limit(bits: int) -> int:
    """Largest magnitude of a signed symmetric weight code of ``bits`` bits."""
    return int(2 ** (bits - 1)) - 1


def layers_of(ops: Iterable[Op]) -> Iterator[Layer]:
    """Every layer among ``ops`` in the order it runs, those inside residual blocks included."""
    for op in ops:
        if isinstance(op, Layer):
            yield op
        elif isinstance(op, Residual):
            yield from layers_of(op.body)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UnsupportedError(sentence + ".")


def _require_vector(label: str, vector: NDArray[Any], dtype: type[np.generic]) -> None:
    _require(
        vector.ndim == 1 and vector.size > 0 and vector.dtype == dtype and bool(np.all(np.isfinite(vector))),
        f"{label[0].upper()}{label[1:]} must be a vector of finite {np.dtype(dtype)} values",
    )


def _require_window(label: str, kernel: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    # Padding of a kernel or more would only add windows that see nothing.
    fits = all(k >= 1 and s >= 1 and 0 <= p < k for k, s, p in zip(kernel, stride, padding, strict=True))
    _require(fits, f"{label} needs a kernel and stride of at least 1 and a padding smaller than the kernel")
