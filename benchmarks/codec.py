"""Bytes of the payload against the zero-order bound H and against other coders, for random and trained policies.

    python benchmarks/codec.py                    # policypress alone; seconds to minutes
    python benchmarks/codec.py --peers            # and NNCodec, zstd, xz, brotli (see codec_peers.py), some minutes

Random policies have the exact sparsity in every layer, weights that are rounded Gaussians of a standard deviation of
limit / 3.5, and biases of 40; their units are sorted and all kept. Trained policies are those of results/, which are
without idle units already. H counts values by how often they occur, as if those counts were known; "source" is H with
distributions in their place: of random policies those that were drawn from, of trained ones the generalized Gaussian
that suits each layer's weights, or biases, best, its parameters free. "floor" is source less sum log2(hidden units!),
and for random MLPs with the 4 bits that an input scale was drawn from: no lossless code of random policies is shorter
on average. For trained policies it is an estimate, which a better model may undercut. "order" is the share of that sum
that sorting gives back: payloads of five random orders minus the sorted one. Peers get the same integers;
"at most" is "smaller by" at the size of the floor. Times are CPU times.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import policypress as pp
from policypress.measure.size import zero_order_bound
from policypress.policy.canonical import canonical
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import (
    INT32_MAX,
    INT32_MIN,
    Activation,
    Flatten,
    InputQuantization,
    Layer,
    MaxPool2d,
    Op,
    Relu,
    Requantization,
    Residual,
)
from policypress.policy.payload import decode_payload, encode_payload
from policypress.policy.policy import Policy
from policypress.testing import stored_policies

BITS = (2, 3, 4, 6, 8)
MLPS = {
    "17-24-24-6 dense": ((17, 24, 24, 6), 0.0),
    "17-64-64-6 75 %": ((17, 64, 64, 6), 0.75),
    **{f"17-256-256-6 {100 * s:g} %": ((17, 256, 256, 6), s) for s in (0.9, 0.95, 0.98, 0.99, 0.995)},
}
IMAGE = (4, 84, 84)


class Random:
    """Layers of one sparsity and bit width."""

    def __init__(self, sparsity: float, bits: int, seed: int = 0) -> None:
        self.rng, self.sparsity, self.bits = np.random.default_rng(seed), sparsity, bits

    def layer(self, *shape: int, last: bool = False, signed: bool = False, **geometry: tuple[int, int]) -> Layer:
        limit, size = 2 ** (self.bits - 1) - 1, math.prod(shape)
        weight = np.zeros(size, np.int8)
        used = self.rng.permutation(size)[: size - round(self.sparsity * size)]
        while used.size:
            drawn = np.rint(self.rng.normal(0, limit / 3.5, used.size))
            weight[used] = np.clip(drawn, -limit, limit)
            used = used[weight[used] == 0]
        bias = np.rint(self.rng.normal(0, 40, shape[0])).astype(np.int32)
        low, high = (-127, 127) if signed else (0, 255)
        requantize = None if last else Requantization(np.array([150], np.int32), np.array([14], np.int32), low, high)
        scale = np.array([0.0078125], np.float32)
        return Layer(weight.reshape(shape), bias, self.bits, scale, not last and not signed, requantize, **geometry)

    def source_bits(self, policy: Policy) -> float:
        """H in bits with the entropies of the distributions that values and biases were drawn from."""
        limit = 2 ** (self.bits - 1) - 1
        value = _entropy([p for v, p in _rounded(limit / 3.5, limit) if v])
        bias = _entropy([p for _, p in _rounded(40, 400)])
        return sum(_positions(x) + value * x.nonzeros + bias * x.bias.size for x in policy.layers)

    def mlp(self, *widths: int) -> Policy:
        shapes = [(after, before) for before, after in itertools.pairwise(widths)]
        ops = [*(self.layer(*shape) for shape in shapes[:-1]), self.layer(*shapes[-1], last=True)]
        scale = (self.rng.integers(4, 8, widths[0]) * 2.0 ** self.rng.integers(0, 4, widths[0])).astype(np.float32)
        action = ActionTransform(
            "box",
            (widths[-1],),
            squash=True,
            low=-np.ones(widths[-1], np.float32),
            high=np.ones(widths[-1], np.float32),
        )
        return self._policy(ops, ObservationTransform((widths[0],), "float64"), action, scale, -127, 127)

    def nature(self) -> Policy:
        ops: list[Op] = [
            self.layer(32, 4, 8, 8, stride=(4, 4)),
            self.layer(64, 32, 4, 4, stride=(2, 2)),
            self.layer(64, 64, 3, 3),
            Flatten(),
            self.layer(512, 3136),
            self.layer(18, 512, last=True),
        ]
        return self._image(ops)

    def resnet(self) -> Policy:
        """The paper's: ``policypress.rl.resnet.ResNetExtractor``."""
        ops: list[Op] = []
        channels, same = IMAGE[0], {"padding": (1, 1)}
        keep = Requantization(np.array([200], np.int32), np.array([8], np.int32), INT32_MIN, INT32_MAX)
        for width in (32, 64, 64):
            ops += [self.layer(width, channels, 3, 3, signed=True, **same), MaxPool2d((3, 3), (2, 2), (1, 1))]
            for _ in range(2):
                body = (
                    Relu(),
                    self.layer(width, width, 3, 3, **same),
                    self.layer(width, width, 3, 3, signed=True, **same),
                )
                ops.append(Residual(body, keep, keep, -127, 127))
            channels = width
        ops += [Relu(), Flatten(), self.layer(512, 64 * 11 * 11), self.layer(18, 512, last=True)]
        return self._image(ops)

    def _image(self, ops: list[Op]) -> Policy:
        scale = np.array([255], np.float32)
        action = ActionTransform("discrete", dtype="int64")
        return self._policy(ops, ObservationTransform(IMAGE, "uint8", image=True), action, scale, 0, 255)

    def _policy(
        self,
        ops: list[Op],
        observation: ObservationTransform,
        action: ActionTransform,
        scale: np.ndarray[Any, Any],
        low: int,
        high: int,
    ) -> Policy:
        policy = Policy(tuple(ops), observation, action, InputQuantization(scale, low, high, 8), 1)
        dense = 4 * sum(layer.weight.size + layer.bias.size for layer in policy.layers)
        return dataclasses.replace(policy, baseline_bytes=dense)


