"""What a policy's speed is compared with: other ways to compute an action from a raw observation, one function each.

Every peer takes what ``Policy.predict`` takes and gives actions; where policies have a state, each call is the step
behind the one before. Wherever a peer has a graph of its own, the observation's scaling, normalization and the
action's squashing are in it, so that one call does everything; weights do not change the time, so Stable-Baselines3's
are random. A peer is a row of ``PEERS`` with a function from a ``Task``; that imports what it needs itself, and raises
UnsupportedError with the reason if it cannot run.
"""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, UnsupportedError, unknown
from policypress.measure.baselines import parameters
from policypress.policy import activations, reference
from policypress.policy.observations import usual_observations
from policypress.policy.ops import Activation, Cell, Flatten, History, Layer, LayerNorm, MaxPool2d, Op, Relu, Residual
from policypress.policy.payload import payload_size
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state

Call = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Task:
    """What peers compute: the ``pressed`` policy, or the ``dense`` network in float numerics."""

    pressed: Policy
    dense: Policy
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Peer:
    """A way to compute actions: ``one`` takes an observation, ``many`` a batch of them; ``bytes`` its model takes."""

    bytes: int
    one: Call
    many: Call


def carrying(policy: Policy, *, reference: bool = False) -> Call:
    """``policy.predict`` with the state that it gave the call before, zeros at first; always for as many rows."""
    state: tuple[NDArray[Any], ...] | None = None

    def call(observations: NDArray[Any]) -> NDArray[Any]:
        nonlocal state
        actions, state = policy.predict(observations, state, reference=reference)
        return actions

    return call


# Peers of the dense network


def stable_baselines3(task: Task) -> Peer:
    """``model.predict`` of an untrained Stable-Baselines3 agent with the network's layers.

    The algorithm is the one that the policy was trained by, if SB3 has it, else the usual one for its actions.
    VecNormalize's normalization, which SB3 does outside of ``predict``, is left out. Models of other frameworks have
    to be fed by hand; this one call does what ours does.
    """
    import gymnasium as gym
    import stable_baselines3 as sb3
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    policy = task.dense
    transform, action = policy.observation, policy.action

    class Nothing(gym.Env[Any, Any]):
        """An environment that is only spaces."""

        observation_space = _observation_space(policy)
        action_space = _action_space(policy)

    class Body(BaseFeaturesExtractor):
        """Every layer but the last, for networks that are not plain."""

        def __init__(self, space: spaces.Box) -> None:
            super().__init__(space, policy.layers[-1].weight.shape[1])
            self.body = torch.nn.Sequential(*_modules(policy.ops[:-1]))

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.body(observations)  # type: ignore[no-any-return]

    plain = not transform.image and all(isinstance(op, Layer | Flatten) or op.elementwise for op in policy.ops)
    hidden = [len(layer.weight) for layer in policy.layers[:-1]] if plain else []
    usual = {"discrete": "dqn", "box": "sac" if action.squash else "ppo"}.get(action.kind, "ppo")
    fitting = {"dqn": ("dqn",), "sac": ("sac", "td3", "ddpg"), "ppo": ("ppo", "a2c")}[usual]
    if action.kind == "discrete":
        fitting += ("ppo", "a2c")
    trained = str(policy.provenance.get("algo"))
    algorithm: Any = getattr(sb3, (trained if trained in fitting else usual).upper())
    found = next((op for op in policy.ops if isinstance(op, Activation)), None)
    activation = torch.nn.ReLU if found is None else partial(_activation, found)
    kwargs: dict[str, Any] = {"activation_fn": activation, "net_arch": hidden}
    if not plain:
        kwargs["features_extractor_class"] = Body
    known = inspect.signature(algorithm).parameters
    memory = {"buffer_size": 1} if "buffer_size" in known else {"n_steps": 2, "batch_size": 2}  # it will not learn
    smaller: dict[str, Any] = {name: value for name, value in memory.items() if name in known}
    model = algorithm("MlpPolicy", Nothing(), policy_kwargs=kwargs, device="cpu", seed=task.seed, **smaller)

    def predict(observation: NDArray[Any]) -> NDArray[Any]:
        return model.predict(observation, deterministic=True)[0]  # type: ignore[no-any-return]

    return Peer(4 * parameters(policy), predict, predict)


def torch_eager(task: Task) -> Peer:
    """PyTorch in inference mode, the network as a module that takes raw observations."""
    return _torch_peer(task.dense, torch_module(task.dense))


