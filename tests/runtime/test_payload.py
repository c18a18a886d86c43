"""The payload decoder in C (runtime/payload.c) against decode_payload, and its size on microcontrollers."""

import ctypes
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policypress.export.compile import STRICT
from policypress.policy import load
from policypress.policy.contract import ActionTransform, ObservationTransform
from policypress.policy.ops import InputQuantization, Layer, Residual
from policypress.policy.payload import decode_payload, encode_payload, payload_structure
from policypress.policy.policy import Policy
from policypress.testing import (
    Builder,
    every_function,
    make_policy,
    random_linear_policy,
    stored_policies,
    with_zero_points,
)

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "src/policypress/runtime"
SOURCES = [str(RUNTIME / "payload.c")]
SENTINEL = 0x5A


class Array(ctypes.Structure):
    _fields_ = [("values", ctypes.c_void_p), ("rows", ctypes.c_uint32), ("columns", ctypes.c_uint32)]


@pytest.fixture(scope="module")
def compiler():
    path = shutil.which("gcc") or shutil.which("cc")
    if path is None:
        pytest.skip("There is no C compiler: install gcc.")
    return path


@pytest.fixture(scope="module")
def library(compiler, tmp_path_factory):
    """payload.c without the encoder, and how large its memory is."""
    folder = tmp_path_factory.mktemp("payload")
    wrapper = folder / "wrapper.c"
    wrapper.write_text(
        '#include "payload.h"\n'
        "size_t memory_size(void);\n"
        "size_t memory_size(void) { return sizeof(payload_memory); }\n"
        "int decode(const uint8_t *, size_t, const payload_array *, size_t, uint32_t, payload_memory *,\n"
        "           coder_line *);\n"
        "int decode(const uint8_t *data, size_t size, const payload_array *arrays, size_t count, uint32_t structure,\n"
        "           payload_memory *memory, coder_line *columns) {\n"
        "    memory->w.columns = columns;\n"
        "    return payload_decode(data, size, arrays, count, structure, memory);\n"
        "}\n"
    )
    output = folder / "payload.so"
    command = [compiler, *STRICT, "-O2", "-shared", "-fPIC", f"-I{RUNTIME}", str(wrapper), *SOURCES, "-o", str(output)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(output))
    loaded.memory_size.restype = ctypes.c_size_t
    return loaded


def arrays_of(ops, quantization):
    """All arrays of a payload as decode_payload sees them, in the order of the stream."""
    arrays = [] if quantization is None else [quantization.inverse_scale]
    if quantization is not None and quantization.zero_point is not None:
        arrays.append(quantization.zero_point)

    def layers(ops, outermost):
        for op in ops:
            if isinstance(op, Layer):
                if op is ops[-1] and outermost:
                    arrays.append(op.scale)
                if op.requantize is not None:
                    arrays.extend([op.requantize.multiplier, op.requantize.shift])
                arrays.extend([op.bias, op.weight.reshape(len(op.weight), -1)])
            elif isinstance(op, Residual):
                for operand in (op.skip, op.branch):
                    arrays.extend([operand.multiplier, operand.shift])
                layers(op.body, False)

    layers(ops, True)
    return arrays


def decode(library, data, like, structure):
    """Result of payload_decode, and arrays shaped as those of ``like``; checks that nothing around them changes."""
    buffers = [np.full(16 + array.nbytes + 16, SENTINEL, np.uint8) for array in like]
    table = (Array * len(like))()
    for entry, array, buffer in zip(table, like, buffers, strict=True):
        matrix = array.ndim == 2
        entry.values, entry.rows = buffer.ctypes.data + 16, array.shape[0]
        entry.columns = array.shape[1] if matrix else 0
    memory = ctypes.create_string_buffer(library.memory_size())
    columns = ctypes.create_string_buffer(12 * (2 + max(array.shape[-1] for array in like)))
    result = library.decode(
        data, ctypes.c_size_t(len(data)), table, ctypes.c_size_t(len(like)), ctypes.c_uint32(structure), memory, columns
    )
    assert all((buffer[:16] == SENTINEL).all() and (buffer[-16:] == SENTINEL).all() for buffer in buffers)
    return result, [b[16:-16].view(a.dtype).reshape(a.shape) for a, b in zip(like, buffers, strict=True)]


