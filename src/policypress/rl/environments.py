"""Gymnasium environments as agents see them in training and evaluation."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policypress.config import Environment
from policypress.errors import (
    DIVERGED,
    ConfigError,
    DivergedError,
    ObservationError,
    PolicypressError,
    RunError,
    UnsupportedError,
)
from policypress.extras import install
from policypress.policy.contract import ObservationTransform

FRAME_STACK = 4
MAX_STEPS = 100_000
"""An episode that is longer has no end; those of Atari have 27,000 steps at most."""
_CHECKED_STEPS = 3
_ATARI_FRAMES = 108_000
_told: dict[str | tuple[str, type[Warning], int], int] = {}  # of MuJoCo's warnings

EnvLike = str | Environment | gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]]
"""What names an environment: an id, a description, a class or factory, or the environment itself, which is then
stepped alone and never closed."""
Disturb = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
"""Wraps an environment, so that what is seen, done or met there is another than it would be."""

UNSUPPORTED_OBSERVATION = (
    "observations of {} space cannot be pressed: wrap the environment so that it returns one array, as in the agent's "
    "training (--wrapper gymnasium.wrappers:FlattenObservation)."
)


def make_env(
    env: EnvLike,
    *,
    training: bool,
    flat: bool = True,
    padding: NDArray[Any] | float = 0.0,
    render_mode: str | None = None,
    disturb: Disturb | None = None,
) -> gym.Env[Any, Any]:
    """The environment, its observations one array: an image or, ``flat``, a vector (see ``flatten_observation``).

    ALE games get the standard preprocessing (Mnih et al. 2015): 84x84 grey, frame skip 4, the last 4 frames as
    (4, 84, 84) uint8; in ``training`` also an episode for each life and rewards clipped to their sign. ``padding``
    stands for the frames before an episode where frames are stacked. ``render_mode``: Gymnasium's "rgb_array" or
    "human", for who shows it. ``disturb`` wraps it where its observations are single arrays, before frames are stacked.
    Raises ConfigError, with the nearest id, if there is no such environment, if it cannot be made or not be shown like
    that; what later goes wrong within it comes as RunError.
    """
    described = Environment(env) if isinstance(env, str) else env
    if isinstance(described, gym.Env):
        made: gym.Env[Any, Any] = _Borrowed(described)
    elif isinstance(described, Environment):
        made = _described(described, training, render_mode)
    elif callable(described):
        made = _called(_rendering(described, render_mode), name_of(described))
    else:
        raise ConfigError(
            f"{type(env).__name__} is no environment: give an id, a gymnasium.Env, or a class or function that makes "
            "one."
        )
    if render_mode is not None and made.render_mode != render_mode:
        raise _not_shown(name_of(env), render_mode, made.metadata.get("render_modes"))
    made = _Modern(made, name_of(env))
    frames = described.frame_stack if isinstance(described, Environment) else 1
    if frames == 1:
        made = _flattened(made, flat)
    if disturb is not None:
        made = disturb(made)
    if frames > 1:
        made = _flattened(_StackFrames(made, frames, padding), flat)
    return _Guarded(made, name_of(env))


def make_envs(
    env: EnvLike, count: int, *, padding: NDArray[Any] | float = 0.0, disturb: Disturb | None = None
) -> list[gym.Env[Any, Any]]:
    """``count`` environments to step together, for evaluation; one if ``env`` is an environment itself. ``disturb`` as
    for ``make_env``."""
    count = 1 if isinstance(env, gym.Env) else count
    envs = [make_env(env, training=False, padding=padding, disturb=disturb) for _ in range(count)]
    if len({id(made.unwrapped) for made in envs}) < len(envs):
        raise ConfigError(
            f"{name_of(env)} gives the same environment again and again: let it make a new one, or give the "
            "environment itself."
        )
    return envs


def name_of(env: EnvLike) -> str:
    """What ``env`` is called in messages and results."""
    if isinstance(env, str):
        return env
    if isinstance(env, Environment):
        return env.env
    if isinstance(env, gym.Env):
        return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    return f"{getattr(env, '__module__', '?')}:{getattr(env, '__qualname__', type(env).__name__)}"


def description_of(env: EnvLike) -> Environment | None:
    """What makes ``env`` again, in this process or another; None for an environment itself or a function without an
    importable name."""
    if isinstance(env, str):
        return Environment(env)
    if isinstance(env, Environment):
        return env
    module, name = getattr(env, "__module__", None), getattr(env, "__qualname__", "")
    if (
        isinstance(env, gym.Env)
        or module in (None, "__main__")
        or getattr(sys.modules.get(module), name, None) is not env
    ):
        return None
    return Environment(f"{module}:{name}")


def makes_env(value: Any) -> bool:
    """Whether ``value`` names an environment; if not, and it can be called with four things, it gives states."""
    if not callable(value) or isinstance(value, gym.Env | type):
        return True
    try:
        inspect.signature(value).bind(None, None, None, None)
    except TypeError:
        return True
    return False


def is_atari(env: EnvLike) -> bool:
    """Whether ``env`` is a game of the Arcade Learning Environment."""
    found = _find(env.env if isinstance(env, Environment) else env) if isinstance(env, str | Environment) else None
    return isinstance(found, gym.envs.registration.EnvSpec) and "ale_py" in str(found.entry_point)


def padding_of(observation: ObservationTransform, frames: int) -> NDArray[Any] | float:
    """What stands for the frames before an episode: 0 as the network sees it.

    Where VecNormalize normalizes single frames, before they are stacked, that is the mean of its statistics.
    """
    normalization = observation.normalization
    if normalization is None or frames == 1 or normalization.mean.size % frames:
        return 0.0
    means = normalization.mean.reshape(frames, -1)
    return means[0] if bool((means == means[0]).all()) else 0.0


def check_end(name: str, length: int) -> None:
    """Raises RunError if an episode of the environment called ``name`` has so many steps that it has no end."""
    if length > MAX_STEPS:
        raise RunError(
            f"an episode of {name} has not ended after {MAX_STEPS:,} steps: limit it, for example by --wrapper "
            "'gymnasium.wrappers:TimeLimit(max_episode_steps=1000)'."
        )


def play(
    env: gym.Env[Any, Any], act: Callable[[Any], tuple[Any, Any]], seed: int, limit: float = math.inf
) -> tuple[float, int]:
    """Return and length of one episode of an environment of ``make_env`` from ``reset(seed=seed)``, of its first
    ``limit`` steps.

    ``act`` is a ``predict``. At full speed: what the environment gives is checked in the first steps alone, and at the
    end. Raises what a step of ``env`` raises; RunError for an episode that never ends.
    """
    assert isinstance(env, _Guarded)
    env_step, total, length = env.step, 0.0, 0
    observation, _ = env.reset(seed=seed)
    try:
        while True:
            action, _ = act(observation)
            observation, reward, terminated, truncated, _ = env_step(action)
            total += reward
            length += 1
            if terminated or truncated or length >= limit:
                break
            if length == _CHECKED_STEPS:
                env_step = env.unguarded.step
            check_end(env.name, length)
    except ObservationError:
        env.check(observation)
        raise
    except Exception as error:  # an environment can raise anything
        raise env.failed("step", error) from error
    if not math.isfinite(total):
        raise RunError(f"{env.name} gives a reward of {total}: mend the environment, rewards must be finite.")
    return float(total), length


# Observations


def check_taken(space: spaces.Space[Any]) -> None:
    """Raises UnsupportedError for observations that Stable-Baselines3 does not take, whoever else may."""
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else []
    if isinstance(space, spaces.Tuple) or any(isinstance(part, spaces.Dict | spaces.Tuple) for part in parts):
        kind = "Tuple" if isinstance(space, spaces.Tuple) else "nested Dict"
        raise UnsupportedError(UNSUPPORTED_OBSERVATION.format(kind))
    for part in parts or [space]:
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete) and np.any(part.start != 0):
            raise UnsupportedError(
                f"observations that count from {part.start} are not Stable-Baselines3's: wrap the environment so that "
                "they count from 0."
            )
    flat_size(space)


def flat_size(space: spaces.Space[Any]) -> int:
    """Numbers in the vector that ``flatten_observation`` makes; UnsupportedError for spaces that it does not know."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        images = [name for name, part in _parts(space) if _is_image(part)]
        if images:
            raise UnsupportedError(
                f"observations with images beside other things ({', '.join(images)}) cannot be pressed: their network "
                "is not one chain of layers."
            )
        return sum(flat_size(part) for _, part in _parts(space))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        if len(space.shape) != 1:
            raise UnsupportedError(f"multi-discrete observations of shape {space.shape} must be flattened first.")
        return int(space.nvec.sum())
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return math.prod(space.shape)
    raise UnsupportedError(UNSUPPORTED_OBSERVATION.format(type(space).__name__))


