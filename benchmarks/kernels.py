"""Where which kernel of the native engine is faster: dense against sparse, over densities, on this machine.

    taskset -c 1 python benchmarks/kernels.py

One layer at a time inside a policy, 8 bits. Dense: the set of kernels without a sparse one (POLICYPRESS_KERNELS=avx512).
Chosen: what the engine takes by itself. A ratio above 1 says that the choice is right; the choice is right everywhere
if no ratio is below. `step_cost` in runtime/engine_avx512.c is set by this table.
"""

from __future__ import annotations

DENSITIES = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
ROUNDS = 9
