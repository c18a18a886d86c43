"""``policypress compress``: an agent that is already trained, pressed in minutes and measured against itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.compression.compressor import Compressor
from policypress.compression.freeze import freeze_graph, spread
from policypress.compression.graph import LayerNode, ResidualNode
from policypress.compression.student import hidden_widths, student
from policypress.config import (
    FLOAT_BITS,
    CompressionConfig,
    DistillConfig,
    Environment,
    PressConfig,
    dumps,
    from_json,
)
from policypress.errors import ConfigError, DivergedError, PolicypressError, RunError
from policypress.files import locked, remove_partial, write_whole
from policypress.measure.returns import kept
from policypress.measure.size import sizes
from policypress.policy import reference
from policypress.policy.canonical import canonical
from policypress.policy.policy import Policy
from policypress.rl.adapters import adapter_for, checked_graph, observation_transform
from policypress.rl.agents import Agent, check_return, load_agent
from policypress.rl.distill import (
    Distillation,
    EnvironmentStates,
    Progress,
    States,
    Teacher,
    check_config,
    met_by_teacher,
)
from policypress.rl.environments import EnvLike, description_of, makes_env, name_of, padding_of
from policypress.rl.evaluate import chance, evaluate
from policypress.rl.finetune import check_trust, finetune
from policypress.rl.train import FINAL_SEED

_CALIBRATION_STATES = 20_000
_CALIBRATION_BATCHES = 800
_CHANCE_STEPS = 10  # times the agent's longest episode, after which one of who acts without looking is over
AUTO_SHRINK = 100
"""``hidden="auto"`` divides every width by its root, and so the parameters by about it: 26-26 for 256-256."""
RATE_WEIGHT = 0.005


@dataclass(frozen=True)
class CompressFiles:
    """Where a run keeps what."""

    out: Path

    @property
    def config(self) -> Path:
        return self.out / "config.json"

    @property
    def teacher(self) -> Path:
        return self.out / "teacher.json"

    @property
    def policy(self) -> Path:
        return self.out / "policy.policy"

    @property
    def result(self) -> Path:
        return self.out / "result.json"

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint"

    def remove(self) -> None:
        """Leaves nothing of a run that nobody can go on with."""
        for file in (self.config, self.teacher):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)


@dataclass(frozen=True)
class Source:
    """The files of an agent."""

    agent: Path
    vecnormalize: Path | None = None
    trust: bool = False
    """Open the agent by unpickling, which can run any code in it."""
    force: bool = False
    """Go on where the agent's file or its return say that statistics of VecNormalize are missing or wrong."""

    def open(self, algo: str, env: Environment) -> Agent:
        """The agent as it acts in ``env``; raises what ``load_agent`` raises."""
        return load_agent(self.agent, algo, env, vecnormalize=self.vecnormalize, trust=self.trust, force=self.force)


