"""Policies of other frameworks as teachers: black boxes, and networks where they are understood."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from policypress.config import Environment, Opening
from policypress.errors import ConfigError, UnsupportedError
from policypress.importers.chain import Chain, narrowed
from policypress.importers.formats import Asked, open_file
from policypress.importers.opened import Opened, action_of_chain, observation_of
from policypress.policy.contract import ActionTransform
from policypress.rl.adapters import action_of, adapter_named, imitation_of
from policypress.rl.environments import EnvLike, make_env, name_of
from policypress.rl.evaluate import Evaluation, evaluate_actions
from policypress.rl.sources import OpenedAgent, Source
from policypress.rl.teacher import Teacher, stepping, tensor_steps


def open_imported(source: Source, algo: str | None, env: EnvLike | None, *, own: bool = False) -> OpenedAgent:
    """The policy in a file of another framework, as it acts in ``env``; without one, as the file alone says.

    ``own``: as its own runtime answers, whatever is understood. What ``algo`` decides is otherwise said by the
    environment's actions and the file's end. Raises what ``open_file`` raises, ConfigError for statistics,
    UnsupportedError for a policy that does not fit the environment.
    """
    if source.vecnormalize is not None:
        raise ConfigError(
            f"{source.agent} holds the statistics of its observations itself, or has none: leave --vecnormalize out."
        )
    if env is None:
        opened, space = open_file(_asked(source)), None
    else:
        made = make_env(env, training=False)
        try:
            if algo:
                adapter_named(algo).check_spaces(made.observation_space, made.action_space)
            shape, space = made.observation_space.shape or (), made.action_space
            dtype = str(made.observation_space.dtype)
        finally:
            made.close()
        opened = replace(open_file(_asked(source, shape)).shaped(shape, name_of(env)), dtype=dtype)
    teacher = teacher_of_opened(replace(opened, chain=None) if own else opened, algo, space)
    return OpenedAgent(source, algo or "", env, teacher, files=opened.files)


def _asked(source: Source, shape: tuple[int, ...] | None = None) -> Asked:
    given = source.opening
    return Asked(source.agent, shape, given.format, given.activation, given.output, given.metadata)


def teacher_of_opened(opened: Opened, algo: str | None, space: spaces.Space[Any] | None) -> Teacher:
    """What a student learns from; ``space`` is that of the environment's actions, None where only the file says what
    they are.

    Raises UnsupportedError for a policy that does not say of what shape its observations are, or whose outputs do not
    fit ``space``.
    """
    who = str(opened.files[0]) if opened.files else "the policy"
    if opened.shape is None:
        raise UnsupportedError(
            f"{who} does not say of what shape its observations are: give --env, or observation_shape in --metadata."
        )
    told: dict[str, Any] = {"format": opened.format}
    if algo:
        told["algo"] = algo
    if opened.metadata:
        told["metadata"] = opened.metadata
    chain, graph = opened.chain, opened.graph
    outputs = chain.outputs if chain is not None else opened.run(np.zeros((1, *opened.shape), opened.dtype)).shape[1]
    action = _own_action(chain, outputs) if space is None else action_of(space)
    _check_outputs(who, space, outputs)
    whole = chain is not None and not chain.joined  # a student of several networks is one of its own
    if whole and chain is not None and graph is not None and (fitted := _fitted(chain, action)) is not None:
        within, action = fitted
        own = graph if within.steps is chain.steps else within.graph()
        dense = None if own is graph else 4 * graph.parameters
        imitation = imitation_of(action, algo)
        observation = observation_of(opened, chain)
        return Teacher(own, observation, action, imitation, provenance=told, dense_bytes=dense)
    parameters = graph.parameters if graph is not None and whole else opened.parameters
    dense = None if parameters is None else 4 * parameters
    reason = Teacher.reason
    if chain is not None:
        reason = "its choices are made of a tanh" if whole else "it is several networks, or one that values go past"
    black_box = partial(
        Teacher, None, observation_of(opened), action, imitation_of(action, algo), provenance=told, dense_bytes=dense,
        reason=reason,
    )  # fmt: skip
    if opened.steps is not None:
        return black_box(steps=tensor_steps(opened.steps))
    return black_box(answers=lambda x: torch.from_numpy(np.asarray(opened.run(x.numpy()), np.float32)))


def _own_action(chain: Chain | None, outputs: int) -> ActionTransform:
    """What a file gives, where no environment says what takes it."""
    if chain is None:
        bound = np.full(outputs, np.inf, np.float32)
        return ActionTransform("box", (outputs,), "float32", low=-bound, high=bound)
    return action_of_chain(chain)


def _fitted(chain: Chain, action: ActionTransform) -> tuple[Chain, ActionTransform] | None:
    """A chain that ends as ``action`` does, and how that is; None where choices are made of a tanh."""
    if action.kind != "box" or action.low is None or action.high is None or chain.kind != "box":
        return (chain, action) if chain.kind == "discrete" or not chain.squash else None
    within = narrowed(chain, action.low.ravel(), action.high.ravel())
    low, high = within.low.reshape(action.shape), within.high.reshape(action.shape)
    return within, replace(action, squash=within.squash, low=low, high=high)


def _check_outputs(who: str, space: spaces.Space[Any] | None, outputs: int) -> None:
    """Raises UnsupportedError if a policy does not give as many values as actions of ``space`` need."""
    match space:
        case None:
            return
        case spaces.Discrete():
            wanted, what = int(space.n), "one for each choice"
        case spaces.MultiDiscrete():
            wanted, what = int(space.nvec.sum()), "one for each choice"
        case _:
            wanted, what = int(np.prod(space.shape or ())), "the values of an action"
    if outputs != wanted:
        raise UnsupportedError(
            f"{who} gives {outputs} values, where {wanted} are needed, {what}: name the environment that it was "
            "trained in, or with --output the output that is meant."
        )


def evaluate_file(
    path: Path, opening: Opening, env: Environment, *, episodes: int = 20, seed: int = 1000
) -> Evaluation:
    """What a policy in a file of another framework returns in ``env``, run by its own runtime; see ``evaluate``."""
    teacher = open_imported(Source(path, opening=opening), None, env, own=True).teacher
    return evaluate_actions(stepping(teacher), env, teacher.observation, episodes=episodes, seed=seed)
