"""What a test of policies needs: random policies, observations, every engine beside the reference.

For tests, checks and benchmarks; neither torch nor pytest is imported.
"""

from policypress.testing.stored import stored_policies

__all__ = ["stored_policies"]
