"""Two robots walk pressed: bytes, falls, tracking error and a microcontroller's time, beside their makers' policies.

    python -m benchmarks.robots press go1 --name 32-32 -- --hidden 32,32 --rate-weight 0.001
    python -m benchmarks.robots press go1 --name small -- --keep 0.97 --minutes 20
    python -m benchmarks.robots tune g1 --name leg-1
    python -m benchmarks.robots choose g1 --name leg --of leg-1-tuned --of leg-2-tuned
    python -m benchmarks.robots pair --seed 1
    python -m benchmarks.robots measure go1 --episodes 200 --minutes 10
    python -m benchmarks.robots measure go1 --episodes 200 --claim
    python -m benchmarks.robots report

From the root of the repository, with the models where examples/robots/legged.py looks for them. `press` and `measure`
go on where they were interrupted, in any session, and repeat nothing that is finished:

- ``press`` is `policypress compress` on the makers' file, or on a policy pressed before (``--teacher NAME``), with what
  stands behind ``--``; it leaves FOLDER/ROBOT/NAME, and beside it the seconds that it took in all sessions. With
  ``--leg`` the G1's student is a policy of one leg (examples/robots/g1.py).
- ``tune`` asks a pressed policy for more than it is told: it raises the input scales of the commanded velocities,
  forward and sideways, by the codec's own steps, as long as it tracks better in ``--episodes`` from
  reset(seed=40000 + i), and ``p_falls`` does not say that it falls more than before. That takes no bytes, or hardly
  one; it leaves NAME-tuned.
- ``choose`` keeps of several pressed policies the one that falls least in ``--episodes`` from reset(seed=50000 + i), of
  those that fall alike the one that tracks best; it walks them at once, each on a core of its own, and leaves NAME.
- ``pair`` does all of that for the G1: a policy of both legs, two policies of one leg that learn from it, side by side,
  both tuned, the better chosen; with ``--seed N`` it leaves pair-N.
- ``measure`` walks ``--episodes`` of 20 s from reset(seed=1000 + i), random commands, pushes, friction and masses: the
  original, then every policy of FOLDER/ROBOT, or those of ``--name``, from the fewest bytes on; a line an episode in
  NAME.jsonl. These may be looked at while a way of pressing is chosen; what is then claimed of it is walked with
  ``--claim``, from reset(seed=12000 + i) or from the seed behind it, which must have chosen nothing. Then each policy
  acts on observations of its own walk on an emulated Cortex-M4, where the tools for it are installed.
- ``report`` writes docs/robots/ROBOT.csv, in which rows stay whose runs are gone, and prints the table.

No more falls: ``p_falls`` is the probability that, of the seeds at which one of the two falls and the other does not,
so many or more are the pressed one's if both fall alike (one-sided exact sign test); below 0.05 it falls more. Ratios
are those of means over episodes, with the upper end of a one-sided 95 % interval (bootstrap, both from the same seeds).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from examples.robots.g1 import TEACHER, G1Leg, leg
from examples.robots.legged import RATE, Legged, folder
from examples.robots.walk import FILES, MEANS, ORIGINALS, ROBOTS, SEED, Episode, Walker, asked, pressed, walk

import policypress
from policypress.files import locked, write_whole
from policypress.measure.microcontroller import measure_on_target, missing_tools

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "robots"
OUT = ROOT / "docs" / "robots"
ORIGINAL_BYTES = {"go1": 763_440, "g1": 125_616}
"""Of the makers' weights in float32."""
HERTZ = 168e6
"""Of an STM32F4, a usual Cortex-M4."""
_STUDENT = "--memory none --hidden-activation elu --batch-size 1024 --env-kwargs pushes:1.5"
BOTH_LEGS = f"{_STUDENT} --hidden 128,128 --rate-weight 0 --states 300000 --batches 30000 --episodes 2"
ONE_LEG = (
    f"{_STUDENT} --hidden 64,48 --rate-weight 0.0064 --learning-rate 0.006 --states 1000000 --batches 140000 "
    "--collections 70 --episodes 20 --jobs 1"
)
"""What ``pair`` presses with."""
TUNING_SEED = 40_000
CLAIM_SEED = 12_000
CHOOSING_SEED, CHOOSING_EPISODES = 50_000, 200
_FALLS_MORE = 0.05
_RESAMPLES = 10_000
_OBSERVED = 64
COLUMNS = (
    *("name", "payload_bytes", "ratio", "first_seed", "episodes", "falls", "original_falls", "p_falls"),
    *("tracking_error", "tracking_ratio", "tracking_high", "turn_error", "turn_ratio", "turn_high"),
    *("action_change", "change_ratio", "flash", "ram", "instructions", "period_share", "press_seconds", "options"),
)


