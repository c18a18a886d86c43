"""Whatever can be called in Python, named package.module:function: for what no format holds."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.errors import ConfigError, UnsupportedError
from policypress.importers.formats import Asked
from policypress.importers.opened import Opened, Run, Steps, begun, check_answers, one_by_one, reason_of


def open_function(asked: Asked) -> Opened:
    """What ``package.module:function`` names, run as it is: a function of observations (n, *shape), float32, that gives
    (n, outputs); a torch.nn.Module; or a class or function without parameters that makes one.

    What has a ``reset``, which starts an episode, keeps a state; each episode gets one of its own. Raises ConfigError
    where there is no such thing.
    """
    name = str(asked.path)
    module, _, attribute = name.partition(":")
    found = _imported(name, module)
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(f"there is no {attribute} in {module}: name a function of observations.") from None
    make: Callable[[], Any] = partial(copy.deepcopy, found)
    if isinstance(found, type):
        make = found
        try:
            found = make()
        except TypeError as error:
            raise ConfigError(f"{name} cannot be made without arguments: name a function that makes one.") from error
    if not callable(found):
        raise ConfigError(f"{name} is a {type(found).__name__}: name something that can be called with observations.")
    file = getattr(sys.modules.get(module), "__file__", None)
    run: Run = _Called(name, found)
    steps = _steps(name, found, make) if hasattr(found, "reset") else None
    parameters = sum(tensor.numel() for tensor in found.parameters()) if isinstance(found, nn.Module) else None
    opened = Opened(
        "Python", asked.shape, "float32", run if steps is None else begun(steps), unknown="a function", steps=steps,
        files=(Path(file),) if file else (), parameters=parameters or None,
    )  # fmt: skip
    check_answers(opened)
    return opened


def _imported(name: str, module: str) -> Any:
    added = os.getcwd() not in sys.path
    if added:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name}: there is no module {error.name}: give package.module:function.") from error
    finally:
        if added:
            sys.path.remove(os.getcwd())


def _steps(name: str, found: Any, make: Callable[[], Any]) -> Steps:
    """What keeps a state, with one that ``make`` gives for every episode."""
    if inspect.isroutine(found):
        raise UnsupportedError(
            f"{name} keeps the state of one episode for all: name a class whose objects keep their own, with reset."
        )

    def step(observation: NDArray[Any], state: _Called | None) -> tuple[NDArray[Any], _Called]:
        if state is None:
            try:
                function = make()
                function.reset()
            except Exception as error:  # as below
                raise UnsupportedError(
                    f"{name} cannot be made anew for an episode of its own ({reason_of(error)}): name a class that is "
                    "made without arguments."
                ) from error
            state = _Called(name, function)
        return state(observation), state

    return one_by_one(step)


class _Called:
    """A callable as a runtime."""

    def __init__(self, name: str, function: Any) -> None:
        self._name, self._function = name, function
        self._torch = isinstance(function, nn.Module)
        if self._torch:
            function.eval()

    @torch.no_grad()
    def __call__(self, observations: NDArray[Any]) -> NDArray[Any]:
        x: Any = np.ascontiguousarray(observations, np.float32)
        try:
            found = self._function(torch.from_numpy(x) if self._torch else x)
            if isinstance(found, tuple):  # a predict, with its state
                found = found[0]
            answers = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        except Exception as error:  # a function can raise anything
            raise UnsupportedError(f"{self._name} cannot be asked: {reason_of(error)}.") from error
        if answers.dtype.kind not in "biuf" or answers.ndim < 1 or len(answers) != len(x):
            raise UnsupportedError(
                f"{self._name} answers {len(x)} observations with {answers.dtype} of shape {answers.shape}: it must "
                "give numbers (n, outputs)."
            )
        return answers.reshape(len(x), -1)
