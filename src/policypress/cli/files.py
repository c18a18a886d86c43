"""The verbs on a policy's file: ``policypress info``, ``evaluate``, ``bench``, ``pack``, ``export`` and ``verify``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policypress.cli import texts
from policypress.cli.live import bars
from policypress.cli.options import ENV, Fields, options
from policypress.cli.terminal import JsonOption, app, fail, print_files, print_json, say, stderr, stdout
from policypress.config import Environment, Opening, Zipped
from policypress.errors import ConfigError, PolicypressError
from policypress.export import FORMATS
from policypress.extras import require
from policypress.files import is_zipped

if TYPE_CHECKING:
    from policypress.export.c_resources import Resources
    from policypress.importers.formats import Asked
    from policypress.policy.policy import Policy

PolicyArgument = Annotated[
    Path,
    typer.Argument(help="A .policy file; an agent's zip; or a file of another framework, whose layers are understood."),
]
SeedOption = Annotated[int, typer.Option(help="Random seed.")]


@app.command()
@options(opening=Fields(Opening), zipped=Fields(Zipped))
def info(
    policy: Annotated[Path, typer.Argument(help="A .policy file, an agent's zip, or a file of another framework.")],
    opening: dict[str, Any],
    zipped: dict[str, Any],
    env: Annotated[str | None, typer.Option(help="Of an agent's zip: its environment, which it must fit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a policy takes and gives, and where its bytes are; of a file of another framework, whether its layers
    are understood, and if not, the first operation that is not."""
    import policypress
    from policypress.export.c import flash_bytes
    from policypress.importers.formats import format_of, open_file
    from policypress.policy.description import contract_rows
    from policypress.tables import byte_table, contract_table, layer_table, opened_table

    _is_agent(policy, opening, zipped if env is None else {**zipped, "env": env})
    asked = _asked(policy, opening)
    opened = open_file(asked) if asked.format or format_of(policy) else None
    if opened is not None and opened.policy is None:
        if as_json:
            print_json(opened.as_dict())
        else:
            stdout.print(opened_table(opened))
        return
    if opened is not None and opened.policy is not None:
        loaded = opened.policy
    else:
        loaded = policy_in(policy, opening, zipped, None if env is None else Environment(env))
    report, flash = policypress.size(loaded), flash_bytes(loaded)
    disk = sum(file.stat().st_size for file in (opened.files if opened is not None else (policy,)))
    if as_json:
        found = {
            **({} if opened is None else opened.as_dict()),
            "contract": contract_rows(loaded),
            "numerics": loaded.numerics,
            "size": {**report.as_dict(), "disk_bytes": disk, "flash_bytes": flash},
            "provenance": loaded.provenance,
            "results": loaded.results,
        }
        print_json(found)
    else:
        if opened is not None:
            stdout.print(opened_table(opened))
        stdout.print(contract_table(loaded), layer_table(report), byte_table(report, disk, flash))