# Pressing


def press(robot: str, name: str, options: Sequence[str], teacher: str | None = None, one_leg: bool = False) -> None:
    """`policypress compress`, begun or gone on with; of the pressed policy called ``teacher`` if there is one."""
    out = FOLDER / robot / name
    out.mkdir(parents=True, exist_ok=True)
    file = FOLDER / robot / teacher / "policy.policy" if teacher else folder() / robot / FILES[robot]
    env, source = ROBOTS[robot].__name__, str(file)
    if one_leg:
        env, source = G1Leg.__name__, f"{leg.__module__}:{leg.__name__}"
    command = [sys.executable, "-m", "policypress", "compress", source]
    command += ["--env", f"examples.robots.{robot}:{env}", "--out", str(out), "--resume", *options]
    spent = FOLDER / robot / f"{name}.seconds.json"
    told = [*(["--leg"] if one_leg else []), *(["--teacher", teacher] if teacher else [])]
    with clocked(spent, " ".join([*told, *options])):
        code = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, TEACHER: str(file)}).returncode
    if code not in (0, 1):  # 1: the closest that a search found
        sys.exit(code)


@contextmanager
def clocked(file: Path, options: str) -> Iterator[None]:
    """Adds the seconds of what is inside to those in ``file``."""
    before = json.loads(file.read_text())["seconds"] if file.exists() else 0.0
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds = round(before + time.monotonic() - begun, 1)
        write_whole(file, json.dumps({"seconds": seconds, "options": options}))


# Tuning


def tune(robot: str, name: str, episodes: int) -> None:
    """Leaves FOLDER/ROBOT/NAME-tuned: NAME, with those scales of commanded velocities that track best."""
    policy, env = policypress.load(FOLDER / robot / name / "policy.policy"), ROBOTS[robot]()
    if policy.input is None:
        sys.exit(f"{name} takes floats: only inputs in integers have scales to tune")
    out = FOLDER / robot / f"{name}-tuned"
    with clocked(FOLDER / robot / f"{name}-tuned.seconds.json", f"tune {name} --episodes {episodes}"):
        first = best = tried(env, policy, episodes)
        found = [first]
        while True:
            more = raised(policy, range(policy.observation.shape[0])[env.commanded][:2])
            found.append(tried(env, more, episodes))
            if error(found[-1]) >= error(best) or compared(found[-1], first)["p_falls"] < _FALLS_MORE:
                break
            policy, best = more, found[-1]
        told = {**policy.provenance, "tuned": {"episodes": episodes, "first_seed": TUNING_SEED}}
        out.mkdir(parents=True, exist_ok=True)
        replace(policy, provenance=told, results={}, test_vectors=None).save(out / "policy.policy")
    lines = [{"falls": falls(episodes), "tracking_error": error(episodes)} for episodes in found]
    write_whole(out / "result.json", json.dumps(lines, indent=2))


def raised(policy: policypress.Policy, inputs: Sequence[int]) -> policypress.Policy:
    """``policy``, whose ``inputs`` look larger to it by one step of scales of three significant bits."""
    quantization = policy.input
    assert quantization is not None
    scales = quantization.inverse_scale.copy()
    for place in inputs:
        mantissa, exponent = math.frexp(scales[place])
        scales[place] = math.ldexp(math.floor(8 * mantissa) + 1, exponent - 3)
    return replace(policy, input=replace(quantization, inverse_scale=scales))


def tried(env: Legged, policy: policypress.Policy, episodes: int) -> list[Episode]:
    walker = pressed(policy)
    return [walk(env, walker, seed) for seed in range(TUNING_SEED, TUNING_SEED + episodes)]


def error(episodes: Sequence[Episode]) -> float:
    return float(np.mean([one.tracking_error for one in episodes]))


# Choosing


