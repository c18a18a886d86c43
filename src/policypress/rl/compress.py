"""``policypress compress``: an agent that is already trained, pressed in minutes and measured against itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from policypress.compression.compressor import Compressor
from policypress.compression.graph import LayerNode, ResidualNode
from policypress.compression.student import hidden_widths, student
from policypress.config import FLOAT_BITS, CompressConfig, CompressionConfig, DistillConfig, dumps, from_json
from policypress.errors import ConfigError, PolicypressError, RunError
from policypress.measure.size import size
from policypress.policy import reference
from policypress.policy.canonical import canonical
from policypress.policy.freeze import freeze_graph, spread
from policypress.policy.policy import Policy
from policypress.rl import checkpoint
from policypress.rl.adapters import adapter_for, observation_transform
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
from policypress.rl.environments import make_env
from policypress.rl.evaluate import evaluate, kept
from policypress.rl.finetune import check_trust, finetune
from policypress.rl.train import FINAL_SEED

_CALIBRATION_STATES = 20_000
_CALIBRATION_BATCHES = 800
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


@dataclass(frozen=True)
class Source:
    """The files of an agent."""

    agent: Path
    vecnormalize: Path | None = None
    trust: bool = False
    """Open the agent by unpickling, which can run any code in it."""


def compress(
    model: BaseAlgorithm | Teacher,
    env: str | States,
    config: DistillConfig,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Policy:
    """A small policy that acts as ``model`` does, distilled in minutes; rewards are not looked at.

    ``env``: id of the environment that the student acts in, or a function that gives states. ``folder`` keeps a
    checkpoint, from which the same call goes on. Raises UnsupportedError for agents that cannot be pressed.
    """
    return _with_states(
        model, env, config, lambda teacher, states: Distillation(teacher, states, config, folder).run(progress)
    )


def post_training(model: BaseAlgorithm | Teacher, env: str | States, config: DistillConfig) -> Policy:
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
        adapter.graph(model),
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
    env: str,
    *,
    method: str = "distill",
    hidden: tuple[int, ...] | Literal["auto"] | None = None,
    compression: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> CompressConfig:
    """The CompressConfig for an agent, with fields of CompressionConfig (``compression``), DistillConfig (``student``)
    and CompressConfig (``settings``) replaced by those given.

    A distilled student is narrow ("auto": about a hundredth of the parameters) at a learned precision, unless a
    sparsity or widths are given; 8 bits everywhere. Raises what ``load_agent`` raises, ConfigError for what does not
    fit together.
    """
    agent = load_agent(source.agent, algo, env, vecnormalize=source.vecnormalize, trust=source.trust)
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
    return CompressConfig(
        algo,
        env,
        digest(source.agent),
        "" if source.vecnormalize is None else digest(source.vecnormalize),
        method=method,  # type: ignore[arg-type]
        student=DistillConfig(CompressionConfig(**given), hidden=widths, **student),
        **(settings or {}),
    )


def press(
    source: Source,
    config: CompressConfig,
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
    agent = load_agent(source.agent, config.algo, config.env, vecnormalize=source.vecnormalize, trust=source.trust)
    teacher = teacher_of(agent)
    if config.method == "finetune":
        check_trust(source.trust)
        agent.adapter.trained_graph(agent.model)
    else:
        check_config(teacher, config.student)
    with checkpoint.locked(files.out):
        if (finished := existing(files, config, resume)) is not None:
            return finished
        measured = measured_teacher(files, agent, teacher, config)
        started = time.monotonic()
        if config.method == "ptq":
            policy = post_training(teacher, config.env, config.student)
        elif config.method == "distill":
            policy = compress(teacher, config.env, config.student, folder=files.checkpoint, progress=progress)
        else:
            policy = finetune(source.agent, source.vecnormalize, config, files.checkpoint, progress)
        policy, result = measure(policy, config, measured, time.monotonic() - started)
        write_result(files, policy, result)
        return result


def existing(files: CompressFiles, config: CompressConfig, resume: bool) -> dict[str, Any] | None:
    """The result of a finished run, or None if one may start or go on here, whose config is then written; RunError
    otherwise. A search also goes on in more or less time than it was given first."""
    if files.config.exists():
        try:
            found = from_json(CompressConfig, json.loads(files.config.read_text()))
        except (json.JSONDecodeError, ConfigError) as error:
            raise RunError(f"{files.config} cannot be read: choose another --out, or remove the folder.") from error
        if replace(found, minutes=config.minutes) != config:
            raise RunError(f"{files.out} holds another run: choose another --out or repeat its settings and files.")
        if files.result.exists() and found == config:
            result: dict[str, Any] = json.loads(files.result.read_text())
            return result
        if not resume:
            raise RunError(f"{files.out} holds an unfinished run: add --resume to go on, or choose another --out.")
    checkpoint.remove_partial(files.config, files.teacher, files.policy, files.result)
    files.result.unlink(missing_ok=True)
    checkpoint.write_whole(files.config, dumps(config))
    return None


def measured_teacher(files: CompressFiles, agent: Agent, teacher: Teacher, config: CompressConfig) -> dict[str, Any]:
    """The teacher's evaluation in float32, measured once a folder; RunError if it acts far below its training,
    ConfigError if it returns nothing that could be kept. What is wrong with the agent leaves no run behind."""
    if not files.teacher.exists():
        result = evaluate(teacher.policy(), config.env, episodes=config.episodes, seed=FINAL_SEED)
        try:
            check_return(agent, result.mean)
            kept(result.returns, result.returns)
        except PolicypressError:
            files.config.unlink()
            raise
        checkpoint.write_whole(files.teacher, json.dumps(result.as_dict()))
    measured: dict[str, Any] = json.loads(files.teacher.read_text())
    return measured


def measure(
    policy: Policy, config: CompressConfig, teacher: dict[str, Any], seconds: float
) -> tuple[Policy, dict[str, Any]]:
    """``policy`` with what it returns from the teacher's seeds on its card, and the contents of ``result.json``."""
    evaluation = evaluate(policy, config.env, episodes=config.episodes, seed=FINAL_SEED).as_dict()
    share = asdict(kept(evaluation["returns"], teacher["returns"]))
    policy = replace(policy, results={"evaluation": evaluation, "teacher": teacher, "kept": share})
    result = {
        "config": json.loads(dumps(config)),
        "teacher": teacher,
        "evaluation": evaluation,
        "kept": share,
        "size": size(policy).as_dict(),
        "numerics": policy.numerics,
        "batches": policy.provenance.get("batches"),
        "wall_seconds": round(seconds, 1),
    }
    return policy, json.loads(json.dumps(result))  # as a later call reads it


def write_result(files: CompressFiles, policy: Policy, result: dict[str, Any]) -> None:
    """The policy and its result, and no checkpoint any more."""
    policy.save(files.policy)
    checkpoint.write_whole(files.result, json.dumps(result, indent=2))
    shutil.rmtree(files.checkpoint, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; RunError if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): give the zip that model.save wrote.") from error


def _with_states(
    model: BaseAlgorithm | Teacher, env: str | States, config: DistillConfig, work: Callable[[Teacher, States], Policy]
) -> Policy:
    teacher = model if isinstance(model, Teacher) else teacher_of(model)
    if not isinstance(env, str):
        return work(teacher, env)
    states = EnvironmentStates(lambda: make_env(env, training=False), seed=config.seed)
    try:
        return work(replace(teacher, provenance={**teacher.provenance, "env": env}), states)
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