def compress(
    model: BaseAlgorithm | Teacher,
    env: EnvLike | States,
    config: DistillConfig,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Policy:
    """A small policy that acts as ``model`` does, distilled in minutes; rewards are not looked at.

    ``env``: the environment that the student acts in, its id, a class or function that makes it, or an ``Environment``;
    or a function that gives states. ``folder`` keeps a checkpoint, from which the same call goes on. Raises
    UnsupportedError for agents that cannot be pressed.
    """
    return _with_states(
        model, env, config, lambda teacher, states: Distillation(teacher, states, config, folder).run(progress)
    )


def post_training(model: BaseAlgorithm | Teacher, env: EnvLike | States, config: DistillConfig) -> Policy:
    """What everybody tries first: magnitude pruning in one go and ranges measured on the agent's own states, without
    any training (one-shot pruning, post-training quantization)."""
    return _with_states(model, env, config, lambda teacher, states: _post_training(teacher, states, config))


def teacher_of(agent: BaseAlgorithm | Agent) -> Teacher:
    """What a student needs of a Stable-Baselines3 agent."""
    if isinstance(agent, Agent):
        model, adapter, observation = agent.model, agent.adapter, agent.observation
    else:
        model, adapter, observation = agent, adapter_for(agent), observation_transform(agent)
        model.policy.set_training_mode(False)
    return Teacher(
        checked_graph(adapter, model),
        observation,
        adapter.action_transform(model),
        adapter.imitation(model),
        tuple(adapter.critics(model)),
        {"algo": adapter.name, "steps": int(model.num_timesteps), "seed": model.seed},
    )


def scaled_hidden(teacher: Teacher, factor: float) -> tuple[int, ...]:
    """The teacher's hidden widths times ``factor``, 4 at least; behind residual blocks only, if there are any."""
    nodes = teacher.graph.nodes
    blocks = [index for index, node in enumerate(nodes) if isinstance(node, ResidualNode)]
    behind = sum(isinstance(node, LayerNode) for node in nodes[1 + max(blocks, default=-1) :]) - 1
    widths = hidden_widths(teacher.graph)
    return tuple(min(width, max(4, round(width * factor))) for width in widths[len(widths) - behind :])


def plan(
    source: Source,
    algo: str,
    env: EnvLike,
    *,
    method: str = "distill",
    hidden: tuple[int, ...] | Literal["auto"] | None = None,
    compression: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PressConfig:
    """The PressConfig for an agent, with fields of CompressionConfig (``compression``), DistillConfig (``student``)
    and PressConfig (``settings``) replaced by those given.

    A distilled student is narrow ("auto": about a hundredth of the parameters) at a learned precision, unless a
    sparsity or widths are given; 8 bits everywhere. Raises what ``load_agent`` raises, ConfigError for what does not
    fit together.
    """
    environment = description_of(env)
    if environment is None:
        raise ConfigError(
            f"a run keeps in its folder how {name_of(env)} is made, for other processes: name a class or function in a "
            "module, or call policypress.compress."
        )
    agent = source.open(algo, environment)
    given = {"weight_bits": 8, **(compression or {})}
    searched = bool((settings or {}).get("keep"))
    if searched and (hidden not in (None, "auto") or "rate_weight" in given or "batches" in (student or {})):
        raise ConfigError("a search finds hidden widths, rate_weight and batches itself: leave them or keep out.")
    if hidden is None and method == "distill" and not given.get("sparsity"):
        hidden = "auto"
    quantizes = given["weight_bits"] != FLOAT_BITS
    if method == "distill" and ((quantizes and (searched or hidden)) or "rate_weight" in given):
        given = {"weight_range": "learned", "rate_weight": 0.0 if given.get("sparsity") else RATE_WEIGHT, **given}
    if method == "distill":
        pruned = given.get("sparsity", 0.0) > 0.0
        start = 0.6 if pruned else 0.1
        given = {"prune_start": 0.0, "prune_end": 0.5, "quantize_start": start, "criterion": "flow", **given}
    widths = scaled_hidden(teacher_of(agent), AUTO_SHRINK**-0.5) if hidden == "auto" else hidden or ()
    # What starts as the teacher, or as its convolutions, loses them at the rate that suits a few fresh units.
    gentle = not widths or agent.observation.image
    student = {"learning_rate": 1e-3 if gentle else 3e-3, **(student or {})}
    return PressConfig(
        algo,
        environment.env,
        digest(source.agent),
        "" if agent.vecnormalize is None else digest(agent.vecnormalize),
        env_kwargs=environment.env_kwargs,
        wrappers=environment.wrappers,
        frame_stack=environment.frame_stack,
        method=method,  # type: ignore[arg-type]
        student=DistillConfig(CompressionConfig(**given), hidden=widths, **student),
        **(settings or {}),
    )


def press(
    source: Source,
    config: PressConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Presses ``source`` as ``config`` says, measures it against itself from the same seeds and writes everything under
    ``out``; returns the contents of ``result.json``.

    A finished run with the same config is returned as it is; an unfinished one goes on if ``resume``. Raises RunError
    when ``out`` holds something else, UnsupportedError or ConfigError before anything is written.
    """
    files = CompressFiles(Path(out))
    agent = source.open(config.algo, config.environment)
    teacher = teacher_of(agent)
    if config.method == "finetune":
        check_trust(source.trust)
        agent.adapter.trained_graph(agent.model)
    else:
        check_config(teacher, config.student)
    with locked(files.out):
        if (finished := existing(files, config, resume)) is not None:
            return finished
        measured = measured_teacher(files, agent, teacher, config, source.force)
        started = time.monotonic()
        try:
            if config.method == "ptq":
                policy = post_training(teacher, config.environment, config.student)
            elif config.method == "distill":
                policy = compress(
                    teacher, config.environment, config.student, folder=files.checkpoint, progress=progress
                )
            else:
                policy = finetune(source.agent, agent.vecnormalize, config, files.checkpoint, progress)
        except DivergedError:  # it would again
            files.remove()
            raise
        policy, result = measure(policy, config, measured, time.monotonic() - started)
        write_result(files, policy, result)
        return result


def existing(files: CompressFiles, config: PressConfig, resume: bool) -> dict[str, Any] | None:
    """The result of a finished run, or None if one may start or go on here, whose config is then written; RunError
    otherwise. A search also goes on in more or less time than it was given first."""
    if files.config.exists():
        try:
            found = from_json(PressConfig, json.loads(files.config.read_text()))
        except (json.JSONDecodeError, ConfigError) as error:
            raise RunError(f"{files.config} cannot be read: choose another --out, or remove the folder.") from error
        if replace(found, minutes=config.minutes) != config:
            raise RunError(f"{files.out} holds another run: choose another --out or repeat its settings and files.")
        if files.result.exists() and found == config:
            result: dict[str, Any] = json.loads(files.result.read_text())
            return result
        if not resume:
            raise RunError(f"{files.out} holds an unfinished run: add --resume to go on, or choose another --out.")
    remove_partial(files.config, files.teacher, files.policy, files.result)
    files.result.unlink(missing_ok=True)
    write_whole(files.config, dumps(config))
    return None


def measured_teacher(
    files: CompressFiles, agent: Agent, teacher: Teacher, config: PressConfig, force: bool = False
) -> dict[str, Any]:
    """The teacher's evaluation in float32, measured once a folder, and in it as "chance" what acting without looking
    returns; warns where the teacher does no better. Raises RunError if it acts far below its training, ConfigError if a
    search needs shares of a return that is next to nothing. What is wrong with the agent leaves no run behind."""
    measured: dict[str, Any] = json.loads(files.teacher.read_text()) if files.teacher.exists() else {}
    if "chance" not in measured:
        try:
            result = evaluate(teacher.policy(), config.environment, episodes=config.episodes, seed=FINAL_SEED)
            check_return(agent, result.returns, config.env, force=force)
            if config.keep and kept(result.returns, result.returns).share is None:
                raise ConfigError(
                    f"the agent's return, {_return(result.summary())}, is too near to 0 for a share of it: press it "
                    "without --keep."
                )
            actions, blind = chance(
                config.environment, episodes=config.episodes, seed=FINAL_SEED, steps=_CHANCE_STEPS * max(result.lengths)
            )
        except PolicypressError:
            files.remove()
            raise
        measured = {**result.as_dict(), "chance": {"actions": actions, **blind.summary()}}
        write_whole(files.teacher, json.dumps(measured))
    if (note := _at_chance(measured)) is not None:
        warnings.warn(note, stacklevel=2)
    return measured


def measure(
    policy: Policy, config: PressConfig, teacher: dict[str, Any], seconds: float
) -> tuple[Policy, dict[str, Any]]:
    """``policy`` with what it returns from the teacher's seeds on its card, and the contents of ``result.json``."""
    evaluation = evaluate(policy, config.environment, episodes=config.episodes, seed=FINAL_SEED).as_dict()
    share = asdict(kept(evaluation["returns"], teacher["returns"], teacher["chance"]["high"]))
    policy = replace(policy, results={"evaluation": evaluation, "teacher": teacher, "kept": share})
    result = {
        "config": json.loads(dumps(config)),
        "teacher": teacher,
        "evaluation": evaluation,
        "kept": share,
        "notes": notes(policy, teacher, share),
        "size": sizes(policy),
        "numerics": policy.numerics,
        "batches": policy.provenance.get("batches"),
        "wall_seconds": round(seconds, 1),
    }
    return policy, json.loads(json.dumps(result))  # as a later call reads it


def notes(policy: Policy, teacher: Mapping[str, Any], share: Mapping[str, Any]) -> list[str]:
    """Sentences without which the figures of a student would mislead."""
    found = []
    if (at_chance := _at_chance(teacher)) is not None:
        found.append(at_chance)
    elif share["share"] is None:
        found.append("the agent's return is too near to 0 for a share of it.")
    if not any(layer.nonzeros for layer in policy.layers):
        found.append("the student's action is constant: none of its weights is left.")
    return found


def _at_chance(teacher: Mapping[str, Any]) -> str | None:
    """That the agent does no better than acting without looking, or None if it does."""
    blind = teacher["chance"]
    if teacher["low"] > blind["high"]:
        return None
    return (
        f"the agent does no better than {blind['actions']} ({_return(teacher)} against {_return(blind)}): there is "
        "nothing learned that a student could keep."
    )


def _return(measured: Mapping[str, Any]) -> str:
    return f"{measured['mean']:,.1f} [{measured['low']:,.1f}, {measured['high']:,.1f}]"


def write_result(files: CompressFiles, policy: Policy, result: dict[str, Any]) -> None:
    """The policy and its result, and no checkpoint any more."""
    policy.save(files.policy)
    write_whole(files.result, json.dumps(result, indent=2))
    shutil.rmtree(files.checkpoint, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; RunError if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): give the zip that model.save wrote.") from error


def _with_states(
    model: BaseAlgorithm | Teacher,
    env: EnvLike | States,
    config: DistillConfig,
    work: Callable[[Teacher, States], Policy],
) -> Policy:
    teacher = model if isinstance(model, Teacher) else teacher_of(model)
    if not makes_env(env):
        return work(teacher, env)  # type: ignore[arg-type]
    described = description_of(env)  # type: ignore[arg-type]
    padding = padding_of(teacher.observation, described.frame_stack if described else 1)
    states = EnvironmentStates(env, seed=config.seed, padding=padding)  # type: ignore[arg-type]
    try:
        origin = described.as_dict() if described else {}
        return work(replace(teacher, provenance={**teacher.provenance, **origin}), states)
    finally:
        states.close()


def _post_training(teacher: Teacher, states: States, config: DistillConfig) -> Policy:
    raw = met_by_teacher(teacher, states, min(config.states, _CALIBRATION_STATES))
    torch.manual_seed(config.seed)
    picks = torch.randint(len(raw), (_CALIBRATION_BATCHES, min(config.batch_size, len(raw)))).numpy()

    def inputs(index: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(reference.observe(teacher.observation, raw[index]))

    network = student(teacher.graph, config.hidden, inputs(picks[0]))
    compression = replace(
        config.compression, prune_start=0.0, prune_end=0.0, quantize_start=1.0, observe=1.0, rate_weight=0.0,
        weight_range="mse" if config.compression.weight_range == "learned" else config.compression.weight_range,
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters())
    image = teacher.observation.image
    compressor = Compressor(network, optimizer, compression, steps=1, image=image, seed=config.seed)
    compressor.step(0)  # prunes, and lets ranges be measured
    for index in picks:
        network(inputs(index))
    compressor.step(1)
    return canonical(
        freeze_graph(
            compressor.graph,
            teacher.observation,
            teacher.action,
            baseline_bytes=teacher.baseline_bytes,
            provenance={**teacher.provenance, "ptq": json.loads(dumps(config))},
            observations=raw[spread(len(raw), raw[0].nbytes)],
        )
    )
