"""Changes a network while it learns: pruning and quantization for any PyTorch loop, no RL library."""

from policypress.compression.compressor import Compressor, Phase
from policypress.compression.graph import Graph, Residual, trace

__all__ = ["Compressor", "Graph", "Phase", "Residual", "trace"]
