"""Policies with random weights, frozen as trained ones are: what benchmarks of speed run."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np

from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Flatten, InputQuantization, Layer, Op, Requantization
from policypress.policy.policy import Policy

Numerics = Literal["integer", "weight-only"]
LIMIT = 127  # of weights of 8 bits
CODE = 60.0  # an ordinary code


class Random:
    """8-bit layers of one sparsity, the same share of zeros in each, whose codes use their range without saturating."""

    def __init__(self, sparsity: float, numerics: Numerics, seed: int = 0) -> None:
        self.rng, self.sparsity, self.integer = np.random.default_rng(seed), sparsity, numerics == "integer"

    def layer(self, *shape: int, last: bool = False, stride: tuple[int, int] = (1, 1)) -> Layer:
        size, fan_in = math.prod(shape), math.prod(shape[1:])
        weight = np.zeros(size, np.int8)
        used = self.rng.permutation(size)[: size - round(self.sparsity * size)]
        magnitudes = np.clip(np.rint(np.abs(self.rng.normal(0, LIMIT / 3.5, used.size))), 1, LIMIT)
        weight[used] = (magnitudes * self.rng.choice([-1, 1], used.size)).astype(np.int8)
        accumulator = CODE * LIMIT / 3.5 * math.sqrt(max(1.0, fan_in * (1 - self.sparsity)))  # an ordinary one
        requantize = None
        if self.integer:
            bias = np.rint(self.rng.normal(0, accumulator / 4, shape[0])).astype(np.int32)
            if not last:
                shift = 7 - math.ceil(math.log2(CODE / accumulator))  # the multiplier is between 64 and 128
                multiplier = round(CODE / accumulator * 2**shift)
                requantize = Requantization(np.array([multiplier], np.int32), np.array([shift], np.int32), 0, 255)
        else:
            bias = self.rng.normal(0, 0.25, shape[0]).astype(np.float32)
        scale = np.array([(1 if self.integer else CODE) / accumulator], np.float32)
        return Layer(weight.reshape(shape), bias, 8, scale, not last, requantize, stride=stride)

    def actor(self, *widths: int) -> Policy:
        """As SAC's: float64 observations, ReLU, squashed actions in [-1, 1]."""
        layers = [
            self.layer(after, before, last=index == len(widths) - 2)
            for index, (before, after) in enumerate(itertools.pairwise(widths))
        ]
        bounds = np.ones(widths[-1], np.float32)
        action = ActionTransform("box", (widths[-1],), squash=True, low=-bounds, high=bounds)
        scale = np.full(widths[0], CODE, np.float32)
        return self._policy(
            layers, ObservationTransform((widths[0],), "float64"), action, InputQuantization(scale, -127, 127, 8)
        )

    def nature(self, actions: int = 18) -> Policy:
        """DQN's network for Atari: four stacked frames of 84x84 pixels."""
        ops: list[Op] = [
            self.layer(32, 4, 8, 8, stride=(4, 4)),
            self.layer(64, 32, 4, 4, stride=(2, 2)),
            self.layer(64, 64, 3, 3),
            Flatten(),
            self.layer(512, 3136),
            self.layer(actions, 512, last=True),
        ]
        image = ObservationTransform((4, 84, 84), "uint8", image=True, frame_stack=4)
        quantization = InputQuantization(np.array([255], np.float32), 0, 255, 8)
        return self._policy(ops, image, ActionTransform("discrete", dtype="int64"), quantization)

    def _policy(
        self, ops: list[Op], observation: ObservationTransform, action: ActionTransform, quantization: InputQuantization
    ) -> Policy:
        policy = Policy(tuple(ops), observation, action, quantization if self.integer else None, 1)
        dense = 4 * sum(layer.weight.size + layer.bias.size for layer in policy.layers)
        return dataclasses.replace(policy, baseline_bytes=dense)
