"""Mutates the policies of other people in ../shared, and files made here, and opens them all: one sentence each.

    python checks/hostile_files.py [--mutations 2000] [--seed 0] [--seconds 3600]

Mutations: bytes changed, taken out or put in, files cut off, lengths and sizes made large, pieces of one file in
another, weights that are NaN. Beside them stand files that would do harm: pickles that run code, an ONNX file with a
loop or with tensors of 2^40 values, external data that is missing or lies outside the folder, archives that unpack to
gigabytes. They are opened one after another in a process of its own, which is started anew where it dies. Exit code 1
for a process that died, a file that took longer than a minute, an exception that is no PolicypressError, a message that
is not one sentence, code that ran, or more than 1 GiB of memory (the process's peak, what was imported included).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import pickle
import resource
import selectors
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"
LIMIT = 2**30
SECONDS = 60.0
EVIL = "EVIL"
"""A file that appears where code ran."""


# What is opened


class Harmful:
    """A pickle of this makes a file when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {EVIL}",)


class Recurrent(torch.nn.Module):
    """A policy that keeps the state of its LSTM in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.last = torch.nn.LSTM(4, 5), torch.nn.Linear(5, 2)
        self.register_buffer("hidden_state", torch.zeros(1, 1, 5))
        self.register_buffer("cell_state", torch.zeros(1, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.last(y.squeeze(0))


def originals() -> list[Path]:
    found = [path for path in sorted(SHARED.glob("policies/**/*")) if path.suffix in (".onnx", ".pt")]
    return [*found, *sorted(SHARED.glob("robots/*/*.onnx")), *sorted(SHARED.glob("robots/*/*.pt"))]


def written(folder: Path) -> list[Path]:
    """Small files that are as they should be, so that mutations come to more than weights."""
    import onnx
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    nodes, weights, taken = [], [], "obs"
    for index, (inputs, outputs) in enumerate([(4, 5), (5, 2)]):
        weights.append(onnx.numpy_helper.from_array(rng.normal(size=(inputs, outputs)).astype("f"), f"w{index}"))
        nodes.append(helper.make_node("MatMul", [taken, f"w{index}"], [f"m{index}"]))
        nodes.append(helper.make_node("Elu" if index == 0 else "Tanh", [f"m{index}"], [f"a{index}"]))
        taken = f"a{index}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("obs", 4), ("a1", 2))]
    graph = helper.make_graph(nodes, "policy", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "small.onnx")
    network = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ELU(), torch.nn.Linear(5, 2))
    torch.jit.script(network).save(folder / "small.pt")
    torch.save({"model_state_dict": {f"actor.{k}": v for k, v in network.state_dict().items()}}, folder / "small.pth")
    weights, state = [], [1, 1, 5]
    for name, shape in (("w", [1, 15, 4]), ("r", [1, 15, 5]), ("b", [1, 30]), ("last", [5, 2])):
        weights.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype("f"), name))
    weights.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    nodes = [
        helper.make_node("Unsqueeze", ["obs", "first"], ["x"]),
        helper.make_node("GRU", ["x", "w", "r", "b", "", "h_in"], ["", "h_out"], hidden_size=5, linear_before_reset=1),
        helper.make_node("Squeeze", ["h_out", "first"], ["y"]),
        helper.make_node("MatMul", ["y", "last"], ["actions"]),
    ]
    sizes = {"obs": [1, 4], "h_in": state, "actions": [1, 2], "h_out": state}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    graph = helper.make_graph(nodes, "policy", ends[:2], ends[2:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "recurrent.onnx")
    torch.jit.script(Recurrent()).save(folder / "recurrent.pt")
    return [folder / name for name in ("small.onnx", "small.pt", "small.pth", "recurrent.onnx", "recurrent.pt")]


def harmful(folder: Path) -> Iterator[Path]:
    """Files that would do harm, each made when it is asked for."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def made(name: str, graph: onnx.GraphProto) -> Path:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        (folder / name).write_bytes(model.SerializeToString())
        return folder / name

    def graph(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.GraphProto:
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("obs", "y")]
        return helper.make_graph(nodes, "policy", ends[:1], ends[1:], tensors)

    actor = {"actor.0.weight": torch.zeros(2, 4), "actor.0.bias": torch.zeros(2)}
    torch.save({"model_state_dict": actor, "more": Harmful()}, folder / "pickle.pt")
    torch.save(Harmful(), folder / "only.pt")
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"model_state_dict": actor, "more": Harmful()}, folder / "legacy.pt", **old)
    yield from (folder / name for name in ("pickle.pt", "only.pt", "legacy.pt"))
    for name in ("bare.pt", "bare.onnx", "bare.policy", "bare.zip"):
        (folder / name).write_bytes(pickle.dumps(Harmful()))
        yield folder / name
    for size in (2**40, 2**62):
        wide = torch.zeros(1).expand(2, 4).as_strided((2, 2**40), (0, 0))
        torch.save({"actor.0.weight": wide}, folder / "wide.pt")
        yield folder / "wide.pt"
        tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
        del tensor.dims[:]
        tensor.dims.extend([size, 1])
        yield made("huge.onnx", graph([helper.make_node("Add", ["obs", "w"], ["y"])], [tensor]))
        shape = helper.make_tensor("s", TensorProto.INT64, [1], [size])
        nodes = [
            helper.make_node("ConstantOfShape", ["s"], ["c"]),
            helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
            helper.make_node("Add", ["obs", "r"], ["y"]),
        ]
        yield made("constant.onnx", graph(nodes, [shape]))
    for power in (20, 26, 28, 30):
        shape = helper.make_tensor("s", TensorProto.INT64, [2], [2**power, 4])
        nodes = [
            helper.make_node("Expand", ["obs", "s"], ["e"]),
            helper.make_node("ReduceMax", ["e"], ["y"], axes=[0], keepdims=1),
        ]
        yield made("expand.onnx", graph(nodes, [shape]))
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "d": TensorProto.BOOL}
    sizes: dict[str, list[int]] = {"v": [1, 4], "w": [1, 4]}
    ends = {n: helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), sizes.get(n, [])) for n in "icvdw"}
    inner = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])]
    body = helper.make_graph(inner, "body", [ends[n] for n in "icv"], [ends[n] for n in "dw"])
    loops = [helper.make_node("Loop", ["", "t", "obs"], ["y"], body=body)]
    yield made("loop.onnx", graph(loops, [helper.make_tensor("t", TensorProto.BOOL, [], [True])]))
    many = [helper.make_node("Tanh", [f"v{i}" if i else "obs"], [f"v{i + 1}"]) for i in range(5_000)]
    yield made("deep.onnx", graph([*many, helper.make_node("Identity", ["v5000"], ["y"])], []))
    wide = numpy_helper.from_array(np.ones((4, 400), np.float32), "w")
    joins = [helper.make_node("MatMul", ["obs", "w"], ["m"])]
    joins += [helper.make_node("Concat", ["obs", "m"], [f"j{i}"], axis=-1) for i in range(2_000)]
    joins += [helper.make_node("Slice", ["j1999", "zero", "four"], ["y"])]
    ends = [numpy_helper.from_array(np.array([n], np.int64), name) for name, n in (("zero", 0), ("four", 4))]
    yield made("joins.onnx", graph(joins, [wide, *ends]))
    for location in ("missing.data", "../outside.data", "/etc/hostname"):
        tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        yield made("external.onnx", graph([helper.make_node("Add", ["obs", "w"], ["y"])], [tensor]))
    for value in (np.nan, np.inf):
        tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [value] * 4)
        yield made("nan.onnx", graph([helper.make_node("Add", ["obs", "w"], ["y"])], [tensor]))
        torch.save({"actor.0.weight": torch.full((2, 4), value), "actor.0.bias": torch.zeros(2)}, folder / "nan.pt")
        yield folder / "nan.pt"
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 2**29)
        archive.writestr("bomb/data/0", b"\0" * 2**29)
    yield folder / "bomb.pt"
    (folder / "deep.json").write_text('{"networks": ' + "[" * 100_000 + "]" * 100_000 + "}")
    lines = [f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij")]
    (folder / "laughs.yaml").write_text("networks: &a [x, x]\n" + "".join(lines))
    (folder / "itself.yaml").write_text("networks: {a: {file: itself.yaml, reads: [obs 0:4]}}\n")
    yield from (folder / name for name in ("deep.json", "laughs.yaml", "itself.yaml"))


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to eight mistakes in it, most of them where there are no weights."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not changed:
            break
        place = int(rng.integers(len(changed))) if rng.random() < 0.4 else _structural(changed, rng)
        match int(rng.integers(7)):
            case 0:
                changed[place] = int(rng.integers(256))
            case 1:
                changed[place] ^= 1 << int(rng.integers(8))
            case 2:
                del changed[place : place + int(rng.integers(1, 64))]
            case 3:
                changed[place:place] = bytes(rng.integers(0, 256, int(rng.integers(1, 16)), np.uint8))
            case 4:
                changed[place : place + 4] = b"\xff\xff\xff\x7f"
            case 5:
                start = int(rng.integers(max(1, len(other))))
                changed[place : place + 32] = other[start : start + 32]
            case _:
                if rng.random() < 0.2:
                    del changed[place:]
                else:
                    changed[place : place + 4] = np.float32(np.nan).tobytes()
    return bytes(changed)


def _structural(data: bytearray, rng: np.random.Generator) -> int:
    """A place near text: names, headers, code, and not the weights between."""
    for _ in range(64):
        place = int(rng.integers(len(data)))
        part = data[place : place + 12]
        if sum(32 <= byte < 127 for byte in part) >= 10:
            return max(0, min(len(data) - 1, place + int(rng.integers(-16, 16))))
    return int(rng.integers(len(data)))


# The process that opens them


def serve() -> None:
    """Opens each file whose path comes in, and says what happened; the first answer is that it is ready."""
    from policypress.errors import PolicypressError
    from policypress.importers.formats import Asked, format_of, open_file

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (4 * LIMIT, 4 * LIMIT))  # so that a mistake here does not take the machine
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        try:
            if format_of(path) is None:
                kind, text = "of no format", ""
            else:
                opened = open_file(Asked(path, activation="elu"))
                kind, text = ("understood" if opened.policy is not None else "black box"), opened.unknown
        except PolicypressError as error:
            kind, text = "refused", str(error)
        except MemoryError as error:
            kind, text = "FAULT", f"MemoryError: {error}"
        except BaseException as error:
            kind, text = "FAULT", f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"kind": kind, "text": text, "peak": peak}), flush=True)


