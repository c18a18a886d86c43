"""Trained agents, opened without running what their files could hide.

Stable-Baselines3 zips keep pickles beside the weights, and unpickling can run any code. Here the policy is rebuilt from
the zip's plain JSON and its weights; the few other numbers come through an unpickler that knows no code.
"""

from __future__ import annotations

import inspect
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from policypress.compression.graph import Graph
from policypress.errors import ConfigError, PolicypressError, RunError, UnsupportedError
from policypress.files import is_zipped
from policypress.importers.formats import is_archive
from policypress.importers.pickles import saved_data, saved_record
from policypress.policy.contract import ActionTransform, Normalization, ObservationTransform
from policypress.rl.adapters import (
    EXTRACTORS,
    NAMES,
    Adapter,
    Critic,
    Imitation,
    adapter_for,
    adapter_named,
    adapter_that_saved,
    checked_graph,
    observation_transform,
    policy_module_of,
    unsupported_extractor,
)
from policypress.rl.callback import STATE_ATTRIBUTE
from policypress.rl.checkpoint import QUANTIZER_KEY, check_settings, unpickled
from policypress.rl.environments import EnvLike, check_taken, description_of, make_env, name_of
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.statistics import Evidence, Statistics, beside, evidence, read_vecnormalize
from policypress.rl.teacher import Teacher

_OTHER_ZIPS = (".pt2", ".keras")
_OPTIMIZER_KWARGS = ("optimizer_class", "optimizer_kwargs", "device")
"""What decides about learning alone: left out when a policy is rebuilt."""
_GAP, _STANDARD_ERRORS = 0.1, 4.0
"""A return that is lower by more than both, this share of it and so many standard errors, is told of."""
_OF_A_RUN = (
    "policy", "env", "policy_kwargs", "seed", "device", "verbose", "tensorboard_log", "stats_window_size",
    "buffer_size", "learning_starts", "train_freq", "gradient_steps", "optimize_memory_usage", "action_noise",
    "replay_buffer_class", "replay_buffer_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs",
    "use_sde", "sde_sample_freq", "use_sde_at_warmup",
)  # fmt: skip
"""Settings of an algorithm that another run chooses anew: how much is collected, kept and explored."""
_VARIABLES = "pytorch_variables.pth"
_CONSTANT = re.compile(r"ConstantSchedule\(val=([-+.\deE]+)\)")
_ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")


