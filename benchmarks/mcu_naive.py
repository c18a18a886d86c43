"""A dense float32 policy as plain loops on an emulated Cortex-M: what pressed ones are compared with.

    python benchmarks/mcu_naive.py [--target cortex-m4] [NAME ...]

Each layer is the loop that anyone writes first: for every output a sum over all inputs, then ReLU, up to the
last layer's outputs, without tanh. Compiled and counted as policies are (docs/microcontrollers.md), on the recorded
observations of examples/mcu. Exit code 1 if an output is off by more than 0.001.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import policypress as pp
from policypress.export.c_text import definition
from policypress.export.compile import FORMAT
from policypress.measure.microcontroller import (
    EMPTY_INSTRUCTIONS,
    TARGETS,
    build_firmware,
    find_target,
    require_tools,
    run_firmware,
)
from policypress.testing import stored_policies

ROOT = Path(__file__).resolve().parents[1]
HEADER = """
#include <stdint.h>
typedef double policy_observation;
typedef float policy_action;
int policy_predict(const policy_observation *observation, policy_action *action);
"""
LAYER = """
static void dense(const float *weight, const float *bias, const float *x, float *y, int outputs, int inputs) {
    for (int o = 0; o < outputs; o++) {
        float sum = bias[o];
        for (int i = 0; i < inputs; i++)
            sum += weight[o * inputs + i] * x[i];
        y[o] = sum;
    }
}

static void relu(float *x, int n) {
    for (int i = 0; i < n; i++)
        x[i] = x[i] > 0.0f ? x[i] : 0.0f;
}
"""


def write(policy: pp.Policy, folder: Path) -> None:
    """The policy as policy.h and policy.c, with the export.json that the firmware's build reads."""
    layers = policy.layers
    widths = [layers[0].weight.shape[1], *(len(layer.weight) for layer in layers)]
    arrays, calls = [], []
    for i, layer in enumerate(layers):
        weight = (layer.weight * np.resize(layer.scale, len(layer.weight))[:, None]).astype(np.float32)
        arrays += [definition(f"static const float w{i}", weight)]
        arrays += [definition(f"static const float b{i}", np.asarray(layer.bias, np.float32))]
        arrays += [f"static float x{i + 1}[{widths[i + 1]}];"]
        calls += [f"    dense(w{i}, b{i}, x{i}, x{i + 1}, {widths[i + 1]}, {widths[i]});"]
        calls += [f"    relu(x{i + 1}, {widths[i + 1]});"] if i + 1 < len(layers) else []
    last = f"x{len(layers)}"
    source = f"""
#include "policy.h"
#pragma GCC optimize("fp-contract=fast") /* as GCC does without options */
static float x0[{widths[0]}];
{chr(10).join(arrays)}
{LAYER}
int policy_predict(const policy_observation *observation, policy_action *action) {{
    for (int i = 0; i < {widths[0]}; i++)
        x0[i] = (float)observation[i];
{chr(10).join(calls)}
    for (int i = 0; i < {widths[-1]}; i++)
        action[i] = {last}[i];
    return 0;
}}
"""
    (folder / "policy.h").write_text(HEADER)
    (folder / "policy.c").write_text(source)
    facts = {"format": FORMAT, "name": "policy", "integer_only": False, "init": False, "sources": ["policy.c"]}
    facts |= {"outputs": widths[-1], "observation": {"shape": [widths[0]]}, "action": {"shape": [widths[-1]]}}
    (folder / "export.json").write_text(json.dumps(facts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["cheetah-dense"], help="float policies of results/")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="once for each (cortex-m4)")
    arguments = parser.parse_args()
    require_tools()
    seen = np.load(ROOT / "examples" / "mcu" / "half-cheetah.npz")["observations"].astype(np.float64)
    print("| policy | target | flash | instructions | largest difference of an output |\n|---|---|---:|---:|---:|")
    worst, stored = 0.0, stored_policies(ROOT / "results")
    for name in arguments.names:
        policy = pp.load(stored[name])
        wanted = policy.outputs(seen, reference=True)
        for title in arguments.target or ["cortex-m4"]:
            target = find_target(title)
            with tempfile.TemporaryDirectory() as temporary:
                folder, build = Path(temporary), Path(temporary) / "build"
                write(policy, folder)
                footprint = build_firmware(folder, target, build)
                found, counts = run_firmware(target, build, seen, np.dtype(np.float32), wanted.shape[1])
            off = float(np.abs(found - wanted).max())
            worst = max(worst, off)
            instructions = (counts[3] - counts[6]) * 1e9 / target.hz / len(seen) + EMPTY_INSTRUCTIONS
            print(f"| {name} | {title} | {footprint.flash:,} | {instructions:,.0f} | {off:.1e} |", flush=True)
    return int(worst > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
