"""What people read in the terminal: tables that fit 80 columns."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from policypress.policy.description import contract_rows, layer_titles
from policypress.policy.policy import Policy

if TYPE_CHECKING:
    from policypress.export import Report
    from policypress.export.c_resources import Resources
    from policypress.export.verify import Verification
    from policypress.importers.opened import Opened
    from policypress.measure.avr import AvrReport
    from policypress.measure.bench import BenchReport
    from policypress.measure.microcontroller import TargetReport
    from policypress.measure.scores import Estimate
    from policypress.measure.size import SizeReport
    from policypress.rl.evaluate import Evaluation
    from policypress.rl.lines import Candidate
    from policypress.rl.search import Standing
    from policypress.studies.standing import Standing as StudyStanding
    from policypress.studies.statistics import CellFigures, MethodFigures
    from policypress.studies.store import Run
    from policypress.studies.study_file import Study


def result_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns, weights and bytes of finished runs, a column each."""
    table = _table("", *results)
    found = [(result["evaluation"], result["size"]) for result in results.values()]
    _return_rows(table, [evaluation for evaluation, _ in found])
    table.add_section()
    table.add_row("nonzeros", *(f"{size['nonzeros']:,}" for _, size in found))
    table.add_row("bits of a weight", *(str(size["layers"][0]["bits"]) for _, size in found))
    table.add_row("nominal", *(_bytes(size["nominal_bytes"], size["nominal_ratio"] or math.inf) for _, size in found))
    _byte_rows(table, [size for _, size in found])
    table.add_row("payload / H", *(f"{size['payload_to_bound']:.2f}" for _, size in found))
    table.caption = _episodes(found[0][0])
    return table


def compress_table(result: Mapping[str, Any]) -> Table:
    """An agent, its student and what acting without looking returns, from the same seeds; what is kept, and bytes."""
    from policypress.measure.returns import kept as kept_of

    if "agreement" in result:
        return _agreement_table(result)
    agent, student, size = result["teacher"], result["evaluation"], result["size"]
    blind = agent.get("chance")
    measured = [agent, student, *([blind] if blind else [])]
    table = _table("", "agent", f"student, {result['numerics']}", *([blind["actions"]] if blind else []))
    _return_rows(table, measured)
    found = result["kept"]
    if "difference" not in found:  # written when an interquartile mean was what is kept
        found = dataclasses.asdict(kept_of(student["returns"], agent["returns"]))
    if found["share"] is None:
        name, how, shown = "difference", "+,.1f", ("difference", "difference_low", "difference_high")
    else:
        name, how, shown = "kept", ".1%", ("share", "low", "high")
    value, low, high = (f"{found[part]:{how}}" for part in shown)
    table.add_row(name, "", f"{value}\n[{low}, {high}]")
    if "worst_share" in found:
        table.add_row("kept of the worst", "", f"{found['worst_share']:.1%}")
    table.add_section()
    table.add_row("nonzeros", f"{size['baseline_bytes'] // 4:,}", f"{size['nonzeros']:,}")
    _byte_rows(table, [{"payload_bytes": size["baseline_bytes"], "payload_ratio": 1.0}, size])
    seconds, *others = _effort(result)
    table.caption = escape("\n".join([_episodes(student), f"all from the same seeds; {seconds}", *others]))
    return table


def _agreement_table(result: Mapping[str, Any]) -> Table:
    """How far a student agrees with an agent of a log, what one constant action does, and bytes."""
    found, size = result["agreement"], result["size"]
    table = _table("", "agent", f"student, {result['numerics']}", "one constant action")
    interval = f"\n[{found['low']:.1%}, {found['high']:.1%}]" if "low" in found else ""
    table.add_row("agreement", "", f"{found['mean']:.1%}{interval}", f"{found['constant']:.1%}")
    if "worst_tenth" in found:
        table.add_row("worst tenth", "", f"{found['worst_tenth']:.1%}")
    table.add_section()
    table.add_row("nonzeros", f"{size['baseline_bytes'] // 4:,}", f"{size['nonzeros']:,}")
    _byte_rows(table, [{"payload_bytes": size["baseline_bytes"], "payload_ratio": 1.0}, size])
    log = found["recorded"]
    what = (
        f"agreement: {found['measure']}; mean of {found['episodes']} held-out episodes "
        f"({found['observations']:,} observations) of {log['episodes']} in {log['file']}"
        + (", 95 % bootstrap interval" if "low" in found else "")
        + "; nothing was played, the return is not known; flash: constants of the exported C"
    )
    table.caption = escape("\n".join([what, *_effort(result)]))
    return table


