"""Every error a user can meet; each message is one plain sentence that says what to do."""

from typing import NoReturn


class PolicypressError(Exception):
    """Base class: catch this to catch everything policypress raises on purpose."""


class ConfigError(PolicypressError, ValueError):
    """A setting is out of range, or two settings contradict each other."""


class UnsupportedError(PolicypressError, ValueError):
    """The network, algorithm or space is one that policypress cannot press."""


class ObservationError(PolicypressError, ValueError):
    """An observation has the wrong shape or dtype, or is not finite."""


class ArtifactError(PolicypressError, ValueError):
    """A file is not a valid ``.policy``: truncated, altered, or of another version."""


class RunError(PolicypressError, RuntimeError):
    """A training run cannot start or go on: its folder or checkpoint is in the way or missing."""


class DivergedError(RunError):
    """A training diverged: its losses, weights or actions are not finite."""


class ExportError(PolicypressError, RuntimeError):
    """A policy cannot be exported, or what was exported does not answer as the policy does."""


DIVERGED = "the training diverged, lower the learning rate (--learning-rate, or --set learning_rate=1e-4 of train)"
"""How a DivergedError ends."""


def require(condition: bool, sentence: str) -> None:
    """Raises UnsupportedError with ``sentence``, which has no full stop, unless ``condition`` holds."""
    if not condition:
        raise UnsupportedError(sentence + ".")


def unknown(value: NoReturn) -> NoReturn:
    """The last case of a match on kinds, which a type checker proves to be never met; UnsupportedError if it is."""
    raise UnsupportedError(f"{value!r} is of a kind that is not known here.")
