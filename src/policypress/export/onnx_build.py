"""The ONNX graph of a policy: from the raw observation to the environment's action, in one of two styles.

"exact" computes every integer as ``reference.py`` does; "qdq" is what compilers for accelerators read: quantized
tensors between QuantizeLinear and DequantizeLinear, float32 in between. ``docs/onnx.md`` describes both.
"""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import helper

from policypress.errors import unknown
from policypress.export.onnx_ends import act, observe
from policypress.export.onnx_exact import ExactIntegers
from policypress.export.onnx_float import Converted, Floats
from policypress.export.onnx_graph import Graph, Style
from policypress.export.onnx_qdq import QdqIntegers
from policypress.export.onnx_state import States
from policypress.policy.card import encode_card
from policypress.policy.policy import Policy


def build(policy: Policy, style: Style) -> onnx.ModelProto:
    """Graph of ``policy`` with the input ``observation`` and the outputs ``action`` and ``outputs``; of a policy with a
    state with the input ``h_in`` and the output ``h_out`` too.

    Equal policies give equal bytes. Raises UnsupportedError if "qdq" has no type for some codes.
    """
    graph = Graph()
    with graph.scope("observe"):
        x = observe(graph, policy, style)
    states = States(graph, policy)
    if policy.input is None:
        outputs = Floats(graph, style, states).ops(policy.ops, x)
    else:
        match style:
            case "exact":
                outputs = ExactIntegers(graph, states).network(policy, policy.input, x)
            case "qdq":
                outputs = QdqIntegers(graph).network(policy, policy.input, x)
            case _:
                unknown(style)
    graph.rename(outputs, "outputs")
    with graph.scope("act"):
        action = act(graph, policy.action, "outputs", style)
    graph.rename(action, "action")
    model = graph.model(policy, "action", "outputs", *states.close())
    helper.set_model_props(model, _metadata(policy, style, graph))
    return model


def build_network(policy: Policy) -> onnx.ModelProto:
    """Graph of a ``policy`` in float numerics by ONNX's own operators, without metadata: its only output is ``action``.

    It computes float32 as a converter from another framework would write it down.
    """
    assert policy.numerics == "float"
    graph = Graph()
    with graph.scope("observe"):
        x = observe(graph, policy, "qdq")
    states = States(graph, policy)
    outputs = Converted(graph, "qdq", states).ops(policy.ops, x)
    with graph.scope("act"):
        action = act(graph, policy.action, outputs, "qdq")
    graph.rename(action, "action")
    return graph.model(policy, "action", *states.close())


def _metadata(policy: Policy, style: Style, graph: Graph) -> dict[str, str]:
    card = json.loads(encode_card(policy))
    facts: dict[str, Any] = {name: card[name] for name in ("action", "observation", "provenance", "results")}
    facts |= {"numerics": policy.numerics, "style": style, "steps": graph.steps}
    robot = policy.provenance.get("metadata", {})
    return {f"policypress.{name}": _text(facts[name]) for name in sorted(facts)} | {
        name: _text(robot[name]) for name in sorted(robot)
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