@dataclass(frozen=True, eq=False)
class Agent:
    """A trained agent: what acts, and what a student needs of it.

    ``model``: in evaluation mode, without environment; its optimizers are fresh. ``graph``: the deployed path.
    ``observation`` holds the statistics of VecNormalize, if given. ``parameters`` counts weights and biases of the
    deployed path. ``training_returns``: of the last training episodes (at most 100), as the agent's Monitor saw them;
    empty where the file does not tell. ``evidence``: whether VecNormalize had a part in its training; ``vecnormalize``:
    the file with its statistics, given or found.
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
    evidence: Evidence
    vecnormalize: Path | None = None

    @cached_property
    def teacher(self) -> Teacher:
        """What a student needs of it."""
        return Teacher(
            self.graph,
            self.observation,
            self.action,
            self.imitation,
            self.critics,
            _provenance(self.adapter, self.model),
        )

    @property
    def training_return(self) -> float | None:
        """Mean return of the last training episodes, with exploration; None if unknown."""
        return float(np.mean(self.training_returns)) if self.training_returns else None


def is_zip(path: Path) -> bool:
    """Whether a file is a zip, as ``model.save`` writes it; those of PyTorch hold a folder, and others are named so."""
    return is_zipped(path) and not is_archive(path, "data.pkl") and path.suffix.lower() not in _OTHER_ZIPS


def open_zip(source: Source, algo: str | None, env: EnvLike | None) -> OpenedAgent:
    """The agent in a zip of Stable-Baselines3; raises what ``load_agent`` raises, and ConfigError if neither ``algo``
    nor the zip says which algorithm trained it."""
    if algo is None:
        saved = adapter_that_saved(_read(source.agent)[0])
        if saved is None:
            raise ConfigError(
                f"{source.agent} does not say which algorithm trained it: give --algo, one of {', '.join(NAMES)}."
            )
        algo = saved.name
    agent = load_agent(
        source.agent, algo, env, vecnormalize=source.vecnormalize, trust=source.trust, force=source.force
    )
    judge = partial(check_return, agent, force=source.force)
    return OpenedAgent(source, algo, env, agent.teacher, agent.vecnormalize, judge, agent.model)


def teacher_of(model: BaseAlgorithm | Agent | Teacher) -> Teacher:
    """What a student needs of an agent; UnsupportedError for agents that cannot be pressed."""
    if isinstance(model, Teacher):
        return model
    if isinstance(model, Agent):
        return model.teacher
    adapter, observation = adapter_for(model), observation_transform(model)
    action = adapter.action_transform(model)
    model.policy.set_training_mode(False)
    return Teacher(
        checked_graph(adapter, model),
        observation,
        action,
        adapter.imitation(action),
        tuple(adapter.critics(model)),
        _provenance(adapter, model),
    )


def _provenance(adapter: Adapter, model: BaseAlgorithm) -> dict[str, Any]:
    return {"algo": adapter.name, "steps": int(model.num_timesteps), "seed": model.seed}


def load_agent(
    path: str | Path,
    algo: str,
    env: EnvLike | None,
    *,
    vecnormalize: str | Path | None = None,
    trust: bool = False,
    force: bool = False,
) -> Agent:
    """The agent in ``path``, a zip that Stable-Baselines3's ``save`` wrote, as it acts in ``env``; without one, in the
    spaces that the zip tells.

    ``vecnormalize``: the file that ``VecNormalize.save`` wrote; one beside the agent is found where the zip shows that
    it is needed, with a warning that names it. ``trust``: open the zip by unpickling, which can run any code in it.
    ``force``: take ``vecnormalize``, or none, whatever the zip shows. No file is changed. Raises RunError for a file
    that cannot be read, ConfigError for an unknown algorithm or environment, UnsupportedError for an agent that does
    not fit them, cannot be pressed, or was trained with statistics that are missing.
    """
    path, adapter, env_id = Path(path), adapter_named(algo), "its environment" if env is None else name_of(env)
    data, weights = _read(path)
    _check_saved(path, data, weights, adapter, trust)
    observation_space, action_space = _saved_spaces(path, data) if env is None else _spaces(env)
    for name, space in (("observation", observation_space), ("action", action_space)):
        _check_space(path, name, data.get(f"{name}_space"), space, env_id)
    adapter.check_spaces(observation_space, action_space)
    if trust:
        model = _unpickled(path, adapter, data, observation_space, action_space)
    else:
        model = _rebuilt(path, adapter, data, weights, observation_space, action_space, env_id)
    model.policy.set_training_mode(False)
    told = evidence(data, observation_space, not issubclass(adapter.model_class, OffPolicyAlgorithm))
    if (data.get(STATE_ATTRIBUTE) or {}).get("normalized"):
        told = Evidence("normalized", "policypress was there")
    given = None if vecnormalize is None else Path(vecnormalize)
    statistics, normalization = _statistics(path, told, given, observation_space, env, force)
    observation = replace(observation_transform(model), normalization=normalization)
    graph, action = checked_graph(adapter, model), adapter.action_transform(model)
    return Agent(
        model,
        adapter,
        graph,
        observation,
        action,
        adapter.imitation(action),
        tuple(adapter.critics(model)),
        graph.parameters,
        _training_returns(data),
        told,
        statistics,
    )


def check_return(agent: Agent, returns: Sequence[float], env: str, *, force: bool = False) -> None:
    """Compares ``agent``'s deterministic ``returns`` here with those at the end of its training.

    Where they are clearly lower (by a tenth, and by more than four standard errors of the difference), its observations
    may not be those that it learned from. Raises RunError where that is likely, and ``force`` does not say otherwise;
    warns where it may have another reason: an agent that was certainly trained without VecNormalize may just act worse
    without exploration. Clipped rewards and episodes of one life (Atari) only make the training return smaller, and so
    the check milder.
    """
    trained, here = np.asarray(agent.training_returns), np.asarray(returns)
    if len(trained) < 2 or not np.isfinite(trained).all():
        return
    gap = float(trained.mean() - here.mean())
    error = float(np.sqrt(trained.var(ddof=1) / len(trained) + here.var() / len(here)))
    if gap <= max(_GAP * abs(float(trained.mean())), _STANDARD_ERRORS * error):
        return
    found = f"the agent returns {here.mean():.1f} in {env}, but {trained.mean():.1f} at the end of its training"
    environment = "check that the environment, its version, settings and wrappers are those of its training"
    far = gap > abs(float(trained.mean())) / 2
    verdict, why = agent.evidence.verdict, agent.evidence.why
    if agent.vecnormalize is not None:
        likely, hint = far, f"{environment}, and {agent.vecnormalize} was saved with it"
    elif verdict == "raw" or agent.observation.image:
        likely = False
        hint = f"it was trained without VecNormalize ({why}), so {environment}, or that it needs its exploration"
    elif verdict == "unknown":
        likely, hint = (
            far,
            f"if it was trained with VecNormalize, give its statistics with --vecnormalize; {environment}",
        )
    else:
        likely, hint = True, f"it was trained within VecNormalize ({why}): give its statistics with --vecnormalize"
    if likely and not force:
        raise RunError(f"{found}: {hint}; --force (force=True) presses it as it is.")
    warnings.warn(f"{found}: {hint}.", stacklevel=2)


@dataclass(frozen=True)
class Learned:
    """What an agent's zip holds of its training beside the policy, read without unpickling.

    ``settings``: keyword arguments of the algorithm; ``unread``: names of those that the zip holds as objects alone.
    ``optimizers``: state dicts, and ``variables``: tensors (an entropy coefficient), by the name of the attribute.
    """

    settings: dict[str, Any]
    unread: tuple[str, ...]
    optimizers: dict[str, Any]
    variables: dict[str, torch.Tensor]


def read_learned(path: Path, adapter: Adapter) -> Learned:
    """What the agent of ``adapter``'s algorithm in the zip at ``path`` takes with it to train on."""
    data, _ = _read(path)
    settings: dict[str, Any] = {}
    unread = []
    for name in inspect.signature(adapter.model_class).parameters:
        if name not in data or name in _OF_A_RUN:
            continue
        value = data[name]
        if isinstance(value, dict):
            value = _plain(value)
            if value is None:
                unread.append(name)
                continue
        if isinstance(value, int | float | str):
            settings[name] = value
    optimizers: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("optimizer.pth") and (state := _tensors(archive.read(name))) is not None:
                optimizers[name.removesuffix(".pth")] = state
        found = _tensors(archive.read(_VARIABLES)) if _VARIABLES in archive.namelist() else None
    variables = {name: value.detach() for name, value in (found or {}).items()}
    return Learned(settings, tuple(unread), optimizers, variables)