def _rounded(std: float, limit: int) -> list[tuple[int, float]]:
    """Integers and probabilities of a Gaussian, rounded and clipped."""

    def below(x: float) -> float:
        return (1 + math.erf(x / std / math.sqrt(2))) / 2

    edges = [0.0, *(below(v + 0.5) for v in range(-limit, limit)), 1.0]
    return [(v, b - a) for v, (a, b) in zip(range(-limit, limit + 1), itertools.pairwise(edges), strict=True)]


def _entropy(weights: list[float]) -> float:
    total = sum(weights)
    return -sum(w / total * math.log2(w / total) for w in weights if w)


def _positions(layer: Layer) -> float:
    """Bits of positions alone."""
    ones = np.ones_like(layer.weight)
    return zero_order_bound(dataclasses.replace(layer, weight=ones * (layer.weight != 0), bias=layer.bias * 0))


def _fitted(values: np.ndarray[Any, Any]) -> float:
    """Bits of integers by the best of all exp(-|v / scale| ** power) around 0, over the integers up to 4 times the
    largest."""
    if not values.size:
        return 0.0
    found, counts = np.unique(np.abs(values), return_counts=True)
    support = np.arange(4 * found[-1] + 1)[None, :]
    scale = np.geomspace(0.05, found[-1] + 1, 400)[:, None]
    least = math.inf
    for power in np.arange(0.4, 4.01, 0.1):
        weight = np.exp(-((support / scale) ** power))
        total = 2 * weight[:, 1:].sum(1) + (found[0] == 0)
        seen = (found / scale) ** power @ counts / math.log(2)
        least = min(least, float((seen + values.size * np.log2(np.maximum(total, 1e-300))).min()))
    return least


def fitted_bits(policy: Policy) -> float:
    """H in bits with the entropies of fitted distributions."""
    bits = 0.0
    for layer in policy.layers:
        bias = layer.bias // max(int(np.gcd.reduce(layer.bias)), 1)
        bits += _positions(layer) + _fitted(layer.weight[layer.weight != 0].astype(int))
        bits += _fitted(bias - int(np.median(bias)))
    return bits


def policies(results: Path) -> Iterator[tuple[str, Policy, Random | None]]:
    for (name, (widths, sparsity)), bits in itertools.product(MLPS.items(), BITS):
        source = Random(sparsity, bits)
        yield f"{name}, {bits} bits", source.mlp(*widths), source
    for kind, sparsity, bits in itertools.product(("nature", "resnet"), (0.9, 0.98), BITS):
        source = Random(sparsity, bits)
        yield f"{kind} {sparsity:.0%}, {bits} bits", getattr(source, kind)(), source
    for name, path in stored_policies(results).items():
        policy = pp.load(path)
        if policy.numerics == "integer":
            yield name, policy, None


