"""A policy that takes observations of another dtype than it was made with, and answers them with the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np

from policypress.errors import ConfigError
from policypress.policy.observations import accepted, recorded
from policypress.policy.policy import Policy


def taking(policy: Policy, dtype: str | None) -> Policy:
    """The policy with observations of ``dtype``; as it is if None. A policy of float64 observations makes float64 of
    float32 ones, exactly, and its test vectors are rounded to them. Raises ConfigError for any other."""
    taken = policy.observation.dtype
    if dtype in (None, taken):
        return policy
    if (dtype, taken) != ("float32", "float64"):
        raise ConfigError(f"observation={dtype!r} is not possible for a policy that takes {taken}: leave it out.")
    narrow = dataclasses.replace(
        policy, observation=dataclasses.replace(policy.observation, dtype="float32"), test_vectors=None
    )
    if policy.test_vectors is None:
        return narrow
    with np.errstate(over="ignore"):  # what overflows is not accepted
        seen = accepted(narrow, policy.test_vectors.observations.astype(np.float32))
    return dataclasses.replace(narrow, test_vectors=recorded(narrow, seen))
