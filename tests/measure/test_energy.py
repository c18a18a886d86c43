"""Operations and bytes of tiny networks counted by hand, and the energies that follow from them exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policypress.errors import UnsupportedError
from policypress.measure.baselines import as_float
from policypress.measure.energy import PICOJOULES, Counts, Meter, count, energy, memory, operations
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation, Flatten, InputQuantization, Layer, MaxPool2d, Relu, Requantization
from policypress.policy.policy import Policy
from policypress.testing import activated, make_policy, with_zero_points


def requantization(high: int = 255) -> Requantization:
    return Requantization(np.array([128], np.int32), np.array([10], np.int32), 0, high)


def layer(weight: Any, last: bool = False, **kwargs: Any) -> Layer:
    weight = np.asarray(weight, np.int8)
    bias, scale = np.zeros(len(weight), np.int32), np.ones(1, np.float32)
    return Layer(weight, bias, 8, scale, not last, None if last else requantization(), **kwargs)


DISCRETE = ActionTransform("discrete", dtype="int64")
INPUT = InputQuantization(np.ones(3, np.float32), -127, 127, 8)


def vector(*layers: Layer, features: int = 3, **kwargs: Any) -> Policy:
    settings: dict[str, Any] = {"action": DISCRETE, "input": INPUT, "baseline_bytes": 4, **kwargs}
    return Policy(tuple(layers), ObservationTransform((features,), "float32"), **settings)


def test_a_dense_integer_network() -> None:
    policy = vector(layer([[1, 2, 3], [4, 5, 6]]), layer([[1, 2], [3, 4]], last=True))
    assert count(policy) == Counts(
        dense_macs=10,
        nonzero_macs=10,
        macs=10,
        int8_mul=10,
        int32_mul=2,  # requantization of two hidden units
        int32_add=10 + 4 + 2 * 4,  # multiply-adds, biases, requantization
        float_mul=3 + 2,  # input and output scale
        float_add=3 * 3 + 2,  # rounding and clipping of the input, the largest of two outputs
        weight_bytes=10,
        index_bytes=0,
        constant_bytes=3 * 4 + 2 * 4 + 2 + 2 * 4 + 4,  # input scales, biases, multiplier and shift, biases, scale
        activation_bytes=2 + 2 * 4,  # two codes and two accumulators
        activation_traffic=3 + 6 + 2 + 4 + 8,  # input, reads, hidden units, reads, accumulators
    )


def test_a_sparse_layer_has_indices_and_no_other_multiply_adds() -> None:
    weight = np.zeros((2, 20))
    weight[0, 3], weight[1, 7] = 5, -5
    scale = InputQuantization(np.ones(1, np.float32), -127, 127, 8)
    policy = vector(layer(weight), layer([[1, 2]], last=True), features=20, input=scale)
    found = count(policy)
    assert (found.dense_macs, found.nonzero_macs, found.macs) == (42, 4, 4)
    assert (found.weight_bytes, found.index_bytes) == (2 + 2, 2 * 1 + 2 * 2)  # the second layer is dense
    everything = count(policy, dense=True)
    assert (everything.macs, everything.weight_bytes, everything.index_bytes) == (42, 42, 0)


def test_indices_of_many_inputs_take_two_bytes() -> None:
    weight = np.zeros((1, 300))
    weight[0, 7] = 1
    scale = InputQuantization(np.ones(1, np.float32), -127, 127, 8)
    found = count(vector(layer(weight, last=True), features=300, input=scale))
    assert found.index_bytes == 2 + 2


def test_inputs_of_many_bits_need_wide_multiplications() -> None:
    wide = dataclasses.replace(INPUT, low=-2047, high=2047, bits=12)
    found = count(vector(layer([[1, 2, 3]]), layer([[1]], last=True), input=wide))
    assert (found.int8_mul, found.int32_mul) == (1, 3 + 1)
    assert found.activation_traffic == 3 * 2 + 3 * 2 + 1 + 1 + 4


def test_zero_points_are_subtracted() -> None:
    policy = vector(layer([[1, 2, 3]]), layer([[1]], last=True))
    plain, found = count(policy), count(with_zero_points(policy, 5))
    assert found.float_add == plain.float_add + 3
    assert found.constant_bytes == plain.constant_bytes + 3 * 4


def test_a_float_network() -> None:
    policy = vector(layer([[1, 2, 0], [4, 5, 6]]), layer([[1, 2]], last=True))
    network = as_float(policy)
    found = count(network, dense=True)
    assert (found.macs, found.nonzero_macs, found.int8_mul, found.int32_add) == (8, 7, 0, 0)
    assert found.float_mul == 8
    assert found.float_add == 8 + 3 + 2 + 1  # multiply-adds, biases, ReLU, the choice
    assert found.weight_bytes == 8 * 4
    assert found.activation_bytes == (3 + 2) * 4


def test_weight_only_layers_multiply_in_float32_and_store_bytes() -> None:
    policy = make_policy("weight-only", "vector")
    found = count(policy)
    assert found.int8_mul == found.int32_mul == 0
    assert found.weight_bytes == found.macs == sum(op.weight.size for op in policy.layers)
    outputs, features = sum(op.bias.size for op in policy.layers), 5
    assert found.float_mul == found.macs + outputs + features + 14 * 3  # scales, normalization, tanh and bounds
    assert found.float_add == found.macs + outputs + (9 + 7) + 3 * features + 14 * 3


def test_convolutions_count_at_every_position() -> None:
    ops = (
        layer(np.ones((2, 1, 3, 3)), padding=(1, 1), stride=(2, 2)),  # 6x6 -> 3x3
        MaxPool2d((2, 2), (1, 1), (0, 0)),  # -> 2x2
        Relu(),
        Flatten(),
        layer(np.ones((3, 8)), last=True),
    )
    image = ObservationTransform((1, 6, 6), "uint8", image=True)
    policy = Policy(ops, image, DISCRETE, InputQuantization(np.array([255], np.float32), 0, 255, 8), 4)
    found = count(policy)
    assert found.macs == found.dense_macs == found.int8_mul == 18 * 9 + 24
    assert found.weight_bytes == 18 + 24
    assert found.int32_mul == 18
    assert found.int32_add == (162 + 18 + 4 * 18) + 3 * 8 + 8 + (24 + 3)
    assert found.float_mul == 36 + 36 + 3
    assert found.activation_bytes == 36 + 18
    assert found.activation_traffic == 36 + (162 + 18) + (4 * 8 + 8) + 8 + (24 + 3 * 4)


def test_a_tanh_of_codes_is_a_table() -> None:
    plain, tanh = count(make_policy("integer", "vector")), count(make_policy("integer", "tanh"))
    assert tanh.int32_add - plain.int32_add == 2 * (9 + 7)
    assert tanh.constant_bytes - plain.constant_bytes == 256  # one table for both, of 8 bits
    floats = count(make_policy("float", "tanh"))
    assert floats.float_mul == floats.macs + 5 + 12 * (9 + 7) + 14 * 3


def test_residual_blocks_are_counted_through() -> None:
    policy = make_policy("integer", "image", per_output=False)
    found = count(policy)
    assert found.nonzero_macs < found.dense_macs
    stem, block, dense, q = 2 * 9 * 3 * (5 * 6), 3 * 3 * 9 * (3 * 7), 6 * 3 * (3 * 7), 4 * 6
    assert found.dense_macs == stem + 2 * block + dense + q
    sums = 3 * 3 * 7  # values that the block gives
    requantized = 3 * 5 * 6 + sums + 2 * sums + 6  # stem, first convolution, both operands of the sum, dense
    assert found.int32_mul == requantized


def test_energy_is_the_sum_of_its_parts_exactly() -> None:
    counts = Counts(
        int8_mul=10, int32_mul=2, int32_add=20, float_mul=3, float_add=5, weight_bytes=800, index_bytes=24,
        constant_bytes=8, activation_bytes=9000, activation_traffic=160,
    )  # fmt: skip
    found = energy(counts)
    assert found.arithmetic == pytest.approx(10 * 0.2 + 2 * 3.1 + 20 * 0.1 + 3 * 3.7 + 5 * 0.9, rel=1e-12)
    assert found.model_reads == pytest.approx(832 / 8 * 10, rel=1e-12)
    assert found.activations == pytest.approx(160 / 8 * 20, rel=1e-12)
    assert found.total == pytest.approx(25.8 + 1040 + 400, rel=1e-12)
    assert (found.model_memory, found.activation_memory) == ("8 kB SRAM", "32 kB SRAM")
    assert found.as_dict()["total"] == found.total


@pytest.mark.parametrize(
    ("size", "name", "word"),
    [(0, "8 kB SRAM", 10), (8192, "8 kB SRAM", 10), (8193, "32 kB SRAM", 20), (32769, "1 MB SRAM", 100),
     (2**20, "1 MB SRAM", 100), (2**20 + 1, "DRAM", 1300)],
)  # fmt: skip
def test_memories_by_size(size: int, name: str, word: float) -> None:
    assert memory(size) == (name, word)


def test_every_kind_of_operation_has_an_energy() -> None:
    assert set(PICOJOULES) <= {field.name for field in dataclasses.fields(Counts)}


# The counters of Linux


def rapl(root: Path, name: str, value: int, limit: int = 1000) -> Path:
    folder = root / "powercap" / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder / "energy_uj"


class Work:
    """Moves a clock by a second, and counters by what it draws, every 16 calls."""

    def __init__(self, draws: dict[Path, list[int]]) -> None:
        self.now, self.calls, self.draws = 0.0, 0, draws

    def __call__(self) -> None:
        self.calls += 1
        if self.calls % 16 == 0:
            self.now += 1
            for path, values in self.draws.items():
                path.write_text(str(values[self.calls // 16 - 1]))

    def clock(self) -> float:
        return self.now


def test_rapl_packages_are_added_up_and_wrap(tmp_path: Path) -> None:
    first, second = rapl(tmp_path, "intel-rapl:0", 900), rapl(tmp_path, "intel-rapl:1", 10)
    rapl(tmp_path, "intel-rapl:0:0", 5)  # a part of the first package
    work = Work({first: [950, 50], second: [110, 210]})
    joules = Meter(tmp_path).joules_per_call(work, 2, work.clock)
    assert work.calls == 32
    assert joules == pytest.approx((150 + 200) / 1e6 / 32)


def test_amd_energy_is_read_by_socket(tmp_path: Path) -> None:
    folder = tmp_path / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    for name, text in {"name": "amd_energy", "energy1_label": "Ecore000", "energy1_input": "7",
                       "energy9_label": "Esocket0", "energy9_input": "1000"}.items():  # fmt: skip
        (folder / name).write_text(text + "\n")
    work = Work({folder / "energy9_input": [5000]})
    assert Meter(tmp_path).joules_per_call(work, 1, work.clock) == pytest.approx(4000 / 1e6 / 16)


def test_without_a_counter_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "powercap" / "intel-rapl:0").mkdir(parents=True)
    with pytest.raises(UnsupportedError, match="not readable here"):
        Meter(tmp_path)


@pytest.mark.parametrize(
    ("op", "multiplications", "additions"),
    [
        (Activation("tanh"), 12, 12),
        (Activation("leaky_relu", parameters=(0.1,)), 1, 1),
        (Activation("sigmoid"), 12 + 2, 12 + 1),
        (Activation("silu"), 12 + 3, 12 + 1),
        (Activation("softsign"), 1, 1),
        (Activation("hardtanh", parameters=(0.0, 6.0)), 0, 2),
    ],
)
def test_operations_of_a_float_activation_are_those_of_its_formula(
    op: Activation, multiplications: int, additions: int
) -> None:
    assert operations(op) == (multiplications, additions)
    policy = dataclasses.replace(make_policy("float", "vector"), test_vectors=None)
    more = dataclasses.replace(policy, ops=(*policy.ops[:-1], op, policy.ops[-1]))
    before, after = count(policy), count(more)
    assert (after.float_mul - before.float_mul, after.float_add - before.float_add) == (
        7 * multiplications,
        7 * additions,
    )


def test_an_activation_of_codes_is_a_byte_of_a_table_that_is_stored_once() -> None:
    for op, addition, table in (
        (Activation("softsign"), 2, 256 + 128),
        (Activation("elu", parameters=(1.0,)), 1, 511 + 255),
    ):
        policy = activated(op, "integer", "vector", 8)
        plain = dataclasses.replace(policy, ops=tuple(one for one in policy.ops if not isinstance(one, Activation)))
        with_tables, without = count(policy), count(plain)
        values = 9 + 8 + 7
        assert with_tables.int32_add - without.int32_add == addition * values
        assert with_tables.constant_bytes - without.constant_bytes == table
        assert with_tables.activation_traffic - without.activation_traffic == 2 * values
