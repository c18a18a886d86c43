"""The table of disturbances: what each is, what its levels mean and where they come from, what it fits, what it does.

Another kind is a row of ``KINDS``, and what it does in one of the modules beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policypress.errors import ConfigError
from policypress.extras import install
from policypress.policy.ops import Layer, MaxPool2d, walk
from policypress.policy.policy import Policy
from policypress.rl.environments import Disturb, space_given
from policypress.rl.evaluate import Act
from policypress.robustness import dynamics, flips, sensors


@dataclass(frozen=True, eq=False)
class Case:
    """Who is disturbed where: a policy, an environment as disturbances find it (called ``name``), what its numbers vary
    by (``scale``, shaped like an observation), the first seed, and observations that the policy met undisturbed."""

    policy: Policy
    env: gym.Env[Any, Any]
    name: str
    scale: NDArray[np.float64]
    seed: int
    met: Callable[[], NDArray[Any]]

    @cached_property
    def flash(self) -> flips.Flash:
        return flips.Flash(self.policy)

    @cached_property
    def critical(self) -> list[flips.Critical]:
        """Single flips, the worst first."""
        return flips.criticality(self.flash, self.met(), sensors.stream("critical", self.seed))

    @property
    def scale_seen(self) -> NDArray[np.float64]:
        """``scale`` of what the policy sees, whose frames may be stacked."""
        shape = self.policy.observation.shape
        return np.resize(self.scale, shape)


class Setup(NamedTuple):
    """What a disturbance is: a wrapper of the environment, or what acts in the policy's place."""

    disturb: Disturb | None = None
    act: Act | None = None


@dataclass(frozen=True, eq=False)
class Kind:
    """A disturbance: ``level`` says what its levels measure, ``levels`` which there are, ascending, ``source`` who
    published them ("": chosen here). ``unfit(case)`` says in words what it needs that the case does not have, None if
    it fits. ``both_ways``: levels lie on both sides of the undisturbed one, so that more is not worse.
    """

    level: str
    levels: tuple[float, ...] | Callable[[gym.Env[Any, Any]], tuple[float, ...]]
    unfit: Callable[[Case], str | None]
    setup: Callable[[Case, float], Setup]
    source: str = ""
    both_ways: bool = False

    def levels_in(self, env: gym.Env[Any, Any]) -> tuple[float, ...]:
        return self.levels(env) if callable(self.levels) else self.levels


# What a kind needs


def _anything(_: Case) -> str | None:
    return None


def measures(env: gym.Env[Any, Any]) -> bool:
    """Whether observations are numbers that were measured, in float: neither images nor choices."""

    def numbers(space: spaces.Space[Any]) -> bool:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
            return all(numbers(part) for part in parts)
        return isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f"

    return numbers(space_given(env))


def _measured(case: Case) -> str | None:
    if measures(case.env):
        return None
    return f"observations that are numbers in float, and {case.name} gives {_short(space_given(case.env))}"


