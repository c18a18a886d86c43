"""VecNormalize: its statistics, and what an agent's file tells about their part in its training.

Stable-Baselines3 does not save with an agent that its observations were normalized. It leaves traces all the same:
``_last_original_obs`` is set on-policy only under VecNormalize, and what VecNormalize returns is float32 whatever the
environment gives (so since version 0.10).
"""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from policypress.errors import PolicypressError, RunError, UnsupportedError
from policypress.importers.pickles import Record, Unpickler, saved_data
from policypress.policy.contract import Normalization
from policypress.rl.environments import flat_space

_MATCH = 1e-3
_WHOLE = ""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and variance that VecNormalize keeps of observations, of the parts of a Dict by key ("" for all else)."""

    moments: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    epsilon: float
    clip: float

    def flat(self, space: spaces.Space[Any], frames: int = 1) -> Normalization:
        """For the vectors that ``flatten_observation`` makes of ``space``, which joins ``frames`` observations, each
        normalized by itself (VecFrameStack over VecNormalize).

        Raises UnsupportedError if they are not of this space.
        """
        parts = space.spaces if isinstance(space, spaces.Dict) else {_WHOLE: space}
        if not self.moments.keys() <= parts.keys():
            raise UnsupportedError(
                f"the statistics are of {self._shapes}, but observations of {space}: give those that were saved with "
                "this agent."
            )
        found = [self._part(name, part, frames) for name, part in parts.items()]
        mean, var = (np.concatenate([part[index].reshape(-1) for part in found]) for index in (0, 1))
        return Normalization(mean, var, self.epsilon, self.clip)

    def fits(self, space: spaces.Space[Any]) -> bool:
        """Whether these are statistics of ``space`` as it is."""
        try:
            self.flat(space)
        except UnsupportedError:
            return False
        return True

    def _part(self, name: str, space: spaces.Space[Any], frames: int) -> tuple[NDArray[Any], NDArray[Any]]:
        if name not in self.moments:  # a key that was left as it is: clipping must not reach it
            flat = flat_space(space)
            if flat.low.min() < -self.clip or flat.high.max() > self.clip:
                raise UnsupportedError(
                    f"observations of {name!r} are not normalized and others are, which cannot be pressed: normalize "
                    "all of them (norm_obs_keys)."
                )
            return np.zeros(flat.shape), np.full(flat.shape, 1.0 - self.epsilon)
        mean, var = (np.concatenate([values] * frames, axis=-1) for values in self.moments[name])
        if mean.shape != space.shape:
            raise UnsupportedError(
                f"the statistics are of {self._shapes}, but observations of {space.shape}: give those that were saved "
                "with this agent, and the --frame-stack of its training."
            )
        return mean, var

    @property
    def _shapes(self) -> str:
        shapes = {name: mean.shape for name, (mean, _) in self.moments.items()}
        return f"shape {shapes[_WHOLE]}" if _WHOLE in shapes else f"the parts {shapes}"

    def explain(self, seen: NDArray[Any], original: NDArray[Any]) -> bool:
        """Whether an agent that got ``seen`` where the environment gave ``original`` had these statistics."""
        mean, var = self.moments.get(_WHOLE, (np.zeros(0), np.zeros(0)))
        if mean.shape != original.shape[1:]:
            return False
        normalized = np.clip((original - mean) / np.sqrt(var + self.epsilon), -self.clip, self.clip)
        return bool(np.abs(normalized - seen).max() < _MATCH)


def statistics_of(normalize: VecNormalize) -> Statistics | None:
    """Those of a VecNormalize; None if it leaves observations as they are."""
    if not normalize.norm_obs:
        return None
    found: Any = normalize.obs_rms
    by_key = found if isinstance(found, dict) else {_WHOLE: found}
    return _statistics({name: vars(moments) for name, moments in by_key.items()}, vars(normalize))


def frames_over(env: VecEnv) -> int:
    """How many observations VecFrameStack joins after VecNormalize saw them; 1 if it does not."""
    frames = 1
    while isinstance(env, VecEnvWrapper) and not isinstance(env, VecNormalize):
        if isinstance(env, VecFrameStack):
            frames *= env.stacked_obs.n_stack
        env = env.venv
    return frames


def read_vecnormalize(path: str | Path) -> Statistics | None:
    """Statistics of observations in the file that ``VecNormalize.save`` wrote, read without running code; None if
    observations are not normalized. Raises RunError for another file."""
    state = _state(Path(path))
    return _statistics(_moments(state["obs_rms"]), state) if state["norm_obs"] else None


def normalized_env(path: Path, env: VecEnv) -> VecNormalize:
    """``env`` in the VecNormalize that was saved in ``path``, whose statistics no longer change.

    Nothing is unpickled, so that files of old versions open. Raises RunError for another file.
    """
    state = _state(path)
    names = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
    keys = state.get("norm_obs_keys")
    made = VecNormalize(env, training=False, norm_obs_keys=keys, **{name: state[name] for name in names})
    if made.norm_obs:
        moments = {name: _running(values) for name, values in _moments(state["obs_rms"]).items()}
        made.obs_rms = moments.get(_WHOLE, moments)  # type: ignore[assignment]
    made.ret_rms = _running(state["ret_rms"].state)
    return made


def beside(agent: Path, env_id: str) -> list[Path]:
    """Files of VecNormalize where the RL Zoo (a folder named after the environment), SB3's callbacks and people put
    them."""
    found = [agent.parent / "vecnormalize.pkl", agent.with_suffix("") / "vecnormalize.pkl"]
    task = re.sub(r"-v\d+$", "", env_id.rpartition(":")[2])  # agents of v3 act in v5
    found += sorted(agent.parent.glob(f"{glob.escape(task)}-v*/vecnormalize.pkl"))
    if numbered := re.fullmatch(r"(.+)_(\d+)_steps", agent.stem):  # CheckpointCallback
        found.append(agent.parent / f"{numbered[1]}_vecnormalize_{numbered[2]}_steps.pkl")
    return [path for path in dict.fromkeys(found) if path.is_file()]


# What an agent's file tells

Verdict = Literal["normalized", "wrapped", "raw", "unknown"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Whether an agent learned from normalized observations: "normalized" and "raw" are certain; "wrapped": there was a
    VecNormalize, which may have normalized rewards alone. ``why`` is what shows it. ``last``: what the agent saw last
    and the environment's observation for it, each (n_envs, ...), where they belong together."""

    verdict: Verdict
    why: str
    last: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None)


