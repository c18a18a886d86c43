"""``policypress train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policypress.algorithms import TRAINED
from policypress.cli import texts
from policypress.cli.live import bars, resumable
from policypress.cli.options import ENV, Fields, options
from policypress.cli.terminal import JsonOption, app, print_files, print_json, stdout
from policypress.config import CompressionConfig, Environment, TrainConfig, ValueConfig
from policypress.errors import ConfigError
from policypress.extras import require
from policypress.presets import AUTO, NAMES


def _number_or_auto(text: str, name: str) -> float | str:
    return text if text == AUTO else texts.number(text, name)


@app.command()
@options(
    training=Fields(TrainConfig, defaults={"network": "nature for images, else mlp"}),
    compression=Fields(
        CompressionConfig,
        defaults={"weight_bits": "8 if --sparsity is given, else 32"},
        parsers={"sparsity": _number_or_auto},
    ),
    values=Fields(ValueConfig),
    environment=Fields(Environment),
)
def train(
    algo: Annotated[str, typer.Option(help=f"Algorithm: {', '.join(TRAINED)}.")],
    env: Annotated[str, typer.Option(help=ENV)],
    out: Annotated[Path, typer.Option(help="Folder of the run; made if missing.")],
    training: dict[str, Any],
    compression: dict[str, Any],
    values: dict[str, Any],
    environment: dict[str, Any],
    preset: Annotated[str, typer.Option(help="policypress, or ivanov2025: the paper's protocol.")] = NAMES[0],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the algorithm, NAME=VALUE, for example learning_rate=1e-3; repeat."),
    ] = None,
    compare: Annotated[str | None, typer.Option(help="dense: train the uncompressed baseline beside it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an agent whose policy comes out small; without compression options, a dense baseline."""
    require("train")
    from policypress.rl.plan import dense_baseline, plan_training
    from policypress.rl.side_by_side import train_all
    from policypress.tables import result_table

    if compare not in (None, "dense"):
        raise ConfigError(f"compare={compare!r} is not known: use --compare dense.")
    config = plan_training(
        algo,
        env,
        training.pop("steps", None),
        preset=preset,
        compression=compression,
        training=training | environment | {"values": ValueConfig(**values)},
        algo_kwargs=texts.settings(set_ or ()),
    )
    runs = {"pressed" if compare else "agent": (config, out)}
    if compare:
        runs = {"dense": (dense_baseline(config), out / "dense"), **runs}
    with resumable(), bars("return") as advance:
        results = train_all(runs, resume=resume, progress=advance)
    if as_json:
        print_json(results)
        return
    stdout.print(result_table(results))
    print_files(f"policy  {out / 'policy.policy'}\ncurve   {out / 'curve.png'}")