def _bounded_actions(case: Case) -> str | None:
    space = case.env.action_space
    if isinstance(space, spaces.Box) and bool(np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return None
    return f"actions of a Box with bounds, and {case.name} takes {_short(space)}"


def _short(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Box):
        return f"a Box of {space.dtype}{list(space.shape)}"
    return str(space)


def _mujoco(test: Callable[[Any], bool], what: str) -> Callable[[Case], str | None]:
    """Needs a MuJoCo model that passes ``test``, one with ``what``."""

    def unfit(case: Case) -> str | None:
        model = dynamics.model_of(case.env)
        if model is None:
            return f"an environment of MuJoCo, which {case.name} is not"
        return None if test(model) else f"a model with {what}, which that of {case.name} has not"

    return unfit


def _differentiable(case: Case) -> str | None:
    if case.policy.state_size:
        return "a policy that acts on one observation, and this one remembers"
    if any(isinstance(op, MaxPool2d) or (isinstance(op, Layer) and op.is_conv) for op in walk(case.policy.ops)):
        return "a policy without convolutions and pooling"
    return _measured(case) or (None if find_spec("torch") else f"torch, which is not installed ({install('train')})")


# What a kind does


def _wrapped(wrapper: Callable[..., gym.Env[Any, Any]]) -> Callable[[Case, float], Setup]:
    return lambda _, level: Setup(lambda env: wrapper(env, level))


def _scaled(wrapper: Callable[..., gym.Env[Any, Any]]) -> Callable[[Case, float], Setup]:
    return lambda case, level: Setup(lambda env: wrapper(env, level, case.scale))


def _shifted(what: str) -> Callable[[Case, float], Setup]:
    return lambda _, level: Setup(lambda env: dynamics.Shifted(env, what, level))


def _flash(case: Case, level: float) -> Setup:
    return Setup(act=flips.acting_flipped(case.flash, round(level), case.seed))


def _critical(case: Case, level: float) -> Setup:
    worst = [found.bit for found in case.critical]
    return Setup(act=flips.acting_flipped(case.flash, round(level), case.seed, worst))


def _ram(case: Case, level: float) -> Setup:
    return Setup(act=flips.acting_in_flipped_memory(case.policy, level, case.seed))


def _attacked(kind: str) -> Callable[[Case, float], Setup]:
    def setup(case: Case, level: float) -> Setup:
        from policypress.robustness.attacks import acting_attacked  # needs torch

        return Setup(act=acting_attacked(case.policy, kind, level, case.scale_seen, case.seed))

    return setup


_STDS = "standard deviations of each observation"
_SHARE = "shares of half an action's range"
_RRLS = "Zouitine et al. 2024 (RRLS, arXiv 2406.08406), evenly over the range"
_ROBUST_GYMNASIUM = (
    "Gu et al. 2025 (Robust-Gymnasium, arXiv 2502.19652): 9.81 to 19.82, of which 14.715 is the fixed one"
)
_PENG = "Peng et al. 2018 (arXiv 1710.06537): 0.2 to 20 times"
_PACKER = "Packer et al. 2018 (arXiv 1810.12282), HalfCheetah's power: 0.5 to 1.3, where 0.9 is usual"
_RUDIN = "Rudin et al. 2022 (arXiv 2109.11978): up to 1 m/s"
_ZHANG = "Zhang et al. 2020, 2021 (arXiv 2003.08938, 2101.08452): 0.05 Walker2d, 0.075 Hopper, 0.15 HalfCheetah"
_RADII = (0.05, 0.075, 0.15, 0.3)
_model = _mujoco(lambda _: True, "")

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "noise": Kind(_STDS, (0.05, 0.1, 0.2, 0.4), _measured, _scaled(sensors.Noise)),
        "bias": Kind(_STDS, (0.05, 0.1, 0.2, 0.4), _measured, _scaled(sensors.Bias)),
        "quantized": Kind(f"a step, in {_STDS}", (0.1, 0.25, 0.5, 1.0), _measured, _scaled(sensors.Quantized)),
        "dropped": Kind("share of lost observations", (0.1, 0.25, 0.5, 0.75), _anything, _wrapped(sensors.Dropped)),
        "delayed": Kind("steps", (1, 2, 4), _anything, _wrapped(sensors.Delayed)),
        "action-noise": Kind(_SHARE, (0.05, 0.1, 0.2, 0.4), _bounded_actions, _wrapped(sensors.ActionNoise)),
        "action-delayed": Kind("steps", (1, 2, 4), _anything, _wrapped(sensors.ActionDelayed)),
        "mass": Kind(
            "kg of the first body", partial(dynamics.shift_levels, "mass"), _model, _shifted("mass"), _RRLS, True
        ),
        "friction": Kind(
            "coefficient of sliding", partial(dynamics.shift_levels, "friction"), _model, _shifted("friction"), _RRLS,
            True,
        ),
        "gravity": Kind(
            "m/s²", (12.26, 14.715, 17.27, 19.82),
            _mujoco(lambda model: model.opt.gravity[2] != 0, "gravity"), _shifted("gravity"), _ROBUST_GYMNASIUM,
        ),
        "damping": Kind(
            "times that of each joint", (0.2, 0.5, 2, 5, 20),
            _mujoco(lambda model: bool(model.dof_damping.any()), "damped joints"), _shifted("damping"), _PENG, True,
        ),
        "actuators": Kind(
            "times the force of each actuator", (0.56, 0.78, 1.22, 1.44),
            _mujoco(lambda model: model.nu > 0, "actuators"), _shifted("actuators"), _PACKER, True,
        ),
        "push": Kind(
            f"m/s, every {dynamics.PUSH_EVERY} steps", (0.25, 0.5, 1, 2),
            _mujoco(lambda model: bool(dynamics.horizontal_dofs(model)), "a base that moves over the ground"),
            _wrapped(dynamics.Pushed), _RUDIN,
        ),
        "flash": Kind("flipped bits", (1, 4, 16, 64, 256), _anything, _flash),
        "critical": Kind("flipped bits, the most critical of a sample", (1, 2, 4, 8, 16), _anything, _critical),
        "ram": Kind("probability of a flip, of each bit in each step", (0.0001, 0.001, 0.01), _anything, _ram),
        "fgsm": Kind(f"radius in {_STDS}", _RADII, _differentiable, _attacked("fgsm"), _ZHANG),
        "pgd": Kind(f"radius in {_STDS}", _RADII, _differentiable, _attacked("pgd"), _ZHANG),
        "mad": Kind(f"radius in {_STDS}", _RADII, _differentiable, _attacked("mad"), _ZHANG),
    }
)  # fmt: skip
"""Every disturbance by its name."""


def kinds_named(text: str) -> tuple[str, ...]:
    """The names in ``noise,delayed``, in the order of the table; ConfigError for one that it does not have."""
    asked = [name.strip() for name in text.split(",")]
    check_kinds(asked)
    return tuple(name for name in KINDS if name in asked)


def check_kinds(names: Iterable[str]) -> None:
    """Raises ConfigError for a name that the table does not have."""
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"{name!r} is no disturbance that is known: use {', '.join(KINDS)}.")
