"""Policies under disturbances: the same seeds for all, a point for each policy, kind and level, kept as soon as it is
measured."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from policypress.errors import ConfigError, RunError
from policypress.files import locked, remove_partial, write_whole
from policypress.measure.returns import kept
from policypress.measure.size import size
from policypress.policy import artifact
from policypress.policy.policy import Policy
from policypress.rl.environments import EnvLike, description_of, make_env, name_of
from policypress.rl.evaluate import (
    FINAL_SEED,
    Act,
    Evaluation,
    acting,
    check_spaces,
    environment_on_card,
    evaluate,
    padding_in,
    run_episodes,
)
from policypress.robustness.flips import by_place
from policypress.robustness.kinds import KINDS, Case, Setup, check_kinds, measures
from policypress.robustness.sensors import Moments, Watched

UNDISTURBED = "undisturbed"
RESULT, TABLE, PICTURE = "robustness.json", "robustness.csv", "robustness.png"
COLUMNS = (
    *("policy", "payload_bytes", "kind", "level", "episodes", "mean", "std", "low", "high", "worst_tenth"),
    *("ended_early", "kept", "kept_low", "kept_high"),
)
_VERSION = 1
_CRITICAL_ROWS = 20
_MET = 256
Progress = Callable[[int, int, float | None], None]
"""Called with the episodes that are done, of how many, and the mean return of the latest point."""


def robustness(
    policies: Mapping[str, Policy],
    env: EnvLike | None = None,
    *,
    kinds: Sequence[str] | None = None,
    episodes: int = 100,
    seed: int = FINAL_SEED,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Returns of ``policies``, by name, in whole episodes of ``env`` (default: that of the first one's card) from
    ``reset(seed=seed + i)``: undisturbed, then at every level of ``kinds`` (default: all that fit).

    Observations' standard deviations, which several kinds use as their unit, are those that the first policy meets
    undisturbed. In the result, JSON values: ``kinds``, what their levels measure and who published them; ``points``
    with returns, their summary, ``ended_early`` and what is kept of the same policy's undisturbed mean (None where that
    is too near to 0 to tell); ``halves``, the level at which a half is kept, by policy and kind; ``critical``, the bits
    that matter most; ``left_out``, why a kind was, by policy and kind.

    With ``out``, a folder, every point is written there as soon as it is measured (``robustness.json`` and ``.csv``),
    and what is there already is not measured again: the same call goes on. Raises ConfigError for what does not fit
    together, among it named kinds of which none fits, and for a folder of other policies or settings; RunError
    like ``evaluate``.
    """
    if not policies:
        raise ConfigError("there is no policy to disturb: give one at least.")
    if episodes < 2:
        raise ConfigError(f"episodes={episodes} must be at least 2.")
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative.")
    check_kinds(kinds or ())
    found = environment_on_card(next(iter(policies.values()))) if env is None else env
    if isinstance(found, gym.Env):
        raise ConfigError("an environment itself would keep what a disturbance changes in it: give what makes it.")
    with locked(out, "measuring") if out is not None else nullcontext():
        study = _Study(policies, found, episodes, seed, out)
        return study.run(kinds, progress)


