"""The only place that knows reinforcement-learning libraries; needs ``policypress[train]``, but for ``evaluate``, which
needs Gymnasium alone."""

from importlib.util import find_spec

from policypress.rl.environments import flatten_observation
from policypress.rl.evaluate import Evaluation, evaluate

if find_spec("torch") and find_spec("stable_baselines3"):
    from policypress.rl.callback import CompressionCallback
    from policypress.rl.checkpoint import load
    from policypress.rl.resnet import ResNetExtractor
    from policypress.rl.train import train
    from policypress.rl.values import ValueCallback

__all__ = [
    "CompressionCallback",
    "Evaluation",
    "ResNetExtractor",
    "ValueCallback",
    "evaluate",
    "flatten_observation",
    "load",
    "train",
]
