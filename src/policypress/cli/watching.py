"""``policypress watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policypress.cli.files import PolicyArgument, policy_in
from policypress.cli.live import bars
from policypress.cli.options import ENV, Fields, options
from policypress.cli.terminal import JsonOption, app, print_files, print_json, stdout
from policypress.config import Environment, Opening, Zipped
from policypress.errors import ConfigError
from policypress.extras import require


@app.command()
@options(environment=Fields(Environment), opening=Fields(Opening), zipped=Fields(Zipped))
def watch(
    policy: PolicyArgument,
    environment: dict[str, Any],
    opening: dict[str, Any],
    zipped: dict[str, Any],
    env: Annotated[
        str | None, typer.Option(help=ENV + " Default: the one of the training, with its settings and wrappers.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .gif or .mp4, or a .png or .jpg of six moments. Default: a window.")
    ] = None,
    beside: Annotated[Path | None, typer.Option(help="Another .policy file, shown to the right; needs --out.")] = None,
    episodes: Annotated[int, typer.Option(help="Number of episodes.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Episode i starts from reset(seed=seed+i).")] = 1000,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of an episode, at most. Default: to its end; in a file, ten simulated seconds.", min=1
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a policy at work in its environment: in a window, or as an animation in a file."""
    require("watch")
    import policypress
    from policypress.rl.watch import watch as run
    from policypress.tables import watched_table

    if environment and env is None:
        raise ConfigError("say which environment --env-kwargs, --wrapper or --frame-stack belong to: add --env.")
    described = None if env is None else Environment(env, **environment)
    files = [policy] if beside is None else [policy, beside]
    shown = policy_in(policy, opening, zipped, described)
    other = None if beside is None else policypress.load(beside)
    with bars("steps") as advance:
        results = run(
            shown,
            described,
            out=out,
            beside=other,
            episodes=episodes,
            seed=seed,
            steps=steps,
            progress=lambda done, of: advance("steps", done, of, None),
        )
    if as_json:
        print_json(
            {
                "out": None if out is None else str(out),
                "policies": [
                    {"policy": str(file), **result.as_dict()} for file, result in zip(files, results, strict=True)
                ],
            }
        )
        return
    stdout.print(watched_table(dict(zip(map(str, files), results, strict=True))))
    if out is not None:
        print_files(f"{out}  {out.stat().st_size:,} bytes")
