"""A policy against its peers, in one run: latency, throughput, bytes and energy of each."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, UnsupportedError
from policypress.measure.baselines import as_float, describe, stands_for, widened
from policypress.measure.energy import NOT_READABLE, SOURCE, Counts, Energy, Meter, count, energy
from policypress.measure.latency import Candidate, Clock, Timing, interleave
from policypress.measure.machine import machine, torch_threads
from policypress.measure.peers import PEERS, Task, carrying
from policypress.policy.artifact import write
from policypress.policy.observations import usual_observations
from policypress.policy.payload import payload_size
from policypress.policy.policy import Policy

_COMPILE_SECONDS = 60.0
"""Runs of this length hold torch.compile without being asked for it."""
_METER_SHARE = 0.2
_PREDICT = "call(argument, deterministic=True)"


@dataclass(frozen=True)
class BenchConfig:
    """What ``bench`` measures.

    ``against``: hidden widths of the dense network; empty: the one that the policy's ``baseline_bytes`` tell.
    ``batch``: observations of a batch. ``seconds``: of the whole run, half of them at least for measuring, and every
    candidate has at least one turn.
    ``peers``: names in ``peers.PEERS``; empty: all. ``seed``: of observations and random weights.
    """

    against: tuple[int, ...] = ()
    batch: int = 256
    seconds: float = 10.0
    peers: tuple[str, ...] = ()
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 2**16:
            raise ConfigError(f"batch={self.batch} must be a number from 1 to 65536.")
        if not 0 < self.seconds <= 86400:
            raise ConfigError(f"seconds={self.seconds:g} must be positive and at most a day.")
        if unknown := [name for name in self.peers if name not in PEERS]:
            raise ConfigError(f"peers={unknown[0]!r} is not known: use some of {','.join(PEERS)}.")


@dataclass(frozen=True, eq=False)
class Row:
    """One candidate: the ``network`` that it runs, the ``bytes`` of its model, timings of one observation and of a
    batch, ratios of its time to the policy's, and joules an action where they can be measured. A peer that cannot run
    has a ``reason`` and nothing else."""

    name: str
    title: str
    network: str
    bytes: int = 0
    one: Timing | None = None
    many: Timing | None = None
    ratio: float = 1.0
    batch_ratio: float = 1.0
    joules: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON values; times in seconds."""
        fixed = {"name": self.name, "title": self.title, "network": self.network}
        if self.one is None or self.many is None:
            return {**fixed, "reason": self.reason}
        return {
            **fixed,
            "bytes": self.bytes,
            "latency": self.one.seconds,
            "p99": self.one.p99,
            "ratio": self.ratio,
            "batch_latency": self.many.seconds,
            "batch_ratio": self.batch_ratio,
            "calls_per_sample": self.one.calls_per_sample,
            "rounds": len(self.one.turns),
            "joules": self.joules,
        }


@dataclass(frozen=True, eq=False)
class BenchReport:
    """Rows, the policy's own first; ``dense``: the float32 network that its energy is compared with."""

    rows: tuple[Row, ...]
    batch: int
    dense: str
    policy_counts: Counts
    dense_counts: Counts
    policy_energy: Energy
    dense_energy: Energy
    meter: str
    seconds: float
    machine: dict[str, Any]

    @property
    def energy_ratio(self) -> float:
        """Modelled energy of the dense float32 network over the policy's."""
        return self.dense_energy.total / self.policy_energy.total

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values; energies in picojoules."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "batch": self.batch,
            "dense": self.dense,
            "energy": {
                "source": SOURCE,
                "policy": {**self.policy_energy.as_dict(), "counts": dataclasses.asdict(self.policy_counts)},
                "dense": {**self.dense_energy.as_dict(), "counts": dataclasses.asdict(self.dense_counts)},
                "ratio": self.energy_ratio,
                "measured": self.meter,
            },
            "seconds": self.seconds,
            "machine": self.machine,
        }


@dataclass(frozen=True, eq=False)
class Entry:
    """A row before it is measured, and what to time for it: ``one`` takes an observation, ``many`` a batch."""

    row: Row
    one: Candidate | None = None
    many: Candidate | None = None


