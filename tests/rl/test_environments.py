"""Environments: how they are named and made, what goes wrong in them, what MuJoCo has to say about their models."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import policypress as pp
from policypress import cli
from policypress.compression.freeze import freeze_graph
from policypress.config import DistillConfig, Environment, PressConfig, TrainConfig, dumps, from_json
from policypress.errors import ConfigError, DivergedError, RunError, UnsupportedError
from policypress.rl import environments, evaluate
from policypress.rl.adapters import ADAPTERS
from policypress.rl.agents import load_agent
from policypress.rl.environments import description_of, make_env, name_of, space_given
from policypress.rl.lines import Aim, Candidate, Line, Shape
from policypress.rl.press import press
from policypress.rl.search import Yardstick
from policypress.rl.sources import Source
from policypress.rl.workers import Workers
from rl.toys import FOLLOW, NAMED, PICK, Follow, Pick, agent, draw, plan, save_picker, write_picker

mujoco = pytest.importorskip("mujoco")
ENVIRONMENTS, SEARCH = (sys.modules[f"policypress.rl.{name}"] for name in ("environments", "search"))
SHARED = Pick()
TIME = "sb3_contrib.common.wrappers:TimeFeatureWrapper(max_steps=20)"
LOCAL = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces

class Env(gym.Env):
    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, bonus=0.0, length=5):
        self.bonus, self.length = bonus, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.shown = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.shown, {}

    def step(self, action):
        reward = float(action == np.argmax(self.shown)) + self.bonus
        self.steps += 1
        self.shown = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.shown, reward, False, self.steps >= self.length, {}

class Doubled(gym.RewardWrapper):
    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward

def make(**kwargs):
    return Doubled(Env(**kwargs))

def nothing():
    return 3

def broken():
    raise OSError("no robot\\nhere")

number = 4
gym.register("LocalEnv-v0", entry_point=Env, kwargs={"length": 7})
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, which nobody put into Python's path."""
    name = f"robots_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(LOCAL)
    (tmp_path / f"{name}_wrong.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / f"{name}_raises.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    return name


@cache
def picks() -> pp.Policy:
    """A policy that solves ``Pick`` and the environments of ``LOCAL``."""
    model = agent("dqn", PICK)
    write_picker([node.module for node in ADAPTERS["dqn"].graph(model).layers])
    return pp.freeze(model, provenance={"env": PICK})


# Names


@pytest.mark.parametrize(
    ("name", "kwargs", "wrappers", "expected"),
    [
        ("{}:Env", {}, (), 5.0),
        ("{}:Env", {"bonus": 1.0, "length": 3}, (), 6.0),
        ("{}:make", {"length": 4}, (), 8.0),
        ("{}:LocalEnv-v0", {}, (), 7.0),
        ("LocalEnv-v0", {"bonus": 1}, (), 14.0),
        ("{}:Env", {}, ("{}:Doubled",), 10.0),
        ("{}:Env", {}, ("{}.Doubled",), 10.0),
        ("{}:Env", {"length": 2}, ("{}:Doubled(factor=3)", "{}:Doubled( factor = 1.5, )"), 9.0),
        ("{}:Env", {}, ("gymnasium.wrappers:TimeLimit(max_episode_steps=2)",), 2.0),
    ],
)
def test_environments_in_the_current_folder(
    name: str, kwargs: dict[str, Any], wrappers: tuple[str, ...], expected: float, here: str
) -> None:
    make_env(f"{here}:LocalEnv-v0", training=False)  # registers
    environment = Environment(name.format(here), kwargs, tuple(wrapper.format(here) for wrapper in wrappers))
    result = evaluate(picks(), environment, episodes=3)
    assert result.returns == (expected,) * 3
    assert result.env == environment.env


@pytest.mark.parametrize(
    ("env", "wrappers", "sentence"),
    [
        ("{}_none:Env", (), r"there is no module '.*_none' to find 'Env' in: install it, or run from the folder"),
        ("{}_wrong:Env", (), r"module '.*_wrong' needs a_package_that_is_not_there, which is not installed"),
        ("{}_raises:Env", (), r"module '.*_raises' cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("{}:Missing", (), r"module .* \(.*\.py\) has no class or function 'Missing'"),
        ("{}:number", (), r"has no class or function 'number'"),
        ("{}:Missing-v0", (), r"there is no environment '.*:Missing-v0'"),
        ("{}:nothing", (), r":nothing gives int, not a gymnasium\.Env"),
        ("{}:broken", (), r":broken cannot be made \(OSError: no robot\): mend it, or what it is given"),
        ("Pendulum-v1", ("Wrapper",), r"wrapper 'Wrapper' names no class: write it as module:Class"),
        ("Pendulum-v1", ("{}:Doubled(1)",), r"wrapper .* cannot be read: write it as module:Class\(name=value\)"),
        ("Pendulum-v1", ("{}:Doubled(factor=open)",), r"cannot be read: write it as"),
        ("Pendulum-v1", ("{}:Doubled(factor=1",), r"cannot be read: write it as"),
        ("Pendulum-v1", ("{}:Doubled(wrong=1)",), r"Doubled\(wrong=1\) cannot be made \(TypeError: .*'wrong'"),
        ("Pendulum-v1", ("{}:nothing",), r":nothing cannot be made \(TypeError"),
    ],
)
def test_names_that_lead_nowhere(env: str, wrappers: tuple[str, ...], sentence: str, here: str) -> None:
    environment = Environment(env.format(here), wrappers=tuple(wrapper.format(here) for wrapper in wrappers))
    with pytest.raises(ConfigError, match=sentence) as caught:
        make_env(environment, training=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))


def test_wrong_keyword_arguments() -> None:
    with pytest.raises(
        ConfigError, match=r"Pendulum-v1 cannot be made \(TypeError: .*wrong.*\): mend it, or what it is"
    ):
        make_env(Environment("Pendulum-v1", {"wrong": 1}), training=False)


@pytest.mark.parametrize("kwargs", [{"a": np.inf}, {"a": object()}, {"a": np.float32(1)}])
def test_keyword_arguments_that_no_file_can_hold(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="write a factory that makes the environment, and name that"):
        Environment("Pendulum-v1", kwargs)


def test_descriptions_travel_as_json() -> None:
    made_of: dict[str, Any] = {"env_kwargs": {"range": (1, 2)}, "wrappers": ["a:B"], "frame_stack": 2}
    configs: list[Any] = [TrainConfig("sac", "E-v0", 10, **made_of), PressConfig("sac", "E-v0", "", **made_of)]
    for config in configs:
        assert from_json(type(config), json.loads(dumps(config))) == config
        assert config.environment == Environment("E-v0", {"range": [1, 2]}, ("a:B",), 2)
        old = {name: value for name, value in json.loads(dumps(config)).items() if name not in made_of}
        assert from_json(type(config), old).environment == Environment("E-v0")  # written before there were any
    for wrong in ({"wrappers": "a:B"}, {"wrappers": [1]}, {"frame_stack": 0}, {"frame_stack": 1.5}):
        with pytest.raises(ConfigError, match="must be"):
            PressConfig("sac", "E-v0", "", **wrong)  # type: ignore[arg-type]


def test_atari_is_stacked_already() -> None:
    pytest.importorskip("ale_py")
    with pytest.raises(ConfigError, match="stacks 4 frames already: leave frame_stack out"):
        make_env(Environment("ALE/Pong-v5", frame_stack=4), training=False)


# Environments themselves, classes and factories


def spawned() -> gym.Env[Any, Any]:
    return Pick()


@pytest.mark.parametrize(
    "env",
    [Pick, spawned, lambda: Pick(), partial(gym.make, PICK), Pick(), gym.make(PICK), Environment(PICK), PICK],
    ids=["class", "function", "lambda", "partial", "instance", "made", "description", "id"],
)
def test_whatever_makes_an_environment_is_one(env: Any, tmp_path: Path) -> None:
    expected = evaluate(picks(), PICK, episodes=30, seed=5)
    result = evaluate(picks(), env, episodes=30, seed=5)
    assert (result.returns, result.lengths) == (expected.returns, expected.lengths)
    assert load_agent(save_picker(tmp_path / "agent.zip"), "dqn", env).observation.shape == (3,)
    config = DistillConfig(hidden=(8,), batches=40, states=300)
    policy = pp.compress(agent("dqn", PICK), env, config)
    found = description_of(env)
    assert policy.provenance.get("env") == (found.env if found else None)
    assert (found is None) == (isinstance(env, gym.Env | partial) or "lambda" in name_of(env))
    if found is not None:
        assert len(evaluate(policy, episodes=2).returns) == 2


def test_a_borrowed_environment_stays_open() -> None:
    class Closing(Pick):
        closed = False

        def close(self) -> None:
            self.closed = True

    env = Closing()
    evaluate(picks(), env, episodes=2)
    assert not env.closed
    opened: list[Any] = []

    def make() -> Any:
        opened.append(Closing())
        return opened[-1]

    evaluate(picks(), make, episodes=2)
    assert [made.closed for made in opened] == [True] * 2


def test_functions_that_give_states_are_no_environments(tmp_path: Path) -> None:
    config = DistillConfig(hidden=(8,), batches=40, states=300)
    states = draw(Follow.observation_space)
    for function in (states, lambda *_: states(None, None, 0.0, 30)):
        assert "env" not in pp.compress(agent("dqn", PICK), function, config).provenance


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (3, "int is no environment: give an id, a gymnasium.Env, or a class or function that makes one"),
        (DummyVecEnv([Pick]), "DummyVecEnv is no environment"),
        (lambda: 3, r"<lambda> gives int, not a gymnasium\.Env"),
        (lambda: SHARED, "gives the same environment again and again: let it make a new one, or give"),
    ],
)
def test_what_makes_no_environment(env: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        evaluate(picks(), env, episodes=2)


def test_a_run_needs_an_environment_with_a_name(tmp_path: Path) -> None:
    source = Source(save_picker(tmp_path / "agent.zip"))
    for env in (Pick(), lambda: Pick()):
        with pytest.raises(ConfigError, match=r"a run keeps in its folder how .* is made, for other processes: name a"):
            plan(source, "dqn", env)
    assert plan(source, "dqn", Pick).env == "rl.toys:Pick"


# The same environment later and elsewhere


def test_the_card_of_a_policy_makes_its_environment_again(here: str, tmp_path: Path) -> None:
    environment = Environment(f"{here}:Env", {"bonus": 1.0}, (f"{here}:Doubled",))
    source = Source(save_picker(tmp_path / "agent.zip"))
    config = plan(source, "dqn", environment, hidden=(8,), student={"batches": 40, "states": 300})
    result = press(source, config, tmp_path / "run")
    assert result["teacher"]["mean"] == 20.0
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert policy.provenance["env_kwargs"] == {"bonus": 1.0}
    assert policy.provenance["wrappers"] == [f"{here}:Doubled"]
    assert "frame_stack" not in policy.provenance
    assert evaluate(policy, episodes=50).returns == tuple(result["evaluation"]["returns"])
    assert press(source, config, tmp_path / "run") == result


def test_students_of_a_search_make_it_in_processes_of_their_own(here: str, tmp_path: Path) -> None:
    environment = Environment(f"{here}:make", {"bonus": 1.0}, ("gymnasium.wrappers:TimeLimit(max_episode_steps=3)",))
    source = Source(save_picker(tmp_path / "agent.zip"))
    student = {"states": 300, "batches": 40}
    config = plan(source, "dqn", environment, hidden=(8,), settings={"episodes": 2}, student=student)
    line, yardstick = Line("down", "distill", Shape((8,))), Yardstick(Aim(0.1), (12.0, 12.0), 2, None)
    with Workers[Line](lambda line: line.name) as workers:
        workers.start(line, SEARCH._press, source, config, line, 0, tmp_path / "line", 100.0, yardstick, False)
        message = workers.wait(120.0)
    assert message is not None
    assert isinstance(message.value, Candidate)
    policy = pp.load(tmp_path / "line" / "0000.policy")
    assert policy.provenance["env"] == f"{here}:make"
    returns = policy.results["search"]["returns"]
    assert len(returns) == 2
    assert max(returns) <= 4 * 3  # twice a choice and its bonus, for three steps


def test_training_makes_it_again(here: str, tmp_path: Path) -> None:
    from policypress.rl.plan import plan_training
    from policypress.rl.train import train

    made_of = {"env_kwargs": {"length": 4}, "wrappers": (f"{here}:Doubled",), "frame_stack": 2}
    small = {"eval_every": 50, "eval_episodes": 1, "final_episodes": 2, "hidden": (8,)}
    config = plan_training("dqn", f"{here}:Env", 60, training={**small, **made_of}, algo_kwargs={"learning_starts": 20})
    train(config, tmp_path / "run")
    policy = pp.load(tmp_path / "run" / "policy.policy")
    assert policy.observation.shape == (6,)
    assert {name: policy.provenance[name] for name in made_of} == {**made_of, "wrappers": [f"{here}:Doubled"]}
    assert evaluate(policy, episodes=2).lengths == (4, 4)


# The RL Zoo's ways


def test_an_agent_with_time_features_opens(tmp_path: Path) -> None:
    # Ant-v3 of the RL Zoo: contact forces and time features, 111 + 1 inputs.
    from sb3_contrib.common.wrappers import TimeFeatureWrapper

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium deprecates v4
        env = TimeFeatureWrapper(gym.make("Ant-v4", use_contact_forces=True))
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, policy_kwargs={"net_arch": [8]}, device="cpu")
        model.save(tmp_path / "agent.zip")
        sentence = (
            r"observations of Box \[112\], but those of Ant-v4 are Box \[27\]: .* with the --env-kwargs, --wrapper"
        )
        with pytest.raises(UnsupportedError, match=sentence):
            load_agent(tmp_path / "agent.zip", "ppo", "Ant-v4")
        environment = Environment(
            "Ant-v4", {"use_contact_forces": True}, ("sb3_contrib.common.wrappers.TimeFeatureWrapper",)
        )
        found = load_agent(tmp_path / "agent.zip", "ppo", environment)
        policy = freeze_graph(found.graph, found.observation, found.action)
        observation, _ = env.reset(seed=0)
        expected, _ = model.predict(observation, deterministic=True)
        np.testing.assert_allclose(policy.predict(observation)[0], expected, atol=1e-5)
        assert len(evaluate(policy, environment, episodes=2).returns) == 2


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["policypress", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_command_line_describes_environments(
    here: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    save_picker(tmp_path / "agent.zip")
    made_of = (
        "--env", f"{here}:Env", "--env-kwargs", "bonus:1.5", "--env-kwargs", "length:6",
        "--wrapper", f"{here}:Doubled(factor=2)", "--wrapper", TIME, "--wrapper", f"{here}:Doubled", "--frame-stack", 2,
    )  # fmt: skip
    code, _, err = command("compress", "agent.zip", "--algo", "dqn", "--out", "run", *made_of)
    assert code == 2
    assert "observations of Box [3], but those of" in err
    small = ("--hidden", 8, "--batches", 40, "--states", 300, "--episodes", 2, "--json")
    code, out, _ = command(
        "compress", "agent.zip", "--algo", "dqn", "--out", "run", *made_of[:6], "--wrapper", made_of[7], *small
    )
    assert code == 0
    assert json.loads(out)["teacher"]["returns"] == [30.0, 30.0]
    assert json.loads(out)["config"]["wrappers"] == [f"{here}:Doubled(factor=2)"]
    code, out, _ = command("evaluate", "run/policy.policy", "--episodes", 2, "--json")
    assert (code, json.loads(out)["lengths"]) == (0, [6, 6])
    code, out, _ = command(
        "evaluate", "run/policy.policy", "--env", f"{here}:Env", "--env-kwargs", "length:2", "--episodes", 2, "--json"
    )
    assert (code, json.loads(out)["lengths"]) == (0, [2, 2])
    code, _, err = command("evaluate", "run/policy.policy", "--env-kwargs", "length:2")
    assert (code, err.strip()) == (
        2, "policypress: say which environment --env-kwargs, --wrapper or --frame-stack belong to: add --env."
    )  # fmt: skip


@pytest.mark.parametrize("text", ["length", "length:", "length=3", "3:length", "name:text", "length:open('x')"])
def test_keyword_arguments_that_cannot_be_read(
    text: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    picks().save(tmp_path / "x.policy")
    code, _, err = command("evaluate", tmp_path / "x.policy", "--env", PICK, "--env-kwargs", text)
    assert code == 2
    assert "cannot be read" in err


# What goes wrong in an environment


class Fragile(Pick):
    """Goes wrong in its third step, or as it starts."""

    wrong: Any = None
    at = 3

    def step(self, action: Any) -> Any:
        *found, truncated, info = super().step(action)
        if self._steps == self.at:
            if isinstance(self.wrong, Exception):
                raise self.wrong
            found[1] = self.wrong
        return *found, truncated, info


def fragile(wrong: Any, start: bool = False) -> type[Fragile]:
    kind = type("Fragile", (Fragile,), {"wrong": wrong})
    if start:

        def reset(self: Any, **_: Any) -> Any:
            raise wrong

        kind.reset = reset
    return kind


def old(method: str) -> type[Pick]:
    """Answers in one of its methods as gym's environments did before Gymnasium."""

    def reset(self: Any, **kwargs: Any) -> Any:
        return Pick.reset(self, **kwargs)[0]

    def step(self: Any, action: Any) -> Any:
        observation, reward, _, done, info = Pick.step(self, action)
        return observation, reward, done, info

    return type("Old", (Pick,), {method: {"reset": reset, "step": step}[method]})


def shown(observation: Any) -> type[Pick]:
    """Shows this in its third step."""

    def step(self: Any, action: Any) -> Any:
        found, *rest = Pick.step(self, action)
        return observation if self._steps == 3 else found, *rest

    return type("Shown", (Pick,), {"step": step})


BROKEN = [
    (fragile(ValueError("no\nrobot")), r"Fragile fails in step\(\) \(ValueError: no\): mend the environment\.$"),
    (fragile(KeyError()), r"Fragile fails in step\(\) \(KeyError\): mend the environment\.$"),
    (fragile(OSError("gone."), start=True), r"Fragile fails in reset\(\) \(OSError: gone\): mend the environment\.$"),
    (fragile(np.nan), r"Fragile gives a reward of nan: mend the environment, rewards must be finite\.$"),
    (fragile(-np.inf), r"gives a reward of -inf: mend the environment"),
    (
        old("step"),
        r"Old does not give observation, reward, terminated, truncated and a dict of information from step\(\), ",
    ),
    (
        old("reset"),
        r"Old does not give an observation and a dict of information from reset\(\), as Gymnasium's.*mend the",
    ),
    (shown([0.5, np.nan, 0.0]), r"Shown gives an observation that is not finite: mend the environment\.$"),
    (shown("dark"), r"Shown gives an observation of shape \(\), but its observation_space has \(3,\): mend the env"),
    (
        shown(["a", "b", "c"]),
        r"Shown fails in step\(\) \(TypeError: ufunc 'isfinite' not supported.*: mend the environment",
    ),
    (
        shown([1.0, [2.0], 3.0]),
        r"Shown fails in step\(\) \(ValueError: setting an array element.*: mend the environment",
    ),
    (shown([0.5, 0.5]), r"of shape \(2,\), but its observation_space has \(3,\): mend the environment\.$"),
    (fragile("much"), r"fails in step\(\) \(TypeError: must be real number, not str\)"),
]


@pytest.mark.parametrize(("env", "sentence"), BROKEN)
def test_what_goes_wrong_is_told_in_a_sentence(env: Any, sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        evaluate(picks(), env, episodes=2)
    with pytest.raises(RunError, match=sentence):
        pp.compress(agent("dqn", PICK), env, DistillConfig(hidden=(8,), batches=40, states=300))


@pytest.mark.parametrize("kind", [old("step"), old("reset")])
def test_training_says_it_too_and_leaves_nothing(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Trained", kind, raising=False)
    kwargs = {"learning_starts": 10, "batch_size": 8, "buffer_size": 100}
    config = TrainConfig("dqn", f"{__name__}:Trained", 40, algo_kwargs=kwargs)
    with pytest.raises(RunError, match="mend the environment"):
        pp.rl.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
def test_an_environment_without_a_space(space: str) -> None:
    with pytest.raises(ConfigError, match=f"Bare has no {space} of gymnasium.spaces: give the environment one"):
        make_env(type("Bare", (Pick,), {space: None}), training=False)


def test_actions_that_are_not_finite_are_not_blamed_on_the_environment() -> None:
    env = make_env(Follow, training=False)
    env.reset(seed=0)
    with pytest.raises(
        DivergedError, match=r"^the policy gives actions that are not finite in rl\.toys:Follow: the tr"
    ):
        env.step(np.array([0.5, np.nan], np.float32))


def test_an_environment_that_fails_those_who_act_blindly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RunError("no")

    monkeypatch.setattr(sys.modules["policypress.rl.measured"], "chance", fails)
    config = plan(Source(save_picker(tmp_path / "agent.zip")), "dqn", PICK, hidden=(8,))
    with pytest.raises(RunError, match=r"^no$"):
        press(Source(tmp_path / "agent.zip"), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [ValueError("no"), np.nan, "endless"])
def test_what_goes_wrong_leaves_no_run_behind(wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "wrong", wrong)
    monkeypatch.setattr(ENVIRONMENTS, "MAX_STEPS", 40)
    source = Source(save_picker(tmp_path / "agent.zip"))
    config = plan(source, "dqn", Broken, hidden=(8,), student={"batches": 40, "states": 300})
    with pytest.raises(RunError):
        press(source, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError):
        press(source, config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]  # somebody else made this folder


class Broken(Fragile):
    def step(self, action: Any) -> Any:
        if self.wrong == "endless":
            self._steps = 0
            return Pick.step(self, action)
        return super().step(action)


def test_an_episode_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "wrong", "endless")
    monkeypatch.setattr(ENVIRONMENTS, "MAX_STEPS", 40)
    with pytest.raises(RunError, match=r"Broken has not ended after 40 steps: limit it.*max_episode_steps=1000\)'\.$"):
        evaluate(picks(), Broken, episodes=2)
    limited = Environment("test", wrappers=("gymnasium.wrappers:TimeLimit(max_episode_steps=40)",))
    gym.register("test", entry_point=Broken, disable_env_checker=True)
    assert evaluate(picks(), limited, episodes=2).lengths == (40, 40)


# What MuJoCo says


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What MuJoCo says while a model is compiled."""
    texts = ["attribute x is deprecated"]

    def make(spec: object) -> gym.Env[Any, Any]:
        for text in texts:
            mujoco.get_mju_user_warning()(text)
        if not texts:
            raise gym.error.DependencyNotInstalled("mujoco")
        return Follow()

    monkeypatch.setattr(gym, "make", make)
    monkeypatch.setattr(environments, "_told", {})
    return texts


def test_what_mujoco_deprecates_is_said_once_and_by_pythons_rules(talkative: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert isinstance(make_env("HalfCheetah-v5", training=False).unwrapped, Follow)
        make_env("HalfCheetah-v5", training=True)
    assert [(w.category, str(w.message)) for w in caught] == [(DeprecationWarning, talkative[0])]
    talkative[0] = "inertia is too small"
    with pytest.warns(RuntimeWarning, match="inertia"):
        make_env("HalfCheetah-v5", training=False)


def test_mujocos_own_way_to_warn_comes_back(talkative: list[str]) -> None:
    heard: list[str] = []
    mujoco.set_mju_user_warning(heard.append)
    try:
        with pytest.warns(DeprecationWarning, match="attribute x"):
            make_env("HalfCheetah-v5", training=False)
        talkative.clear()
        with pytest.raises(environments.ConfigError):
            make_env("HalfCheetah-v5", training=False)
        mujoco.get_mju_user_warning()("later")
    finally:
        mujoco.set_mju_user_warning(None)
    assert heard == ["later"]


def test_real_models_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_env("HalfCheetah-v5", training=False).close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("env", "disturbed", "given", "whole"),
    [
        (Environment(FOLLOW, frame_stack=3), (3,), (3,), (9,)),
        (Environment(NAMED), (2,), None, (2,)),
        (Environment(PICK), (3,), (3,), (3,)),
    ],
)
def test_disturbances_meet_single_observations_that_are_arrays(
    env: Environment, disturbed: tuple[int], given: tuple[int] | None, whole: tuple[int]
) -> None:
    class Negated(gym.ObservationWrapper[Any, Any, Any]):
        def observation(self, observation: Any) -> Any:
            assert observation.shape == disturbed
            return -observation

    usual, negated = make_env(env, training=False), make_env(env, training=False, disturb=Negated)
    assert usual.observation_space.shape == negated.observation_space.shape == whole
    np.testing.assert_array_equal(negated.reset(seed=1)[0], -usual.reset(seed=1)[0])
    assert space_given(negated.env if env.frame_stack == 1 else make_env(FOLLOW, training=False)).shape == given
