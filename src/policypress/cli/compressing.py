"""``policypress compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from policypress.algorithms import ALGORITHMS
from policypress.cli import texts
from policypress.cli.live import bars, resumable, standing
from policypress.cli.options import ENV, Fields, options
from policypress.cli.terminal import JsonOption, app, fail, print_files, print_json, stderr, stdout
from policypress.config import (
    SEARCH,
    SEARCH_EPISODES,
    CompressionConfig,
    DistillConfig,
    Environment,
    Hidden,
    Opening,
    PressConfig,
)
from policypress.errors import ConfigError
from policypress.extras import require

_SEARCH_MINUTES = 10.0
_WHILE_TRAINED = ("pruning", "critic_sparsity", "schedule", "prune_start", "prune_end", "quantize_start")
# What is shown as it works, where it is not the loss.
_FIGURE = {"finetune": ("return", ".1f"), "evolve": ("return", ".1f")}
# What `plan_pressing` takes instead of the fields' own defaults.
_STUDENT = {
    "hidden": "auto, a tenth of the agent's; 16 behind a memory; none, with --method evolve; else the agent's own",
    "memory": "none; gru:16 where the agent itself remembers",
    "batches": "100000; 20000 where something is remembered",
    "batch_size": "256; 768 where something is remembered",
    "states": "100000; 200000 where something is remembered",
    "learning_rate": "0.003; 0.001 for the agent's own network, images",
}
_PRESSING = {
    "minutes": f"{_SEARCH_MINUTES:g} with --keep or --bytes",
    "episodes": f"50; {SEARCH_EPISODES} with --keep or --bytes",
}
_COMPRESSION = {
    "weight_bits": "8",
    "weight_range": "learned of a narrow student, else mse",
    "rate_weight": "0.005 of a narrow student",
    "criterion": "flow of a student, else magnitude",
    "prune_start": "0 of a student, else 0.2",
    "prune_end": "0.5 of a student, else 0.8",
    "quantize_start": "0.1 of a student, 0.6 with --sparsity, else 0.85",
}


def _hidden_or_auto(text: str, name: str) -> Hidden | Literal["auto"]:
    return "auto" if text == "auto" else texts.hidden(text, name)


@app.command()
@options(
    student=Fields(DistillConfig, defaults=_STUDENT, parsers={"hidden": _hidden_or_auto}),
    compression=Fields(CompressionConfig, without=("keep_return",), defaults=_COMPRESSION),
    pressing=Fields(PressConfig, defaults=_PRESSING),
    environment=Fields(Environment),
    opening=Fields(Opening),
)
def compress(
    agent: Annotated[
        Path, typer.Argument(help="The trained agent's file, as its framework saved it; or package.module:function.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; made if missing.")],
    student: dict[str, Any],
    compression: dict[str, Any],
    pressing: dict[str, Any],
    environment: dict[str, Any],
    opening: dict[str, Any],
    env: Annotated[str | None, typer.Option(help=ENV)] = None,
    observations: Annotated[
        Path | None,
        typer.Option(
            help="In place of --env a log of raw observations, .npz, .npy, .csv, .parquet or .h5: no return is told, "
            "but agreement on held-out episodes."
        ),
    ] = None,
    algo: Annotated[
        str | None,
        typer.Option(
            help=f"Algorithm of Stable-Baselines3 that trained it: {', '.join(ALGORITHMS)}. Default: as its file says."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=SEARCH, help="Policies pressed at once, or processes that play. Default: one a core."
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option(rich_help_panel=SEARCH, help="Where: local, in processes here; ray, on a cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(rich_help_panel=SEARCH, help="Of the Ray cluster. Default: one is started here."),
    ] = None,
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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Press an agent that is already trained: a small student learns to act as it does, in minutes."""
    require("train")
    from policypress.rl.formats import open_agent
    from policypress.rl.logs import on_log
    from policypress.rl.plan import plan_pressing
    from policypress.rl.press import press
    from policypress.rl.search import search
    from policypress.rl.sources import Source
    from policypress.tables import candidate_line, compress_table, missed

    method = pressing.pop("method", "distill")
    if method == "ptq" and (useless := [name for name in _WHILE_TRAINED if name in compression]):
        raise ConfigError(f"{useless[0]} is of training, and --method ptq does without: leave it out.")
    if pressing.get("keep") or pressing.get("bytes"):
        pressing.setdefault("minutes", _SEARCH_MINUTES)
    elif on != "local" or address is not None:
        raise ConfigError("--on and --address are of a search: say what it must keep, --keep 0.95, or --bytes 128.")
    if (env is None) == (observations is None):
        raise ConfigError("say where the agent's observations come from: --env, or a log with --observations.")
    if environment and env is None:
        raise ConfigError("--env-kwargs, --wrapper and --frame-stack belong to an environment: add --env.")
    place = None if env is None else Environment(env, **environment)
    opened = open_agent(Source(agent, vecnormalize, trust, force, Opening(**opening)), algo, place)
    if observations is not None:
        opened = on_log(opened, observations)
    config = plan_pressing(
        opened,
        method=method,
        hidden=student.pop("hidden", None),
        compression=compression,
        student=student,
        settings=pressing,
    )
    with resumable():
        if not config.searches:
            with bars(*_FIGURE.get(config.method, ("loss", "#.3g"))) as advance:
                result = press(
                    opened,
                    config,
                    out,
                    resume=resume,
                    jobs=jobs,
                    progress=lambda done, of, figure: advance(config.method, done, of, figure),
                )
        else:
            with standing() as watch:
                result = search(
                    opened,
                    config,
                    out,
                    resume=resume,
                    jobs=jobs,
                    on=on,
                    address=address,
                    report=lambda candidate, best: stderr.print(
                        candidate_line(candidate, best), markup=False, soft_wrap=True
                    ),
                    watch=watch,
                )
    if as_json:
        print_json(result)
    else:
        stdout.print(compress_table(result))
        print_files(f"policy  {out / 'policy.policy'}")
    if not result.get("reached", True):
        fail(f"{missed(result)}; this is the closest: --resume with more --minutes, or ask for less.")