def _parts(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[str, spaces.Space[Any]]]:
    """Parts by name, or by place, in the order of the space."""
    if isinstance(space, spaces.Dict):
        return [(str(name), part) for name, part in space.spaces.items()]
    return [(str(place), part) for place, part in enumerate(space.spaces)]


def flatten_observation(space: spaces.Space[Any], observation: Any) -> NDArray[Any]:
    """``observation`` of ``space`` as the vector that a pressed policy takes, what Stable-Baselines3's network sees.

    Box: its numbers in C order, in their own dtype. All else is float32. Discrete: one-hot. MultiDiscrete: one-hot for
    each number, joined. MultiBinary: 0 and 1. Dict and Tuple: their parts in the order of the space, joined, and those
    of the parts. Raises UnsupportedError for images in a Dict or Tuple, and for spaces that have no fixed size;
    ObservationError for a choice that the space does not have.
    """
    if isinstance(space, spaces.Box):
        return np.asarray(observation, space.dtype).reshape(-1)
    vector = np.zeros(flat_size(space), np.float32)
    if isinstance(space, spaces.Dict):
        vector[:] = np.concatenate([flatten_observation(part, observation[key]) for key, part in space.spaces.items()])
    elif isinstance(space, spaces.Tuple):
        pairs = zip(space.spaces, observation, strict=True)
        vector[:] = np.concatenate([flatten_observation(part, value) for part, value in pairs])
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        choices = np.atleast_1d(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        values, starts = np.asarray(observation, np.int64).reshape(-1), np.reshape(space.start, -1)
        if values.shape != choices.shape or np.any((values < starts) | (values >= starts + choices)):
            raise ObservationError(f"observation {observation} is not one of {space}: mend the environment.")
        vector[np.cumsum(choices) - choices + values - starts] = 1.0
    else:
        vector[:] = np.asarray(observation).reshape(-1)
    return vector


def flat_space(space: spaces.Space[Any]) -> spaces.Box:
    """The space of flattened observations."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype)
    size = flat_size(space)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = [flat_space(part) for _, part in _parts(space)]
        low, high = (np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high"))
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    return spaces.Box(0.0, 1.0, (size,), np.float32)


def _is_image(space: spaces.Space[Any]) -> bool:
    """What Stable-Baselines3 takes for an image: three dimensions of bytes from 0 to 255."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )


def _needs_flattening(space: spaces.Space[Any]) -> bool:
    """Whether observations are neither vectors nor images, nor of a kind that is refused with its name."""
    if isinstance(space, spaces.Box):
        return len(space.shape) != 1 and not _is_image(space)
    return isinstance(space, spaces.Dict | spaces.Tuple | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def _flattened(env: gym.Env[Any, Any], flat: bool) -> gym.Env[Any, Any]:
    return _Flattened(env) if flat and _needs_flattening(env.observation_space) else env


def space_given(env: gym.Env[Any, Any]) -> spaces.Space[Any]:
    """The space of what an environment of ``make_env`` gives, before it is made a vector."""
    inner = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, _Flattened):
            return inner.env.observation_space
        inner = inner.env
    return env.observation_space


class _Flattened(gym.ObservationWrapper[Any, Any, Any]):
    """Observations as vectors."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = flat_space(env.observation_space)

    def observation(self, observation: Any) -> NDArray[Any]:
        return flatten_observation(self.env.observation_space, observation)


class _StackFrames(gym.Wrapper[Any, Any, Any, Any]):
    """The last observations joined as VecFrameStack joins them: vectors one behind the other, the newest last."""

    def __init__(self, env: gym.Env[Any, Any], frames: int, padding: NDArray[Any] | float) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box):
            raise ConfigError(f"frame_stack={frames} needs observations that are one array, not {space}.")
        self._axis = 0 if _is_image(space) and int(np.argmin(space.shape)) == 0 else -1
        self.observation_space = spaces.Box(
            np.repeat(space.low, frames, self._axis),
            np.repeat(space.high, frames, self._axis),
            dtype=space.dtype,
        )
        self._width = space.shape[self._axis]
        self._padding = np.concatenate(
            [np.broadcast_to(np.asarray(padding, space.dtype), space.shape)] * frames, self._axis
        )

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self._stack = self._padding
        return self._added(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        return self._added(observation), *rest  # type: ignore[return-value]

    def _added(self, observation: Any) -> NDArray[Any]:
        older = np.delete(self._stack, slice(0, self._width), self._axis)
        self._stack = np.concatenate([older, np.asarray(observation, self._stack.dtype)], self._axis)
        return self._stack


class _Modern(gym.Wrapper[Any, Any, Any, Any]):
    """Refuses environments of gym before 0.26: their reset gives an observation alone, their step no truncation."""

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        for space in ("observation_space", "action_space"):
            if not isinstance(getattr(env, space, None), spaces.Space):
                raise ConfigError(f"{name} has no {space} of gymnasium.spaces: give the environment one.")

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        found: Any = self.env.reset(**kwargs)
        if not (isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], Mapping | None)):
            raise self._refused("reset", "an observation and a dict of information")
        return found[0], dict(found[1] or {})

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        found: Any = self.env.step(action)
        if not (isinstance(found, tuple | list) and len(found) == 5):
            raise self._refused("step", "observation, reward, terminated, truncated and a dict of information")
        observation, reward, terminated, truncated, info = found
        return observation, reward, bool(terminated), bool(truncated), info

    def _refused(self, method: str, wanted: str) -> RunError:
        return RunError(
            f"{self._name} does not give {wanted} from {method}(), as Gymnasium's environments do: mend the "
            "environment."
        )


class _Guarded(gym.Wrapper[Any, Any, Any, Any]):
    """Says in one sentence what goes wrong within an environment, and what is no fault of it."""

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self.name = name
        self._numeric = isinstance(env.action_space, spaces.Box)
        self._shape = env.observation_space.shape if isinstance(env.observation_space, spaces.Box) else None

    @property
    def unguarded(self) -> gym.Env[Any, Any]:
        """The environment without any check of ours."""
        inner = self.env
        return inner.env if isinstance(inner, _Modern) else inner

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            observation, info = self.env.reset(**kwargs)
            self.check(observation)
        except Exception as error:  # an environment can raise anything
            raise self.failed("reset", error) from error
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._numeric and not np.isfinite(action).all():
            raise DivergedError(f"the policy gives actions that are not finite in {self.name}: {DIVERGED}.")
        try:
            found = self.env.step(action)
            finite = math.isfinite(found[1])
            self.check(found[0])
        except Exception as error:  # as above
            raise self.failed("step", error) from error
        if not finite:
            raise RunError(f"{self.name} gives a reward of {found[1]}: mend the environment, rewards must be finite.")
        return found

    def render(self) -> Any:
        try:
            return self.env.render()
        except Exception as error:  # as above
            if hasattr(self.unwrapped, "mujoco_renderer"):
                raise _not_drawn(self.name, error) from error
            raise self.failed("render", error) from error

    def check(self, observation: Any) -> None:
        if self._shape is not None and np.shape(observation) != self._shape:
            raise RunError(
                f"{self.name} gives an observation of shape {np.shape(observation)}, but its observation_space has "
                f"{self._shape}: mend the environment."
            )
        if self._shape is not None and not np.isfinite(observation).all():
            raise RunError(f"{self.name} gives an observation that is not finite: mend the environment.")

    def failed(self, method: str, error: Exception) -> PolicypressError:
        if isinstance(error, PolicypressError):
            return error
        if isinstance(error, gym.error.DependencyNotInstalled):
            return ConfigError(
                f"{self.name} needs a package that is missing to be shown ({_reason(error)}): {install('watch')}."
            )
        return RunError(f"{self.name} fails in {method}() ({_reason(error)}): mend the environment.")


class _Borrowed(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that belongs to somebody else."""

    def close(self) -> None:
        pass


# Making


def _described(description: Environment, training: bool, render_mode: str | None) -> gym.Env[Any, Any]:
    found = _find(description.env)
    if not isinstance(found, gym.envs.registration.EnvSpec):
        env = _called(partial(_rendering(found, render_mode), **description.env_kwargs), description.env)
    elif is_atari(description):
        env = _atari(found, description, training, render_mode)
    else:
        try:
            if render_mode is not None:
                _check_shown(found, render_mode)
            with _mujoco_warnings(found):
                env = gym.make(found, **description.env_kwargs, **_shown(render_mode))
        except PolicypressError:
            raise
        except gym.error.DependencyNotInstalled as error:
            raise ConfigError(
                f"environment {description.env} needs a package that is missing ({error}): {install('train')}."
            ) from error
        except Exception as error:  # an environment can raise anything
            if render_mode is not None and "mujoco" in str(found.entry_point):  # loads what draws when it is imported
                raise _not_drawn(description.env, error) from error
            raise _not_made(description.env, error) from error
    for wrapper in description.wrappers:
        target, kwargs = _wrapper(wrapper)
        env = _called(partial(target, env, **kwargs), wrapper)
    return env


def _shown(render_mode: str | None) -> dict[str, Any]:
    return {} if render_mode is None else {"render_mode": render_mode}


def _takes(make: Callable[..., Any], render_mode: str) -> bool:
    try:
        inspect.signature(make).bind_partial(render_mode=render_mode)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        pass
    return True


def _rendering(make: Callable[..., Any], render_mode: str | None) -> Callable[..., Any]:
    """``make``, given the render mode if there is one and it takes one."""
    if render_mode is None or not _takes(make, render_mode):
        return make
    return partial(make, render_mode=render_mode)


def _check_shown(spec: gym.envs.registration.EnvSpec, render_mode: str) -> None:
    """Raises ConfigError for a render mode that the environment does not have: Gymnasium only warns."""
    entry = spec.entry_point
    maker: Any = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    modes = getattr(maker, "metadata", {}).get("render_modes")
    # Gymnasium shows pictures in a window by itself.
    if not (_takes(maker, render_mode) if modes is None else {render_mode, "rgb_array"} & set(modes)):
        raise _not_shown(spec.id, render_mode, modes)


def _not_shown(name: str, render_mode: str, modes: Iterable[str] | None) -> ConfigError:
    has = f"it has {', '.join(modes)}" if modes else "it has none"
    return ConfigError(f"{name} has no render mode {render_mode!r} ({has}): it cannot be shown like that.")


def _atari(
    spec: gym.envs.registration.EnvSpec, description: Environment, training: bool, render_mode: str | None
) -> gym.Env[Any, Any]:
    from gymnasium.wrappers import FrameStackObservation, ReshapeObservation
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    if description.frame_stack > 1:
        raise ConfigError(f"{description.env} stacks {FRAME_STACK} frames already: leave frame_stack out.")
    # The wrapper skips frames itself; ALE/*-v5 would skip a second time.
    kwargs = {"frameskip": 1, "max_episode_steps": _ATARI_FRAMES, **description.env_kwargs}
    env: gym.Env[Any, Any] = gym.make(spec, **kwargs, **_shown(render_mode))
    env = AtariWrapper(env, terminal_on_life_loss=training, clip_reward=training)
    env = FrameStackObservation(env, FRAME_STACK, padding_type="zero")
    return ReshapeObservation(env, (FRAME_STACK, 84, 84))


def _called(make: Callable[[], Any], name: str) -> gym.Env[Any, Any]:
    try:
        env = make()
    except PolicypressError:
        raise
    except Exception as error:  # a factory can raise anything
        raise _not_made(name, error) from error
    if not isinstance(env, gym.Env):
        raise ConfigError(f"{name} gives {type(env).__name__}, not a gymnasium.Env: name what makes an environment.")
    return env


def _not_made(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name} cannot be made ({_reason(error)}): mend it, or what it is given.")


def _not_drawn(name: str, error: Exception) -> RunError:
    return RunError(
        f"{name} cannot be drawn here ({_reason(error)}): install what draws off screen (Debian: apt install libegl1 "
        "libgl1-mesa-dri) and set MUJOCO_GL=egl."
    )


def _reason(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _wrapper(text: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class and its keyword arguments in "module:Class" or "module:Class(name=value)"."""
    target, bracket, arguments = text.strip().partition("(")
    kwargs: dict[str, Any] = {}
    if bracket:
        try:
            call: Any = ast.parse(f"dict({arguments}", mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError
            kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        except (ValueError, SyntaxError) as error:
            raise ConfigError(f"wrapper {text!r} cannot be read: write it as module:Class(name=value).") from error
    module, colon, name = target.partition(":")
    if not colon:  # the RL Zoo's way
        module, _, name = target.rpartition(".")
    if not module or not name:
        raise ConfigError(f"wrapper {text!r} names no class: write it as module:Class.")
    return _attribute(module, name), kwargs


def _attribute(module: str, name: str) -> Callable[..., Any]:
    found: Any = _module(module, name)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"module {module} ({_file(module)}) has no class or function {name!r}: name one that it has.")
    return found  # type: ignore[no-any-return]


def _file(module: str) -> str:
    return str(getattr(sys.modules[module], "__file__", None) or "built in")


def _module(module: str, wanted: str) -> Any:
    """The module, also from the current folder; last, so that it hides nothing that is installed."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"module {module!r} needs {error.name}, which is not installed: install it.") from error
        raise ConfigError(
            f"there is no module {module!r} to find {wanted!r} in: install it, or run from the folder that holds it."
        ) from error
    except PolicypressError:
        raise
    except Exception as error:  # a module can raise anything
        raise ConfigError(f"module {module!r} cannot be imported ({_reason(error)}).") from error


@contextmanager
def _mujoco_warnings(spec: gym.envs.registration.EnvSpec) -> Iterator[None]:
    """What MuJoCo would print whenever it compiles a model, as Python's warnings, which come once.

    Most is about models that Gymnasium brings (deprecated attributes): nobody can act on that, hundreds of times.
    """
    if "mujoco" not in str(spec.entry_point) or importlib.util.find_spec("mujoco") is None:
        yield
        return
    import mujoco

    found: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(found.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
    for text in found:
        category = DeprecationWarning if "deprecated" in text else RuntimeWarning
        warnings.warn_explicit(text, category, f"<{spec.id}>", 0, module="mujoco", registry=_told)


def _find(env_id: str) -> gym.envs.registration.EnvSpec | Callable[..., Any]:
    """What Gymnasium registered as ``env_id``, or else the class or factory of that name."""
    try:
        import ale_py

        gym.register_envs(ale_py)
    except ImportError:
        pass  # without ale-py its ids are simply unknown
    module, _, name = env_id.rpartition(":")
    if module:  # "package:Env-v0", Gymnasium's way to name an environment that a package registers
        _module(module, name)
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        if module and name.isidentifier():
            return _attribute(module, name)
        nearest = difflib.get_close_matches(env_id, list(gym.registry), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see gymnasium.pprint_registry()."
        raise ConfigError(f"there is no environment {env_id!r}; {hint}") from error
