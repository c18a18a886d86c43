"""What a test of policies needs: random policies, observations, every engine beside the reference.

For tests, checks and benchmarks, the user's own among them; neither torch nor pytest is imported.
"""

from policypress.policy.observations import (
    Answers,
    accepted,
    answers,
    extreme_observations,
    observations,
    random_observations,
    usual_observations,
)
from policypress.testing.activated import ACTIVATIONS, activated, activation_name, every_function
from policypress.testing.agreement import ENGINES, Agreement, DisagreementError, agree
from policypress.testing.policies import NUMERICS, Builder, Kind, make_policy, tanh_op, thinned, with_zero_points
from policypress.testing.random_policies import random_linear_policy, random_policy, random_recurrent_policy
from policypress.testing.same import assert_same
from policypress.testing.stored import stored_policies

__all__ = [
    "ACTIVATIONS",
    "ENGINES",
    "NUMERICS",
    "Agreement",
    "Answers",
    "Builder",
    "DisagreementError",
    "Kind",
    "accepted",
    "activated",
    "activation_name",
    "agree",
    "answers",
    "assert_same",
    "every_function",
    "extreme_observations",
    "make_policy",
    "observations",
    "random_linear_policy",
    "random_observations",
    "random_policy",
    "random_recurrent_policy",
    "stored_policies",
    "tanh_op",
    "thinned",
    "usual_observations",
    "with_zero_points",
]