def evidence(data: Mapping[str, Any], space: spaces.Space[Any], on_policy: bool) -> Evidence:
    """What the JSON of an agent's zip tells; ``space``: the environment's observations."""
    if data.get("_vec_normalize_env") is not None:
        return Evidence("normalized", "its file holds the VecNormalize of its training")
    last, original = (saved_data(data.get(name)) for name in ("_last_obs", "_last_original_obs"))
    if last is None or (original is None and not on_policy):
        return Evidence("unknown", "its file does not hold what it saw last")
    if original is None:
        return Evidence("raw", "its file holds no original of the observation that it saw last")
    pairs = list(_pairs(last, original))
    if any(seen.dtype == np.float32 != given.dtype for seen, given in pairs):
        return Evidence("normalized", "what it saw last is float32, and its environment gave other numbers")
    if _beyond(last, space) and not _beyond(original, space):
        return Evidence("normalized", "what it saw last lies outside of the environment's bounds")
    stacked = any(seen.shape != given.shape for seen, given in pairs)  # which brings the environment's dtype back
    if not stacked and all(seen.dtype != np.float32 for seen, _ in pairs):
        return Evidence("raw", "what it saw last is not float32, as normalized observations are")
    if on_policy:
        return Evidence("wrapped", "its file holds the original of an observation that it saw")
    if all(np.array_equal(seen, given) for seen, given in pairs):
        return Evidence("raw", "what it saw last is what its environment gave")
    # One after the other, or one the other's original: statistics can tell.
    return Evidence("unknown", "its file does not tell", pairs[0] if isinstance(last, np.ndarray) else None)


def _pairs(last: Any, original: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    if isinstance(last, dict) and isinstance(original, dict):
        for name in last.keys() & original.keys():
            yield from _pairs(last[name], original[name])
    elif isinstance(last, np.ndarray) and isinstance(original, np.ndarray):
        yield last, original


def _beyond(observations: Any, space: spaces.Space[Any]) -> bool:
    """Whether any of ``observations`` (n_envs, ...) lies clearly outside of ``space``."""
    if isinstance(space, spaces.Dict):
        return any(_beyond(observations[name], part) for name, part in space.spaces.items() if name in observations)
    if not isinstance(space, spaces.Box) or observations.shape[1:] != space.shape:
        return False
    margin = 1e-3 * (1.0 + np.minimum(np.abs(space.low), np.abs(space.high)))
    return bool(np.any((observations < space.low - margin) | (observations > space.high + margin)))


# The file


def _state(path: Path) -> dict[str, Any]:
    wrong = f"{path} holds no VecNormalize statistics: give the file that VecNormalize.save wrote."
    try:
        saved = Unpickler(io.BytesIO(path.read_bytes()), records=True).load()
        if type(saved).__name__ != "VecNormalize":
            raise RunError(wrong)
        state: dict[str, Any] = saved.state
        if state["norm_obs"]:
            _statistics(_moments(state["obs_rms"]), state)
        return state
    except OSError as error:
        raise RunError(f"{path} cannot be read: give the file that VecNormalize.save wrote.") from error
    except PolicypressError:
        raise
    except Exception as error:  # a file of arbitrary bytes can make the unpickler raise anything
        raise RunError(wrong) from error


def _moments(saved: Any) -> dict[str, dict[str, Any]]:
    by_key = saved if isinstance(saved, dict) else {_WHOLE: saved}
    return {name: record.state for name, record in by_key.items() if isinstance(record, Record)}


def _statistics(moments: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> Statistics:
    arrays = {
        name: (np.asarray(values["mean"], np.float64), np.asarray(values["var"], np.float64))
        for name, values in moments.items()
    }
    return Statistics(arrays, float(state["epsilon"]), float(state["clip_obs"]))


def _running(values: Mapping[str, Any]) -> RunningMeanStd:
    made = RunningMeanStd()
    made.mean, made.var, made.count = np.asarray(values["mean"]), np.asarray(values["var"]), float(values["count"])
    return made