def _plain(described: Mapping[str, Any]) -> int | float | None:
    """The number that an object in the zip's JSON stands for, if it is one or a schedule that gives always the same."""
    constant = _CONSTANT.fullmatch(str(described.get("value_schedule")))
    if constant:
        return float(constant.group(1))
    value = saved_data(described)
    return value.item() if isinstance(value, np.generic) and np.isrealobj(value) else None


def _tensors(content: bytes) -> Any:
    """What ``torch.save`` wrote, or None where that is more than tensors in plain containers."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        return None


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
    check_settings(path, data)
    if saved is None and not trust:
        raise _needs_trust(path, "its policy class is not one of Stable-Baselines3's")


def _check_space(path: Path, name: str, described: Any, space: spaces.Space[Any], env_id: str) -> None:
    """Compares what the zip's JSON says of a space with the environment's; what it does not say fits."""
    kind, size = _description(described)
    found_kind, found_size = type(space).__name__, _size(space)
    if kind not in (None, found_kind) or size not in (None, found_size):
        raise UnsupportedError(
            f"{path} was trained with {name}s of {kind} {size}, but those of {env_id} are {found_kind} {found_size}: "
            "name the environment that it was trained in, with the --env-kwargs, --wrapper and --frame-stack of its "
            "training."
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
    return kind, fields.get("_shape", fields.get("shape")) if kind == "Box" else None  # gym: shape


def _size(space: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return ", ".join(space.spaces)
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else list(space.shape or ())


def _saved_spaces(path: Path, data: Mapping[str, Any]) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Spaces as the zip tells them, which are those that the agent sees; nothing is unpickled."""
    found = []
    for name in ("observation_space", "action_space"):
        try:
            found.append(space := space_of_record(saved_record(data.get(name))))
        except (AttributeError, KeyError, TypeError, ValueError, AssertionError) as error:
            raise UnsupportedError(f"{path} does not tell its {name}: name its environment with --env.") from error
        check_taken(space)  # what Stable-Baselines3 would refuse in other words
    return found[0], found[1]


def space_of_record(record: Any) -> spaces.Space[Any]:
    """The space of Gymnasium or gym whose pickle gave ``record``; ValueError for any other record."""
    kind, state = type(record).__name__, record.state
    match kind:
        case "Box":
            return spaces.Box(state["low"], state["high"], dtype=state["low"].dtype)
        case "Discrete":
            return spaces.Discrete(int(state["n"]), start=int(state.get("start", 0)))
        case "MultiDiscrete":
            return spaces.MultiDiscrete(state["nvec"])
        case "MultiBinary":
            return spaces.MultiBinary(state["n"])
        case "Dict":
            return spaces.Dict({name: space_of_record(part) for name, part in state["spaces"].items()})
        case _:
            raise ValueError(kind)


