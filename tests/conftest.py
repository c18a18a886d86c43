"""Settings that every test shares: one torch thread; property tests that do not depend on speed."""

import contextlib
import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "policypress",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("policypress")

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _logs_of_stable_baselines3(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its loggers write here, and leave no folder behind for each run of the tests."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))
