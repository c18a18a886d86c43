"""Trained agents, opened without running what their files could hide.

Stable-Baselines3 zips keep pickles beside the weights, and unpickling can run any code. Here the policy is rebuilt from
the zip's plain JSON and its weights; the few other numbers come through an unpickler that knows no code.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zipfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from policypress.compression.graph import Graph
from policypress.errors import PolicypressError, RunError, UnsupportedError
from policypress.policy.policy import ActionTransform, Normalization, ObservationTransform
from policypress.rl.adapters import (
    EXTRACTORS,
    UNSUPPORTED_OBSERVATION,
    UNSUPPORTED_RECURRENT,
    Adapter,
    Critic,
    Imitation,
    adapter_named,
    adapter_that_saved,
    checked_graph,
    observation_transform,
    policy_module_of,
    unsupported_extractor,
)
from policypress.rl.callback import STATE_ATTRIBUTE
from policypress.rl.checkpoint import QUANTIZER_KEY
from policypress.rl.environments import make_env

_OPTIMIZER_KWARGS = ("optimizer_class", "optimizer_kwargs", "device")
"""What decides about learning alone: left out when a policy is rebuilt."""
_ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")


@dataclass(frozen=True, eq=False)
class Agent:
    """A trained agent: what acts, and what a student needs of it.

    ``model``: in evaluation mode, without environment; its optimizers are fresh. ``graph``: the deployed path.
    ``observation`` holds the statistics of VecNormalize, if given. ``parameters`` counts weights and biases of the
    deployed path. ``training_returns``: of the last training episodes (at most 100), as the agent's Monitor saw them;
    empty where the file does not tell.
    """

    model: BaseAlgorithm
    adapter: Adapter
    graph: Graph
    observation: ObservationTransform
    action: ActionTransform
    imitation: Imitation
    critics: tuple[Critic, ...]
    parameters: int
    training_returns: tuple[float, ...]

    @property
    def training_return(self) -> float | None:
        """Mean return of the last training episodes, with exploration; None if unknown."""
        return float(np.mean(self.training_returns)) if self.training_returns else None


def load_agent(
    path: str | Path, algo: str, env_id: str, *, vecnormalize: str | Path | None = None, trust: bool = False
) -> Agent:
    """The agent in ``path``, a zip that Stable-Baselines3's ``save`` wrote, as it acts in ``env_id``.

    ``vecnormalize``: the file that ``VecNormalize.save`` wrote. ``trust``: open the zip by unpickling, which can run
    any code in it. Neither file is changed. Raises RunError for a file that cannot be read, ConfigError for an unknown
    algorithm or environment, UnsupportedError for an agent that does not fit them or cannot be pressed.
    """
    path, adapter = Path(path), adapter_named(algo)
    data, weights = _read(path)
    _check_saved(path, data, weights, adapter, trust)
    normalized = bool((data.get(STATE_ATTRIBUTE) or {}).get("normalized"))
    if normalized and vecnormalize is None:
        raise UnsupportedError(
            f"{path} was trained with VecNormalize: give its statistics with --vecnormalize, the file that "
            "VecNormalize.save wrote."
        )
    observation_space, action_space = _spaces(env_id)
    for name, space in (("observation", observation_space), ("action", action_space)):
        _check_space(path, name, data.get(f"{name}_space"), space, env_id)
    adapter.check_spaces(observation_space, action_space)
    if trust:
        model = _unpickled(path, adapter, data)
    else:
        model = _rebuilt(path, adapter, data, weights, observation_space, action_space, env_id)
    model.policy.set_training_mode(False)
    observation = observation_transform(model)
    if vecnormalize is not None:
        observation = _normalized(observation, Path(vecnormalize))
    graph = checked_graph(adapter, model)
    return Agent(
        model,
        adapter,
        graph,
        observation,
        adapter.action_transform(model),
        adapter.imitation(model),
        tuple(adapter.critics(model)),
        graph.parameters,
        _training_returns(data),
    )


def check_return(agent: Agent, measured_mean: float) -> None:
    """Raises RunError if ``agent``'s deterministic return is so far below its training's that it must act on other
    observations than it learned from.

    Far is half of the training return's magnitude, and twice the spread of its episodes. Clipped rewards and episodes
    of one life (Atari) only make the training return smaller, and so the check milder.
    """
    trained = agent.training_return
    if trained is None or not np.isfinite(trained):
        return
    margin = max(abs(trained) / 2, 2 * float(np.std(agent.training_returns)))
    if measured_mean >= trained - margin:
        return
    if agent.observation.normalization is None and not agent.observation.image:
        hint = "if it was trained with VecNormalize, give its statistics with --vecnormalize"
    else:
        hint = "check that the environment and the statistics are those of its training"
    raise RunError(f"the agent returns {measured_mean:.1f} here, but {trained:.1f} at the end of its training: {hint}.")


def read_vecnormalize(path: str | Path) -> Normalization | None:
    """Statistics of observations in the file that ``VecNormalize.save`` wrote, read without running code; None if
    observations are not normalized. Raises RunError for another file, UnsupportedError for Dict observations."""
    wrong = f"{path} holds no VecNormalize statistics: give the file that VecNormalize.save wrote."
    try:
        saved = _Unpickler(io.BytesIO(Path(path).read_bytes()), records=True).load()
        if type(saved).__name__ != "VecNormalize":
            raise RunError(wrong)
        if not saved.state["norm_obs"]:
            return None
        statistics = saved.state["obs_rms"]
        if isinstance(statistics, dict):
            raise UnsupportedError(UNSUPPORTED_OBSERVATION.format("Dict"))
        mean, var = (np.asarray(statistics.state[name], np.float64) for name in ("mean", "var"))
        return Normalization(mean, var, float(saved.state["epsilon"]), float(saved.state["clip_obs"]))
    except OSError as error:
        raise RunError(f"{path} cannot be read: give the file that VecNormalize.save wrote.") from error
    except PolicypressError:
        raise
    except Exception as error:  # a file of arbitrary bytes can make the unpickler raise anything
        raise RunError(wrong) from error


# The zip


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The JSON and the policy's weights of an agent's zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            weights = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"there is no file {path}: give the zip that model.save wrote.") from error
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{path} is not an agent saved by Stable-Baselines3: give the zip that model.save wrote."
        ) from error
    if not isinstance(data, dict) or not isinstance(weights, dict):
        raise RunError(f"{path} is not an agent saved by Stable-Baselines3: give the zip that model.save wrote.")
    if not all(isinstance(value, torch.Tensor) and bool(torch.isfinite(value).all()) for value in weights.values()):
        raise PolicypressError(f"the weights in {path} are not finite: the training diverged.")
    return data, weights


def _check_saved(
    path: Path, data: Mapping[str, Any], weights: Mapping[str, torch.Tensor], adapter: Adapter, trust: bool
) -> None:
    if any(key.startswith("lstm_actor.") for key in weights):
        raise UnsupportedError(UNSUPPORTED_RECURRENT)
    if policy_module_of(data) == "sb3_contrib.common.maskable.policies":
        raise UnsupportedError("policies with action masks cannot be pressed: a frozen policy sees observations alone.")
    if any(QUANTIZER_KEY in key for key in weights):
        raise UnsupportedError(
            f"{path} was saved while quantizing, so its policy is pressed already: freeze it with "
            f"policypress.freeze(policypress.rl.load({str(path)!r}, {adapter.name!r}))."
        )
    saved = adapter_that_saved(data)
    if saved is not None and saved is not adapter:
        raise UnsupportedError(f"{path} was trained by {saved.name}, not by {adapter.name}: give --algo {saved.name}.")
    if saved is None and not trust:
        raise _needs_trust(path, "its policy class is not one of Stable-Baselines3's")


def _check_space(path: Path, name: str, described: Any, space: spaces.Space[Any], env_id: str) -> None:
    """Compares what the zip's JSON says of a space with the environment's; what it does not say fits."""
    kind, size = _description(described)
    if kind in ("Dict", "Tuple"):
        raise UnsupportedError(UNSUPPORTED_OBSERVATION.format(kind))
    found_kind, found_size = type(space).__name__, _size(space)
    if kind not in (None, found_kind) or size not in (None, found_size):
        raise UnsupportedError(
            f"{path} was trained with {name}s of {kind} {size}, but those of {env_id} are {found_kind} {found_size}: "
            "name the environment that it was trained in."
        )


def _description(described: Any) -> tuple[str | None, Any]:
    """Kind and size of a space in the zip's JSON; None for what it does not say."""
    fields = described if isinstance(described, dict) else {}
    named = re.search(r"(\w+)'>", str(fields.get(":type:")))
    kind = named.group(1) if named else None
    if kind == "Discrete" and str(fields.get("n")).isdecimal():
        return kind, int(fields["n"])
    if kind == "MultiDiscrete" and "nvec" in fields:
        return kind, [int(number) for number in re.findall(r"\d+", str(fields["nvec"]))]
    return kind, fields.get("_shape") if kind == "Box" else None