def shuffled(policy: Policy, rng: np.random.Generator) -> Policy:
    """An MLP with its hidden units in random order: the same policy."""
    layers = list(policy.layers)
    for i in range(len(layers) - 1):
        order = rng.permutation(len(layers[i].weight))
        layers[i] = dataclasses.replace(layers[i], weight=layers[i].weight[order], bias=layers[i].bias[order])
        layers[i + 1] = dataclasses.replace(layers[i + 1], weight=np.ascontiguousarray(layers[i + 1].weight[:, order]))
    remaining = iter(layers)
    ops = tuple(next(remaining) if isinstance(op, Layer) else op for op in policy.ops)
    return dataclasses.replace(policy, ops=ops, test_vectors=None)


def measure(policy: Policy, source: Random | None, with_peers: bool) -> dict[str, Any]:
    started = time.process_time()
    small = canonical(policy, drop_units=source is None)
    payload = encode_payload(small)
    encode_seconds = time.process_time() - started
    decode_seconds = math.inf
    for _ in range(5):
        started = time.process_time()
        ops, _ = decode_payload(payload)
        decode_seconds = min(decode_seconds, time.process_time() - started)
    for ours, theirs in zip(_layers(ops), small.layers, strict=True):
        assert np.array_equal(ours.weight, theirs.weight)
        assert np.array_equal(ours.bias, theirs.bias)
    raw = pp.size(policy)
    source_bits = fitted_bits(policy) if source is None else source.source_bits(policy)
    row: dict[str, Any] = {
        "nonzeros": raw.nonzeros,
        "bound": raw.bound_bytes,
        "payload": len(payload),
        "of_bound": len(payload) / raw.bound_bytes,
        "of_source": len(payload) / (source_bits / 8),
        "nominal_ratio": raw.nominal_ratio,
        "payload_ratio": policy.baseline_bytes / len(payload),
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
    }
    if all(isinstance(op, Layer | Activation) for op in policy.ops):
        freedom = sum(math.lgamma(len(layer.weight) + 1) / math.log(2) for layer in small.layers[:-1])
        rng = np.random.default_rng(0)
        plain = np.mean([len(encode_payload(shuffled(small, rng))) for _ in range(5)])
        row["order_recovered"] = 8 * (plain - len(payload)) / freedom
        scales = 0 if source is None else 4 * small.layers[0].weight.shape[1]
        row["floor"] = (source_bits - freedom + scales) / 8
    if with_peers:
        from codec_peers import peers

        bits = max(layer.weight_bits for layer in policy.layers)
        row["peers"] = peers([(layer.weight, layer.bias) for layer in policy.layers], bits)
    return row


def _layers(ops: tuple[Op, ...]) -> Iterator[Layer]:
    for op in ops:
        if isinstance(op, Layer):
            yield op
        elif isinstance(op, Residual):
            yield from _layers(op.body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with trained policies")
    parser.add_argument("--only", default="", help="only policies whose name holds this text")
    parser.add_argument("--peers", action="store_true", help="compare with other coders")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = {}
    if not arguments.json:
        heads = ["policy", "nonzeros", "H", "payload", "/ H", "/ source", "floor / H", "order", "encode", "decode"]
        heads += ["NNCodec", "best of zstd, xz, brotli", "smaller by", "at most"] if arguments.peers else []
        print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for name, policy, source in policies(arguments.results):
        if arguments.only not in name:
            continue
        row = rows[name] = measure(policy, source, arguments.peers)
        if arguments.json:
            continue
        cells = [name, f"{row['nonzeros']:,}", f"{row['bound']:,.0f}", f"{row['payload']:,}", f"{row['of_bound']:.3f}"]
        cells.append(f"{row['of_source']:.3f}")
        cells.append(f"{row['floor'] / row['bound']:.3f}" if "floor" in row else "")
        cells.append(f"{row['order_recovered']:.0%}" if "order_recovered" in row else "")
        cells += [f"{row['encode_seconds']:.2f} s", f"{1e3 * row['decode_seconds']:.1f} ms"]
        if arguments.peers:
            found = row["peers"]
            general = [found[peer] for peer in ("zstd", "xz", "brotli") if peer in found]
            cells.append(f"{found['NNCodec']:,}" if "NNCodec" in found else "")
            cells += [f"{min(general):,}", f"{1 - row['payload'] / min(general):.0%}"] if general else ["", ""]
            cells.append(f"{1 - row['floor'] / min(general):.0%}" if general and source and "floor" in row else "")
        print(f"| {' | '.join(cells)} |", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
