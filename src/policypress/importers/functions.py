"""Whatever can be called in Python, named package.module:function: for what no format holds."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.errors import ConfigError, UnsupportedError
from policypress.importers.formats import Asked
from policypress.importers.opened import Opened, check_answers, reason_of


def open_function(asked: Asked) -> Opened:
    """What ``package.module:function`` names, run as it is: a function of observations (n, *shape), float32, that gives
    (n, outputs); a torch.nn.Module; or a class or function without parameters that makes one.

    A ``reset`` that it has starts an episode. Raises ConfigError where there is no such thing.
    """
    name = str(asked.path)
    module, _, attribute = name.partition(":")
    found = _imported(name, module)
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(f"there is no {attribute} in {module}: name a function of observations.") from None
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(f"{name} cannot be made without arguments: name a function that makes one.") from error
    if not callable(found):
        raise ConfigError(f"{name} is a {type(found).__name__}: name something that can be called with observations.")
    file = getattr(sys.modules.get(module), "__file__", None)
    reset = getattr(found, "reset", None)
    opened = Opened(
        "Python", asked.shape, "float32", _Called(name, found), unknown="a function", reset=reset,
        files=(Path(file),) if file else (),
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