@app.command()
@options(environment=Fields(Environment), opening=Fields(Opening), zipped=Fields(Zipped))
def evaluate(
    policies: Annotated[
        list[Path],
        typer.Argument(
            metavar="POLICY...",
            help="A .policy file, an agent's zip, or a file of another framework; several with --robustness.",
        ),
    ],
    environment: dict[str, Any],
    opening: dict[str, Any],
    zipped: dict[str, Any],
    env: Annotated[
        str | None, typer.Option(help=ENV + " Default: the one of the training, with its settings and wrappers.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Number of episodes. Default: 20; at each level of --robustness 100.", min=2)
    ] = None,
    seed: Annotated[int, typer.Option(help="Episode i starts from reset(seed=seed+i).")] = 1000,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness", help="Also under disturbances: sensors, actuators, dynamics, flipped bits, adversaries."
        ),
    ] = False,
    kinds: Annotated[
        str | None,
        typer.Option(help="Of --robustness: names with commas, for example noise,flash; a wrong one shows them all."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Of --robustness: a folder for JSON, CSV and curves, where the same command goes on."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a policy in its environment: mean return, 95 % interval, worst tenth, early ends, every episode; with
    --robustness also what disturbances leave of the return, of several policies side by side."""
    from policypress.importers.formats import format_of
    from policypress.rl.evaluate import evaluate as run
    from policypress.tables import evaluation_table

    if environment and env is None:
        raise ConfigError("say which environment --env-kwargs, --wrapper or --frame-stack belong to: add --env.")
    described = None if env is None else Environment(env, **environment)
    if robustness:
        _evaluate_disturbed(policies, described, opening, zipped, kinds, episodes or 100, seed, out, as_json)
        return
    if kinds is not None or out is not None:
        raise ConfigError("kinds and out are of disturbances: add --robustness.")
    if len(policies) > 1:
        raise ConfigError("several policies are compared under disturbances: add --robustness, or give one.")
    (policy,), episodes = policies, episodes or 20
    _is_agent(policy, opening, zipped)
    if opening.get("format") or format_of(policy) is not None:
        if described is None:
            raise ConfigError(f"{policy} does not say where it was trained: add --env.")
        from policypress.rl.imported import evaluate_file

        result = evaluate_file(policy, Opening(**opening), described, episodes=episodes, seed=seed)
    else:
        with bars("episodes") as advance:
            result = run(
                policy_in(policy, opening, zipped, described),
                described,
                episodes=episodes,
                seed=seed,
                progress=lambda done, of: advance("episodes", done, of, None),
            )
    if as_json:
        print_json(result.as_dict())
    else:
        stdout.print(evaluation_table(result))


def _evaluate_disturbed(
    paths: list[Path],
    env: Environment | None,
    opening: dict[str, Any],
    zipped: dict[str, Any],
    kinds: str | None,
    episodes: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from importlib.util import find_spec

    from policypress.robustness.kinds import kinds_named
    from policypress.robustness.picture import plot_robustness
    from policypress.robustness.run import PICTURE, RESULT, TABLE
    from policypress.robustness.run import robustness as run
    from policypress.tables import robustness_tables

    named = None if kinds is None else kinds_named(kinds)
    agents = [_is_agent(path, opening, {}) for path in paths]
    if not any(agents):
        _is_agent(paths[0], opening, zipped)  # says which options there are of zips
    found = [policy_in(path, opening, zipped if agent else {}, env) for path, agent in zip(paths, agents, strict=True)]
    policies = dict(zip(names_of(paths), found, strict=True))
    try:
        with bars("return") as advance:
            result = run(
                policies,
                env,
                kinds=named,
                episodes=episodes,
                seed=seed,
                out=out,
                progress=lambda done, of, mean: advance("episodes", done, of, mean),
            )
    except KeyboardInterrupt:
        say("interrupted" + ("; the same command goes on." if out is not None else "."))
        raise typer.Exit(130) from None
    for name, reasons in result["left_out"].items():
        for reason in reasons.values():
            say(f"{name}: {reason}: left out.")
    written = [] if out is None else [out / RESULT, out / TABLE]
    if out is not None and find_spec("matplotlib"):
        plot_robustness(result, out / PICTURE)
        written.append(out / PICTURE)
    if as_json:
        print_json(result)
        return
    for table in robustness_tables(result):
        stdout.print(table)
    for path in written:
        print_files(str(path))


def names_of(paths: list[Path]) -> list[str]:
    """A name for each file, from as few folders above it as tell them apart; "policy" and what ends a file are left
    out."""
    parts = [[*path.parts[:-1], *([path.stem] if path.stem != "policy" else [])] for path in paths]
    for count in range(1, max(map(len, parts)) + 2):
        names = ["/".join(part[-count:]) or path.stem for part, path in zip(parts, paths, strict=True)]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"{paths[0]} and other files are told apart by their ends alone, or given twice: rename one.")


@app.command()
@options(opening=Fields(Opening), zipped=Fields(Zipped))
def bench(
    policy: PolicyArgument,
    opening: dict[str, Any],
    zipped: dict[str, Any],
    against: Annotated[
        str | None,
        typer.Option(
            help="Hidden widths of the dense float32 network that peers run, for example 256,256. "
            "Default: those that the policy's file tells."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Observations of a batch.")] = 256,
    seconds: Annotated[float, typer.Option(help="Length of the whole run.")] = 10.0,
    peers: Annotated[
        str,
        typer.Option(help="all, or names with commas: sb3, torch, ort; a wrong one shows them all."),
    ] = "all",
    chart: Annotated[Path | None, typer.Option(help="Draw the comparison to this PNG.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead, flash, RAM and instructions on an emulated microcontroller, checked bit for bit: "
            "cortex-m0, cortex-m3, cortex-m4, cortex-m55, or avr, without floats there. May be given more than once."
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Of targets: a report in Markdown, compiled with -O2 and with -Os.")
    ] = False,
    seed: SeedOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Time a policy against its peers: latency, throughput, bytes, energy; all in one run, in turns."""
    if target:
        _bench_targets(policy_in(policy, opening, zipped), policy, target, as_json, markdown)
        return
    if markdown:
        raise ConfigError("markdown is a report on targets: add --target.")
    from policypress.measure.bench import BenchConfig, plot
    from policypress.measure.bench import bench as run
    from policypress.measure.peers import named
    from policypress.tables import bench_notes, bench_table, energy_table

    config = BenchConfig(
        against=() if against is None else texts.widths(against, "against"),
        batch=batch,
        seconds=seconds,
        peers=() if peers == "all" else named(peers),
        seed=seed,
    )
    if chart is not None:
        import matplotlib  # noqa: F401  (missing is better known before than after)

        if not chart.parent.is_dir():
            raise PolicypressError(f"Cannot write {chart}: there is no folder {chart.parent}.")
    loaded = policy_in(policy, opening, zipped)
    # No bar: a thread that draws would disturb what is timed.
    stderr.print(f"timing for about {seconds:g} s")
    report = run(loaded, config)
    if chart is not None:
        plot(report, chart)
    if as_json:
        print_json(report.as_dict())
    else:
        stdout.print(bench_table(report), energy_table(report))
        stdout.print(bench_notes(report), markup=False)


@app.command()
@options(opening=Fields(Opening), zipped=Fields(Zipped))
def pack(
    policy: PolicyArgument,
    opening: dict[str, Any],
    zipped: dict[str, Any],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    payload_only: Annotated[
        bool, typer.Option("--payload-only", help="Write the bare payload, which load does not open by itself.")
    ] = False,
) -> None:
    """Write a policy as small as it gets: payload and contract alone, without names, provenance and test vectors."""
    from policypress.policy.artifact import encode_payload, write
    from policypress.policy.artifact import pack as packed
    from policypress.policy.canonical import canonical

    loaded = canonical(policy_in(policy, opening, zipped))
    payload = encode_payload(loaded)
    data = payload if payload_only else packed(loaded)
    write(data, out)
    frame = "" if payload_only else f", of which {len(payload):,} are the payload"
    print_files(f"{out}  {len(data):,} bytes{frame}")


@app.command()
@options(opening=Fields(Opening), zipped=Fields(Zipped))
def export(
    policy: PolicyArgument,
    opening: dict[str, Any],
    zipped: dict[str, Any],
    to: Annotated[str, typer.Option(help=f"Format: {' or '.join(FORMATS)}.")],
    out: Annotated[Path, typer.Option(help="The file to write; for c the folder.")],
    style: Annotated[
        str | None,
        typer.Option(
            help="Of onnx: exact (default), every integer as in the policy; qdq, for accelerators. Of tflite: int8 "
            "(default) or int16 activations."
        ),
    ] = None,
    ends: Annotated[
        str | None,
        typer.Option(help="Of tflite: float (default), observation to action; integer, codes of the input to codes."),
    ] = None,
    observation: Annotated[
        str | None,
        typer.Option(
            help="Of onnx and c: float32 for a policy that takes float64; of c also int16. Default: the policy's dtype."
        ),
    ] = None,
    observation_scale: Annotated[
        str | None,
        typer.Option(
            help="Of int16: what code 1 is worth, a number for every input with commas between, or one for all. "
            "Default: the codes span what the policy tells apart."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of c: what all names begin with. Default: from the policy's file or its folder.")
    ] = None,
    integer_only: Annotated[
        bool | None, typer.Option("--integer-only", help="Of c: codes in, sums out, no float operation.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Of c: auto, dense, packed, sparse, quarters or payload. Default: auto, the fewest bytes."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Of c: say in the header what it takes of a Cortex-M0, M3 and M4 (and, with --integer-only, an AVR), "
            "with -O2 and -Os, measured in emulators; some 10 s.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random observations that it is checked with.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a policy in another format, after checking that it answers as the policy does."""
    from policypress.export import export as run
    from policypress.export import name_of, options_of
    from policypress.tables import export_table

    given: dict[str, Any] = {
        "style": style, "ends": ends, "observation": observation, "name": name, "integer_only": integer_only,
        "weights": weights,
        "observation_scale": observation_scale and texts.numbers(observation_scale, "observation_scale"),
    }  # fmt: skip
    wanted = {option: value for option, value in given.items() if value is not None} | {"seed": seed}
    loaded = policy_in(policy, opening, zipped)
    if name is None and "name" in options_of(to):
        wanted["name"] = name_of(loaded, policy.name, policy.resolve().parent.name, out.name)
    if measure:
        wanted["measure"] = _measured(loaded, to, wanted)
    report = run(loaded, out, to, **wanted)
    if as_json:
        print_json(report.as_dict())
    else:
        stdout.print(export_table(report))
        print_files(f"{to}  {out}")


@app.command()
@options(opening=Fields(Opening), zipped=Fields(Zipped))
def verify(
    policy: PolicyArgument,
    opening: dict[str, Any],
    zipped: dict[str, Any],
    vectors: Annotated[int, typer.Option(help="Observations to compare, at most.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare every engine with the reference: native, portable, compiled C, ONNX Runtime, LiteRT."""
    from policypress.export.verify import verify as run
    from policypress.tables import verification_table

    result = run(policy_in(policy, opening, zipped), vectors, seed)
    if as_json:
        print_json(result.as_dict())
    else:
        stdout.print(verification_table(result))
    if not result.holds:
        fail("an engine does not answer as the reference does.")


def _measured(loaded: Policy, to: str, wanted: dict[str, Any]) -> tuple[Resources, ...] | str:
    """What an export to C as ``wanted`` takes of processors, or why that is not known."""
    from policypress.export import options_of
    from policypress.measure.targets import TARGETS, missing_tools, resources

    if "measure" not in options_of(to):
        raise ConfigError(f"measure is not an option of the format {to}: leave it out.")
    settings = ("integer_only", "weights", "observation", "observation_scale")
    targets = [target for target in TARGETS if target != "avr" or wanted.get("integer_only")]
    missing = missing_tools(targets)
    if missing:
        return f"not measured: {' and '.join(missing)} not found"
    return resources(loaded, targets, **{key: wanted[key] for key in settings if key in wanted})


def _asked(path: Path, opening: dict[str, Any]) -> Asked:
    from policypress.importers.formats import Asked

    return Asked(path, **opening)


def policy_in(path: Path, opening: dict[str, Any], zipped: dict[str, Any], env: Environment | None = None) -> Policy:
    """The policy in a file, in float32 where it is an agent's or another framework's."""
    if not _is_agent(path, opening, zipped):
        from policypress.importers.formats import load_policy

        return load_policy(_asked(path, opening))
    require("train")
    from policypress.rl.formats import open_agent
    from policypress.rl.sources import Source

    statistics = zipped.get("vecnormalize")
    source = Source(
        path,
        None if statistics is None else Path(statistics),
        zipped.get("trust", False),
        zipped.get("force", False),
        Opening(**opening),
    )
    return open_agent(source, zipped.get("algo"), env).teacher.policy()


def _is_agent(path: Path, opening: dict[str, Any], zipped: dict[str, Any]) -> bool:
    """Whether a file is the zip of an agent; ConfigError where it is none and has options of one."""
    from policypress.importers.formats import format_of

    if path.is_file() and is_zipped(path) and not opening.get("format") and format_of(path) is None:
        return True
    if zipped:
        raise ConfigError(f"--{next(iter(zipped))} is of the zip of an agent, and {path} is none: leave it out.")
    return False


def _bench_targets(loaded: Policy, path: Path, targets: list[str], as_json: bool, markdown: bool) -> None:
    from policypress.measure.avr import AvrReport
    from policypress.measure.microcontroller import TargetReport
    from policypress.measure.targets import measure, resources
    from policypress.tables import avr_table, resource_report, target_table

    if markdown:
        rows = resources(loaded, targets)
        wrong = any(row.differing for row in rows)
        if as_json:
            print_json([dataclasses.asdict(row) for row in rows])
        else:
            print_files(resource_report(loaded, path, rows))
    else:
        reports = [measure(loaded, target) for target in targets]
        wrong = any(report.differing for report in reports)
        if as_json:
            print_json([report.as_dict() for report in reports])
        else:
            cores = [report for report in reports if isinstance(report, TargetReport)]
            if cores:
                stdout.print(target_table(cores))
            for report in reports:
                if isinstance(report, AvrReport):
                    stdout.print(avr_table(report))
    if wrong:
        fail("an action differs from the reference's.")