def _spaces(env: EnvLike) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Spaces of ``env`` as Stable-Baselines3 shows them to an agent: images channels first."""
    made = make_env(env, training=False, flat=False)
    try:
        check_taken(made.observation_space)  # what Stable-Baselines3 would refuse in other words
        wrapped = BaseAlgorithm._wrap_env(made, monitor_wrapper=False)
        return wrapped.observation_space, wrapped.action_space
    finally:
        made.close()


def _unpickled(
    path: Path,
    adapter: Adapter,
    data: Mapping[str, Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
) -> BaseAlgorithm:
    found: dict[str, Any] = {"observation_space": observation_space, "action_space": action_space}
    if "replay_buffer_class" in data:  # it will not learn, and some want the environment
        found |= {"replay_buffer_class": None, "replay_buffer_kwargs": {}, "buffer_size": 1}
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    return unpickled(path, adapter, contents, data, found, device="cpu")


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
    kwargs, weights = adapter.rebuilt(_policy_kwargs(path, data, weights), weights)
    name = adapter.policies["dict" if isinstance(observation_space, spaces.Dict) else "vector"]
    try:
        model = adapter.model_class(name, None, policy_kwargs=kwargs, device="cpu", _init_setup_model=False)
        model.observation_space, model.action_space, model.n_envs = observation_space, action_space, 1
        # What _setup_model does, without buffers and entropy targets: this model will not learn.
        model._setup_lr_schedule()
        built = model.policy_kwargs | ({"use_sde": True} if data.get("use_sde") else {})
        model.policy = adapter.new_policy(model, built)
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
    for key, value in data["policy_kwargs"].items():
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


def _statistics(
    path: Path, told: Evidence, given: Path | None, space: spaces.Space[Any], env: EnvLike | None, force: bool
) -> tuple[Path | None, Normalization | None]:
    """The file of VecNormalize that belongs to the agent in ``path``, and its statistics for flat observations.

    One that lies beside the agent is taken where the agent is known to need it; otherwise it is only spoken of.
    """
    described = None if env is None else description_of(env)
    frames = described.frame_stack if described is not None else 1
    if given is not None:
        statistics = read_vecnormalize(given)
        if statistics is None:
            return given, None
        if told.verdict == "raw" and not force:
            raise UnsupportedError(
                f"{path} was not trained with VecNormalize ({told.why}): leave --vecnormalize out, or add --force "
                "(force=True) if you know better."
            )
        return given, _flat(statistics, space, frames)
    if force or told.verdict == "raw":
        return None, None
    found = beside(path, "" if env is None else name_of(env))
    for file in found:
        if (statistics := read_vecnormalize(file)) is None:
            continue
        if told.verdict == "unknown" and not (told.last is not None and statistics.explain(*told.last)):
            warnings.warn(
                f"{file} lies beside the agent and is not used: give it with --vecnormalize if the agent was trained "
                "with it.",
                stacklevel=3,
            )
            return None, None
        normalization = _flat(statistics, space, frames)
        warnings.warn(f"the statistics in {file} are used: the agent was trained with VecNormalize.", stacklevel=3)
        return file, normalization
    if told.verdict == "normalized":
        raise UnsupportedError(
            f"{path} was trained with VecNormalize ({told.why}): give its statistics with --vecnormalize, the file "
            "that VecNormalize.save wrote; --force (force=True) opens it without."
        )
    if told.verdict == "wrapped" and not found:
        warnings.warn(
            f"{path} was trained within VecNormalize ({told.why}): unless that normalized rewards alone, give its "
            "statistics with --vecnormalize.",
            stacklevel=3,
        )
    return None, None


def _flat(statistics: Statistics, space: spaces.Space[Any], frames: int) -> Normalization:
    """``statistics`` of single observations or, if they fit as they are, of stacked ones."""
    if is_image_space(space):
        raise UnsupportedError("image observations normalized by VecNormalize cannot be pressed: train without it.")
    return statistics.flat(space, 1 if statistics.fits(space) else frames)


def _training_returns(data: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns in the buffer of the last episodes; empty if it cannot be read."""
    buffer = data.get("ep_info_buffer")
    try:
        episodes = buffer if isinstance(buffer, list) else saved_data(buffer)  # ARS keeps a list, which is JSON
        return tuple(float(episode["r"]) for episode in episodes or ())
    except (AttributeError, KeyError, TypeError, ValueError):  # the returns are only worth a hint
        return ()