def torch_compiled(task: Task) -> Peer:
    """The same module after ``torch.compile``; one compilation for a single observation, one for batches."""
    import torch

    module = torch_module(task.dense)
    peer = _torch_peer(task.dense, torch.compile(module))
    try:
        for count in (1, 2):
            peer.many(usual_observations(task.dense, count, task.seed))
    except Exception as error:  # whatever the compiler underneath raises
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UnsupportedError(f"torch.compile cannot compile here: {reason[:200]}.") from error
    return peer


def ort_float32(task: Task) -> Peer:
    """ONNX Runtime on one thread, float32."""
    return _ort_peer(float_graph(task.dense))


def ort_int8_dynamic(task: Task) -> Peer:
    """ONNX Runtime after ``quantize_dynamic``: int8 weights, activations quantized while it runs."""
    from onnxruntime.quantization import quantize_dynamic

    return _quantized(task, quantize_dynamic)


def ort_int8_qdq(task: Task) -> Peer:
    """ONNX Runtime after ``quantize_static`` in QDQ form (int8 weights, uint8 activations), calibrated on random
    observations."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    observations = usual_observations(task.dense, 64, task.seed)
    state = {"h_in": initial_state(task.dense, 8)} if task.dense.state_size else {}

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(np.split(observations, 8))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"observation": batch, **state}

    def quantize(source: Path, target: Path) -> None:
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Gemm", "Conv", "MaxPool", "Relu", "Add"],
        )

    return _quantized(task, quantize)


def _quantized(task: Task, quantize: Callable[[Path, Path], None]) -> Peer:
    """A peer from ONNX Runtime's own preparation of the model and then ``quantize(source, target)``."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, source, target = (Path(folder) / name for name in ("plain.onnx", "source.onnx", "target.onnx"))
        plain.write_bytes(float_graph(task.dense))
        quant_pre_process(plain, source)
        with _silent():
            quantize(source, target)
        return _ort_peer(target.read_bytes())


