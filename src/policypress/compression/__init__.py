"""Changes a network while it learns: pruning and quantization for any PyTorch loop, no RL library."""

from policypress.compression.compressor import Compressor
from policypress.compression.graph import Graph, Residual, trace
from policypress.compression.pruning import Challenge
from policypress.compression.quantization import Phase

__all__ = ["Challenge", "Compressor", "Graph", "Phase", "Residual", "trace"]
