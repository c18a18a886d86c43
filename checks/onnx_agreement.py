"""How ONNX graphs agree with their policies in ONNX Runtime, and in OpenVINO where it is installed.

    python checks/onnx_agreement.py           # some minutes
    python checks/onnx_agreement.py --tanh    # and the tanh of style exact over every float32, some minutes more

Random policies are `make_policy` and `activated` of policypress.testing: MLPs with ReLU and with each activation, and
CNNs with residual blocks, max pooling and each activation, 2 to 8 bits, one scale a layer or one an output.
Observations are random and extreme (`policypress.export.onnx_check.check_observations`), a pair is a policy and an
observation. Trained policies are those of results/. Vector policies take float64 observations with odd seeds and
float32 ones with even seeds; in OpenVINO float32 ones alone. Exit code 1 if a graph does not agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import policypress as pp
from policypress.export.onnx import STYLES, check_onnx, encode_onnx
from policypress.export.onnx_check import Runner, check_observations, compare
from policypress.measure.machine import lines, machine
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import FLOAT_BITS, Activation, Layer
from policypress.policy.policy import Policy
from policypress.testing import ACTIVATIONS, NUMERICS, activated, make_policy, stored_policies

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for OpenVINO


KINDS = ("vector", "image", "tanh")
CASES = [*((kind, None) for kind in KINDS), *itertools.product(("vector", "image"), ACTIVATIONS)]
"""Kind and activation of random policies."""
OBSERVATIONS = 150


def agreement(seeds: int) -> None:
    print("\n| numerics | style | policies | pairs | largest step | same action | largest difference of an output |")
    print("|---|---|---|---|---|---|---|")
    for numerics, style in itertools.product(NUMERICS, STYLES):
        policies = pairs = step = 0
        same = largest = 0.0
        for (kind, op), bits, seed in itertools.product(CASES, range(2, 9), range(seeds)):
            policy = random_policy(numerics, kind, bits, seed, op=op)
            model = encode_onnx(policy, style)
            observations = check_observations(policy, OBSERVATIONS, seed)
            report = check_onnx(policy, model, observations)
            if not report.holds:
                raise SystemExit(f"{numerics} {kind} {op or ''} {bits} bits seed {seed}, {style}: {report.worst}")
            policies, pairs = policies + 1, pairs + len(observations)
            step, same = max(step, report.step_difference), same + report.equal_actions * len(observations)
            wanted = policy.outputs(observations[:OBSERVATIONS])  # the extreme ones of float numerics are huge
            outputs = Runner(model)(observations[:OBSERVATIONS])[0]
            largest = max(largest, float(np.abs(outputs - wanted).max() / np.abs(wanted).max()))
        shown = "-" if numerics != "integer" else str(step)
        print(f"| {numerics} | {style} | {policies} | {pairs:,} | {shown} | {same / pairs:.3%} | {largest:.2g} |")
    print("\nA step is one integer step; output differences are shares of the policy's largest output.")


def random_policy(
    numerics: Any, kind: Any, bits: int, seed: int, narrow: bool = False, op: Activation | None = None
) -> Policy:
    if op is not None:
        return activated(op, numerics, kind, bits, seed)
    policy = make_policy(numerics, kind, bits, seed, per_output=seed // 2 % 2 == 0)
    if kind == "image" or not (narrow or seed % 2 == 0):
        return policy
    return dataclasses.replace(policy, observation=dataclasses.replace(policy.observation, dtype="float32"))


def openvino(seeds: int) -> None:
    try:
        import openvino
    except ModuleNotFoundError:
        print("\nOpenVINO is not installed: pip install -c constraints.txt openvino.")
        return
    from export.openvino_peer import OpenVinoRunner

    print(f"\nOpenVINO {openvino.__version__}:\n")
    print("| kind | style | kernels | policies | pairs | outputs that differ | same action | largest action |")
    print("|---|---|---|---|---|---|---|---|")
    forms = [("exact", True), ("qdq", True), ("qdq", False)]
    for (style, integers), kind in itertools.product(forms, KINDS):
        for widths in ((2, 4, 6, 7), (8,)):
            policies = pairs = different = 0
            same = largest = 0.0
            for bits, seed in itertools.product(widths, range(seeds)):
                policy = random_policy("integer", kind, bits, seed, narrow=True)
                observations, model = check_observations(policy, OBSERVATIONS, seed), encode_onnx(policy, style)
                run = OpenVinoRunner(model, integers=integers)
                outputs, actions = run(observations)
                wanted, right = policy.outputs(observations), policy.predict(observations)[0]
                near = 0 if style == "exact" else 1e-5 * np.abs(wanted).max()
                different += int((np.abs(outputs - wanted) > near).any(axis=1).sum())
                equal = np.isclose(actions, right, rtol=1e-5, atol=1e-6).reshape(len(right), -1).all(axis=1)
                same, largest = same + equal.sum(), max(largest, float(np.abs(actions - right).max()))
                policies, pairs = policies + 1, pairs + len(observations)
                if style == "exact" or not integers:
                    report = compare(policy, model, observations, alone=2, runner=OpenVinoRunner)
                    if report.step_difference > (style == "qdq"):
                        raise SystemExit(f"OpenVINO, {style} {kind} {bits} bits seed {seed}: {report.worst}")
            name = f"{kind}, {'8 bits' if widths == (8,) else '2 to 7 bits'}"
            kernels = "as it comes" if integers else "float32"
            print(
                f"| {name} | {style} | {kernels} | {policies} | {pairs:,} | {different} | "
                f"{same / pairs:.2%} | {largest:.2g} |"
            )
    print("\nOutputs of qdq differ if they are more than 1e-5 of the largest apart.")


def qdq_on_trained(count: int) -> None:
    print("\n| policy | pairs | largest step | same action | largest difference of an action |\n|---|---|---|---|---|")
    for name, path in stored_policies(ROOT / "results").items():
        policy = pp.load(path)
        if policy.numerics != "integer":
            continue
        observations = check_observations(policy, count // 200 if policy.observation.image else count, seed=1)
        report = check_onnx(policy, encode_onnx(policy, "qdq"), observations)
        print(
            f"| {name} | {report.observations:,} | {report.step_difference} | {report.equal_actions:.2%} |"
            f" {report.action_difference:.2g} |"
        )


def tanh() -> None:
    """Every float32 from 2**-13 to 10.1 and its negative, and every 16th of the rest."""
    one = np.ones(1, np.float32)
    policy = Policy(
        (Layer(one[None], np.zeros(1, np.float32), FLOAT_BITS, one, False),),
        ObservationTransform((1,), "float32"),
        ActionTransform("box", (1,), squash=True, low=-one, high=one),
        None,
        baseline_bytes=8,
    )
    model = onnx.load_from_string(encode_onnx(policy))
    result = [node.output[0] for node in model.graph.node if node.op_type == "Where"][-1]
    model.graph.output.append(onnx.ValueInfoProto(name=result))
    run = Runner(model.SerializeToString(), [result])
    first, last = (int(np.float32(x).view(np.uint32)) for x in (2.0**-13, 10.1))
    ranges = [(first, last, 1), (1, first, 16), (last, 0x7F800000, 16)]
    compared = different = 0
    for start, stop, step in ranges:
        for at in range(start, stop, step << 20):
            x = np.arange(at, min(at + (step << 20), stop), step, dtype=np.uint32).view(np.float32)
            got = run(x[:, None])[2].ravel()
            compared += len(x)
            different += int((got.view(np.uint32) != reference.tanh(x).view(np.uint32)).sum())
    x = -np.geomspace(1e-30, 20, 1_000_000).astype(np.float32)
    different += int((run(x[:, None])[2].ravel().view(np.uint32) != reference.tanh(x).view(np.uint32)).sum())
    print(f"\ntanh of style exact: {compared + len(x):,} float32 compared, {different} differ.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8, help="random policies of each kind and bit width")
    parser.add_argument("--tanh", action="store_true", help="compare the tanh over every float32")
    arguments = parser.parse_args()
    print("\n".join(lines(machine())), f"onnx {onnx.__version__}")
    agreement(arguments.seeds)
    openvino(arguments.seeds)
    qdq_on_trained(20_000)
    if arguments.tanh:
        tanh()


if __name__ == "__main__":
    main()