@contextmanager
def _silent() -> Iterator[None]:
    """Without the advice that ONNX Runtime's quantization logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def litert(task: Task) -> Peer:
    """LiteRT (TensorFlow Lite) on one thread, float32, with its XNNPACK kernels; for plain networks of vectors.

    Bounds are in the graph; the choice of a discrete action is NumPy's, after the call.
    """
    import ai_edge_litert.interpreter as runtime

    data, action = _litert_model(task.dense), task.dense.action
    dtype = np.dtype(action.dtype)
    given = runtime.Interpreter(model_content=data).get_output_details()[0]["index"]
    interpreters: dict[int, Any] = {}

    def many(observations: NDArray[Any]) -> NDArray[Any]:
        interpreter = interpreters.get(len(observations))
        if interpreter is None:
            interpreter = interpreters[len(observations)] = runtime.Interpreter(model_content=data, num_threads=1)
            interpreter.resize_tensor_input(0, observations.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(0, observations.astype(np.float32))
        interpreter.invoke()
        outputs = interpreter.get_tensor(given)
        match action.kind:
            case "discrete":
                return outputs.argmax(1) + action.start  # type: ignore[no-any-return]
            case "multi-discrete" | "multi-binary":
                return reference.act(action, outputs)
            case "box":
                return outputs.reshape(-1, *action.shape).astype(dtype, copy=False)  # type: ignore[no-any-return]
            case _:
                unknown(action.kind)

    return Peer(len(data), lambda observation: many(observation[None])[0], many)


# Peers of the pressed policy


def numpy_reference(task: Task) -> Peer:
    """The specification in NumPy, ``policypress.policy.reference``."""
    policy = task.pressed
    if policy.state_size:
        return Peer(payload_size(policy), *(carrying(policy, reference=True) for _ in range(2)))

    def many(observations: NDArray[Any]) -> NDArray[Any]:
        return reference.act(policy.action, reference.run(policy, reference.observe(policy.observation, observations)))

    return Peer(payload_size(policy), lambda observation: many(observation)[0], many)


def ort_exported(task: Task) -> Peer:
    """What ``policypress export --to onnx`` writes, in ONNX Runtime."""
    from policypress.export.onnx import encode_onnx

    return _ort_peer(encode_onnx(task.pressed))


@dataclass(frozen=True, eq=False)
class Contender:
    """A row of ``PEERS``: what tables call the peer, the function that makes it, and whether it runs the pressed policy
    (all others run a dense network)."""

    title: str
    make: Callable[[Task], Peer]
    of_the_pressed: bool = False


PEERS: Mapping[str, Contender] = MappingProxyType(
    {
        "sb3": Contender("SB3 predict", stable_baselines3),
        "torch": Contender("torch eager", torch_eager),
        "torch-compile": Contender("torch.compile", torch_compiled),
        "ort": Contender("ORT float32", ort_float32),
        "ort-int8-dynamic": Contender("ORT int8 dynamic", ort_int8_dynamic),
        "ort-int8-qdq": Contender("ORT int8 QDQ", ort_int8_qdq),
        "litert": Contender("LiteRT float32", litert),
        "ort-exported": Contender("ORT, exported", ort_exported, of_the_pressed=True),
        "numpy": Contender("NumPy reference", numpy_reference, of_the_pressed=True),
    }
)
"""Every peer, by the name that ``--peers`` takes."""


def named(text: str) -> tuple[str, ...]:
    """Peers in ``text``, names with commas between, or "all"; ConfigError names the known ones."""
    names = tuple(PEERS) if text == "all" else tuple(dict.fromkeys(name for name in text.split(",") if name))
    if not names or any(name not in PEERS for name in names):
        raise ConfigError(f"peers={text!r} is not known: use all, or some of {','.join(PEERS)}.")
    return names


# The network in other frameworks


def torch_module(policy: Policy) -> Any:
    """A float policy as a torch module: raw observations (batch, *shape) to actions (batch, *action shape)."""
    import torch

    observation, action = policy.observation, policy.action
    normalization = observation.normalization

    class Module(torch.nn.Module):
        mean: torch.Tensor
        std: torch.Tensor
        low: torch.Tensor
        high: torch.Tensor
        span: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.Sequential(*_modules(policy.ops))
            if normalization is not None:
                self.register_buffer("mean", torch.from_numpy(normalization.mean))
                self.register_buffer("std", torch.from_numpy(np.sqrt(normalization.var + normalization.epsilon)))
            if action.kind == "box":
                self.register_buffer("low", torch.from_numpy(np.asarray(action.low)))
                self.register_buffer("high", torch.from_numpy(np.asarray(action.high)))
                self.register_buffer("span", torch.from_numpy(np.asarray(action.high) - np.asarray(action.low)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if normalization is not None:
                x = torch.clip((x - self.mean) / self.std, -normalization.clip, normalization.clip)
            x = x.float()
            y: torch.Tensor = self.network(x / 255 if observation.image else x)
            match action.kind:
                case "discrete":
                    return y.argmax(1) + action.start
                case "multi-discrete":
                    return torch.stack([group.argmax(1) for group in y.split(action.nvec, 1)], 1)
                case "multi-binary":
                    return (y > 0).long()
                case "box":
                    return self.box(y.reshape(-1, *action.shape))
                case _:
                    unknown(action.kind)

        def box(self, y: torch.Tensor) -> torch.Tensor:
            if action.squash:
                y = self.low + 0.5 * (torch.tanh(y) + 1) * self.span
            else:
                y = torch.clip(y, self.low, self.high)
            return y.double() if action.dtype == "float64" else y

    return Module().eval()


def _modules(ops: tuple[Op, ...]) -> Iterator[Any]:
    import torch

    class Sum(torch.nn.Module):
        def __init__(self, body: torch.nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)  # type: ignore[no-any-return]

    for op in ops:
        match op:
            case Layer():
                shape = op.weight.shape
                module: Any = (
                    torch.nn.Conv2d(shape[1], shape[0], shape[2:], op.stride, op.padding)
                    if op.is_conv
                    else torch.nn.Linear(shape[1], shape[0])
                )
                module.weight.data, module.bias.data = torch.tensor(op.weight), torch.tensor(op.bias)
                yield module
                if op.relu:
                    yield torch.nn.ReLU()
            case Relu():
                yield torch.nn.ReLU()
            case Activation():
                yield _activation(op)
            case LayerNorm():
                norm = torch.nn.LayerNorm(op.weight.size, op.epsilon)
                norm.weight.data, norm.bias.data = torch.tensor(op.weight), torch.tensor(op.bias)
                yield norm
            case Flatten():
                yield torch.nn.Flatten()
            case MaxPool2d():
                if any(2 * p > k for p, k in zip(op.padding, op.kernel, strict=True)):
                    raise UnsupportedError("torch pads a max pooling by at most half of its kernel.")
                yield torch.nn.MaxPool2d(op.kernel, op.stride, op.padding)
            case Residual():
                yield Sum(torch.nn.Sequential(*_modules(op.body)))
            case History() | Cell():
                raise UnsupportedError("the rows of torch are for networks without a state.")
            case _:
                unknown(op)


def _activation(op: Activation) -> Any:
    """The module of torch that computes ``op``."""
    import torch

    row = activations.FUNCTIONS[op.function]
    settings = dict(zip(row.parameters, op.parameters, strict=True))
    return getattr(torch.nn, row.torch[0])(**settings, **row.fixed)


def _torch_peer(policy: Policy, module: Any) -> Peer:
    import torch

    def many(observations: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            return module(torch.from_numpy(observations)).numpy()  # type: ignore[no-any-return]

    return Peer(4 * parameters(policy), lambda observation: many(observation[None])[0], many)


def float_graph(policy: Policy) -> bytes:
    """A float policy as ONNX: raw ``observation`` (batch, *shape) to ``action`` (batch, *action shape)."""
    from policypress.export.onnx_build import build_network

    return bytes(build_network(policy).SerializeToString(deterministic=True))


def _ort_peer(model: bytes) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    run, wanted = session.run, ["action"]
    taken = next((one for one in session.get_inputs() if one.name == "h_in"), None)
    if taken is not None:
        size, dtype = taken.shape[1], np.int16 if taken.type == "tensor(int16)" else np.float32
        states: dict[int, NDArray[Any]] = {}  # of as many episodes beside one another

        def steps(observations: NDArray[Any]) -> NDArray[Any]:
            rows = len(observations)
            before = states[rows] if rows in states else np.zeros((rows, size), dtype)
            actions, states[rows] = run(["action", "h_out"], {"observation": observations, "h_in": before})
            return actions  # type: ignore[no-any-return]

        return Peer(len(model), lambda observation: steps(observation[None])[0], steps)

    def many(observations: NDArray[Any]) -> NDArray[Any]:
        return run(wanted, {"observation": observations})[0]  # type: ignore[no-any-return]

    return Peer(len(model), lambda observation: many(observation[None])[0], many)


def _litert_model(policy: Policy) -> bytes:
    """A float policy as a TensorFlow Lite model: from a batch of observations in float32, tensor 0, to actions of a
    box, or the network's outputs."""
    from policypress.export.tflite_graph import NONE, RELU, Graph

    observation, action = policy.observation, policy.action
    if len(observation.shape) != 1 or observation.normalization is not None:
        raise UnsupportedError("the LiteRT row is for plain networks of vectors without normalization.")
    graph = Graph()
    taken = x = graph.tensor("observation", "float32", (1, *observation.shape))

    def operate(kind: str, width: int, *constants: NDArray[Any], options: str = "", **of: Any) -> int:
        inputs = (x, *(graph.constant(kind, values.astype(np.float32)) for values in constants))
        return graph.operate(kind, 1, inputs, graph.tensor(kind, "float32", (1, width)), options, **of)

    width = observation.shape[0]
    for op in policy.ops:
        match op:
            case Layer() if not op.is_conv:
                width = len(op.weight)
                fused = {"fusedActivationFunction": RELU if op.relu else NONE}
                x = operate("FULLY_CONNECTED", width, op.weight, op.bias, options="FullyConnectedOptions", **fused)
            case Relu():
                x = operate("RELU", width)
            case Activation(function="tanh"):
                x = operate("TANH", width)
            case Activation():
                raise UnsupportedError(f"the LiteRT row has ReLU and tanh alone, not {op.function}.")
            case Layer() | LayerNorm() | Flatten() | MaxPool2d() | Residual() | History() | Cell():
                raise UnsupportedError(f"the LiteRT row is for plain networks of vectors, not for {type(op).__name__}.")
            case _:
                unknown(op)
    if action.kind == "box":
        low, high = np.ravel(np.asarray(action.low)), np.ravel(np.asarray(action.high))
        steps = (("MAXIMUM", low), ("MINIMUM", high))
        if action.squash:
            x = operate("TANH", width)
            steps = (("MUL", (high - low) / 2), ("ADD", (high + low) / 2))
        for kind, values in steps:
            x = operate(kind, width, values)
    return graph.model((taken,), (x,), "policypress bench")


def _observation_space(policy: Policy) -> Any:
    from gymnasium import spaces

    observation = policy.observation
    dtype = np.dtype(observation.dtype)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, observation.shape, dtype.type)
    limits = np.iinfo(dtype)
    return spaces.Box(int(limits.min), int(limits.max), observation.shape, dtype.type)


def _action_space(policy: Policy) -> Any:
    from gymnasium import spaces

    action = policy.action
    match action.kind:
        case "discrete":
            return spaces.Discrete(len(policy.layers[-1].weight))
        case "multi-discrete":
            return spaces.MultiDiscrete(list(action.nvec))
        case "multi-binary":
            return spaces.MultiBinary(action.shape[0])
        case "box":
            low, high = (np.asarray(bound).astype(action.dtype) for bound in (action.low, action.high))
            return spaces.Box(low, high, dtype=low.dtype.type)
        case _:
            unknown(action.kind)