def bench(policy: Policy, config: BenchConfig | None = None, clock: Clock = time.perf_counter) -> BenchReport:
    """Measures ``policy`` against peers that run its own network in float32, and the dense one that it stands for.

    Torch computes on one thread meanwhile. Raises ConfigError for widths that its network cannot have.
    """
    config = config or BenchConfig()
    started = clock()
    own = as_float(policy)
    dense = widened(policy, config.against, config.seed) if config.against else stands_for(policy, config.seed)
    networks = [own] if dense is None or describe(dense) == describe(own) else [dense, own]
    observations = usual_observations(policy, config.batch, config.seed)
    with torch_threads(1):
        entries = [_policy_entry(policy, observations), *_peer_entries(policy, networks, observations, config)]
        try:
            meter: Meter | None = Meter()
        except UnsupportedError:
            meter = None
        rest = max(config.seconds - (clock() - started), config.seconds / 2)
        rows = measure(entries, rest if meter is None else rest * (1 - _METER_SHARE), clock)
        if meter is not None:
            slice_seconds = config.seconds * _METER_SHARE / len(rows)
            rows = [_with_joules(row, entry, meter, slice_seconds) for row, entry in zip(rows, entries, strict=True)]
    counts, dense_counts = count(policy), count(networks[0], dense=True)
    return BenchReport(
        rows=tuple(rows),
        batch=config.batch,
        dense=describe(networks[0]),
        policy_counts=counts,
        dense_counts=dense_counts,
        policy_energy=energy(counts),
        dense_energy=energy(dense_counts),
        meter=NOT_READABLE if meter is None else "measured, with what the machine draws anyway",
        seconds=clock() - started,
        machine=machine(),
    )


def measure(entries: list[Entry], seconds: float, clock: Clock = time.perf_counter) -> list[Row]:
    """Rows of ``entries`` with their timings, and ratios to the first one; a single observation and the batch take
    turns too."""
    runs = [entry for entry in entries if entry.one is not None and entry.many is not None]
    candidates = [candidate for entry in runs for candidate in (entry.one, entry.many) if candidate is not None]
    timings = interleave(candidates, seconds, clock)
    pairs = dict(zip(map(id, runs), zip(timings[::2], timings[1::2], strict=True), strict=True))
    first_one, first_many = pairs[id(entries[0])]
    rows = []
    for entry in entries:
        row = entry.row
        if id(entry) in pairs:
            one, many = pairs[id(entry)]
            row = dataclasses.replace(
                row, one=one, many=many, ratio=one.over(first_one), batch_ratio=many.over(first_many)
            )
        rows.append(row)
    return rows


def _policy_entry(policy: Policy, observations: NDArray[Any]) -> Entry:
    row = Row("policy", f"policy, {policy.numerics}", describe(policy), payload_size(policy))
    if policy.state_size:
        one, many = (Candidate(carrying(policy), value) for value in (observations[0], observations))
        return Entry(row, one, many)
    policy.predict(observations[0])  # makes the engine, whose function `predict` is from then on
    one, many = (Candidate(policy.predict, value, _PREDICT) for value in (observations[0], observations))
    return Entry(row, one, many)


def _peer_entries(
    policy: Policy, networks: list[Policy], observations: NDArray[Any], config: BenchConfig
) -> Iterator[Entry]:
    """Every peer on every network that it runs; those that cannot run with their reason."""
    chosen = config.peers or tuple(PEERS)
    plans = [(name, network) for network in networks for name in chosen if not PEERS[name].of_the_pressed]
    plans += [(name, policy) for name in chosen if PEERS[name].of_the_pressed]
    for name, network in plans:
        row = Row(name, PEERS[name].title, describe(network))
        if name == "torch-compile" and not config.peers and config.seconds < _COMPILE_SECONDS:
            reason = f"takes some 20 s to compile: name it in --peers, or --seconds {_COMPILE_SECONDS:.0f}"
            yield Entry(dataclasses.replace(row, reason=reason))
            continue
        try:
            peer = PEERS[name].make(Task(policy, network, config.seed))
            peer.one(observations[0])
            peer.many(observations)
        except ModuleNotFoundError as error:
            yield Entry(dataclasses.replace(row, reason=f"{error.name} is not installed"))
        except Exception as error:  # of whatever a framework raises; one that fails must not stop the others
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            yield Entry(dataclasses.replace(row, reason=reason))
        else:
            one, many = Candidate(peer.one, observations[0]), Candidate(peer.many, observations)
            yield Entry(dataclasses.replace(row, bytes=peer.bytes), one, many)


