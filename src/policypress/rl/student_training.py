"""A distilled student that its agent's algorithm trains on: the return itself, by gradient.

The student is the actor of a new model of the agent's class; the critics, which nobody deploys, stay as large as the
agent's and start as they are (asymmetric actor-critic, Pinto et al. 2018). What keeps the student from falling at the
start: the critics learn alone at first, on what the student itself does; it explores less than the agent did; and it is
held to the teacher's actions for a while (a behaviour penalty, as in TD3+BC, Fujimoto and Gu 2021). What its actions
lose by the critics is measured in standard deviations of their values, so that it can be weighed against that and the
price of bits, which follows the payload: it must not be larger than at the start. What is kept is the student of the
best mean and worst tenth in evaluations on the way.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from policypress.compression.compressor import Compressor
from policypress.compression.graph import ActivationNode, Graph, LayerNode, walk
from policypress.compression.student import forward, student
from policypress.config import PressConfig, dumps
from policypress.errors import DIVERGED, DivergedError, RunError, UnsupportedError
from policypress.files import replace_file
from policypress.measure.returns import worth
from policypress.measure.size import size
from policypress.policy.artifact import decode, encode
from policypress.policy.policy import Policy
from policypress.rl.adapters import ADAPTERS, adapter_named
from policypress.rl.agents import Learned, read_learned
from policypress.rl.callback import STATE_ATTRIBUTE, attach, divergence, fuse
from policypress.rl.checkpoint import flush_replay_buffer, map_replay_buffer, random_state, set_random_state
from policypress.rl.evaluate import evaluate
from policypress.rl.freeze import freeze
from policypress.rl.imitation import imitation_loss
from policypress.rl.runs import Progress
from policypress.rl.sources import OpenedAgent

EVALUATION_SEED = 7000
"""Episodes that choose among the students on the way start from ``reset(seed=7000 + i)``."""
_EVALUATIONS, _EPISODES = 15, 40
WARM_UP = 5_000
"""Environment steps, and as many gradient steps, in which the critics learn and the student does not."""
_WARM_UP_SHARE = 0.1  # of all steps, at most
_BUFFER = 300_000  # transitions that are kept, at most
_BATCH = 128
_ACTOR_RATE, _ACTOR_EVERY = 1e-3, 2
_RAMP = 500  # steps of the student in which its learning rate rises: Adam's first ones are all of full length
_DECAY = 0.4  # of the steps, the last ones: the learning rate falls to zero
_PENALTY, _PENALTY_UNTIL = 1.0, 0.5  # of what its actions differ from the teacher's, falling to 0 at this share
_SPREAD_MEMORY = 0.99
_AVERAGED = 1_000  # steps of the student, about, whose weights are averaged: single ones may fall now and then
# The price of bits follows the bits: a hundredth more than wanted raises it by a fiftieth, every so many steps.
_PRICE_EVERY, _PRICE_GAIN, _PRICE_SPAN = 50, 2.0, 100.0
_PAYLOAD = 0.98  # of the payload at the start: what is aimed at, so that it is seldom more


class StudentTraining:
    """One student that is trained on: ``run`` trains it to the end, ``freeze`` gives the best policy on the way.

    ``start`` presses the student as it was distilled, in integers already, from ``inputs`` (n, ...), some of its
    network's. ``env`` is the agent's, made to train in. With a ``folder`` the training is checkpointed there and goes
    on from its checkpoint, replay buffer included. Raises UnsupportedError for an agent whose
    algorithm cannot train a student, RunError for a checkpoint of other settings.
    """

    def __init__(
        self,
        agent: OpenedAgent,
        start: Compressor,
        inputs: torch.Tensor,
        env: VecEnv,
        config: PressConfig,
        folder: Path | None = None,
    ) -> None:
        assert agent.model is not None
        self._teacher, self._config = agent.teacher, config
        self._adapter: Any = adapter_named(agent.algo)
        learned = read_learned(agent.source.agent, self._adapter)
        self._model = _fresh_model(agent, learned, env, config)
        self._model.set_logger(Logger(None, []))  # the usual one leaves a folder behind in the temporary one
        copy = student(start.graph, (), inputs)
        # Vectors alone come here, and Stable-Baselines3's extractor has flattened them.
        network = nn.Sequential(*(module for module in copy if not isinstance(module, nn.Flatten)))
        self._adapter.deploy(self._model, network, agent.model, inputs)
        self._optimizer = self._adapter.optimizer(self._model)
        _take_over(self._model, learned, self._optimizer)
        self._met = inputs
        if not isinstance(self._model, OffPolicyAlgorithm):  # before the masks' own hook, which has the last word
            self._optimizer.register_step_pre_hook(self._before_step)
        self._compressor = attach(self._model, replace(start.config, rate_weight=0.0), start.steps)
        begun = start.state_dict()
        begun.pop("counts", None)  # of passes: another training
        self._compressor.load_state_dict(begun)
        for ours, theirs in zip(_modules(self._compressor.graph), _modules(start.graph), strict=True):
            ours.load_state_dict(theirs.state_dict())
        getattr(self._model, STATE_ATTRIBUTE)["compressor"] = self._compressor.state_dict(tensors=False)
        self._deployed = [values for module in _modules(self._compressor.graph) for values in module.parameters()]
        self._average = [values.detach().clone() for values in self._deployed]
        self._optimizer.register_step_post_hook(self._after_step)
        self._warm_up = min(WARM_UP, math.ceil(_WARM_UP_SHARE * config.steps))
        self._price = start.config.rate_weight
        self._bits_wanted = max(self._bits(), 1.0)
        self._spread = 0.0
        self._updates = self._actor_steps = 0
        self._rows: list[dict[str, float]] = []
        self._best: tuple[float, Policy] | None = None
        self._checkpoint = None if folder is None else folder / "training.pt"
        if self._checkpoint is not None:
            goes_on = self._checkpoint.exists()
            map_replay_buffer(self._model, self._checkpoint.with_name("replay"), goes_on)
            if goes_on:
                self._restore(torch.load(self._checkpoint, weights_only=True))

    @property
    def evaluations(self) -> list[dict[str, float]]:
        """What the student returned on the way: "step", "mean", "low" (the lower end of its 95 % interval),
        "worst_tenth", and "payload" in bytes."""
        return list(self._rows)

    def run(self, progress: Progress | None = None, seconds: float = math.inf) -> bool:
        """Trains what is left to train, or until the first checkpoint after ``seconds``; whether it is finished.

        ``progress`` hears of environment steps and the mean return.
        """
        model, steps, deadline = self._model, self._config.steps, time.monotonic() + seconds
        every = max(1, steps // _EVALUATIONS)
        _, callback = model._setup_learn(steps, None, reset_num_timesteps=False)
        if not self._rows:
            self._evaluate(progress)
        with divergence(model):
            for done in self._learn(callback):
                if done // every > self._rows[-1]["step"] // every or done >= steps:
                    self._evaluate(progress)
                    self._save()
                    if time.monotonic() >= deadline:
                        break
        return bool(model.num_timesteps >= steps)

    def pace(self) -> float:
        """Environment steps a second, measured on the steps of ``config``; neither evaluated nor kept."""
        _, callback = self._model._setup_learn(self._config.steps, None, reset_num_timesteps=False)
        begun = time.monotonic()
        done = list(self._learn(callback))[-1]
        return done / (time.monotonic() - begun)

    def freeze(self) -> Policy:
        """The student of the best mean and worst tenth of those whose payload has not grown where bits have a price."""
        assert self._best is not None
        return self._best[1]

    def _learn(self, callback: Any) -> Iterator[int]:
        """Trains to the end, and tells on the way how many steps are done."""
        off_policy = isinstance(self._model, OffPolicyAlgorithm)
        return self._off_policy(callback) if off_policy else self._on_policy(callback)

    # Off-policy

    def _off_policy(self, callback: Any) -> Iterator[int]:
        model, steps = self._model, self._config.steps
        self._fill(callback)
        while model.num_timesteps < steps:
            self._collect(callback, 1)
            model.policy.set_training_mode(True)
            batch = self._sample()
            self._adapter.learn_critics(model, batch)
            self._updates += 1
            if self._updates % _ACTOR_EVERY == 0:
                self._learn_actor(batch.observations)
            yield model.num_timesteps

    def _fill(self, callback: Any) -> None:
        """At the start, fills the replay buffer with what the student does; the critics learn from that alone."""
        model = self._model
        if model.num_timesteps:
            return
        self._collect(callback, self._warm_up)
        model.policy.set_training_mode(True)
        for _ in range(self._warm_up):
            self._adapter.learn_critics(model, self._sample())

    def _sample(self) -> Any:
        model = self._model
        return model.replay_buffer.sample(_BATCH, env=model._vec_normalize_env)

    def _collect(self, callback: Any, steps: int) -> None:
        model = self._model
        frequency = TrainFreq(steps, TrainFrequencyUnit.STEP)
        model.collect_rollouts(
            model.env, callback, frequency, model.replay_buffer, action_noise=model.action_noise, learning_starts=0
        )

    def _learn_actor(self, observations: Any) -> None:
        loss, values = self._adapter.actor_loss(self._model, observations)
        spread = float(values.detach().std())
        self._spread = _SPREAD_MEMORY * self._spread + (1 - _SPREAD_MEMORY) * spread if self._spread else spread
        loss = loss / max(self._spread, 1e-6)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"the student's loss is {value} at step {self._model.num_timesteps}: {DIVERGED}.")
        rate = self._rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        self._hold(self._adapter.network_inputs(self._model, observations))
        self._optimizer.step()

    # On-policy: Stable-Baselines3's own training, whose optimizer also trains the value network

    def _on_policy(self, callback: Any) -> Iterator[int]:
        model = self._model
        schedule = model.lr_schedule
        model.lr_schedule = lambda left: schedule(left) * min(1.0, left / _DECAY)
        while model.num_timesteps < self._config.steps:
            model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
            with torch.no_grad():
                met = model.policy.obs_to_tensor(_flat(model.rollout_buffer.observations))[0]
                self._met = self._adapter.network_inputs(model, met)
            model.train()
            yield model.num_timesteps

    def _before_step(self, *_: Any) -> None:
        if self._model.num_timesteps > self._warm_up:
            picks = torch.randint(len(self._met), (self._config.student.batch_size,))
            with torch.enable_grad():
                self._hold(self._met[picks])
            return
        for name, parameter in self._model.policy.named_parameters():  # the value network alone learns
            if any(parameter is one for one in self._deployed) or name == "log_std":
                parameter.grad = None
        for node in self._compressor.graph.layers if self._compressor.config.quantizes else ():
            node.module.policypress_quantizer.gradient = None  # type: ignore[union-attr]

    # Both

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        for average, values in zip(self._average, self._deployed, strict=True):
            average.lerp_(values, 1.0 / _AVERAGED)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The student of averaged weights, in place of the latest (Polyak and Juditsky 1992)."""
        latest = [values.detach().clone() for values in self._deployed]
        self._set(self._average)
        yield
        self._set(latest)

    @torch.no_grad()
    def _set(self, weights: list[torch.Tensor]) -> None:
        for values, given in zip(self._deployed, weights, strict=True):
            values.copy_(given)

    def _rate(self) -> float:
        left = 1.0 - self._model.num_timesteps / self._config.steps
        return _ACTOR_RATE * min(1.0, float(left) / _DECAY, (self._actor_steps + 1) / _RAMP)

    def _hold(self, x: torch.Tensor) -> None:
        """Adds to the student's gradients what holds it: the penalty at inputs ``x`` (n, ...), the price of bits."""
        self._actor_steps += 1
        graph = self._compressor.graph
        weight = _PENALTY * (1.0 - self._model.num_timesteps / (_PENALTY_UNTIL * self._config.steps))
        if weight > 0.0:
            (weight * imitation_loss(self._teacher, forward(graph, x), self._teacher.outputs(x))).backward()
        if not self._price:
            return
        weights = sum(node.module.weight.numel() for node in graph.layers)
        for node in graph.layers:
            node.module.add_rate_gradient(self._price / weights)  # type: ignore[operator]
        if self._actor_steps % _PRICE_EVERY == 0:
            asked = self._config.student.compression.rate_weight
            grown = max(-0.1, min(0.1, self._bits() / self._bits_wanted - 1.0))
            price = self._price * math.exp(_PRICE_GAIN * grown)
            self._price = max(asked / _PRICE_SPAN, min(asked * _PRICE_SPAN, price))

    @torch.no_grad()
    def _bits(self) -> float:
        """About what the weights take in the payload, as the distillation prices them; float ones by their number."""
        layers = [node.module for node in self._compressor.graph.layers]
        if not self._compressor.config.quantizes:
            return float(sum(torch.count_nonzero(layer.weight) for layer in layers))
        codes = [layer.weight_codes() for layer in layers]  # type: ignore[operator]
        return float(sum(torch.log2(1.0 + one.abs()).sum() for one in codes))

    def _evaluate(self, progress: Progress | None) -> None:
        model, config = self._model, self._config
        told = {**config.environment.as_dict(), "distill": json.loads(dumps(config.student)), "finetuned": config.steps}
        with self._averaged():
            policy = freeze(model, baseline_bytes=self._teacher.baseline_bytes, provenance=told)
        result = evaluate(policy, config.environment, episodes=_EPISODES, seed=EVALUATION_SEED)
        payload = size(policy).payload_bytes
        low, _ = result.interval
        row = {"mean": result.mean, "low": low, "worst_tenth": result.worst_tenth, "payload": payload}
        self._rows.append({"step": model.num_timesteps, **row})
        allowed = self._rows[0]["payload"]
        self._bits_wanted = max(self._bits(), 1.0) * _PAYLOAD * allowed / payload
        fits = payload <= allowed or not self._price
        value = worth(result.returns)
        if self._best is None or (fits and value > self._best[0]):
            self._best = value, policy
        if progress is not None:
            progress(min(model.num_timesteps, config.steps), config.steps, result.mean)

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        assert self._best is not None
        buffer = getattr(self._model, "replay_buffer", None)
        if buffer is not None:
            flush_replay_buffer(buffer)
        modules, tensors = self._model._get_torch_save_params()
        state = {
            "config": dumps(self._config),
            "done": self._model.num_timesteps,
            "modules": {name: _attribute(self._model, name).state_dict() for name in modules},
            "tensors": {name: getattr(self._model, name).detach() for name in tensors},
            "buffer": None if buffer is None else (buffer.pos, buffer.full),
            "average": self._average,
            "price": self._price,
            "bits_wanted": self._bits_wanted,
            "spread": self._spread,
            "updates": self._updates,
            "actor_steps": self._actor_steps,
            "rows": self._rows,
            "best": (self._best[0], encode(self._best[1])),
            "random": json.dumps(random_state()),
        }
        with replace_file(self._checkpoint) as partial:
            torch.save(state, partial)

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["config"] != dumps(self._config):
            raise RunError(f"{self._checkpoint} is of other settings: choose another folder or remove it.")
        self._model.num_timesteps = saved["done"]
        for name, state in saved["modules"].items():
            _attribute(self._model, name).load_state_dict(state)
        for name, value in saved["tensors"].items():
            getattr(self._model, name).data.copy_(value)
        if saved["buffer"] is not None:
            self._model.replay_buffer.pos, self._model.replay_buffer.full = saved["buffer"]
        self._average = saved["average"]
        self._price, self._bits_wanted, self._spread = saved["price"], saved["bits_wanted"], saved["spread"]
        self._updates, self._actor_steps = saved["updates"], saved["actor_steps"]
        self._rows = saved["rows"]
        value, policy = saved["best"]
        self._best = value, decode(policy, Policy)
        set_random_state(json.loads(saved["random"]))


