"""The only place that knows reinforcement-learning libraries; needs ``policypress[train]``."""

from policypress.rl.callback import CompressionCallback
from policypress.rl.checkpoint import load
from policypress.rl.environments import flatten_observation
from policypress.rl.evaluate import Evaluation, evaluate
from policypress.rl.networks import ResNetExtractor
from policypress.rl.train import train

__all__ = ["CompressionCallback", "Evaluation", "ResNetExtractor", "evaluate", "flatten_observation", "load", "train"]
