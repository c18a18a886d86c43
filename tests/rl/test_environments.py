"""Environments: what MuJoCo has to say about their models."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import pytest

from policypress.rl import environments
from policypress.rl.environments import make_env
from rl.toys import Follow

mujoco = pytest.importorskip("mujoco")


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