def check_student_training(agent: OpenedAgent) -> None:
    """Raises UnsupportedError, before any work, for an agent whose students cannot be trained on."""
    if agent.model is None:
        raise UnsupportedError(
            f"{agent.source.agent} is no agent that Stable-Baselines3 can train on: use --method distill."
        )
    adapter = adapter_named(agent.algo)
    if not adapter.trains_students:
        names = ", ".join(name for name, one in ADAPTERS.items() if one.trains_students)
        raise UnsupportedError(
            f"a student of {adapter.name} cannot be trained on, those of {names} can: use --method distill."
        )
    if agent.teacher.observation.image:
        raise UnsupportedError("a student that sees images cannot be trained on: use --method distill.")


def _fresh_model(agent: OpenedAgent, learned: Learned, env: VecEnv, config: PressConfig) -> Any:
    """A model of the agent's class with its settings, its critics and whatever else of its policy fits."""
    if learned.unread:
        warnings.warn(
            f"{agent.source.agent} does not tell its {', '.join(learned.unread)} without being unpickled: "
            "Stable-Baselines3's defaults take their place.",
            stacklevel=2,
        )
    adapter, old = adapter_named(agent.algo), agent.model
    assert old is not None
    kwargs = {name: value for name, value in old.policy_kwargs.items() if name != "use_sde"}
    if kwargs.get("squash_output"):
        raise UnsupportedError("an agent of squash_output=True explores by gSDE alone: use --method distill.")
    name = "MultiInputPolicy" if hasattr(env.observation_space, "spaces") else "MlpPolicy"
    settings = dict(learned.settings)
    if issubclass(adapter.model_class, OffPolicyAlgorithm):
        settings["buffer_size"] = min(_BUFFER, config.steps)
    # Hashed, so that no student learns from the very episodes that measure it: those count up from a seed.
    seed = int(np.random.SeedSequence(config.student.seed).generate_state(1)[0])
    model: Any = adapter.model_class(name, env, policy_kwargs=kwargs, seed=seed, device="cpu", **settings)
    fresh, saved = model.policy.state_dict(), old.policy.state_dict()
    fits = {name: value for name, value in saved.items() if name in fresh and fresh[name].shape == value.shape}
    model.policy.load_state_dict({**fresh, **fits})
    return model