def check(library, policy):
    data = encode_payload(policy)
    wanted = arrays_of(*decode_payload(data))
    result, arrays = decode(library, data, wanted, payload_structure(data))
    assert result == 0
    for array, other in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(array.view(np.uint8), other.view(np.uint8))
    return data, wanted


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["vector", "image", "tanh"])
def test_all_arrays_come_back(library, kind, bits):
    for seed in range(4):
        check(library, make_policy("integer", kind, bits, seed, per_output=seed % 2 == 0))


@pytest.mark.parametrize("image", [False, True])
def test_every_function_is_passed_by(library, image):
    for bits in range(2, 9):
        check(library, every_function("integer", bits, bits, image))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_large_layers_come_back(library, bits, density):
    b = Builder("integer", bits, seed=bits, per_output=False, density=density)
    ops = (
        b.layer(200, 17, role="hidden", name="first"),
        b.layer(100, 200, role="hidden", name="second"),
        b.layer(6, 100, role="raw", name="mean"),
    )
    bound = np.ones(6, np.float32)
    inverse_scale = np.exp2(b.rng.integers(-4, 9, 17)).astype(np.float32)
    policy = Policy(
        ops,
        ObservationTransform((17,), "float32"),
        ActionTransform("box", (6,), low=-bound, high=bound),
        InputQuantization(inverse_scale, -127, 127, 8),
        baseline_bytes=1,
    )
    check(library, policy)


@pytest.mark.parametrize("name", ["keep-cheetah", "cheetah-90", "catch-narrow"])
def test_trained_policies_come_back(library, name):
    check(library, load(stored_policies(ROOT / "results")[name]))


@pytest.mark.parametrize("points", [(300, 0, 0, -7), (2**15,)])
def test_zero_points_come_back(library, points):
    policy = make_policy("integer", "vector")
    data, _ = check(library, with_zero_points(policy, *points))
    assert payload_structure(data) != payload_structure(encode_payload(policy))


def test_linear_policies_come_back(library):
    short = 0
    for seed in range(60):
        policy = random_linear_policy(seed, "integer")
        check(library, policy)
        exact = (np.frexp(policy.input.inverse_scale)[0] == 0.5).all()
        short += bool(exact) and len(policy.ops) == 1
    assert short > 10


def test_structures_of_linear_policies_differ(library):
    policy = next(
        policy
        for policy in (random_linear_policy(seed, "integer") for seed in range(99))
        if (np.frexp(policy.input.inverse_scale)[0] == 0.5).all() and policy.input.bits == 9 and len(policy.ops) == 1
    )
    wide = dataclasses.replace(policy, input=dataclasses.replace(policy.input, bits=10))
    data, other = check(library, policy)[0], check(library, wide)[0]
    assert payload_structure(data) != payload_structure(other)


def test_another_structure_is_refused(library):
    data, wanted = check(library, make_policy("integer", "vector"))
    structure = payload_structure(data)
    assert decode(library, data, wanted, structure ^ 1)[0] != 0
    assert decode(library, data, wanted[:-1], structure)[0] != 0
    assert decode(library, data, [*wanted, wanted[-1]], structure)[0] != 0
    assert decode(library, data, [wanted[0][1:], *wanted[1:]], structure)[0] != 0
    assert decode(library, data + b"\1\2\3\4\5", wanted, structure)[0] != 0
    assert decode(library, data[:-8], wanted, structure)[0] != 0
    # Strides and pads tell nothing of sizes: only the structure differs.
    image = make_policy("integer", "image")
    tanh = make_policy("integer", "tanh", bits=8), make_policy("integer", "tanh", bits=7)
    assert payload_structure(encode_payload(image)) != structure
    assert len({payload_structure(encode_payload(policy)) for policy in tanh}) == 2
    for numerics in ("weight-only", "float"):
        other = encode_payload(make_policy(numerics, "vector"))
        assert decode(library, other, wanted, payload_structure(other))[0] != 0


