"""What awkward inputs cost: output error of integer networks whose inputs hold rare large values or lie far from zero.

    python benchmarks/input_ranges.py [--seeds 3] [--batches 3000]

A random float network, whose first layer fits the spread of its inputs as a trained one does, is frozen as it is
(ptq), and a student is trained to answer as it does (distilled). The error is the root mean square of what actions,
tanh of the outputs, differ by, over the standard deviation of the float network's, on states without a rare value.
"largest" is what policypress did before: the largest magnitude of a batch sets an input's range, around zero.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from policypress.compression import Compressor, quantization
from policypress.compression.freeze import freeze_graph
from policypress.compression.ranges import InputQuantizer
from policypress.config import CompressionConfig
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.policy import Policy

Inputs = tuple[torch.Tensor, torch.Tensor]  # (n, features), and whether none of them is rare, (n,)


@dataclass(frozen=True)
class Case:
    features: int
    mean: float
    spread: float
    make: Callable[[int], Inputs]


class Largest(InputQuantizer):
    """The ranges of before."""

    def observe_inputs(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        self.observe(x.detach().abs().amax(0))


def normal(count: int) -> Inputs:
    return torch.randn(count, 4), torch.ones(count, dtype=torch.bool)


def locomotion(count: int) -> Inputs:
    """17 inputs as of a walking robot: angles and velocities, with longer tails than normal ones."""
    tails = torch.distributions.StudentT(torch.tensor(5.0)).sample((count, 17))
    return tails * torch.logspace(-1, 1, 17), torch.ones(count, dtype=torch.bool)


def sentinel(count: int) -> Inputs:
    x, rare = torch.randn(count, 4), torch.rand(count) < 0.01
    x[rare, 2] = 1000.0
    return x, ~rare


def offset(count: int) -> Inputs:
    x, all_of_them = normal(count)
    x[:, 2] = 300 + 2 * x[:, 2]
    return x, all_of_them


CASES: dict[str, Callable[[int], Inputs]] = {
    "normal": normal,
    "locomotion": locomotion,
    "1,000 in 1 % of one input": sentinel,
    "one input 300 ± 2": offset,
}


def network(inputs: Inputs, hidden: int) -> nn.Sequential:
    """Two hidden layers; the first one takes inputs as if they had been standardized."""
    x, usual = inputs
    mean, spread = x[usual].mean(0), x[usual].std(0)
    layers = nn.Sequential(
        nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
    )
    with torch.no_grad():
        first = layers[0]
        first.weight.normal_(0, x.shape[1] ** -0.5).div_(spread)
        first.bias.normal_(0, 0.3).sub_(first.weight @ mean)
    return layers


def pressed(layers: nn.Sequential, case: str, float_network: nn.Sequential, bits: int, batches: int) -> Policy:
    """``layers`` in integers: after ``batches`` of learning from ``float_network``, or as it is."""
    steps = max(batches, 16)
    config = CompressionConfig(
        sparsity=0.0, weight_bits=bits, quantize_start=0.2 if batches else 1.0, observe=0.1 if batches else 1.0
    )
    optimizer = torch.optim.Adam(layers.parameters(), lr=2e-3)
    press = Compressor(layers, optimizer, config, steps)
    for step in range(steps):
        press.step(step)
        x, _ = CASES[case](256)
        with torch.no_grad():
            wanted = float_network(x)
        outputs = layers(x)
        if batches:
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
            optimizer.zero_grad()
            nn.functional.mse_loss(torch.tanh(outputs), torch.tanh(wanted)).backward()
            optimizer.step()
    press.step(steps)
    features = CASES[case](1)[0].shape[1]
    bound = np.full(2, np.inf, np.float32)
    action = ActionTransform("box", (2,), low=-bound, high=bound)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return freeze_graph(press.graph, ObservationTransform((features,), "float32"), action)


def error(policy: Policy, float_network: nn.Sequential, case: str) -> float:
    x, usual = CASES[case](10_000)
    with torch.no_grad():
        wanted = np.tanh(float_network(x[usual]).numpy())
    found: NDArray[np.float32] = np.tanh(policy.outputs(x[usual].numpy()))
    return float(np.sqrt(np.square(found - wanted).mean()) / wanted.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=3000)
    arguments = parser.parse_args()
    rules = {"largest": Largest, "now": InputQuantizer}
    print("| inputs | weights | network | largest | now | live weights of each input, largest | now |")
    print("|---|---|---|---:|---:|---|---|")
    for case in CASES:
        for bits, batches in ((8, 0), (4, 0), (8, arguments.batches)):
            errors: dict[str, list[float]] = {name: [] for name in rules}
            live = {}
            for seed in range(arguments.seeds):
                for name, rule in rules.items():
                    torch.manual_seed(seed)
                    quantization.InputQuantizer = rule  # type: ignore[misc]
                    float_network = network(CASES[case](10_000), 32)
                    layers = nn.Sequential(*(type(m)(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m
                                             for m in float_network))  # fmt: skip
                    if batches:
                        layers = network(CASES[case](10_000), 16)
                    else:
                        layers.load_state_dict(float_network.state_dict())
                    policy = pressed(layers, case, float_network, bits, batches)
                    errors[name].append(error(policy, float_network, case))
                    live[name] = np.count_nonzero(policy.layers[0].weight, axis=0)
            kind = "distilled" if batches else "as it is"
            shown = [" to ".join(f"{100 * e:.1f} %" for e in (min(errors[n]), max(errors[n]))) for n in rules]
            counts = ["" if len(live[n]) > 4 else " ".join(map(str, live[n])) for n in rules]
            print(f"| {case} | {bits} bits | {kind} | {' | '.join(shown)} | {' | '.join(counts)} |", flush=True)


if __name__ == "__main__":
    main()