class Server:
    """The process that opens files; started anew where it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> dict[str, object]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, text=True, cwd=self._folder, **pipes)
            assert self._process.stdout is not None
            self._process.stdout.readline()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            if not waiting.select(SECONDS):
                self.close()
                return {"kind": "FAULT", "text": f"took longer than {SECONDS:g} s", "peak": 0}
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._process = None
            return {"kind": "FAULT", "text": f"the process died: {code}", "peak": 0}
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--mutations", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3_600.0)
    parser.add_argument("--keep", type=Path, help="where files that are at fault are put")
    given = parser.parse_args()
    if given.serve:
        serve()
        return 0
    rng = np.random.default_rng(given.seed)
    counts: collections.Counter[str] = collections.Counter()
    faults, peak, until = [], 0, time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(folder)

        def look(path: Path, label: str) -> None:
            nonlocal peak
            found = server.ask(path)
            kind, text = str(found["kind"]), str(found["text"])
            counts[kind] += 1
            peak = max(peak, int(found["peak"]))  # type: ignore[call-overload]
            wrong = kind == "FAULT" or (kind == "refused" and not _is_sentence(text))
            if (folder / EVIL).exists():
                (folder / EVIL).unlink()
                wrong, text = True, "CODE RAN"
            if int(found["peak"]) > LIMIT:  # type: ignore[call-overload]
                wrong, text = True, f"{peak / 2**20:.0f} MB"
                server.close()
            if wrong:
                faults.append(f"{label}: {text}")
                print(faults[-1], flush=True)
                if given.keep is not None:
                    given.keep.mkdir(exist_ok=True, parents=True)
                    (given.keep / f"{len(faults)}-{path.name}").write_bytes(path.read_bytes())

        with contextlib.closing(server):
            sources = [*originals(), *written(folder)]
            for path in harmful(folder):
                look(path, path.name)
            contents = [path.read_bytes() for path in sources]
            for index in range(given.mutations):
                if time.monotonic() > until:
                    break
                which = index % len(sources)
                data = mutated(contents[which], contents[int(rng.integers(len(contents)))], rng)
                path = folder / f"mutated{sources[which].suffix}"
                path.write_bytes(data)
                look(path, f"{sources[which].name}, mutation {index} of seed {given.seed}")
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    print(f"{sum(counts.values())} files, {len(faults)} at fault; most memory {peak / 2**20:.0f} MB")
    return int(bool(faults))


def _is_sentence(text: str) -> bool:
    """One line that ends like a sentence, and is no other library's."""
    return "\n" not in text.strip() and text.endswith(".") and 10 < len(text) < 600 and "Traceback" not in text


if __name__ == "__main__":
    sys.exit(main())