def choose(robot: str, name: str, others: Sequence[str], episodes: int) -> None:
    """Leaves FOLDER/ROBOT/NAME: the one of ``others`` that falls least, then tracks best."""
    files = {other: FOLDER / robot / other / "policy.policy" for other in others}
    if absent := [other for other, file in files.items() if not file.exists()]:
        sys.exit(f"{absent[0]} is not pressed: press it first")
    seeds = range(CHOOSING_SEED, CHOOSING_SEED + episodes)
    out = FOLDER / robot / name
    with clocked(out.with_name(f"{name}.seconds.json"), f"choose of {' '.join(others)} --episodes {episodes}"):
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(walk_pressed, repeat(robot), others, repeat(seeds)))
        found = {other: walked(robot, other, digest(file)) for other, file in files.items()}
        lines = {other: [theirs[seed] for seed in seeds] for other, theirs in found.items()}
        best = min(lines, key=lambda other: (falls(lines[other]), error(lines[other])))
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[best], out / "policy.policy")
    result = {other: {"falls": falls(them), "tracking_error": error(them)} for other, them in lines.items()}
    write_whole(out / "result.json", json.dumps({"chosen": best, **result}, indent=2))


# All of it


def pair(seed: int) -> None:
    """Leaves FOLDER/g1/pair-SEED: of two policies of one leg, pressed and tuned side by side, the one that falls least.
    No two of these have a seed in common."""
    both, name = f"pair-{seed}-both", f"pair-{seed}"
    legs = {f"{name}-{own}": own for own in (2 * seed - 1, 2 * seed)}
    with clocked(FOLDER / "g1" / f"{name}.seconds.json", f"pair --seed {seed}"):  # in place of what choosing took
        press("g1", both, [*BOTH_LEGS.split(), "--seed", str(seed)])
        told = [*ONE_LEG.split(), "--seed"]
        side_by_side(
            ["press", "g1", "--name", leg, "--leg", "--teacher", both, "--", *told, str(own)]
            for leg, own in legs.items()
        )
        side_by_side(["tune", "g1", "--name", leg] for leg in legs)
        choose("g1", name, [f"{leg}-tuned" for leg in legs], CHOOSING_EPISODES)