def _size(space: Any) -> Any:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else list(space.shape or ())


def _spaces(env_id: str) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Spaces of ``env_id`` as Stable-Baselines3 shows them to an agent: images channels first."""
    env = BaseAlgorithm._wrap_env(make_env(env_id, training=False), monitor_wrapper=False)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def _unpickled(path: Path, adapter: Adapter, data: Mapping[str, Any]) -> BaseAlgorithm:
    smaller = {"buffer_size": 1} if "buffer_size" in data else {}
    try:
        model: BaseAlgorithm = adapter.model_class.load(path, device="cpu", **smaller)
    except Exception as error:  # a foreign class can raise anything
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise RunError(f"{path} cannot be opened by {adapter.model_class.__name__}.load: {reason}.") from error
    return model


def _rebuilt(
    path: Path,
    adapter: Adapter,
    data: Mapping[str, Any],
    weights: dict[str, torch.Tensor],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    env_id: str,
) -> BaseAlgorithm:
    """The model from its JSON, its weights and the environment's spaces; nothing is unpickled."""
    kwargs = _policy_kwargs(path, data, weights)
    try:
        model = adapter.model_class("MlpPolicy", None, policy_kwargs=kwargs, device="cpu", _init_setup_model=False)
        model.observation_space, model.action_space, model.n_envs = observation_space, action_space, 1
        # What _setup_model does, without buffers and entropy targets: this model will not learn.
        model._setup_lr_schedule()
        built = model.policy_kwargs | ({"use_sde": True} if data.get("use_sde") else {})
        model.policy = model.policy_class(observation_space, action_space, model.lr_schedule, **built)
        if hasattr(model, "_create_aliases"):
            model._create_aliases()
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise _needs_trust(path, "its policy cannot be rebuilt from its settings") from error
    expected = model.policy.state_dict()
    for key in expected.keys() - weights.keys():  # before Stable-Baselines3 1.7 one extractor had one name
        shared = re.sub("^(pi|vf)_features", "features", key)
        if shared in weights:
            weights[key] = weights[shared]
    if expected.keys() != weights.keys():
        raise _needs_trust(path, "its weights are not those of Stable-Baselines3's policy")
    if wrong := [key for key, value in expected.items() if value.shape != weights[key].shape]:
        shapes = f"{tuple(weights[wrong[0]].shape)}, not {tuple(expected[wrong[0]].shape)}"
        raise UnsupportedError(
            f"the weights in {path} do not fit {env_id} ({wrong[0]} is {shapes}): name the environment that it was "
            "trained in."
        )
    model.policy.load_state_dict(weights)
    model.num_timesteps, model.seed = _whole(data.get("num_timesteps")) or 0, _whole(data.get("seed"))
    rebuilt: BaseAlgorithm = model
    return rebuilt


