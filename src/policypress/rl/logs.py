"""Files of recorded observations: the one place that says which can be read, and how episodes are told apart.

Another format is a row of READERS. What is read are arrays by name, or episodes where the file has them apart.
"""

from __future__ import annotations

import csv
import importlib
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ObservationError, PolicypressError, RunError
from policypress.extras import missing
from policypress.policy import reference
from policypress.policy.contract import ObservationTransform
from policypress.rl.recorded import Recorded
from policypress.rl.sources import OpenedAgent

Arrays = Mapping[str, NDArray[Any]]

OBSERVATIONS = ("observations", "observation", "obs")
"""What the array of all observations is called."""
EPISODE = ("episode", "episodes", "episode_index", "episode_id")
"""What tells episodes apart: a number a step, the same for all steps of an episode."""
STARTS = ("episode_starts", "episode_start", "is_first")
"""The same: true where an episode begins."""
ENDS = (
    *("dones", "done", "terminals", "terminal", "terminated", "truncated", "terminations", "truncations"),
    *("timeouts", "timeout", "is_last"),
)
"""The same: true where an episode ends, in any of them."""
_MARKS = (*EPISODE, *STARTS, *ENDS)
_TRUE, _FALSE = ("true", "t", "yes", "1", "1.0"), ("false", "f", "no", "0", "0.0", "")