def side_by_side(verbs: Iterable[Sequence[str]]) -> None:
    """Runs two verbs of this file at once, each on half of the cores."""
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    given = [sys.executable, "-m", "benchmarks.robots"]
    running = [
        subprocess.Popen([*given, *verb], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": threads}) for verb in verbs
    ]
    try:
        for one in running:
            if one.wait():
                sys.exit(one.returncode)
    finally:
        for one in running:
            one.terminate()


# Measuring


def measure(robot: str, seeds: range, minutes: float, names: Sequence[str] = ()) -> None:
    """Walks what has not been walked, of those ``names`` or of all, for so many minutes."""
    deadline = time.monotonic() + 60.0 * minutes
    walk_all(robot, "original", digest(folder() / robot / FILES[robot]), ORIGINALS[robot], seeds, deadline)
    for file in policies(robot):
        if names and file.parent.name not in names:
            continue
        walk_pressed(robot, file.parent.name, seeds, deadline)
        on_microcontroller(robot, file)


def walk_pressed(robot: str, name: str, seeds: range, deadline: float = math.inf) -> None:
    file = FOLDER / robot / name / "policy.policy"
    walk_all(robot, name, digest(file), lambda: pressed(policypress.load(file)), seeds, deadline)


def policies(robot: str) -> list[Path]:
    """Those that are pressed, from the fewest bytes on."""
    files = [file.with_name("policy.policy") for file in (FOLDER / robot).glob("*/result.json")]
    return sorted(files, key=lambda file: policypress.size(policypress.load(file)).payload_bytes)


def walk_all(robot: str, name: str, who: str, make: Callable[[], Walker], seeds: range, deadline: float) -> None:
    """Appends episodes that are not there yet to NAME.jsonl, until the deadline."""
    file = FOLDER / robot / f"{name}.jsonl"
    done = walked(robot, name, who)
    left = [seed for seed in seeds if seed not in done]
    if not left:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    # Without what is of another policy, and without half a line.
    write_whole(file, "".join(line_of(who, episode) for episode in done.values()))
    env, walker = ROBOTS[robot](), make()
    with file.open("a") as lines:
        for number, seed in enumerate(left):
            if time.monotonic() > deadline:
                print(f"{robot} {name}: {len(left) - number} episodes are left; measure again to go on")
                return
            lines.write(line_of(who, walk(env, walker, seed)))
            lines.flush()


def line_of(who: str, episode: Episode) -> str:
    return json.dumps({"policy": who, **asdict(episode)}) + "\n"


def walked(robot: str, name: str, who: str) -> dict[int, Episode]:
    """Episodes by seed of the policy ``who`` (a digest); a line that a kill cut short does not count."""
    file = FOLDER / robot / f"{name}.jsonl"
    found = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            told = json.loads(line)
        except json.JSONDecodeError:
            continue
        if told.pop("policy") == who:
            episode = Episode(**told)
            found[episode.seed] = episode
    return found


def on_microcontroller(robot: str, file: Path) -> None:
    """Flash, RAM and instructions on a Cortex-M4, of observations that the policy met."""
    out = FOLDER / robot / f"{file.parent.name}.target.json"
    who = digest(file)
    if missing_tools() or (out.exists() and json.loads(out.read_text())["policy"] == who):
        return
    env, walker = ROBOTS[robot](), pressed(policypress.load(file))
    walker.reset()
    observation, _ = env.reset(seed=SEED)
    met = []
    for _ in range(4 * _OBSERVED):
        met.append(observation)
        observation, *_ = env.step(walker.act(observation))
    report = measure_on_target(policypress.load(file), "cortex-m4", np.stack(met[::4]))
    write_whole(out, json.dumps({"policy": who, **report.as_dict()}))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Reporting


def report(robot: str) -> list[dict[str, Any]]:
    """A row a policy and block of seeds, with the original first."""
    original = walked(robot, "original", digest(folder() / robot / FILES[robot]))
    rows: list[dict[str, Any]] = []
    for first, theirs in blocks(original):
        rows.append({"name": "original", "first_seed": first, "episodes": len(theirs), **walk_of(theirs)})
    for file in policies(robot):
        name, size = file.parent.name, policypress.size(policypress.load(file))
        mine = walked(robot, name, digest(file))
        for first, ours in blocks({seed: mine[seed] for seed in mine.keys() & original.keys()}):
            row: dict[str, Any] = {
                "name": name,
                "payload_bytes": size.payload_bytes,
                "ratio": round(ORIGINAL_BYTES[robot] / size.payload_bytes, 1),
                "first_seed": first,
                "episodes": len(ours),
            }
            row |= compared(ours, [original[one.seed] for one in ours])
            rows.append(row | on_target(robot, file) | pressing(robot, name))
    return rows


def blocks(episodes: dict[int, Episode]) -> Iterator[tuple[int, list[Episode]]]:
    """The first seed and the episodes of each of ``measure``'s blocks of seeds."""
    for first, end in ((SEED, CLAIM_SEED), (CLAIM_SEED, TUNING_SEED)):
        if mine := [episodes[seed] for seed in sorted(episodes) if first <= seed < end]:
            yield first, mine


def walk_of(episodes: Sequence[Episode]) -> dict[str, Any]:
    means = {mean: round(float(np.mean([getattr(one, mean) for one in episodes])), 4) for mean in MEANS}
    return {"falls": falls(episodes), **means}


def compared(mine: Sequence[Episode], original: Sequence[Episode]) -> dict[str, Any]:
    """What ``mine`` does beside ``original``, episodes of the same seeds."""
    more = sum(a.fell and not b.fell for a, b in zip(mine, original, strict=True))
    fewer = sum(b.fell and not a.fell for a, b in zip(mine, original, strict=True))
    row: dict[str, Any] = {"falls": falls(mine), "original_falls": falls(original), "p_falls": at_least(more, fewer)}
    for mean, name in zip(MEANS, ("tracking", "turn", "change"), strict=True):
        ours, theirs = (np.array([getattr(one, mean) for one in them]) for them in (mine, original))
        ratio, high = ratio_of(ours, theirs)
        row |= {mean: round(float(ours.mean()), 4), f"{name}_ratio": round(ratio, 3), f"{name}_high": round(high, 3)}
    row.pop("change_high")
    return row


def at_least(more: int, fewer: int) -> float:
    """Probability of ``more`` heads at least in so many throws of a fair coin."""
    throws = more + fewer
    return sum(math.comb(throws, heads) for heads in range(more, throws + 1)) / 2**throws


def ratio_of(ours: Any, theirs: Any) -> tuple[float, float]:
    """Of the means, and the upper end of its one-sided 95 % interval."""
    picks = np.random.default_rng(0).integers(0, len(ours), (_RESAMPLES, len(ours)))
    ratios = ours[picks].mean(axis=1) / theirs[picks].mean(axis=1)
    return float(ours.mean() / theirs.mean()), float(np.percentile(ratios, 95))


def falls(episodes: Any) -> int:
    return sum(one.fell for one in episodes)


def on_target(robot: str, file: Path) -> dict[str, Any]:
    out = FOLDER / robot / f"{file.parent.name}.target.json"
    told = json.loads(out.read_text()) if out.exists() else {}
    if told.get("policy") != digest(file):
        return {}
    instructions = asked(policypress.load(file)) * told["instructions"]
    share = instructions / (HERTZ / RATE)
    return {
        "flash": told["flash"],
        "ram": told["ram"],
        "instructions": round(instructions),
        "period_share": f"{100 * share:.3g} %",
    }


def pressing(robot: str, name: str) -> dict[str, Any]:
    file = FOLDER / robot / f"{name}.seconds.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    return {"press_seconds": told.get("seconds"), "options": told.get("options")}


def show(robot: str, found: Sequence[dict[str, Any]]) -> None:
    """Rows take the place of those of the same name and seeds in the CSV."""
    OUT.mkdir(parents=True, exist_ok=True)
    path, before = OUT / f"{robot}.csv", list[dict[str, Any]]()
    if path.exists():
        with path.open() as file:
            before = list(csv.DictReader(file))
    rows = list({(row["name"], int(row["first_seed"])): row for row in (*before, *found)}.values())
    rows.sort(key=lambda row: (int(row.get("payload_bytes") or 0), int(row["first_seed"])))  # the original first
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n{robot}\n| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join("" if row.get(name) is None else str(row[name]) for name in COLUMNS) + " |")