def test_damaged_payloads_stay_in_their_arrays(compiler, tmp_path):
    """Mutations of payloads, decoded into memory that sanitizers watch."""
    program = tmp_path / "fuzz_payload"
    sanitizers = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = str(Path(__file__).with_name("fuzz_payload.c"))
    subprocess.run([compiler, *STRICT, *sanitizers, f"-I{RUNTIME}", source, *SOURCES, "-o", str(program)], check=True)
    policies = [make_policy("integer", kind, seed=seed) for seed, kind in enumerate(("vector", "tanh", "image"))]
    for number, policy in enumerate([*policies, *(random_linear_policy(seed, "integer") for seed in range(8))]):
        data = encode_payload(policy)
        path = tmp_path / str(number)
        path.write_bytes(data)
        rows = [(a.shape[0], a.shape[1] if a.ndim == 2 else 0) for a in arrays_of(*decode_payload(data))]
        sizes = [str(n) for pair in rows for n in pair]
        command = [str(program), str(path), "1000", str(payload_structure(data)), *sizes]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        runs, valid, refused = (int(word) for word in done.stdout.split() if word.isdigit())
        assert runs == valid + refused == 1000
        assert valid >= 1  # the first one is the payload as it was
        assert refused >= 500


@pytest.mark.parametrize("name", ["gcc", "clang", "arm-none-eabi-gcc"])
def test_strict_flags_are_clean(name, tmp_path):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not here: install it.")
    for source in SOURCES:
        for level in (["-Os"], ["-O2"], ["-O2", "-ftrapv"]):
            subprocess.run([name, *STRICT, *level, "-c", source, "-o", str(tmp_path / "object.o")], check=True)


@pytest.mark.parametrize(("recurrent", "more"), [(0, 0), (1, 280)])
@pytest.mark.parametrize(("cpu", "bound"), [("cortex-m0", 4884), ("cortex-m3", 4672), ("cortex-m4", 4672)])
def test_the_decoder_is_small(cpu, bound, recurrent, more, tmp_path):
    """All code and tables, without the helpers of the compiler on cores that lack a division."""
    if shutil.which("arm-none-eabi-gcc") is None or shutil.which("arm-none-eabi-size") is None:
        pytest.skip("arm-none-eabi-gcc is not here: install gcc-arm-none-eabi.")
    flags = ["-std=c99", "-Os", "-mthumb", f"-mcpu={cpu}", f"-DPAYLOAD_RECURRENT={recurrent}", "-DCODER_PATTERNS=0"]
    output = str(tmp_path / "object.o")
    subprocess.run(["arm-none-eabi-gcc", *flags, "-c", SOURCES[0], "-o", output], check=True)
    report = subprocess.run(["arm-none-eabi-size", output], check=True, capture_output=True, text=True).stdout
    text, data, bss = (int(word) for word in report.splitlines()[1].split()[:3])
    assert data == bss == 0
    assert 2048 < text <= bound + more


def test_the_table_of_sizes_is_printed():
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not here: install gcc-arm-none-eabi.")
    script = str(ROOT / "benchmarks" / "decoder_size.py")
    lines = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout.splitlines()
    table = {line[:26].strip(): line[26:].split() for line in lines[2:]}
    verdicts = table.pop("at most 4,096")
    sizes = {row: [int(word.replace(",", "")) for word in words] for row, words in table.items()}
    assert len(sizes) == 7
    for row in ("code", "tables", "state and workspace", "stack"):
        assert all(value > 100 for value in sizes[row])
    code, tables, together, *_ = sizes.values()
    assert together == [sum(column) for column in zip(code, tables, strict=True)]
    assert [word == "holds" for word in verdicts if word != "short"] == [size <= 4096 for size in together]