def read_log(path: Path, observation: ObservationTransform) -> Recorded:
    """The raw observations in ``path``, as ``observation`` takes them, episodes apart and some of them held out.

    Raises RunError for a file that cannot be read or is of no known format, PolicypressError if the package that reads
    it is missing, ObservationError for observations that do not fit or are not finite, ConfigError if there is but one.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise RunError(f"{path} is no log that can be read: give a file that ends in {', '.join(READERS)}.")
    if not path.is_file():
        raise RunError(f"there is no file {path}: give the log of observations.")
    try:
        found = reader(path)
    except PolicypressError:
        raise
    except Exception as error:  # arbitrary bytes can make a reader raise anything
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise RunError(f"{path} cannot be read as {path.suffix} ({reason}): write it anew.") from error
    episodes = found if isinstance(found, list) else _episodes(path, found, observation.shape)
    return Recorded.of(path, [_checked(path, episode, observation) for episode in episodes if len(episode)])


def on_log(agent: OpenedAgent, path: Path) -> OpenedAgent:
    """``agent`` with the log in ``path`` in place of an environment; raises what ``read_log`` raises."""
    return replace(agent, recorded=read_log(path, agent.teacher.observation))


# Episodes


def _episodes(path: Path, arrays: Arrays, shape: tuple[int, ...]) -> list[NDArray[Any]]:
    """The array of observations, cut into episodes by what marks them; else one episode."""
    observations = _named(path, arrays, OBSERVATIONS)
    marks = {name.lower(): values.reshape(-1) for name, values in arrays.items() if name.lower() in _MARKS}
    if not marks:
        # An array with one axis more than a batch has is episodes of the same length.
        apart = observations.ndim == len(shape) + 2 and math.prod(observations.shape[1:]) != math.prod(shape)
        return list(observations) if apart else [observations]
    for name, values in marks.items():
        if len(values) != len(observations):
            raise ObservationError(
                f"{path} has {len(observations):,} observations, but {len(values):,} of {name}: write one value an "
                "observation."
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ObservationError(f"{path} has a value in {name} that is not finite: write one for each observation.")
    if numbers := [marks[name] for name in EPISODE if name in marks]:
        named = numbers[0] if numbers[0].dtype.kind in "biuf" else _words(numbers[0])
        _, first, which, counts = np.unique(named, return_index=True, return_inverse=True, return_counts=True)
        by_episode = np.split(observations[np.argsort(which, kind="stable")], np.cumsum(counts)[:-1])
        return [by_episode[index] for index in np.argsort(first)]
    if starts := [_flags(path, name, marks[name]) for name in STARTS if name in marks]:
        cuts = np.flatnonzero(starts[0])
    else:
        ends = [_flags(path, name, marks[name]) for name in ENDS if name in marks]
        cuts = np.flatnonzero(np.any(ends, axis=0)) + 1
    return np.split(observations, cuts)


def _named(path: Path, arrays: Arrays, names: Sequence[str]) -> NDArray[Any]:
    others = {name: values for name, values in arrays.items() if name.lower() not in _MARKS}
    for name, values in others.items():
        if name.lower() in names:
            return np.atleast_1d(values)
    if len(others) == 1:
        return np.atleast_1d(next(iter(others.values())))
    has = f"it holds {', '.join(arrays)}" if arrays else "it holds nothing"
    raise ObservationError(f"{path} has no observations ({has}): call the array {names[0]}.")


def _words(values: NDArray[Any]) -> NDArray[np.str_]:
    """Values as text; bytes that are no ASCII too, each a character."""
    found: NDArray[np.str_] = np.char.decode(values, "latin-1") if values.dtype.kind == "S" else values.astype(str)
    return found


def _flags(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind in "biuf":
        return values.astype(bool)
    words = np.char.lower(np.char.strip(_words(values)))
    known = np.isin(words, (*_TRUE, *_FALSE))
    if not known.all():
        raise ObservationError(f"{path} has {str(words[~known][0])!r} in {name}: write true or false, or 1 or 0.")
    return np.isin(words, _TRUE)


def _checked(path: Path, episode: NDArray[Any], observation: ObservationTransform) -> NDArray[Any]:
    """An episode as ``observation`` has it, (steps, *shape)."""
    if episode.dtype.kind not in "biuf":
        raise ObservationError(
            f"{path} holds {episode.dtype}, not numbers: write numbers, in columns obs_0, obs_1, ..."
        )
    shape, found = observation.shape, episode.shape[1:]
    if len(shape) == 1 and math.prod(found) == shape[0]:
        episode = episode.reshape(len(episode), -1)
    elif not observation.image or sorted(found) != sorted(shape):
        raise ObservationError(
            f"{path} holds observations of {' x '.join(map(str, found)) or '1'} numbers, but the policy takes "
            f"{' x '.join(map(str, shape))}: record what it is given (policypress.rl.flatten_observation makes the "
            "vector), in columns obs_0, obs_1, ... where there are others."
        )
    finite = np.isfinite(episode).reshape(len(episode), -1).all(axis=1)
    if not finite.all():
        raise ObservationError(
            f"{path} holds an observation that is not finite, number {int(np.argmin(finite))} of its episode (counted "
            "from 0): leave that step out, or the whole episode."
        )
    return reference.arrange(observation, episode)


# Formats


def _npy(path: Path) -> Arrays:
    return {OBSERVATIONS[0]: np.load(path, allow_pickle=False)}


def _npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        wanted = [name for name in file.files if name.lower() in (*_MARKS, *OBSERVATIONS)]
        return {name: file[name] for name in (wanted if _has_observations(wanted) else file.files)}


def _has_observations(names: Sequence[str]) -> bool:
    return any(name.lower() in OBSERVATIONS for name in names)


def _csv(path: Path) -> Arrays:
    """Columns with or without names above them, between commas, semicolons or tabs."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
    if not first.strip():
        raise ObservationError(f"{path} is empty: give the log of observations.")
    delimiter = max(",;\t", key=first.count)
    names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
    headed = not all(_is_number(name) for name in names)
    if not headed:
        names = [f"{OBSERVATIONS[0]}_{index}" for index in range(len(names))]
    marks, columns = _columns(path, names)

    def read(indices: list[int], dtype: Any) -> NDArray[Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that there are no rows is told later
                return np.loadtxt(
                    path, dtype, delimiter=delimiter, skiprows=int(headed), usecols=indices, ndmin=2, quotechar='"',
                    comments=None, encoding="utf-8-sig",
                )  # fmt: skip
        except ValueError as error:
            raise ObservationError(
                f"{path} has something else than numbers in its columns ({str(error).rstrip('.')}): leave such steps "
                "out, and call the columns of observations obs_0, obs_1, ... where there are others."
            ) from error

    read_marks = {names[index]: read([index], str)[:, 0] for index in marks}
    return {OBSERVATIONS[0]: read(columns, np.float64), **read_marks}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(path: Path, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which columns mark episodes, and which are observations: those that begin with "obs", or else all others."""
    marks = [index for index, name in enumerate(names) if name.lower() in _MARKS]
    others = [index for index in range(len(names)) if index not in marks]
    columns = [index for index in others if names[index].lower().startswith("obs")] or others
    if not columns:
        raise ObservationError(f"{path} has no column of observations: call them obs_0, obs_1, ...")
    return marks, columns


def _parquet(path: Path) -> Arrays:
    """Columns of numbers, or one of lists."""
    parquet: Any = _imported("pyarrow.parquet")
    names = parquet.read_schema(path).names
    marks, columns = _columns(path, names)
    table = parquet.read_table(path, columns=[names[index] for index in (*marks, *columns)])

    def column(index: int) -> NDArray[Any]:
        values = table.column(names[index])
        return values.to_numpy() if values.type.num_fields == 0 else np.array(values.to_pylist())

    parts = [column(index) for index in columns]
    joined = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    return {OBSERVATIONS[0]: joined, **{names[index]: column(index) for index in marks}}


def _h5(path: Path) -> Arrays | list[NDArray[Any]]:
    """Data sets side by side, as D4RL has them, or a group an episode, as Minari and robomimic."""
    h5py: Any = _imported("h5py")
    with h5py.File(path, "r") as file:
        sets = {name: node for name, node in file.items() if isinstance(node, h5py.Dataset)}
        if sets:
            wanted = [name for name in sets if name.lower() in (*_MARKS, *OBSERVATIONS)]
            return {name: sets[name][()] for name in (wanted if _has_observations(wanted) else sets)}
        apart: list[tuple[list[Any], Any]] = []

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and name.rpartition("/")[2].lower() in OBSERVATIONS:
                order = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
                apart.append((order, node[()]))

        file.visititems(visit)
        if not apart:
            raise ObservationError(f"{path} has no observations: call the data set of each episode observations.")
        return [values for _, values in sorted(apart, key=lambda one: one[0])]


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PolicypressError(missing(module)) from error


READERS: dict[str, Callable[[Path], Arrays | list[NDArray[Any]]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".parquet": _parquet,
    ".h5": _h5,
    ".hdf5": _h5,
}
