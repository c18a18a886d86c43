"""An agent and its student, measured from the same seeds, and what a run of pressing leaves."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from policypress.config import Environment, PressConfig, dumps
from policypress.errors import ConfigError, PolicypressError
from policypress.files import write_whole
from policypress.measure.returns import beats_chance, kept
from policypress.measure.size import sizes
from policypress.policy.policy import Policy
from policypress.rl.agreement import agreement_on
from policypress.rl.evaluate import FINAL_SEED, Evaluation, chance, evaluate, evaluate_actions
from policypress.rl.runs import RunFolder
from policypress.rl.sources import OpenedAgent
from policypress.rl.teacher import Teacher, stepping

MOST_EPISODES = 400
"""Of a measurement of a search, where fewer of them leave it undecided."""
_WIDE = 0.01  # of the agent's mean: half an interval that leaves much undecided
_MORE_SHARE = 0.05  # of a search's time, at most, goes into more episodes of its agent
_CHANCE_STEPS = 10  # times the agent's longest episode, after which one of who acts without looking is over


class PressFolder(RunFolder[PressConfig]):
    """What a run of pressing leaves. A search also goes on in more or less time than it was given first."""

    settings = PressConfig
    others = "another run: choose another --out or repeat its settings and files"
    early = ("teacher.json",)

    def goes_on(self, found: PressConfig, config: PressConfig) -> bool:
        return replace(found, minutes=config.minutes) == config


def returns_of(teacher: Teacher, env: Environment, episodes: int, seed: int) -> Evaluation:
    """What the teacher itself returns, in float32."""
    if teacher.graph is None:
        return evaluate_actions(stepping(teacher), env, teacher.observation, episodes=episodes, seed=seed)
    return evaluate(teacher.policy(), env, episodes=episodes, seed=seed)


def measured_teacher(folder: PressFolder, agent: OpenedAgent, config: PressConfig) -> dict[str, Any]:
    """The teacher's evaluation in float32, measured once a folder, and in it as "chance" what acting without looking
    returns; warns where the teacher does no better. Raises RunError if it acts far below its training, ConfigError if a
    search needs shares of a return that is next to nothing. What is wrong with the agent leaves no run behind. The
    agent of a search walks MOST_EPISODES where its interval is wide and time allows: all shares are as wide as it."""
    file = folder.out / "teacher.json"
    measured: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if "chance" not in measured:
        begun = time.monotonic()
        try:
            result = returns_of(agent.teacher, config.environment, config.episodes, FINAL_SEED)
            agent.check_return(result.returns, config.env)
            if config.searches and kept(result.returns, result.returns).share is None:
                raise ConfigError(
                    f"the agent's return, {_return(result.summary())}, is too near to 0 for a share of it: press it "
                    "without --keep and --bytes."
                )
            more = (time.monotonic() - begun) * MOST_EPISODES / config.episodes
            if config.searches and _is_wide(result) and more <= _MORE_SHARE * 60.0 * config.minutes:
                result = returns_of(agent.teacher, config.environment, MOST_EPISODES, FINAL_SEED)
            actions, blind = chance(
                config.environment, episodes=config.episodes, seed=FINAL_SEED, steps=_CHANCE_STEPS * max(result.lengths)
            )
        except PolicypressError:
            folder.remove()
            raise
        measured = {**result.as_dict(), "chance": {"actions": actions, **blind.summary()}}
        write_whole(file, json.dumps(measured))
    if (note := _at_chance(measured)) is not None:
        warnings.warn(note, stacklevel=2)
    return measured


def _is_wide(result: Evaluation) -> bool:
    summary = result.summary()
    return bool((summary["high"] - summary["low"]) / 2 > _WIDE * abs(summary["mean"]))


def on_more_episodes(agent: OpenedAgent, config: PressConfig, teacher: dict[str, Any], episodes: int) -> dict[str, Any]:
    """What ``measured_teacher`` gave, with so many episodes."""
    result = returns_of(agent.teacher, config.environment, episodes, FINAL_SEED)
    return {**result.as_dict(), "chance": teacher["chance"]}


def measured_student(
    policy: Policy, config: PressConfig, teacher: dict[str, Any], seconds: float
) -> tuple[Policy, dict[str, Any]]:
    """``policy`` with what it returns from the teacher's seeds on its card, and the contents of ``result.json``."""
    episodes = len(teacher["returns"])
    evaluation = evaluate(policy, config.environment, episodes=episodes, seed=FINAL_SEED).as_dict()
    share = asdict(kept(evaluation["returns"], teacher["returns"], teacher["chance"]["high"]))
    policy = replace(policy, results={"evaluation": evaluation, "teacher": teacher, "kept": share})
    result = {
        "config": json.loads(dumps(config)),
        "teacher": teacher,
        "evaluation": evaluation,
        "kept": share,
        "notes": notes(policy, teacher, share),
    }
    return policy, result | _pressed(policy, seconds)


def agreed_student(
    policy: Policy, agent: OpenedAgent, config: PressConfig, seconds: float
) -> tuple[Policy, dict[str, Any]]:
    """``policy`` with how far it agrees with an agent of a log on its card, and the contents of ``result.json``."""
    assert agent.recorded is not None
    measured = agreement_on(policy, agent.teacher, agent.recorded).as_dict()
    agreement = {**measured, "recorded": agent.recorded.as_dict()}
    policy = replace(policy, results={"agreement": agreement})
    result = {"config": json.loads(dumps(config)), "agreement": agreement, "notes": _notes_on_log(policy, agreement)}
    return policy, result | _pressed(policy, seconds)


def _pressed(policy: Policy, seconds: float) -> dict[str, Any]:
    return {
        "size": sizes(policy),
        "numerics": policy.numerics,
        "batches": policy.provenance.get("batches"),
        "wall_seconds": round(seconds, 1),
    }


def _notes_on_log(policy: Policy, agreement: Mapping[str, Any]) -> list[str]:
    found = []
    if agreement["recorded"]["episodes"] == 1:
        found.append("the log is one episode: its last fifth was held out, which is like what it learned from.")
    if agreement.get("low", agreement["mean"]) <= agreement["constant"]:
        found.append("the student agrees no better than one constant action.")
    return found + _constant(policy)


def notes(policy: Policy, teacher: Mapping[str, Any], share: Mapping[str, Any]) -> list[str]:
    """Sentences without which the figures of a student would mislead."""
    found = []
    if (at_chance := _at_chance(teacher)) is not None:
        found.append(at_chance)
    elif share["share"] is None:
        found.append("the agent's return is too near to 0 for a share of it.")
    return found + _constant(policy)


def _constant(policy: Policy) -> list[str]:
    if any(layer.nonzeros for layer in policy.layers):
        return []
    return ["the student's action is constant: none of its weights is left."]


def _at_chance(teacher: Mapping[str, Any]) -> str | None:
    """That the agent does no better than acting without looking, or None if it does."""
    blind = teacher["chance"]
    if beats_chance(teacher["low"], blind["high"]):
        return None
    return (
        f"the agent does no better than {blind['actions']} ({_return(teacher)} against {_return(blind)}): there is "
        "nothing learned that a student could keep."
    )


def _return(measured: Mapping[str, Any]) -> str:
    return f"{measured['mean']:,.1f} [{measured['low']:,.1f}, {measured['high']:,.1f}]"