def _effort(result: Mapping[str, Any]) -> list[str]:
    """Seconds, notes, and batches where there were any."""
    lines = [f"{result['wall_seconds']:,.0f} s", *result.get("notes", ())]
    if used := result.get("batches"):
        most = result["config"]["student"]["batches"]
        lines.append(f"{used:,} batches" + (f" of at most {most:,}: no more to learn" if used < most else ""))
    return lines


def candidate_line(candidate: Candidate, best: bool) -> str:
    """What came of a line of a search."""
    return (
        f"{candidate.line.method:>8} {candidate.line.shape.name:>9} {candidate.payload_bytes:>7,} B  "
        f"kept {candidate.share:.1%} [{candidate.low:.1%}, {candidate.high:.1%}] "
        f"worst {candidate.worst_share:.0%}{'  best' if best else ''}"
    )


def missed(result: Mapping[str, Any]) -> str:
    """What a search was asked for and did not find, without a full stop."""
    config = result["config"]
    within = f" in {config['bytes']:,} bytes" if config.get("bytes") else ""
    if not config["keep"]:
        return f"no policy fits{within}"
    return (
        f"no policy keeps {100 * config['keep']:.3g} % of the mean return, by the lower end of its interval, and "
        f"{100 * config.get('keep_worst', 0.9):.3g} % of the worst tenth{within}"
    )


def standing_line(standing: Standing) -> str:
    """Where a search stands: time, what is at work, the best so far."""
    parts = [f"{_clock(standing.seconds)} of {_clock(standing.of)}", standing.doing]
    if standing.running:
        parts[-1] += " " + ", ".join(f"{line.shape.name} ({line.method})" for line in standing.running)
    if standing.finished:
        parts.append(f"{standing.finished} measured")
    if standing.best is not None:
        parts.append(f"best {standing.best.payload_bytes:,} B, kept {standing.best.share:.1%}")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def evaluation_table(result: Evaluation) -> Table:
    """Mean, interval, worst tenth, early ends and the return of every episode."""
    low, high = result.interval
    rows = {
        "return": f"{result.mean:.1f} [{low:.1f}, {high:.1f}], mean of {len(result.returns)} episodes of {result.env}",
        "worst tenth": f"{result.worst_tenth:.1f}",
        "ends early": f"{result.ended_early:.1%} of the episodes, before the limit of time",
        "least, most": f"{min(result.returns):.1f}, {max(result.returns):.1f}",
    }
    table = _rows(rows)
    table.caption = "returns: " + " ".join(f"{value:.1f}" for value in result.returns)
    return table


_ACROSS = 5
"""Policies beside one another in a table of 80 columns."""


def robustness_tables(result: Mapping[str, Any]) -> list[Table]:
    """What disturbances leave: of one policy its returns, of several what each keeps of its own undisturbed mean."""
    names = list(result["policies"])
    caption = escape(
        f"{result['episodes']} episodes of {_environment(result)}, the same seeds for all; kept: of the same policy's "
        "undisturbed mean return, with a 95 % bootstrap interval in the CSV; half at: the level at which a half is kept"
    )
    groups = [names[start : start + _ACROSS] for start in range(0, len(names), _ACROSS)]
    tables = [_disturbed_table(result, names[0])] if len(names) == 1 else [_kept_table(result, one) for one in groups]
    tables[-1].caption = caption
    return tables


