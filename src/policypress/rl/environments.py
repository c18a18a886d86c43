"""Gymnasium environments as agents see them in training and evaluation."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from policypress.errors import ConfigError
from policypress.extras import install

FRAME_STACK = 4
_ATARI_FRAMES = 108_000
_told: dict[str | tuple[str, type[Warning], int], int] = {}  # of MuJoCo's warnings


def make_env(env_id: str, *, training: bool) -> gym.Env[Any, Any]:
    """The environment ``env_id``; ALE games get the standard preprocessing (Mnih et al. 2015).

    ALE: 84x84 grey, frame skip 4, the last 4 frames as (4, 84, 84) uint8; in ``training`` also an episode for each
    life and rewards clipped to their sign. Raises ConfigError with the nearest id if there is no such environment.
    """
    spec = _spec(env_id)
    if is_atari(env_id):
        from gymnasium.wrappers import FrameStackObservation, ReshapeObservation
        from stable_baselines3.common.atari_wrappers import AtariWrapper

        # The wrapper skips frames itself; ALE/*-v5 would skip a second time.
        env: gym.Env[Any, Any] = gym.make(spec, frameskip=1, max_episode_steps=_ATARI_FRAMES)
        env = AtariWrapper(env, terminal_on_life_loss=training, clip_reward=training)
        env = FrameStackObservation(env, FRAME_STACK, padding_type="zero")
        return ReshapeObservation(env, (FRAME_STACK, 84, 84))
    try:
        with _mujoco_warnings(spec):
            return gym.make(spec)
    except gym.error.DependencyNotInstalled as error:
        raise ConfigError(
            f"environment {env_id} needs a package that is missing ({error}): {install('train')}."
        ) from error


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


def is_atari(env_id: str) -> bool:
    """Whether ``env_id`` is a game of the Arcade Learning Environment."""
    return "ale_py" in str(_spec(env_id).entry_point)


def _spec(env_id: str) -> gym.envs.registration.EnvSpec:
    try:
        import ale_py

        gym.register_envs(ale_py)
    except ImportError:
        pass  # without ale-py its ids are simply unknown
    module, _, name = env_id.rpartition(":")
    try:
        if module:  # "package:Env-v0", Gymnasium's way to name an environment that a package registers
            importlib.import_module(module)
        return gym.spec(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no module {module!r} to find environment {name!r} in: install it.") from error
    except gym.error.Error as error:
        nearest = difflib.get_close_matches(env_id, list(gym.registry), n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see gymnasium.pprint_registry()."
        raise ConfigError(f"there is no environment {env_id!r}; {hint}") from error
