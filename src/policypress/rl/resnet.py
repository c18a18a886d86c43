"""The paper's ResNet feature extractor for images."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from policypress.compression.graph import Residual


class ResNetExtractor(BaseFeaturesExtractor):
    """Three blocks (32, 64, 64 channels) of 3x3 convolution, 3x3 max-pool of stride 2 and two residual blocks, then
    ReLU and Linear with ReLU to ``features_dim``.

    Input (batch, channels, height, width) in [0, 1]; output (batch, features_dim). Source: arXiv 2405.07748,
    section on Atari; the architecture is that of IMPALA (Espeholt et al. 2018).
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512) -> None:
        super().__init__(observation_space, features_dim)
        blocks: list[nn.Module] = []
        channels = observation_space.shape[0]
        for width in (32, 64, 64):
            blocks += [
                nn.Conv2d(channels, width, kernel_size=3, padding=1),
                nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
                _residual_block(width),
                _residual_block(width),
            ]
            channels = width
        self.blocks = nn.Sequential(*blocks, nn.ReLU(), nn.Flatten())
        with torch.no_grad():
            features = self.blocks(torch.zeros(1, *observation_space.shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(features, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.linear(self.blocks(observations))  # type: ignore[no-any-return]


def _residual_block(channels: int) -> Residual:
    def convolution() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    return Residual(nn.Sequential(nn.ReLU(), convolution(), nn.ReLU(), convolution()))


EXTRACTOR_KWARGS: dict[str, dict[str, Any]] = {
    "nature": {},
    "resnet": {"features_extractor_class": ResNetExtractor},
}
"""``policy_kwargs`` of a CnnPolicy, by the name of the network."""