def _take_over(model: Any, learned: Learned, fresh: torch.optim.Optimizer) -> None:
    """Gives ``model`` the agent's variables, and its optimizers but for the ``fresh`` one the state of the agent's."""
    modules, tensors = model._get_torch_save_params()
    for name in tensors:
        if name in learned.variables:
            getattr(model, name).data.copy_(learned.variables[name])
    for name in modules:
        optimizer = _attribute(model, name)
        if not isinstance(optimizer, torch.optim.Optimizer) or optimizer is fresh:
            continue
        if name in learned.optimizers and _fits(optimizer, learned.optimizers[name]):
            optimizer.load_state_dict(learned.optimizers[name])
        fuse(optimizer)


def _fits(optimizer: torch.optim.Optimizer, state: Any) -> bool:
    """Whether a state dict is of as many parameters, of the same shapes, as ``optimizer`` trains."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [state["state"].get(index, {}).get("exp_avg") for index in range(len(parameters))]
    listed = [index for group in state["param_groups"] for index in group["params"]]
    return len(listed) == len(parameters) and all(
        moment is not None and moment.shape == parameter.shape
        for moment, parameter in zip(moments, parameters, strict=True)
    )


def _flat(observations: Any) -> Any:
    """Observations of a rollout, (steps, environments, ...) or joined already, as (n, ...)."""
    if isinstance(observations, dict):
        return {name: _flat(part) for name, part in observations.items()}
    return observations.reshape(-1, *observations.shape[2:])


def _attribute(model: Any, name: str) -> Any:
    for part in name.split("."):
        model = getattr(model, part)
    return model


def _modules(graph: Graph) -> list[nn.Module]:
    """Layers and activations, first to last."""
    return [node.module for node in walk(graph.nodes) if isinstance(node, LayerNode | ActivationNode)]