def _environment(result: Mapping[str, Any]) -> str:
    return str(result["env"]["env"] if isinstance(result["env"], Mapping) else result["env"])


def _disturbed_table(result: Mapping[str, Any], name: str) -> Table:
    table = _table(name, "level", "mean", "interval", "worst tenth", "ends early", "kept")
    kind = ""
    for point in _in_order(result):
        if point["kind"] != kind:
            table.add_section()
        table.add_row(
            point["kind"] if point["kind"] != kind else "",
            f"{point['level']:g}",
            f"{point['mean']:,.1f}",
            f"{point['low']:,.0f} to {point['high']:,.0f}",
            f"{point['worst_tenth']:,.1f}",
            f"{point['ended_early']:.0%}",
            _kept(point),
        )
        kind = point["kind"]
    for kind, level in result["halves"].get(name, {}).items():
        if level is not None:
            table.add_row(f"{kind}, half at", f"{level:.3g}", "", "", "", "", "")
    return table


def _kept_table(result: Mapping[str, Any], names: Sequence[str]) -> Table:
    table = _table("kept", "level", *names)
    known = {(point["policy"], point["kind"], point["level"]): point for point in result["points"]}
    before = ""
    for kind, level in dict.fromkeys((point["kind"], point["level"]) for point in _in_order(result)):
        if kind != before:
            table.add_section()
        found = [known.get((name, kind, level)) for name in names]
        shown = [f"{p['mean']:,.0f}" if p and not before else _kept(p) if p else "" for p in found]
        table.add_row(f"{kind}, mean" if not before else kind if kind != before else "", f"{level:g}", *shown)
        before = kind
    halves = result["halves"]
    table.add_section()
    for kind in dict.fromkeys(kind for name in names for kind in halves.get(name, {})):
        levels = [halves.get(name, {}).get(kind) for name in names]
        if any(level is not None for level in levels):
            table.add_row(f"{kind}, half at", "", *("" if level is None else f"{level:.3g}" for level in levels))
    return table


