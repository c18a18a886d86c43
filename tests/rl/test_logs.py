"""Files of recorded observations: what can be read, how episodes are told apart, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from policypress.errors import ConfigError, ObservationError, PolicypressError, RunError
from policypress.policy.contract import ObservationTransform
from policypress.rl.logs import READERS, read_log
from policypress.rl.recorded import HELD_OUT, Recorded, RecordedStates

THREE = ObservationTransform((3,), "float32")
LENGTHS = (4, 7, 2, 5, 6, 3)
STEPS = sum(LENGTHS)
ROWS = np.arange(3 * STEPS, dtype=np.float64).reshape(STEPS, 3) / 8
NUMBERS = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
ENDS = np.isin(np.arange(STEPS), np.cumsum(LENGTHS) - 1)
STARTS = np.isin(np.arange(STEPS), np.cumsum(LENGTHS) - LENGTHS)


def lengths(recorded: Recorded) -> tuple[list[int], list[int]]:
    return [len(episode) for episode in recorded.learned], [len(episode) for episode in recorded.held_out]


APART = ([7, 2, 5, 6], [4, 3])
"""Lengths of what is learned from and held out of the log above."""


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def write_csv(path: Path, header: str, rows: NDArray[Any], *, between: str = ",", form: str = "%.6g") -> Path:
    np.savetxt(path, rows, form, between, header=header, comments="")
    return path


@pytest.mark.parametrize(
    "arrays",
    [
        {"observations": ROWS, "episode": NUMBERS},
        {"obs": ROWS, "dones": ENDS, "actions": np.zeros((STEPS, 2))},
        {"Observations": ROWS.reshape(STEPS, 1, 3), "episode_starts": STARTS.astype(float)},
        {"observations": ROWS, "terminated": ENDS & (NUMBERS < 2), "truncated": ENDS & (NUMBERS >= 2)},
        {"observations": ROWS, "episode": NUMBERS, "dones": np.zeros(STEPS)},
        {"states": ROWS, "episode": np.array(["run a", "run b", "c", "d", "e", "f"])[NUMBERS]},
    ],
)
def test_arrays_by_name(arrays: dict[str, Any], tmp_path: Path) -> None:
    recorded = read_log(write_npz(tmp_path / "log.npz", **arrays), THREE)
    assert lengths(recorded) == APART
    assert recorded.episodes == len(LENGTHS)
    assert recorded.steps == 20
    assert np.concatenate(recorded.learned).dtype == np.float32
    np.testing.assert_array_equal(recorded.held_out[0], ROWS[:4])
    np.testing.assert_array_equal(recorded.held_out[1], ROWS[-3:])


def test_steps_of_episodes_that_were_recorded_side_by_side(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(STEPS)
    order = order[np.argsort(np.arange(STEPS) % 4, kind="stable")]
    recorded = read_log(write_npz(tmp_path / "log.npz", obs=ROWS[order], episode=NUMBERS[order]), THREE)
    found = [*recorded.learned, *recorded.held_out]
    assert sorted(map(len, found)) == sorted(LENGTHS)
    for episode in found:
        assert len(np.unique(NUMBERS[(episode[:, 0] * 8 / 3).astype(int)])) == 1


def test_an_array_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ROWS)
    recorded = read_log(tmp_path / "one.npy", THREE)
    assert (recorded.episodes, lengths(recorded)) == (1, ([22], [5]))
    np.testing.assert_array_equal(recorded.held_out[0], ROWS[-5:])
    np.save(tmp_path / "apart.npy", np.zeros((7, 9, 3), np.float32))
    assert lengths(read_log(tmp_path / "apart.npy", THREE)) == ([9] * 5, [9, 9])
    images = ObservationTransform((2, 6, 5), "uint8", image=True)
    np.save(tmp_path / "images.npy", np.zeros((8, 6, 5, 2), np.uint8))
    assert read_log(tmp_path / "images.npy", images).held_out[0].shape == (1, 2, 6, 5)


@pytest.mark.parametrize("between", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("obs_0", "obs_1", "obs_2", "episode"), (ROWS, NUMBERS)),
        (("time", "Episode", "obs[0]", "obs[1]", "obs[2]", "action"), (ROWS[:, 0] + 99, NUMBERS, ROWS, ROWS[:, 1])),
        (("x", "y", "done", "speed"), (ROWS[:, :2], ENDS, ROWS[:, 2])),
    ],
)
def test_columns(names: tuple[str, ...], columns: tuple[Any, ...], between: str, tmp_path: Path) -> None:
    table = np.column_stack(columns)
    recorded = read_log(write_csv(tmp_path / "log.csv", between.join(names), table, between=between), THREE)
    assert lengths(recorded) == APART
    np.testing.assert_array_equal(recorded.held_out[0], ROWS[:4])


def test_a_table_without_names_is_one_episode(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "log.csv", ROWS, delimiter=",")
    assert lengths(read_log(tmp_path / "log.csv", THREE)) == ([22], [5])


def test_words_that_mark_ends(tmp_path: Path) -> None:
    ends = ("True", "False", "0", "1.0", "")
    rows = [f'{i},{i},{i},"{end}"' for i, end in enumerate(ends)]
    (tmp_path / "log.csv").write_text("\n".join(["obs_0,obs_1,obs_2,done", *rows]))
    assert lengths(read_log(tmp_path / "log.csv", THREE)) == ([1, 3], [1])


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {f"obs_{index}": ROWS[:, index] for index in range(3)}
    for table in ({**columns, "episode_index": NUMBERS}, {"observation.state": ROWS.tolist(), "done": ENDS}):
        parquet.write_table(pa.table({**table, "timestamp": NUMBERS / 2}), tmp_path / "log.parquet")
        recorded = read_log(tmp_path / "log.parquet", THREE)
        assert lengths(recorded) == APART
        np.testing.assert_array_equal(recorded.held_out[0], ROWS[:4])


def test_h5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["observations"], file["actions"] = ROWS, np.zeros((STEPS, 2))
        file["terminals"], file["timeouts"] = ENDS & (NUMBERS < 3), ENDS & (NUMBERS >= 3)
    assert lengths(read_log(tmp_path / "flat.h5", THREE)) == APART
    with h5py.File(tmp_path / "apart.hdf5", "w") as file:
        for number, episode in enumerate(np.split(ROWS, np.cumsum(LENGTHS)[:-1])):
            file[f"data/episode_{number + 7}/observations"] = episode  # 10 comes after 9
            file[f"data/episode_{number + 7}/actions"] = episode
    recorded = read_log(tmp_path / "apart.hdf5", THREE)
    assert lengths(recorded) == APART
    np.testing.assert_array_equal(recorded.held_out[1], ROWS[-3:])


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix, module in ((".parquet", "pyarrow.parquet"), (".h5", "h5py")):
        (tmp_path / f"log{suffix}").touch()
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(PolicypressError, match=r"needs (pyarrow|h5py), which is not installed: pip install .*logs"):
            read_log(tmp_path / f"log{suffix}", THREE)


def holes(value: float) -> NDArray[np.float64]:
    rows = ROWS.copy()
    rows[9, 1] = value
    return rows


WRONG: dict[str, tuple[Callable[[Path], Path], type[PolicypressError], str]] = {
    "missing": (lambda p: p / "no.npz", RunError, "there is no file"),
    "format": (lambda p: p / "log.pkl", RunError, r"is no log that can be read: give a file that ends in \.npz, \.npy"),
    "damaged": (lambda p: damaged(p / "log.npz"), RunError, r"cannot be read as \.npz"),
    "objects": (
        lambda p: write_npz(p / "log.npz", obs=np.array([1, "a"], object)), RunError, "cannot be read as .npz",
    ),
    "names": (
        lambda p: write_npz(p / "log.npz", a=ROWS, b=ROWS), ObservationError,
        r"has no observations \(it holds a, b\): call the array observations",
    ),
    "nan": (
        lambda p: write_npz(p / "log.npz", obs=holes(np.nan), episode=NUMBERS), ObservationError,
        r"is not finite, number 5 of its episode .*: leave that step out, or the whole episode",
    ),
    "infinite": (lambda p: write_npz(p / "log.npz", obs=holes(np.inf)), ObservationError, "is not finite, number 9"),
    "width": (
        lambda p: write_npz(p / "log.npz", obs=ROWS[:, :2]), ObservationError,
        "observations of 2 numbers, but the policy takes 3: record what it is given",
    ),
    "marks": (
        lambda p: write_npz(p / "log.npz", obs=ROWS, dones=ENDS[1:]), ObservationError,
        "has 27 observations, but 26 of dones: write one value an observation",
    ),
    "words": (
        lambda p: write_npz(p / "log.npz", obs=ROWS, dones=np.full(STEPS, "maybe")), ObservationError,
        "has 'maybe' in dones: write true or false",
    ),
    "texts": (lambda p: write_npz(p / "log.npz", obs=ROWS.astype(str)), ObservationError, "holds <U.*, not numbers"),
    "single": (
        lambda p: write_npz(p / "log.npz", obs=ROWS[:1]), ConfigError,
        "holds a single observation: record some thousands, of several episodes",
    ),
    "none": (lambda p: write_npz(p / "log.npz", obs=ROWS[:0]), ConfigError, "holds no observation"),
    "empty": (lambda p: touched(p / "log.csv"), ObservationError, "is empty: give the log"),
    "columns": (
        lambda p: write_csv(p / "log.csv", "done", ENDS[:, None], form="%d"), ObservationError,
        "has no column of observations: call them obs_0, obs_1",
    ),
    "cells": (
        lambda p: text(p / "log.csv", "a,b,c\n1,2,3\n4,,6\n"), ObservationError,
        "something else than numbers in its columns .*: leave such steps out",
    ),
}  # fmt: skip


def damaged(path: Path) -> Path:
    write_npz(path, obs=ROWS)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def touched(path: Path) -> Path:
    path.touch()
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_told_in_one_sentence(case: str, tmp_path: Path) -> None:
    write, error, sentence = WRONG[case]
    with pytest.raises(error, match=sentence) as caught:
        read_log(write(tmp_path), THREE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "..."))


@given(content=st.binary(max_size=200), suffix=st.sampled_from(sorted(READERS)))
def test_any_bytes_are_read_or_refused(content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("logs") / f"log{suffix}"
    path.write_bytes(content)
    with suppress(PolicypressError):
        read_log(path, THREE)


def test_marks_may_be_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    np.savez(path, obs=np.arange(12.0).reshape(4, 3), episode=np.array([b"\x80", b"\x80", b"\x81", b"\x81"]))
    recorded = read_log(path, THREE)
    assert [len(episode) for episode in (*recorded.learned, *recorded.held_out)] == [2, 2]
    np.savez(path, obs=np.arange(12.0).reshape(4, 3), dones=np.array([b"\x80", b"0", b"0", b"1"]))
    with pytest.raises(ObservationError, match="in dones: write true or false, or 1 or 0"):
        read_log(path, THREE)


_ODD = st.one_of(
    arrays(st.sampled_from(["<f4", "<i8", "?", "<c8", "<M8[s]", "<U3", "S2"]), array_shapes(min_dims=0, max_side=4)),
    arrays("<f8", st.tuples(st.integers(0, 5), st.just(3)), elements=st.floats(width=64)),
)


@given(found=st.dictionaries(st.sampled_from(["obs", "episode", "dones", "is_first", "x"]), _ODD), form=st.booleans())
def test_any_arrays_are_read_or_refused(
    found: dict[str, Any], form: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("logs") / "log.npz"
    if form:
        found["obs"] = np.arange(12.0).reshape(4, 3)
    np.savez(path, **found)
    with suppress(PolicypressError):
        recorded = read_log(path, THREE)
        assert all(episode.shape[1:] == (3,) for episode in (*recorded.learned, *recorded.held_out))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=40))
def test_nothing_is_both_learned_and_held_out(counts: list[int]) -> None:
    rows = iter(range(sum(counts)))
    episodes = [np.array([[next(rows)] for _ in range(count)], np.float32) for count in counts]
    recorded = Recorded.of(Path("log.npy"), episodes)
    learned, held_out = (np.concatenate(part)[:, 0] for part in (recorded.learned, recorded.held_out))
    assert sorted([*learned, *held_out]) == list(range(sum(counts)))
    assert len(recorded.held_out) == -(-len(counts) // HELD_OUT)
    assert held_out[-1] == sum(counts) - 1

    states = RecordedStates(recorded, seed=3)
    first = states(None, None, 0.0, 4)
    rest = states(None, None, 1.0, 999)
    assert sorted([*first[:, 0], *rest[:, 0]]) == sorted(learned)
    assert len(states(None, None, 0.5, 5)) == 0
    again = RecordedStates(recorded, seed=3)
    again.skip(len(first))
    np.testing.assert_array_equal(again(None, None, 0.0, 999), rest)
