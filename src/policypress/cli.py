"""The command line: one subcommand a verb, each a single call into the API."""

from __future__ import annotations

import ast
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from policypress import __version__
from policypress.config import ALGORITHMS, TRAINED
from policypress.errors import ConfigError, PolicypressError
from policypress.extras import missing, require

if TYPE_CHECKING:
    from policypress.rl.search import Standing

app = typer.Typer(
    help="Press a reinforcement-learning policy until it fits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

_SEARCH_MINUTES = 10.0
_STUDENT, _SEARCH, _METHODS = "The student", "Search for the smallest policy", "Other methods"
_ALGORITHMS = f"Algorithm that trained it: {', '.join(ALGORITHMS)}."
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
SeedOption = Annotated[int, typer.Option(help="Random seed.")]
_ENV = "Gymnasium id, for example HalfCheetah-v5 or module:Env-v0; or a class or function that makes one, module:name."
_ENV_PANEL = "The environment"
EnvKwargsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env-kwargs",
        rich_help_panel=_ENV_PANEL,
        help="What the environment is made with, NAME:VALUE, for example use_contact_forces:True; repeat.",
    ),
]
WrapperOption = Annotated[
    list[str] | None,
    typer.Option(
        "--wrapper",
        rich_help_panel=_ENV_PANEL,
        help="Wrapper around it, module:Class or 'module:Class(name=value)'; repeat, the innermost first.",
    ),
]
FrameStackOption = Annotated[
    int | None,
    typer.Option(rich_help_panel=_ENV_PANEL, help="Observations joined as VecFrameStack joins them. Default: 1."),
]


def main() -> None:
    """Entry point: errors on purpose become one sentence on standard error and exit code 2, warnings one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            app()
    except PolicypressError as error:
        _err.print(f"policypress: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        _err.print(f"policypress: {missing(error.name or '')}", markup=False, soft_wrap=True)
        sys.exit(2)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    _err.print(f"policypress: warning: {message}", markup=False, soft_wrap=True)


def _tell_version(asked: bool) -> None:
    if asked:
        _out.print(f"policypress {__version__}")
        raise typer.Exit


@app.callback()
def _verbs(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Press a reinforcement-learning policy until it fits."""