class _Study:
    def __init__(
        self, policies: Mapping[str, Policy], env: EnvLike, episodes: int, seed: int, out: Path | None
    ) -> None:
        self.policies, self.env, self.episodes, self.seed, self.out = policies, env, episodes, seed, out
        described = description_of(env)
        self.result: dict[str, Any] = {
            "version": _VERSION,
            "env": name_of(env) if described is None else json.loads(json.dumps(asdict(described))),  # as it is read
            "episodes": episodes,
            "seed": seed,
            "scale_of": next(iter(policies)),
            "scale": None,
            "policies": {name: _described(policy) for name, policy in policies.items()},
            "kinds": {},
            "critical": {},
            "left_out": {},
            "halves": {},
            "points": [],
        }

    def run(self, kinds: Sequence[str] | None, progress: Progress | None) -> dict[str, Any]:
        self._go_on()
        with self._sample() as sample:
            plan = self._plan(sample, kinds)
            done, total = 0, self.episodes * (len(plan) + len(self.policies))

            def told(mean: float | None) -> Callable[[int, int], None] | None:
                return None if progress is None else lambda finished, _: progress(done + finished, total, mean)

            mean: float | None = None
            for name in self.policies:
                mean = self._undisturbed(name, sample, told(mean))
                done += self.episodes
            cases = {name: self._case(name, sample) for name in self.policies}
            for kind, level, name in plan:
                mean = self._point(name, kind, level, cases[name], told(mean))
                done += self.episodes
                if kind == "critical" and name not in self.result["critical"]:
                    case = cases[name]
                    self.result["critical"][name] = by_place(case.flash, case.critical)[:_CRITICAL_ROWS]
                    self._write()
        if progress is not None:
            progress(total, total, mean)
        return self.result

    # What is there

    def _go_on(self) -> None:
        """Takes what an earlier call left in the folder."""
        if self.out is None:
            return
        path = self.out / RESULT
        remove_partial(path, self.out / TABLE)
        if not path.exists():
            return
        try:
            before = json.loads(path.read_text())
            same = ("version", "env", "episodes", "seed", "scale_of")
            different = next((name for name in same if before[name] != self.result[name]), None)
            if different is None:
                for name, described in before["policies"].items():
                    if self.result["policies"].get(name, described)["digest"] != described["digest"]:
                        raise ConfigError(f"{self.out} holds points of another policy {name}: choose another --out.")
                self.result["policies"] = {**before["policies"], **self.result["policies"]}
                self.result |= {
                    name: before[name] for name in ("scale", "kinds", "critical", "left_out", "halves", "points")
                }
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read: choose another --out, or remove the file.") from error
        if different is not None:
            raise ConfigError(
                f"{self.out} holds points of another {different.replace('scale_of', 'first policy')}: choose another "
                "--out or repeat its settings."
            )

    def _known(self, name: str, kind: str, level: float) -> dict[str, Any] | None:
        wanted = (name, kind, level)
        return next((p for p in self.result["points"] if (p["policy"], p["kind"], p["level"]) == wanted), None)

    def _write(self) -> None:
        if self.out is not None:
            write_whole(self.out / RESULT, json.dumps(self.result))
            write_whole(self.out / TABLE, table_of(self.result))

    # What is measured

    @contextmanager
    def _sample(self) -> Iterator[gym.Env[Any, Any]]:
        """An environment as disturbances find it."""
        found: list[gym.Env[Any, Any]] = []

        def keep(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            found.append(env)
            return env

        made = make_env(self.env, training=False, disturb=keep)
        try:
            for policy in self.policies.values():
                check_spaces(policy, made, name_of(self.env))
            yield found[0]
        finally:
            made.close()

    def _case(self, name: str, sample: gym.Env[Any, Any]) -> Case:
        scale = self.result["scale"]
        shape = sample.observation_space.shape or ()
        known = np.zeros(shape) if scale is None else np.reshape(np.asarray(scale, np.float64), shape)
        policy = self.policies[name]
        return Case(policy, sample, name_of(self.env), known, self.seed, lambda: self._met(policy))

    def _plan(self, sample: gym.Env[Any, Any], kinds: Sequence[str] | None) -> list[tuple[str, float, str]]:
        """Kinds and levels, and the policies that they fit; ConfigError if none fits of those that were named."""
        plan, unfit = [], ""
        for kind in KINDS if kinds is None else kinds:
            fitting = []
            for name in self.policies:
                reason = KINDS[kind].unfit(self._case(name, sample))
                if reason is None:
                    fitting.append(name)
                else:
                    unfit = f"{kind} needs {reason}"
                    self.result["left_out"].setdefault(name, {})[kind] = unfit
            levels = KINDS[kind].levels_in(sample) if fitting else ()
            if fitting:
                self.result["kinds"][kind] = {"level": KINDS[kind].level, "source": KINDS[kind].source}
            plan += [(kind, float(level), name) for level in levels for name in fitting]
        if kinds and not plan:
            raise ConfigError(f"{unfit}: name kinds that fit, or none.")
        return plan

    def _undisturbed(self, name: str, sample: gym.Env[Any, Any], told: Callable[[int, int], None] | None) -> float:
        """The undisturbed point; that of the first policy says what the numbers vary by."""
        if (known := self._known(name, UNDISTURBED, 0.0)) is not None:
            return float(known["mean"])
        if name != self.result["scale_of"] or not measures(sample):
            return self._add(name, UNDISTURBED, 0.0, self._played(name, Setup(), told))
        moments = Moments()
        evaluation = self._played(name, Setup(lambda env: Watched(env, moments)), told)
        self.result["scale"] = moments.std.tolist()
        return self._add(name, UNDISTURBED, 0.0, evaluation)

    def _point(self, name: str, kind: str, level: float, case: Case, told: Callable[[int, int], None] | None) -> float:
        """Measures a point that is not known yet; its mean return."""
        if (known := self._known(name, kind, level)) is not None:
            return float(known["mean"])
        return self._add(name, kind, level, self._played(name, KINDS[kind].setup(case, level), told))

    def _played(self, name: str, setup: Setup, told: Callable[[int, int], None] | None) -> Evaluation:
        policy = self.policies[name]
        act: Act = acting(policy) if setup.act is None else setup.act
        padding = padding_in(self.env, policy.observation)
        return run_episodes(self.env, act, self.episodes, self.seed, padding, progress=told, disturb=setup.disturb)

    def _add(self, name: str, kind: str, level: float, evaluation: Evaluation) -> float:
        undisturbed = self._known(name, UNDISTURBED, 0.0)
        share = kept(evaluation.returns, undisturbed["returns"] if undisturbed else evaluation.returns)
        point = {
            "policy": name, "kind": kind, "level": level, **evaluation.summary(),
            "kept": share.share, "kept_low": share.low, "kept_high": share.high,
            "returns": list(evaluation.returns), "lengths": list(evaluation.lengths),
            "terminated": list(evaluation.terminated),
        }  # fmt: skip
        self.result["points"].append(point)
        self.result["halves"] = halves(self.result["points"])
        self._write()
        return evaluation.mean

    def _met(self, policy: Policy) -> NDArray[Any]:
        """Observations of the first undisturbed episode, as the policy sees them (count, *shape)."""
        seen: list[NDArray[Any]] = []
        evaluate(policy, self.env, episodes=1, seed=self.seed, met=seen.extend)
        return np.stack([seen[i] for i in np.unique(np.linspace(0, len(seen) - 1, _MET).astype(int))])


def _described(policy: Policy) -> dict[str, Any]:
    bare = replace(policy, provenance={}, results={}, test_vectors=None)
    return {
        "digest": hashlib.sha256(artifact.encode(bare)).hexdigest()[:16],
        "numerics": policy.numerics,
        "payload_bytes": size(policy).payload_bytes,
    }


def halves(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """By policy and kind the level at which half of the undisturbed mean is kept, between two levels in proportion;
    None where more is kept at all of them. Kinds whose higher levels need not be worse are left out."""
    found: dict[str, dict[str, float | None]] = {}
    for policy in dict.fromkeys(point["policy"] for point in points):
        for kind, row in KINDS.items():
            curve = [p for p in points if p["policy"] == policy and p["kind"] == kind and p["kept"] is not None]
            if not curve or row.both_ways:
                continue
            levels = [0.0, *(p["level"] for p in sorted(curve, key=lambda p: p["level"]))]
            shares = [1.0, *(p["kept"] for p in sorted(curve, key=lambda p: p["level"]))]
            below = next((i for i, share in enumerate(shares) if share < 0.5), None)
            if below is None:
                found.setdefault(policy, {})[kind] = None
                continue
            part = (shares[below - 1] - 0.5) / (shares[below - 1] - shares[below])
            found.setdefault(policy, {})[kind] = levels[below - 1] + part * (levels[below] - levels[below - 1])
    return found


def table_of(result: Mapping[str, Any]) -> str:
    """The points as CSV, without single returns."""
    text = io.StringIO()
    rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for point in result["points"]:
        rows.writerow({**point, "payload_bytes": result["policies"][point["policy"]]["payload_bytes"]})
    return text.getvalue()
