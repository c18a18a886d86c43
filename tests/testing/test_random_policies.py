"""Random policies hold everything that is legal."""

import collections

from policypress.policy.activations import FUNCTIONS
from policypress.policy.ops import Activation, Residual, walk
from policypress.testing import NUMERICS, random_policy, stored_policies


def orders(ops):
    """The kinds of each operation and of the one in front of it, inside other operations too."""
    before = "input"
    for op in ops:
        yield before, type(op).__name__
        before = type(op).__name__
        if isinstance(op, Residual):
            yield from orders(op.body)


def test_they_carry_every_activation_in_every_numerics_bits_and_place():
    functions, bits, places = set(), set(), collections.Counter()
    for seed in range(700):
        policy = random_policy(seed)
        places.update(before for before, kind in orders(policy.ops) if kind == "Activation")
        for op in walk(policy.ops):
            if isinstance(op, Activation):
                functions.add((op.function, policy.numerics))
                bits.add(op.bits)
    assert functions == {(name, numerics) for name in FUNCTIONS for numerics in NUMERICS}
    assert bits == {0, *range(2, 9)}
    assert set(places) == {"input", "Layer", "Activation", "Relu", "MaxPool2d", "Residual", "Flatten", "LayerNorm"}
    assert min(places.values()) > 10


def test_functions_can_be_left_out():
    found = {op.function for seed in range(60) for op in walk(random_policy(seed, functions=["silu", "elu"]).ops)
             if isinstance(op, Activation)}  # fmt: skip
    assert found == {"silu", "elu"}


def test_stored_policies_are_found_by_name(tmp_path):
    for place in ("b/two", "a/x/one"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "policy.policy").touch()
    assert list(stored_policies(tmp_path)) == ["one", "two"]
    assert stored_policies(tmp_path)["two"] == tmp_path / "b/two/policy.policy"