@app.command()
def train(
    algo: Annotated[str, typer.Option(help=f"Algorithm: {', '.join(TRAINED)}.")],
    env: Annotated[str, typer.Option(help=_ENV)],
    out: Annotated[Path, typer.Option(help="Folder of the run; made if missing.")],
    steps: Annotated[int | None, typer.Option(help="Nominal environment steps.")] = None,
    preset: Annotated[str, typer.Option(help="policypress, or ivanov2025: the paper's protocol.")] = "policypress",
    sparsity: Annotated[float | None, typer.Option(help="Fraction of weights that end as zero.")] = None,
    weight_bits: Annotated[
        int | None, typer.Option(help="2 to 8; 32: none. Default: 8 if --sparsity is given.")
    ] = None,
    activation_bits: Annotated[int | None, typer.Option(help="2 to 8; 0: float activations. Default: 8.")] = None,
    input_bits: Annotated[int | None, typer.Option(help="2 to 16. Default: 8.")] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the deployed network's hidden layers, for example 24,24.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="mlp; for images nature or resnet.")] = None,
    allocation: Annotated[str | None, typer.Option(help="erk, uniform, ivanov2025 or global. Default: erk.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cubic, linear, one-shot or constant. Default: cubic.")] = None,
    granularity: Annotated[
        str | None, typer.Option(help="Weight scales: auto, tensor or channel. Default: auto.")
    ] = None,
    prune_start: Annotated[float | None, typer.Option(help="Fraction of steps. Default: 0.2.")] = None,
    prune_end: Annotated[float | None, typer.Option(help="Fraction of steps. Default: 0.8.")] = None,
    quantize_start: Annotated[float | None, typer.Option(help="Fraction of steps. Default: 0.85.")] = None,
    env_kwargs: EnvKwargsOption = None,
    wrapper: WrapperOption = None,
    frame_stack: FrameStackOption = None,
    n_envs: Annotated[int | None, typer.Option(help="Environments stepped together. Default: 1.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations. Default: 20 in all.")] = None,
    eval_episodes: Annotated[int | None, typer.Option(help="Episodes an evaluation. Default: 10.")] = None,
    final_episodes: Annotated[int | None, typer.Option(help="Episodes of the last evaluation. Default: 50.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the algorithm, NAME=VALUE, for example learning_rate=1e-3; repeat."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: SeedOption = 1,
    compare: Annotated[str | None, typer.Option(help="dense: train the uncompressed baseline beside it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an agent whose policy comes out small; without compression options, a dense baseline."""
    require("train")
    from policypress.rl.compare import train_all
    from policypress.rl.plan import dense_baseline, plan

    if compare not in (None, "dense"):
        raise ConfigError(f"compare={compare!r} is not known: use --compare dense.")
    config = plan(
        algo,
        env,
        steps,
        preset=preset,
        compression=_given(
            sparsity=sparsity,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            input_bits=input_bits,
            allocation=allocation,
            schedule=schedule,
            granularity=granularity,
            prune_start=prune_start,
            prune_end=prune_end,
            quantize_start=quantize_start,
        ),
        training=_given(
            hidden=None if hidden is None else _widths(hidden),
            network=network,
            env_kwargs=_env_kwargs(env_kwargs),
            wrappers=wrapper,
            frame_stack=frame_stack,
            n_envs=n_envs,
            eval_every=eval_every,
            eval_episodes=eval_episodes,
            final_episodes=final_episodes,
            device=device,
            seed=seed,
        ),
        algo_kwargs=dict(_setting(text) for text in set_ or []),
    )
    runs = {"pressed" if compare else "agent": (config, out)}
    if compare:
        runs = {"dense": (dense_baseline(config), out / "dense"), **runs}
    try:
        with _bars("return") as advance:
            results = train_all(runs, resume=resume, progress=advance)
    except KeyboardInterrupt:
        _err.print("policypress: interrupted; go on with --resume.")
        raise typer.Exit(130) from None
    if as_json:
        _out.print_json(json.dumps(results))
        return
    _print_results(results, out)


@app.command()
def compress(
    agent: Annotated[Path, typer.Argument(help="The zip that Stable-Baselines3's save wrote.")],
    algo: Annotated[str, typer.Option(help=_ALGORITHMS)],
    env: Annotated[str, typer.Option(help=_ENV)],
    out: Annotated[Path, typer.Option(help="Folder of the run; made if missing.")],
    hidden: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_STUDENT,
            help="Widths of the student's last hidden layers, for example 24,24; auto: a tenth of the agent's. "
            "Default: auto; with --sparsity or another --method, the agent's own.",
        ),
    ] = None,
    rate_weight: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_STUDENT,
            help="Price of a bit beside the imitation; more gives a smaller payload. Default: 0.005 if narrow.",
        ),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(rich_help_panel=_STUDENT, help="Fraction of weights that end as zero.")
    ] = None,
    weight_bits: Annotated[
        int | None, typer.Option(rich_help_panel=_STUDENT, help="2 to 8; 32: none. Default: 8.")
    ] = None,
    activation_bits: Annotated[
        int | None, typer.Option(rich_help_panel=_STUDENT, help="2 to 8; 0: float activations. Default: 8.")
    ] = None,
    input_bits: Annotated[int | None, typer.Option(rich_help_panel=_STUDENT, help="2 to 16. Default: 8.")] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_SEARCH,
            help="Search for the smallest payload that keeps this share of the mean return: 0.95.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(rich_help_panel=_SEARCH, help="Time for --keep. Default: 10.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(rich_help_panel=_SEARCH, help="Students trained at once for --keep. Default: one a core."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            rich_help_panel=_METHODS, help="distill; ptq: no training, the baseline; finetune: train on, see --steps."
        ),
    ] = "distill",
    steps: Annotated[
        int | None, typer.Option(rich_help_panel=_METHODS, help="Environment steps of --method finetune.")
    ] = None,
    batches: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_STUDENT,
            help="Batches that a student learns from, at most: it stops when it has learned all. Default: 100000.",
        ),
    ] = None,
    states: Annotated[
        int | None, typer.Option(rich_help_panel=_STUDENT, help="Observations it learns from. Default: 100000.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_STUDENT,
            help="Of Adam, at first. Default: 0.003; 0.001 for the agent's own network, images.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(rich_help_panel=_STUDENT, help="Observations a batch. Default: 256.")
    ] = None,
    critic_weight: Annotated[
        float | None,
        typer.Option(rich_help_panel=_STUDENT, help="Weight of what the agent's critics say is lost. Default: 0."),
    ] = None,
    env_kwargs: EnvKwargsOption = None,
    wrapper: WrapperOption = None,
    frame_stack: FrameStackOption = None,
    vecnormalize: Annotated[
        Path | None, typer.Option(help="The file that VecNormalize.save wrote, if the agent was trained with it.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Press it although its file or its return say that statistics are missing."),
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open the agent by unpickling, which can run any code in it.")
    ] = False,
    episodes: Annotated[int | None, typer.Option(help="Episodes of a measurement. Default: 50.")] = None,
    seed: SeedOption = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Press an agent that is already trained: a small student learns to act as it does, in minutes."""
    require("train")
    from policypress.config import Environment
    from policypress.rl.compress import Source, plan, press
    from policypress.rl.search import search
    from policypress.tables import candidate_line, compress_table

    source = Source(agent, vecnormalize, trust, force)
    config = plan(
        source,
        algo,
        Environment(env, **_environment(env_kwargs, wrapper, frame_stack)),
        method=method,
        hidden="auto" if hidden == "auto" else None if hidden is None else _widths(hidden),
        compression=_given(
            sparsity=sparsity,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            input_bits=input_bits,
            rate_weight=rate_weight,
        ),
        student=_given(
            batches=batches,
            states=states,
            learning_rate=learning_rate,
            batch_size=batch_size,
            critic_weight=critic_weight,
            seed=seed,
        ),
        settings=_given(
            keep=keep, minutes=_SEARCH_MINUTES if keep and minutes is None else minutes, steps=steps, episodes=episodes
        ),
    )
    try:
        if not config.keep:
            with _bars("loss", "#.3g") as advance:
                result = press(
                    source, config, out, resume=resume, progress=lambda done, of, loss: advance(method, done, of, loss)
                )
        else:
            with _standing() as watch:
                result = search(
                    source,
                    config,
                    out,
                    resume=resume,
                    jobs=jobs,
                    report=lambda candidate, best: _err.print(
                        candidate_line(candidate, best), markup=False, soft_wrap=True
                    ),
                    watch=watch,
                )
    except KeyboardInterrupt:
        _err.print("policypress: interrupted; go on with --resume.")
        raise typer.Exit(130) from None
    if as_json:
        _out.print_json(json.dumps(result))
    else:
        _out.print(compress_table(result))
        _out.print(f"policy  {out / 'policy.policy'}", markup=False, soft_wrap=True)
    if not result.get("reached", True):
        _err.print(
            f"policypress: no student keeps {100 * config.keep:.3g} % of the mean return by the lower end of its "
            "interval; this is the closest: --resume with more --minutes, or keep less.",
            soft_wrap=True,
        )
        raise typer.Exit(1)


@app.command()
def info(policy: Annotated[Path, typer.Argument(help="A .policy file.")], as_json: JsonOption = False) -> None:
    """Show what a policy takes and gives, and where its bytes are."""
    import policypress
    from policypress.export.c import flash_bytes
    from policypress.policy.description import contract_rows
    from policypress.tables import byte_table, contract_table, layer_table

    loaded = policypress.load(policy)
    report, flash, disk = policypress.size(loaded), flash_bytes(loaded), policy.stat().st_size
    if as_json:
        found = {
            "contract": contract_rows(loaded),
            "numerics": loaded.numerics,
            "size": {**report.as_dict(), "disk_bytes": disk, "flash_bytes": flash},
            "provenance": loaded.provenance,
            "results": loaded.results,
        }
        _out.print_json(json.dumps(found))
    else:
        _out.print(contract_table(loaded), layer_table(report), byte_table(report, disk, flash))


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Argument(help="A .policy file.")],
    env: Annotated[
        str | None, typer.Option(help=_ENV + " Default: the one of the training, with its settings and wrappers.")
    ] = None,
    env_kwargs: EnvKwargsOption = None,
    wrapper: WrapperOption = None,
    frame_stack: FrameStackOption = None,
    episodes: Annotated[int, typer.Option(help="Number of episodes.", min=2)] = 20,
    seed: Annotated[int, typer.Option(help="Episode i starts from reset(seed=seed+i).")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Run a policy in its environment: mean return, 95 % interval, worst tenth, early ends, every episode."""
    import policypress
    from policypress.config import Environment
    from policypress.rl.evaluate import evaluate as run
    from policypress.tables import evaluation_table

    loaded = policypress.load(policy)
    made_of = _environment(env_kwargs, wrapper, frame_stack)
    if made_of and env is None:
        raise ConfigError("say which environment --env-kwargs, --wrapper or --frame-stack belong to: add --env.")
    with _bars("episodes") as advance:
        result = run(
            loaded,
            None if env is None else Environment(env, **made_of),
            episodes=episodes,
            seed=seed,
            progress=lambda done, of: advance("episodes", done, of, None),
        )
    if as_json:
        _out.print_json(json.dumps(result.as_dict()))
    else:
        _out.print(evaluation_table(result))


@app.command()
def bench(
    policy: Annotated[Path, typer.Argument(help="A .policy file.")],
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
            "cortex-m0, cortex-m3 or cortex-m4. May be given more than once."
        ),
    ] = None,
    seed: SeedOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Time a policy against its peers: latency, throughput, bytes, energy; all in one run, in turns."""
    if target:
        _bench_targets(policy, target, as_json)
        return
    import policypress
    from policypress.measure.bench import BenchConfig, plot
    from policypress.measure.bench import bench as run
    from policypress.measure.peers import named
    from policypress.tables import bench_notes, bench_table, energy_table

    config = BenchConfig(
        against=() if against is None else _widths(against, "against"),
        batch=batch,
        seconds=seconds,
        peers=() if peers == "all" else named(peers),
        seed=seed,
    )
    if chart is not None:
        import matplotlib  # noqa: F401  (missing is better known before than after)

        if not chart.parent.is_dir():
            raise PolicypressError(f"Cannot write {chart}: there is no folder {chart.parent}.")
    loaded = policypress.load(policy)
    # No bar: a thread that draws would disturb what is timed.
    _err.print(f"timing for about {seconds:g} s")
    report = run(loaded, config)
    if chart is not None:
        plot(report, chart)
    if as_json:
        _out.print_json(json.dumps(report.as_dict()))
    else:
        _out.print(bench_table(report), energy_table(report))
        _out.print(bench_notes(report), markup=False)


@app.command()
def pack(
    policy: Annotated[Path, typer.Argument(help="A .policy file.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    payload_only: Annotated[
        bool, typer.Option("--payload-only", help="Write the bare payload, which load does not open by itself.")
    ] = False,
) -> None:
    """Write a policy as small as it gets: payload and contract alone, without names, provenance and test vectors."""
    import policypress
    from policypress.policy.artifact import encode_payload, write
    from policypress.policy.artifact import pack as packed
    from policypress.policy.canonical import canonical

    loaded = canonical(policypress.load(policy))
    payload = encode_payload(loaded)
    data = payload if payload_only else packed(loaded)
    write(data, out)
    frame = "" if payload_only else f", of which {len(payload):,} are the payload"
    _out.print(f"{out}  {len(data):,} bytes{frame}", markup=False, soft_wrap=True)


@app.command()
def export(
    policy: Annotated[Path, typer.Argument(help="A .policy file.")],
    to: Annotated[str, typer.Option(help="Format: c or onnx.")],
    out: Annotated[Path, typer.Option(help="The file to write; for c the folder.")],
    style: Annotated[
        str | None,
        typer.Option(help="Of onnx: exact, every integer as in the policy; qdq, for accelerators. Default: exact."),
    ] = None,
    observation: Annotated[
        str | None, typer.Option(help="Of onnx: float32 for a policy that takes float64. Default: the policy's dtype.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of c: what all names begin with. Default: from the policy's file or its folder.")
    ] = None,
    integer_only: Annotated[
        bool | None, typer.Option("--integer-only", help="Of c: codes in, sums out, no float operation.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of c: auto, dense, packed, sparse or payload. Default: auto, the fewest bytes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random observations that it is checked with.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a policy in another format, after checking that it answers as the policy does."""
    import policypress
    from policypress.export import export as run
    from policypress.export import name_of
    from policypress.tables import export_table

    options = _given(
        style=style, observation=observation, name=name, integer_only=integer_only, weights=weights, seed=seed
    )
    loaded = policypress.load(policy)
    if to == "c" and name is None:
        options["name"] = name_of(loaded, policy.name, policy.resolve().parent.name, out.name)
    report = run(loaded, out, to, **options)
    if as_json:
        _out.print_json(json.dumps(report.as_dict()))
    else:
        _out.print(export_table(report))
        _out.print(f"{to}  {out}", markup=False, soft_wrap=True)