def _policy_kwargs(path: Path, data: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """``policy_kwargs`` of the agent as its JSON shows them; classes are known by their names."""
    kwargs: dict[str, Any] = {}
    for key, value in (data.get("policy_kwargs") or {}).items():
        if key.startswith(":") or key in _OPTIMIZER_KWARGS:
            continue
        if key == "activation_fn":
            found = _ACTIVATION.fullmatch(str(value))
            kind: Any = getattr(nn.modules.activation, found.group(1), None) if found else None
            if kind is None:
                raise _needs_trust(path, f"its activation_fn is {value}")
            kwargs[key] = kind
        elif key == "features_extractor_class":
            extractor = next((kind for kind in EXTRACTORS if str(kind) == value), None)
            if extractor is None:
                raise unsupported_extractor(str(value).rpartition(".")[2].rstrip("'>"))
            kwargs[key] = extractor
        elif isinstance(value, str):  # Stable-Baselines3's words for an object that is not JSON
            raise _needs_trust(path, f"its {key} is an object")
        else:
            kwargs[key] = value
    if any("features_extractor.cnn." in key for key in weights):  # CnnPolicy, which is MlpPolicy with this default
        kwargs.setdefault("features_extractor_class", NatureCNN)
    if isinstance(kwargs.get("net_arch"), list) and kwargs["net_arch"] and isinstance(kwargs["net_arch"][0], dict):
        kwargs["net_arch"] = kwargs["net_arch"][0]  # written before Stable-Baselines3 1.8
    return kwargs


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _needs_trust(path: Path, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path} cannot be opened safely ({reason}): --trust (trust=True) opens it by unpickling, which can run any "
        "code in it, so only for files that you trust."
    )


def _normalized(observation: ObservationTransform, path: Path) -> ObservationTransform:
    normalization = read_vecnormalize(path)
    if normalization is not None and observation.image:
        raise UnsupportedError("image observations normalized by VecNormalize cannot be pressed: train without it.")
    if normalization is not None and normalization.mean.shape != observation.shape:
        raise UnsupportedError(
            f"the statistics in {path} are of shape {normalization.mean.shape}, but observations of "
            f"{observation.shape}: give those that were saved with this agent."
        )
    return replace(observation, normalization=normalization)


def _training_returns(data: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns in the buffer of the last episodes; empty if it cannot be read."""
    try:
        pickled = base64.b64decode(data["ep_info_buffer"][":serialized:"])
        return tuple(float(episode["r"]) for episode in _Unpickler(io.BytesIO(pickled)).load())
    except Exception:  # arbitrary bytes can make the unpickler raise anything, and the returns are only worth a hint
        return ()


# Pickles without code

# Functions that NumPy pickles name; asked of NumPy, because their module moves between versions.
_NUMPY: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "scalar": np.float64(0).__reduce__()[0],
}
_BUILTINS: dict[str, type] = {
    kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
}


class _Record:
    """Stands in for an object of a class that is not imported: it keeps the state and does nothing."""

    state: Any = None

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows NumPy arrays, deques and plain containers; any other class is a _Record if ``records``, else an error."""

    def __init__(self, file: io.BytesIO, records: bool = False) -> None:
        super().__init__(file)
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if module == "builtins" and name in _BUILTINS:
            return _BUILTINS[name]
        if (module, name) == ("collections", "deque"):
            return deque
        if self._records:
            return type(name, (_Record,), {})
        raise pickle.UnpicklingError(f"{module}.{name} is not data")
