"""Peers compute the same actions as the network they are made from; those that cannot run say why."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch import nn

from policypress import cli
from policypress.compression.freeze import freeze_graph
from policypress.compression.graph import trace
from policypress.compression.recurrent import Recurrent
from policypress.errors import ConfigError, ExportError, UnsupportedError
from policypress.measure import bench as bench_module
from policypress.measure import peers as peers_module
from policypress.measure.baselines import as_float, widened
from policypress.measure.bench import BenchConfig, Row, bench, duration, plot, size_in_words, times_as_long
from policypress.measure.latency import Timing
from policypress.measure.machine import machine
from policypress.measure.peers import PEERS, Contender, Peer, Task, float_graph, named
from policypress.policy import reference
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import Activation
from policypress.policy.policy import Policy
from policypress.tables import bench_notes, bench_table, energy_table
from policypress.testing import ACTIVATIONS, Kind, activated, activation_name, make_policy, usual_observations

INSTALLED = [name for name in PEERS if name not in ("litert", "torch-compile")]
FLOAT = ["torch", "ort"]


def bounded(policy: Policy) -> Policy:
    """The policy with actions that are clipped and of float64."""
    action = dataclasses.replace(policy.action, squash=False, dtype="float64")
    return dataclasses.replace(policy, action=action)


def task_of(policy: Policy) -> Task:
    return Task(policy, as_float(policy))


def undecided(policy: Policy) -> Policy:
    """The policy with every output 0 in the median, so that observations decide which is the largest."""
    last = policy.layers[-1]
    outputs = policy.outputs(usual_observations(policy, 64, seed=9))
    bias = (last.bias - np.median(outputs, axis=0)).astype(np.float32)
    return dataclasses.replace(policy, ops=(*policy.ops[:-1], dataclasses.replace(last, bias=bias)), test_vectors=None)


def policies() -> dict[str, Policy]:
    multi = ActionTransform("multi-discrete", (2,), "int64", nvec=(2, 2))
    binary = ActionTransform("multi-binary", (4,), "int64")
    image = undecided(make_policy("weight-only", "image"))
    vector = make_policy("weight-only", "vector")
    unsigned = dataclasses.replace(vector.observation, dtype="int16", normalization=None)
    return {
        "vector": vector,
        "tanh": make_policy("weight-only", "tanh"),
        "bounded": bounded(vector),
        "image": image,
        "square": dataclasses.replace(
            image,
            action=ActionTransform(
                "box", (2, 2), low=np.full((2, 2), -0.1, np.float32), high=np.full((2, 2), 0.1, np.float32)
            ),
        ),
        "groups": dataclasses.replace(image, action=multi),
        "binary": dataclasses.replace(image, action=binary),
        "integers": dataclasses.replace(vector, observation=unsigned),
    }


@pytest.mark.parametrize("name", FLOAT)
@pytest.mark.parametrize("kind", list(policies()))
def test_float_peers_act_as_the_dequantized_policy(name: str, kind: str) -> None:
    task = task_of(policies()[kind])
    observations = usual_observations(task.dense, 32, seed=5)
    wanted = task.dense.predict(observations)[0]
    assert len(np.unique(wanted, axis=0)) > 2
    peer = PEERS[name].make(task)
    found = peer.many(observations)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    one = peer.one(observations[0])
    assert np.shape(one) == wanted.shape[1:]
    np.testing.assert_allclose(one, wanted[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vector", "image"])
def test_the_reference_is_the_policy(kind: Kind) -> None:
    policy = make_policy("integer", kind)
    observations = usual_observations(policy, 8, seed=5)
    peer = PEERS["numpy"].make(task_of(policy))
    np.testing.assert_array_equal(peer.many(observations), policy.predict(observations)[0])
    np.testing.assert_array_equal(peer.one(observations[3]), policy.predict(observations[3])[0])


@pytest.mark.parametrize(("kind", "unit"), [("vector", "Relu"), ("tanh", "Tanh")])
def test_the_dense_network_is_what_a_converter_writes(kind: Kind, unit: str) -> None:
    """Its own operators, one for each layer, and nothing that would keep ONNX Runtime from fusing them."""
    model = onnx.load_from_string(float_graph(widened(make_policy("integer", kind), (256, 256))))
    onnx.checker.check_model(model, full_check=True)
    layers = ["Gemm", unit, "Gemm", unit, "Gemm"]
    squash = ["Tanh", "Add", "Mul", "Mul", "Add"]
    assert [node.op_type for node in model.graph.node] == ["Sub", "Div", "Clip", "Cast", *layers, *squash]
    assert [value.name for value in model.graph.output] == ["action"]
    assert len(model.metadata_props) == 0


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_what_remembers_goes_on_from_call_to_call(kind: str) -> None:
    """Every peer that runs it, of one observation and of a batch, each with a state of its own."""
    torch.manual_seed(0)
    module = nn.GRU(5, 6, 2) if kind == "gru" else nn.LSTM(5, 6, 2)
    network = nn.Sequential(*Recurrent.of(module), nn.Linear(6, 2))
    bound = np.full(2, np.inf, np.float32)
    action = ActionTransform("box", (2,), "float32", low=-bound, high=bound)
    policy = freeze_graph(trace(network), ObservationTransform((5,), "float32"), action)
    task, x = task_of(policy), usual_observations(policy, 4, seed=5)
    calls = {
        name: PEERS[name].make(task) for name in ("ort", "ort-int8-dynamic", "ort-int8-qdq", "ort-exported", "numpy")
    }
    state = alone = None
    for step in range(8):
        wanted, state = policy.predict(x, state)
        single, alone = policy.predict(x[0], alone)
        for name, peer in calls.items():
            near = 0.3 if "int8" in name else 1e-5
            np.testing.assert_allclose(peer.many(x), wanted, rtol=0, atol=near, err_msg=f"{name} {step}")
            np.testing.assert_allclose(peer.one(x[0]), single, rtol=0, atol=near, err_msg=f"{name} {step}")
    nodes = [node.op_type for node in onnx.load_from_string(float_graph(policy)).graph.node]
    assert nodes.count(kind.upper()) == 2
    report = bench(policy, BenchConfig(seconds=0.2, peers=("ort", "numpy"), batch=4))
    assert [row.reason for row in report.rows] == ["", "", ""]


@pytest.mark.parametrize("name", ["ort-int8-dynamic", "ort-int8-qdq"])
def test_quantized_peers_stay_near(name: str) -> None:
    task = task_of(make_policy("weight-only", "tanh"))
    observations = usual_observations(task.dense, 256, seed=5)
    wanted = task.dense.predict(observations)[0]
    found = PEERS[name].make(task).many(observations)
    assert np.any(found != wanted)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("kind", list(policies()))
def test_an_untrained_agent_of_stable_baselines3_has_the_networks_layers(kind: str) -> None:
    task = task_of(policies()[kind])
    observations = usual_observations(task.dense, 4, seed=5)
    wanted = task.dense.predict(observations)[0]
    peer = PEERS["sb3"].make(task)
    found = peer.many(observations)
    assert found.shape == wanted.shape
    assert np.shape(peer.one(observations[0])) == wanted.shape[1:]
    assert peer.bytes == 4 * sum(layer.weight.size + layer.bias.size for layer in task.dense.layers)


@pytest.mark.parametrize(
    ("algo", "kind", "found"),
    [("td3", "vector", "TD3"), ("ppo", "vector", "SAC"), ("ppo", "image", "PPO"), ("qrdqn", "image", "DQN")],
)
def test_the_agent_is_of_the_algorithm_that_trained_the_policy_where_it_fits(
    algo: str, kind: Kind, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from policypress.rl.adapters import ADAPTERS

    made: list[str] = []
    for adapter in ADAPTERS.values():
        setup = adapter.model_class._setup_model

        def recorded(model: Any, _setup: Any = setup) -> None:
            made.append(type(model).__name__)
            _setup(model)
            if type(model).__name__ in ("SAC", "TD3"):
                assert next(model.actor.parameters()).shape == (9, 5)

        monkeypatch.setattr(adapter.model_class, "_setup_model", recorded)
    policy = dataclasses.replace(make_policy("weight-only", kind), provenance={"algo": algo})
    PEERS["sb3"].make(task_of(policy))
    assert made == [found]


@pytest.mark.slow
def test_torch_compile_acts_as_the_dequantized_policy() -> None:
    task = task_of(policies()["vector"])
    observations = usual_observations(task.dense, 32, seed=5)
    try:
        peer = PEERS["torch-compile"].make(task)
    except UnsupportedError as error:
        pytest.skip(str(error))
    np.testing.assert_allclose(peer.many(observations), task.dense.predict(observations)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("kind", ["vector", "tanh", "bounded", "integers"])
def test_litert_acts_as_the_dequantized_policy(kind: str, discrete: bool) -> None:
    pytest.importorskip("ai_edge_litert")
    policy = policies()[kind]
    action = ActionTransform("discrete", dtype="int64", start=2) if discrete else policy.action
    observation = dataclasses.replace(policy.observation, normalization=None)
    task = task_of(dataclasses.replace(policy, action=action, observation=observation))
    observations = usual_observations(task.dense, 32, seed=5)
    wanted = task.dense.predict(observations)[0]
    found = PEERS["litert"].make(task).many(observations)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_compiler_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(module: Any) -> Any:
        def call(_: Any) -> None:
            raise RuntimeError("no C++ compiler found.\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UnsupportedError, match=r"torch.compile cannot compile here: no C\+\+ compiler found.$"):
        PEERS["torch-compile"].make(task_of(make_policy("float", "vector")))


def test_every_peer_has_a_name_that_can_be_given() -> None:
    assert named("all") == tuple(PEERS)
    assert named("ort,numpy,ort") == ("ort", "numpy")
    with pytest.raises(ConfigError, match="peers='ort,tvm' is not known: use all, or some of sb3,torch"):
        named("ort,tvm")
    with pytest.raises(ConfigError):
        named("")


# The comparison as a whole


@pytest.fixture(scope="module")
def report() -> Any:
    policy = dataclasses.replace(make_policy("integer", "vector"), baseline_bytes=4 * (6 * 32 + 33 * 32 + 33 * 3))
    return bench(policy, BenchConfig(batch=3, seconds=0.3, peers=("ort", "litert", "numpy")))


def test_the_policy_comes_first_and_every_network_has_its_peers(report: Any) -> None:
    ran = [(row.name, row.network) for row in report.rows if row.one is not None]
    assert ran[0] == ("policy", "5-9-7-3")
    assert [one for one in ran if one[0] != "litert"][1:] == [
        ("ort", "5-32-32-3"),
        ("ort", "5-9-7-3"),
        ("numpy", "5-9-7-3"),
    ]
    assert report.rows[0].ratio == report.rows[0].batch_ratio == 1
    assert report.dense == "5-32-32-3"
    assert report.dense_counts.weight_bytes == 4 * (5 * 32 + 32 * 32 + 32 * 3)
    assert report.energy_ratio > 1


def test_the_report_is_json(report: Any) -> None:
    found = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    first = found["rows"][0]
    assert first["bytes"] > 0
    assert {"latency", "p99", "batch_latency", "calls_per_sample", "rounds"} <= set(first)
    assert found["energy"]["ratio"] == report.energy_ratio
    assert found["energy"]["policy"]["counts"]["dense_macs"] == 5 * 9 + 9 * 7 + 7 * 3


def test_a_missing_package_gives_a_reason_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    policy = make_policy("integer", "vector")
    found = bench(policy, BenchConfig(batch=2, seconds=0.05, peers=("torch", "ort", "numpy")))
    reasons = {row.name: row.reason for row in found.rows}
    assert reasons == {
        "policy": "",
        "torch": "torch is not installed",
        "ort": "onnxruntime is not installed",
        "numpy": "",
    }
    assert found.rows[1].one is None
    assert found.rows[3].one is not None
    assert "ORT float32: onnxruntime is not installed" in bench_notes(found)
    assert found.as_dict()["rows"][1]["reason"] == "torch is not installed"


def test_a_peer_that_fails_gives_a_reason_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: dict[str, Exception] = {
        "torch": ExportError("This needs that, which is not installed: install it."),
        "ort": ImportError("sympy is required for this. Install it."),
        "litert": RuntimeError("Protobuf parsing failed.\n  at line 7"),
        "sb3": OSError(),
    }

    def failing(name: str) -> Any:
        def fail(task: Task) -> Any:
            raise errors[name]

        return Contender(name, fail)

    monkeypatch.setattr(bench_module, "PEERS", {**{name: failing(name) for name in errors}, "numpy": PEERS["numpy"]})
    found = bench(make_policy("integer", "vector"), BenchConfig(batch=2, seconds=0.05))
    assert {row.name: row.reason for row in found.rows} == {
        "policy": "",
        "torch": "This needs that, which is not installed: install it",
        "ort": "sympy is required for this. Install it",
        "litert": "Protobuf parsing failed",
        "sb3": "OSError",
        "numpy": "",
    }
    assert found.rows[-1].one is not None


def test_a_peer_that_is_made_but_does_not_answer_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(observations: Any) -> Any:
        raise RuntimeError("Invalid argument: rank")

    made = Contender("ORT", lambda task: Peer(1, answer, answer))
    monkeypatch.setattr(bench_module, "PEERS", {"ort": made, "numpy": PEERS["numpy"]})
    found = bench(make_policy("integer", "vector"), BenchConfig(batch=2, seconds=0.05))
    assert [row.reason for row in found.rows] == ["", "Invalid argument: rank", ""]


def test_without_the_export_packages_the_rest_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    policy = make_policy("integer", "vector")
    found = bench(policy, BenchConfig(batch=2, seconds=0.05, peers=("ort-exported", "numpy")))
    assert "needs onnxruntime, which is not installed" in found.rows[1].reason
    assert found.rows[2].one is not None


def test_compiling_is_left_out_of_short_runs_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: Task) -> Any:
        raise UnsupportedError("no compiler here.")

    monkeypatch.setattr(bench_module, "PEERS", {"torch-compile": Contender("torch", refuse)})
    policy = make_policy("integer", "vector")
    short = bench(policy, BenchConfig(batch=2, seconds=0.01))
    assert "takes some 20 s" in short.rows[1].reason
    asked = bench(policy, BenchConfig(batch=2, seconds=0.01, peers=("torch-compile",)))
    assert asked.rows[1].reason == "no compiler here"


def test_torch_has_one_thread_meanwhile_and_its_own_number_after(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before, seen = torch.get_num_threads(), []
    real = peers_module.numpy_reference

    def look(task: Task) -> Any:
        seen.append(torch.get_num_threads())
        return real(task)

    monkeypatch.setattr(bench_module, "PEERS", {"numpy": Contender("NumPy", look)})
    try:
        torch.set_num_threads(2)
        bench(make_policy("integer", "vector"), BenchConfig(batch=2, seconds=0.01))
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_joules_stand_beside_where_they_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        def joules_per_call(self, call: Any, seconds: float) -> float:
            call()
            return 2.5e-6

    monkeypatch.setattr(bench_module, "Meter", Counter)
    found = bench(make_policy("integer", "vector"), BenchConfig(batch=2, seconds=0.05, peers=("numpy", "litert")))
    assert [row.joules for row in found.rows if row.one is not None][:1] == [2.5e-6]
    assert "2.5 µJ" in shown(bench_table(found))
    assert "with what the machine draws anyway" in " ".join(shown(energy_table(found)).split())


@pytest.mark.parametrize(
    "settings",
    [{"batch": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"peers": ("tvm",)}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must be|is not known"):
        BenchConfig(**settings)


def shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_tables_fit_a_terminal(report: Any) -> None:
    slow, fast = Timing((123.456,) * 9, 999.9, 9, 1), Timing((3.21e-7,) * 9, 4e-7, 99, 32)
    first = dataclasses.replace(report.rows[0], one=fast, many=fast)
    large = Row("ort", "ORT int8 dynamic", "17-1024-1024-6", 16_777_216, slow, slow, 12_345.6, 98_765.4)
    wide = dataclasses.replace(report, rows=(first, large))
    for table in (bench_table(wide), energy_table(wide), bench_table(report), energy_table(report)):
        assert max(len(line.rstrip()) for line in shown(table).splitlines()) <= 80
    text = shown(bench_table(wide))
    for part in ("0.32 µs", "123 s", "12,346x", "98,765x", "16,777,216", "17-1024-1024-6"):
        assert part in text
    image = dataclasses.replace(first, network="4x84x84-32-64-64-512-9")
    text = shown(bench_table(dataclasses.replace(report, rows=(image,))))
    assert " 4x84x84-32-64- " in text
    assert " 64-512-9 " in text
    counts = dataclasses.replace(report.dense_counts, macs=9_347_584, weight_bytes=6_752_256)
    energy = dataclasses.replace(report.dense_energy, arithmetic=4.3e7, model_reads=1.5676e9)
    text = shown(energy_table(dataclasses.replace(report, dense_counts=counts, dense_energy=energy)))
    assert "arithmetic" in text
    assert "6,752,256 B" in text
    assert "1,567.6 µJ" in text
    notes = bench_notes(wide)
    assert "in loops of 32" in notes
    assert "more --seconds" not in notes


def test_figures_have_three_digits() -> None:
    assert [duration(value) for value in (3.21e-7, 9.1e-6, 1.28e-4, 0.0123, 2.5)] == [
        "0.32 µs",
        "9.10 µs",
        "128 µs",
        "12.3 ms",
        "2.50 s",
    ]
    assert duration(5e-8) == "50.0 ns"
    assert times_as_long(1234.5) == "1,234x"
    assert [size_in_words(value) for value in (512, 2000, 3_500_000)] == ["512 B", "2 kB", "3.5 MB"]


def test_the_chart_is_a_picture(report: Any, tmp_path: Path) -> None:
    plot(report, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_machine_is_told(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name : A CPU\nflags : sse avx2 avx512_vnni\n")
    found = machine(cpuinfo)
    assert (found["cpu"], found["flags"]) == ("A CPU", ["avx2", "avx512_vnni"])
    assert found["cores"] >= 1
    assert {"python", "numpy"} <= set(found["versions"])
    assert machine(tmp_path / "missing")["cpu"]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["policypress", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, chart = tmp_path / "a.policy", tmp_path / "chart.png"
    make_policy("integer", "vector").save(path)
    options = ("--peers", "numpy", "--seconds", "0.05", "--batch", "2")
    assert command(monkeypatch, "bench", path, *options, "--against", "16,16", "--chart", chart, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dense"] == "5-16-16-3"
    assert [row["name"] for row in found["rows"]] == ["policy", "numpy"]
    assert chart.exists()
    assert command(monkeypatch, "bench", path, *options) == 0
    out = capsys.readouterr().out
    assert "NumPy reference" in out
    assert "Horowitz" in out
    for wrong, sentence in (
        (("--peers", "tvm"), "peers='tvm' is not known"),
        (("--against", "x"), "against='x' must be widths"),
        (("--seconds", "0"), "must be positive"),
        (("--chart", tmp_path / "nowhere" / "a.png"), "there is no folder"),
    ):
        assert command(monkeypatch, "bench", path, *wrong) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert "timing" not in err


@pytest.mark.parametrize("op", ACTIVATIONS, ids=activation_name)
def test_activations_of_the_table_in_other_frameworks(op: Activation) -> None:
    policy = activated(op, "float", "vector", seed=1)
    observations = usual_observations(policy, 64, seed=5)
    x = reference.observe(policy.observation, observations)
    wanted = reference.act(policy.action, reference.run(policy, x))
    for name in FLOAT:
        found = PEERS[name].make(Task(policy, policy)).many(observations)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)
    sb3 = PEERS["sb3"].make(Task(policy, policy))
    assert sb3.many(observations).shape == wanted.shape
    assert sb3.bytes == 4 * sum(layer.weight.size + layer.bias.size for layer in policy.layers)


def test_an_activation_that_litert_does_not_have_is_named() -> None:
    pytest.importorskip("ai_edge_litert")
    policy = activated(Activation("gelu"), "float", "vector")
    policy = dataclasses.replace(policy, observation=dataclasses.replace(policy.observation, normalization=None))
    with pytest.raises(UnsupportedError, match=r"^the LiteRT row has ReLU and tanh alone, not gelu\.$"):
        PEERS["litert"].make(Task(policy, policy))