def _in_order(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Points, those of a kind together in the order in which kinds were met, levels ascending."""
    kinds = list(dict.fromkeys(point["kind"] for point in result["points"]))
    return sorted(result["points"], key=lambda point: (kinds.index(point["kind"]), point["level"]))


def _kept(point: Mapping[str, Any]) -> str:
    return "" if point["kept"] is None else f"{point['kept']:.1%}"


def watched_table(results: Mapping[str, Evaluation]) -> Table:
    """Return and length of the episodes that were shown, by policy."""
    table = _table("policy", "returns", "steps", "ended early")
    for name, result in results.items():
        table.add_row(
            name,
            " ".join(f"{value:.1f}" for value in result.returns),
            " ".join(map(str, result.lengths)),
            f"{sum(result.terminated)} of {len(result.terminated)}",
        )
    return table


def _return_rows(table: Table, measured: Sequence[Mapping[str, Any]]) -> None:
    """Mean with its interval, worst tenth and early ends, a column each; the last two are missing in old results."""
    intervals = [f"{one['mean']:,.1f}\n[{one['low']:,.1f}, {one['high']:,.1f}]" for one in measured]
    table.add_row("return", *intervals)
    if all("ended_early" in one for one in measured):
        table.add_row("worst tenth", *(f"{one['worst_tenth']:,.1f}" for one in measured))
        table.add_row("ends early", *(f"{one['ended_early']:.1%}" for one in measured))


def _byte_rows(table: Table, sizes: Sequence[Mapping[str, Any]]) -> None:
    """Payload with its ratio, file on disk and flash, where they are known."""
    table.add_row("payload", *(_bytes(size["payload_bytes"], size["payload_ratio"]) for size in sizes))
    for name, field in (("file on disk", "disk_bytes"), ("flash", "flash_bytes")):
        if any(field in size for size in sizes):
            table.add_row(name, *(f"{size[field]:,} B" if field in size else "" for size in sizes))


def _bytes(count: float, ratio: float) -> str:
    return f"{count:,.0f} B\n{ratio:.1f}x"


def _episodes(evaluation: Mapping[str, Any]) -> str:
    return (
        f"return: mean of {evaluation['episodes']} episodes of {evaluation['env']}, 95 % bootstrap interval; ends "
        "early: before the limit of time; flash: constants of the exported C"
    )


def layer_table(report: SizeReport) -> Table:
    """Shape, sparsity and bits of every layer."""
    table = _table("layer", "shape", "sparsity", "nonzeros", "bits")
    for name, layer in zip(layer_names(report), report.layers, strict=True):
        shape = "x".join(map(str, layer.shape))
        table.add_row(name, shape, f"{layer.sparsity:.2%}", f"{layer.nonzeros:,}", str(layer.bits))
    table.add_section()
    table.add_row("all", "", f"{report.sparsity:.2%}", f"{report.nonzeros:,}", "")
    return table


def byte_table(report: SizeReport, disk: int, flash: int) -> Table:
    """Where the payload's bytes are and how they compare with the zero-order bound H; bytes on disk and in flash."""
    table = _table("payload of", "positions", "values", "biases", "other", "in all", "H", "of H")
    for name, layer in zip(layer_names(report), report.layers, strict=True):
        parts = (layer.positions, layer.values, layer.biases, layer.constants, 8 * layer.bytes, layer.bound)
        share = f"{8 * layer.bytes / layer.bound:.3f}" if layer.bound else ""
        table.add_row(name, *(f"{bits / 8:,.0f}" for bits in parts), share)
    header = f"{report.header / 8:,.0f}"
    table.add_row("input", "", "", "", header, header, "", "")
    table.add_section()
    sums = [sum(getattr(layer, part) for layer in report.layers) for part in ("positions", "values", "biases")]
    other = sum(layer.constants for layer in report.layers) + report.header
    table.add_row(
        "all",
        *(f"{bits / 8:,.0f}" for bits in (*sums, other)),
        f"{report.payload_bytes:,}",
        f"{report.bound_bytes:,.0f}",
        f"{report.payload_to_bound:.3f}",
    )
    table.caption = (
        f"dense float32 {report.baseline_bytes:,} B; nominal {report.nominal_bytes:,.0f} B "
        f"({report.nominal_ratio:.1f}x)\npayload {report.payload_bytes:,} B ({report.payload_ratio:.1f}x); "
        f"file on disk {disk:,} B\nconstants in flash {flash:,} B ({report.baseline_bytes / flash:.1f}x)"
    )
    return table


def verification_table(result: Verification) -> Table:
    """What every engine's answers differ by from the reference's."""
    table = _table("engine", f"difference, {result.unit}", "other actions", "agrees")
    notes = []
    for row in result.rows:
        if row.note:
            notes.append(f"{row.engine}: {row.note}")
        if row.difference is None:
            table.add_row(row.engine, "", "", row.verdict)
        else:
            table.add_row(row.engine, f"{row.difference:.6g}", f"{row.actions:,}", row.verdict)
    what = {"steps": "steps of the last layer's sums", "ulps": "units in the last place of float32"}[result.unit]
    head = (
        f"{result.vectors:,} observations, {result.numerics} numerics; "
        f"largest difference from the reference in {what}; yes: every bit is the same"
    )
    table.caption_justify = "left"
    table.caption = escape("\n".join([head, *notes]))
    return table


def contract_table(policy: Policy) -> Table:
    """What the policy takes and gives, and where it comes from."""
    return _rows(contract_rows(policy))


def opened_table(opened: Opened) -> Table:
    """What a file of another framework is."""
    return _rows(opened.rows())


def export_table(report: Report) -> Table:
    """What an export found when it checked itself."""
    return _rows(report.rows())


def _rows(rows: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


_FEW_ROUNDS = 5


def bench_table(report: BenchReport) -> Table:
    """Bytes, time of one action and of a batch, and how many times as long as the policy's, a section a network."""
    from policypress.measure.bench import duration, times_as_long

    table = _table("", "bytes", "one action", "99 %", "times", f"{report.batch} at once", "times")
    if joules := any(row.joules is not None for row in report.rows):
        table.add_column("energy", justify="right")
    network = None
    for row in report.rows:
        if row.network != network:
            network = row.network
            table.add_section()
            table.add_row(f"[bold]{_folded(network)}[/bold]")
        if row.one is None or row.many is None:
            continue
        cells = [
            row.title,
            f"{row.bytes:,}",
            duration(row.one.seconds),
            duration(row.one.p99),
            times_as_long(row.ratio),
            duration(row.many.seconds),
            times_as_long(row.batch_ratio),
        ]
        table.add_row(*cells, *([f"{1e6 * row.joules:.3g} µJ" if row.joules is not None else ""] if joules else []))
    return table


def bench_notes(report: BenchReport) -> str:
    """What was left out, how it was timed, the machine."""
    from policypress.measure.machine import lines

    missing: dict[str, list[str]] = {}
    for row in report.rows:
        if row.reason:
            missing.setdefault(f"{row.title}: {row.reason}", []).append(row.network)
    policy = report.rows[0].one
    assert policy is not None
    loops = f"in loops of {policy.calls_per_sample}" if policy.calls_per_sample > 1 else "one by one"
    timed = (
        "times: how many times as long as the policy takes. "
        f"Medians of {len(policy.turns)} round(s) in which all took turns, the policy's calls "
        f"{loops}; 99 %: of all samples. SB3's weights are random."
    )
    if len(policy.turns) < _FEW_ROUNDS:
        timed += " These are few rounds: give more --seconds."
    return "\n".join([timed, *missing, *lines(report.machine)])


def energy_table(report: BenchReport) -> Table:
    """Multiply-adds, bytes and modelled energy of one action, against the dense float32 network."""
    from policypress.measure.energy import SOURCE

    policy, dense = report.policy_counts, report.dense_counts
    table = _table("energy", "mult-adds", "weights", "indices", "arithmetic", "memory", "in all")
    unit, size = ("nJ", 1e3) if report.dense_energy.total < 1e7 else ("µJ", 1e6)
    for name, counts, energy in (
        ("policy", policy, report.policy_energy),
        ("dense", dense, report.dense_energy),
    ):
        picojoules = energy.arithmetic, energy.model_reads + energy.activations, energy.total
        table.add_row(
            name,
            f"{counts.macs:,}",
            f"{counts.weight_bytes:,} B",
            f"{counts.index_bytes:,} B",
            *(f"{value / size:,.1f} {unit}" for value in picojoules),
        )
    table.caption = (
        f"{report.energy_ratio:,.1f} times less than {report.dense} in float32, counted with the energies of {SOURCE}; "
        f"models in {report.policy_energy.model_memory} and {report.dense_energy.model_memory}. Of the policy's "
        f"{policy.dense_macs:,} multiply-adds {policy.nonzero_macs:,} are nonzero. Joules: {report.meter}."
    )
    return table


def target_table(reports: Sequence[TargetReport]) -> Table:
    """What one policy takes on each target, and how many of its actions are not the reference's."""
    table = _table("", *(report.target for report in reports))

    def row(label: str, value: Callable[[TargetReport], float]) -> None:
        table.add_row(label, *(f"{value(report):,.0f}" for report in reports))

    row("observations run", lambda r: r.observations)
    row("answers that differ from the reference", lambda r: r.differing)
    table.add_section()
    row("flash, bytes", lambda r: r.footprint.flash)
    row("  constants of the policy", lambda r: r.footprint.constants)
    row("  engine", lambda r: r.footprint.code)
    row("  libraries", lambda r: r.footprint.library)
    row("RAM, bytes", lambda r: r.ram)
    row("  work memory and other static data", lambda r: r.footprint.data)
    row("  stack", lambda r: r.stack)
    row("  an observation and its answer", lambda r: r.buffers)
    table.add_section()
    row("instructions an action", lambda r: r.instructions)
    row("  at most", lambda r: r.most_instructions)
    if any(report.start_instructions > 2 * report.tick_instructions for report in reports):
        row("  once, at the start", lambda r: r.start_instructions)
    machines = ", ".join(dict.fromkeys(report.machine for report in reports))
    emulator = reports[0].emulator.split(" (")[0]
    table.caption = f"{reports[0].compiler}\n{emulator}: {machines}\ninstructions are not cycles"
    return table


def avr_table(report: AvrReport) -> Table:
    """What one policy takes on an AVR, and how many of its sums are not the reference's."""
    table = _table("", f"avr ({report.mcu})")
    table.add_row("observations run", f"{report.observations:,}")
    table.add_row("answers that differ from the reference", f"{report.differing:,}")
    table.add_section()
    table.add_row("flash, bytes", f"{report.flash:,}")
    table.add_row("RAM, bytes", f"{report.ram:,}")
    table.add_row("  work memory, structures and other static data", f"{report.data:,}")
    table.add_row("  stack", f"{report.stack:,}")
    table.add_row("  codes and sums", f"{report.buffers:,}")
    table.add_section()
    table.add_row("cycles an action", f"{report.cycles:,.0f}")
    table.add_row("  milliseconds at 16 MHz", f"{report.milliseconds:,.2f}")
    table.caption = f"{report.compiler}, {report.options}; {report.emulator}\nwithout floats: codes to sums"
    return table


def resource_report(policy: Policy, path: Path, rows: Sequence[Resources]) -> str:
    """Markdown for a design document: what the policy in ``path`` is, and what it takes of each target."""
    contract = [f"| {key} | {value} |" for key, value in contract_rows(policy).items()]
    lines = [f"Resources of `{path.name}`", "", "| | |", "|---|---|", *contract, ""]
    lines.append(
        "| processor | options | form | flash | RAM | static | stack | buffers | unit | mean of an action | at most |"
        " answers that differ |"
    )
    lines.append("|---|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|")
    for row in rows:
        sizes = (row.flash, row.ram, row.data, row.stack, row.buffers)
        counts = (row.unit, f"{row.count:,.0f}", "" if row.most is None else f"{row.most:,.0f}")
        cells = (row.target, f"`{row.options}`", row.form, *(f"{size:,}" for size in sizes), *counts)
        lines.append(f"| {' | '.join(cells)} | {row.differing} of {row.observations:,} |")
    tools = ", ".join(dict.fromkeys(tool for row in rows for tool in row.tools))
    lines += [
        "",
        "Flash: constants, engine and routines of the compiler's library, in bytes. RAM, in bytes: static data, the"
        " deepest stack, and one observation and action of the caller; interrupts need stack of their own. Emulated:"
        f" instructions are not cycles. By {tools}.",
    ]
    return "\n".join(lines)


_NAME_WIDTH = 15  # of a network, beside seven columns of large numbers


def layer_names(report: SizeReport) -> list[str]:
    """The layers' titles with their units, "hidden 2 (256)"; what they are called in the framework that trained them
    stands in the JSON."""
    titles = layer_titles([layer.kind == "conv" for layer in report.layers])
    return [f"{title} ({layer.trained_shape[0]})" for title, layer in zip(titles, report.layers, strict=True)]


def _folded(network: str) -> str:
    """A network's widths in lines that fit, broken between widths."""
    lines = [""]
    for part in re.findall("[^-]+-?", network):
        if lines[-1] and len(lines[-1] + part) > _NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def grid_table(study: Study) -> Table:
    """The runs of a study that were not done yet: how many of each, seeds together."""
    from policypress.studies.cells import SEED, common, shown

    table = _table("identity", "run", "seeds")
    groups: dict[str, list[Any]] = {}
    same = common(study.cells)
    for cell in study.cells:
        name = f"{cell.kind}: {shown(cell.settings, same | {SEED})}"
        groups.setdefault(name, []).append(cell)
    for name, cells in groups.items():
        table.add_row(cells[0].identity, escape(name), ", ".join(str(cell.seed) for cell in cells))
    table.columns[1].justify = "left"
    every = shown(study.cells[0].settings, frozenset(study.cells[0].settings) - same)
    table.caption = escape(f"{study.title}: {len(study.cells)} runs, {len(groups)} cells; all: {every}")
    return table


def study_table(standing: StudyStanding) -> Table:
    """How far a study is."""
    table = _table(escape(standing.title), "")
    for name in ("done", "failed", "running", "waiting"):
        table.add_row(name, f"{getattr(standing, name):,} of {standing.total:,}")
    table.add_section()
    table.add_row("runs an hour", f"{standing.per_hour:,.1f}")
    if standing.running or standing.waiting:
        table.add_row("time left", _time_left(standing))
        table.add_row("drivers at work", str(standing.drivers))
    return table


def running_table(standing: StudyStanding) -> Table:
    """What is being done at the moment."""
    table = _table("running", "for", "step", "return")
    for run in standing.now:
        step = "" if run.step is None else f"{run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
        figure = "" if run.figure is None else f"{run.figure:,.1f}"
        table.add_row(escape(run.name), _clock(run.seconds), step, figure)
    return table


def study_line(standing: StudyStanding) -> str:
    """Where a study stands, in a line."""
    failed = f", {standing.failed} failed" if standing.failed else ""
    return (
        f"{standing.done} of {standing.total} runs{failed} · {standing.running} running · "
        f"{standing.per_hour:.1f} an hour · left {_time_left(standing)}"
    )


def _time_left(standing: StudyStanding) -> str:
    if standing.seconds_left is None:
        return "not known before a run is done"
    hours, seconds = divmod(int(standing.seconds_left), 3600)
    return f"{hours} h {seconds // 60:02} min" if hours else _clock(seconds)


def failures(runs: Sequence[Run], same: frozenset[str]) -> str:
    """Why runs failed, with the end of what each said; "" if none did."""
    from policypress.studies.cells import shown

    return "\n\n".join(f"{run.id} failed ({shown(run.cell.settings, same)}):\n{run.error}" for run in runs)


def cell_table(cells: Sequence[CellFigures], same: frozenset[str]) -> Table:
    """Returns of cells over their seeds; what is kept of the baseline's or the agent's."""
    from policypress.studies.cells import shown

    table = _table("cell", "seeds", "return", "kept", "P(better)", "payload")
    for cell in cells:
        name = shown({**cell.task, **cell.method}, same)
        table.add_row(
            escape(name or cell.kind) + (" (baseline)" if cell.baseline else ""),
            str(len(cell.seeds)),
            _limits(cell.mean, ",.1f"),
            _limits(cell.kept, ".1%"),
            _limits(cell.improves, ".2f"),
            f"{cell.payload_bytes:,.0f} B",
        )
    table.caption = (
        "return: mean over seeds of the mean over episodes, 95 % bootstrap interval over seeds; kept: of the mean of "
        "the baseline's runs of the same seeds, or of the agent's; P(better): that a run returns more than the "
        "baseline's"
    )
    return table


def method_table(methods: Sequence[MethodFigures], same: frozenset[str]) -> Table:
    """Normalized scores of methods over all tasks."""
    from policypress.studies.cells import shown

    table = _table("method", "tasks", "runs", "IQM", "mean", "P(better)", "payload")
    for method in methods:
        table.add_row(
            escape(shown(method.method, same) or method.kind),
            str(method.tasks),
            str(method.runs),
            _limits(method.iqm, ".3f"),
            _limits(method.mean, ".3f"),
            _limits(method.improves, ".2f"),
            f"{method.payload_bytes:,.0f} B",
        )
    table.caption = (
        "normalized scores, 1 is the baseline's mean, or what normalize of the study's file says; IQM: interquartile "
        "mean of all runs of all tasks; intervals: 95 %, stratified bootstrap (Agarwal et al. 2021)"
    )
    return table


def _limits(estimate: Estimate | None, how: str) -> str:
    return "" if estimate is None else f"{estimate.value:{how}}\n[{estimate.low:{how}}, {estimate.high:{how}}]"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table