def _with_joules(row: Row, entry: Entry, meter: Meter, seconds: float) -> Row:
    if entry.one is None:
        return row
    call, argument = entry.one.call, entry.one.argument
    return dataclasses.replace(row, joules=meter.joules_per_call(lambda: call(argument), seconds))


def plot(report: BenchReport, path: Path) -> None:
    """Bars of the time of one action over the policy's, on a logarithmic axis, and of the model's bytes beside them,
    a group for each network, as PNG at ``path``; needs Matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    rows = [row for row in report.rows if row.one is not None]
    networks = list(dict.fromkeys(row.network for row in rows if not _of_the_pressed(row)))
    groups = ["policy" if _of_the_pressed(row) else row.network for row in rows]
    colors = {"policy": "black", **{name: f"C{index}" for index, name in enumerate(networks)}}
    places = np.cumsum([0.0, *(1.0 if a == b else 1.5 for a, b in pairwise(groups))])
    figure = Figure(figsize=(9, 1.7 + 0.34 * float(places[-1])), layout="constrained")
    times, sizes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    taken = [(row.ratio, f"{times_as_long(row.ratio)}  ({duration(row.one.seconds)})") for row in rows if row.one]
    held = [(float(row.bytes), f"{row.bytes:,}") for row in rows]
    for axis, bars, tick in ((times, taken, "{:,g}x".format), (sizes, held, size_in_words)):
        lengths = [length for length, _ in bars]
        start, end = min(lengths) / 2, max(lengths)
        axis.barh(places, [length - start for length in lengths], left=start, color=[colors[g] for g in groups])
        axis.set_xscale("log")
        axis.set_xlim(start, end * (end / start) ** 0.4)  # room for the figures
        axis.xaxis.set_major_formatter(partial(_tick, tick))
        axis.xaxis.set_minor_formatter(NullFormatter())
        for place, (length, text) in zip(places, bars, strict=True):
            axis.annotate(text, (length, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axis.grid(alpha=0.3, axis="x")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    times.set_yticks(places, [row.title for row in rows])
    times.tick_params(axis="y", length=0)
    sizes.tick_params(axis="y", length=0)
    times.invert_yaxis()
    times.set_xlabel("time of one action; the policy's is 1")
    sizes.set_xlabel("bytes of the model")
    labels = {"policy": "the policy itself", **{name: f"peers on {name}" for name in networks}}
    handles = [times.barh([places[0]], [0], color=colors[name], label=label) for name, label in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{report.rows[0].network}, {report.rows[0].title.partition(', ')[2]}: {report.machine['cpu']}")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(picture, dpi=120, format="png")
    write(picture.getvalue(), path)


def _of_the_pressed(row: Row) -> bool:
    """Whether it runs the pressed policy: the policy itself, which is no peer, and some of these."""
    return row.name not in PEERS or PEERS[row.name].of_the_pressed


def _tick(words: Callable[[float], str], value: float, _: object) -> str:
    return words(value)


def duration(seconds: float) -> str:
    """``seconds`` with three digits and a unit that fits."""
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size and (unit != "ns" or seconds < 99.5e-9):
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} s"


def size_in_words(size: float) -> str:
    """``size`` in bytes, kB or MB, in few digits."""
    power = 0 if size < 1e3 else 1 if size < 1e6 else 2
    return f"{size / 1e3**power:,g} {('B', 'kB', 'MB')[power]}"


def times_as_long(ratio: float) -> str:
    """``ratio`` as a number of times, in three digits."""
    return f"{_digits(ratio)}x"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