@app.command()
def verify(
    policy: Annotated[Path, typer.Argument(help="A .policy file.")],
    vectors: Annotated[int, typer.Option(help="Observations to compare, at most.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare every engine with the reference: native, portable, compiled C and ONNX Runtime."""
    import policypress
    from policypress.export.verify import verify as run
    from policypress.tables import verification_table

    result = run(policypress.load(policy), vectors, seed)
    if as_json:
        _out.print_json(json.dumps(result.as_dict()))
    else:
        _out.print(verification_table(result))
    if not result.holds:
        _err.print("policypress: an engine does not answer as the reference does.", soft_wrap=True)
        raise typer.Exit(1)


def _bench_targets(policy: Path, targets: list[str], as_json: bool) -> None:
    import policypress
    from policypress.measure.microcontroller import measure_on_target
    from policypress.tables import target_table

    loaded = policypress.load(policy)
    reports = [measure_on_target(loaded, target) for target in targets]
    if as_json:
        _out.print_json(json.dumps([report.as_dict() for report in reports]))
    else:
        _out.print(target_table(reports))
    if any(report.differing for report in reports):
        _err.print("policypress: an action differs from the reference's.", soft_wrap=True)
        raise typer.Exit(1)


def _print_results(results: dict[str, dict[str, Any]], out: Path) -> None:
    from policypress.tables import result_table

    _out.print(result_table(results))
    _out.print(f"policy  {out / 'policy.policy'}\ncurve   {out / 'curve.png'}", markup=False, soft_wrap=True)


@contextmanager
def _bars(unit: str, digits: str = ".1f") -> Iterator[Callable[[str, int, int, float | None], None]]:
    """Progress bars on standard error, one for each name, with time left and the latest value."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[latest]}"),
    )
    with Progress(*columns, console=_err) as progress:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int, latest: float | None) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total, latest="")
            shown = "" if latest is None else f"{unit} {latest:{digits}}"
            progress.update(tasks[name], completed=done, total=total, latest=shown)

        yield advance


@contextmanager
def _standing() -> Iterator[Callable[[Standing], None]]:
    """A live line on standard error that says where a search stands; where that is no terminal, a line whenever it
    turns to something else."""
    from policypress.tables import standing_line

    if _err.is_terminal:
        with _err.status("opening the agent") as status:
            yield lambda standing: status.update(standing_line(standing))
        return
    said: list[tuple[object, ...]] = [()]

    def say(standing: Standing) -> None:
        now = (standing.doing, standing.running, standing.finished)
        if now != said[-1]:
            said.append(now)
            _err.print(standing_line(standing), markup=False, soft_wrap=True)

    yield say


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _environment(env_kwargs: list[str] | None, wrapper: list[str] | None, frame_stack: int | None) -> dict[str, Any]:
    """What an Environment is made of besides its name, as far as it is given."""
    return _given(env_kwargs=_env_kwargs(env_kwargs), wrappers=wrapper, frame_stack=frame_stack)


def _env_kwargs(texts: list[str] | None) -> dict[str, Any] | None:
    """``NAME:VALUE`` as the RL Zoo writes them, values as Python does."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, colon, value = text.partition(":")
        try:
            if not (colon and name.isidentifier()):
                raise ValueError
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise ConfigError(
                f"--env-kwargs {text!r} cannot be read: write NAME:VALUE with a Python value, texts in quotes, for "
                'example "use_contact_forces:True".'
            ) from error
    return found or None


def _widths(text: str, name: str = "hidden") -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise ConfigError(f"{name}={text!r} must be widths with commas between, for example 24,24.") from None


def _setting(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not found:
        raise ConfigError(f"--set {text} has no value: write it as NAME=VALUE, for example learning_rate=1e-3.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