def main() -> None:
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = sys.argv[1:cut], sys.argv[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("press", "tune", "choose", "measure"):
        verbs.add_parser(verb).add_argument("robot", choices=ROBOTS)
    verbs.choices["press"].add_argument("--name", required=True, help="of the folder that it leaves")
    verbs.choices["press"].add_argument("--leg", action="store_true", help="of the G1: a policy of one leg")
    verbs.choices["press"].add_argument("--teacher", help="name of a pressed policy to learn from, not the makers'")
    verbs.choices["tune"].add_argument("--name", required=True, help="of the pressed policy")
    verbs.choices["tune"].add_argument("--episodes", type=int, default=60)
    verbs.choices["choose"].add_argument("--name", required=True, help="of the folder that it leaves")
    verbs.choices["choose"].add_argument("--of", action="append", required=True, help="a pressed policy; repeat")
    verbs.choices["choose"].add_argument("--episodes", type=int, default=CHOOSING_EPISODES)
    verbs.choices["measure"].add_argument("--episodes", type=int, default=200)
    verbs.choices["measure"].add_argument(
        "--claim", type=int, nargs="?", const=CLAIM_SEED, help="the first of seeds that chose nothing; 12000 by default"
    )
    verbs.choices["measure"].add_argument("--name", action="append", default=[], help="a pressed policy; repeat")
    verbs.choices["measure"].add_argument("--minutes", type=float, default=math.inf)
    verbs.add_parser("pair").add_argument("--seed", type=int, required=True)
    verbs.add_parser("report")
    given = parser.parse_args(arguments)
    match given.verb:
        case "press":
            if given.leg and (given.robot != "g1" or not given.teacher):
                parser.error("--leg is of the g1 and needs a --teacher, which keeps no state")
            press(given.robot, given.name, options, given.teacher, given.leg)
        case "tune":
            tune(given.robot, given.name, given.episodes)
        case "choose":
            choose(given.robot, given.name, given.of, given.episodes)
        case "pair":
            pair(given.seed)
        case "measure":
            first = SEED if given.claim is None else given.claim
            if given.claim is not None and not CLAIM_SEED <= first <= TUNING_SEED - given.episodes:
                parser.error(f"--claim is of seeds from {CLAIM_SEED} on, and below those that tune, from {TUNING_SEED}")
            with locked(FOLDER / given.robot, "measuring"):  # two would lose each other's episodes
                measure(given.robot, range(first, first + given.episodes), given.minutes, given.name)
        case "report":
            for robot in ROBOTS:
                if rows := report(robot):
                    show(robot, rows)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a press that is ended ends what it began
    main()
