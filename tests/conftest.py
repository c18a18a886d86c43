"""Settings that every test shares: one torch thread; property tests that do not depend on speed."""

import contextlib
import os

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
