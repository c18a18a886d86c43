"""How many bytes other coders need for the same integers: NNCodec, zstd, xz, brotli and constriction.

    python -m pip install --no-deps nncodec==2.1.3 zstandard==0.25.0 brotli==1.2.1 constriction==0.5.0

`codec.py` compares them with policypress. NumPy must be there.
NNCodec has no wheels: its C++ is compiled (a C++17 compiler, no cmake, about 1.5 minutes).
`--no-deps` leaves out torch, OpenCV and an old NumPy, none of which its core `nncodec.nnc_core` imports.

Every coder gets the weights and biases of a policy and may take the bit width and, except for NNCodec, the shapes as
known. Whatever switch a coder has is tried and the smallest result counts; NNCodec's and constriction's streams are
decoded and compared on every call.
"""

from __future__ import annotations

import collections
import functools
import importlib
import lzma
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PEERS = ["nncodec==2.1.3", "zstandard==0.25.0", "brotli==1.2.1", "constriction==0.5.0"]

Ints = npt.NDArray[np.integer]
Layers = list[tuple[Ints, Ints]]

missing: list[str] = []


def _optional(module: str, peer: str) -> ModuleType | None:
    """Import a competitor, or note that it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing.append(peer)
        return None


zstandard = _optional("zstandard", "zstd")
brotli = _optional("brotli", "brotli")
constriction = _optional("constriction", "constriction")
nnc_core = _optional("nncodec.nnc_core", "NNCodec")
deep_cabac = _optional("nncodec.extensions.deepCABAC", "NNCodec") if nnc_core else None


class Size(NamedTuple):
    """A number of bytes, and the layout or the switches that gave it."""

    size: int
    how: str


def peers(layers: Layers, bits: int) -> dict[str, int]:
    """Return the size in bytes of `layers` for every competitor that is installed."""
    return {name: found.size for name, found in measure(layers, bits).items()}


def measure(layers: Layers, bits: int) -> dict[str, Size]:
    """Return what `peers` does, with how every size came about."""
    sizes = compressors(layers, bits)
    if constriction:
        sizes |= constriction_sizes(layers, bits)
    if nnc_core:
        sizes |= nncodec_sizes(layers)
    return sizes


# General compressors: the best of each over all layouts of the whole policy as one string of bytes.


def compressors(layers: Layers, bits: int) -> dict[str, Size]:
    """Return the smallest size per compressor over the plain layouts, and the smallest of all with the others too.

    A list of gaps or packed bits is halfway to an entropy coder, so those layouts do not count as a compressor's own.
    """
    best: dict[str, Size] = {}
    for layout, data in layouts(layers, bits):
        plain = layout.removesuffix(", planar") in _PLAIN
        for name, compress in _COMPRESSORS.items():
            size = compress(data)
            rivals = [(name, layout), (_FREE, f"{name}, {layout}")] if plain else [(_FREE, f"{name}, {layout}")]
            for rival, how in rivals:
                best[rival] = min(Size(size, how), best.get(rival, Size(size, how)))
    return {name: best[name] for name in (*_COMPRESSORS, _FREE)}


def layouts(layers: Layers, bits: int) -> Iterator[tuple[str, bytes]]:
    """Yield every layout of a policy, each layer by layer and with the like parts of all layers together ("planar")."""
    wide = all(np.array_equal(bias, bias.astype("<i2")) for _, bias in layers)
    kinds: dict[str, Callable[[Ints], list[bytes]]] = {
        "dense int8": lambda w: [_int8(w)],
        "bitmap": lambda w: [_bitmap(w), _int8(w[w != 0])],
        "CSR with indices": lambda w: _csr(w, delta=False, pointers=False),
        "CSR with deltas": lambda w: _csr(w, delta=True, pointers=False),
        "CSR with pointers": lambda w: _csr(w, delta=False, pointers=True),
        "packed": lambda w: [_packed(w, bits)],
        "bitmap, packed": lambda w: [_bitmap(w), _packed(w[w != 0], bits)],
        "gaps": _gaps,
    }
    for kind, parts_of in kinds.items():
        parts = [parts_of(weight) for weight, _ in layers]
        biases = [bias.astype("<i2" if wide else "<i4") for _, bias in layers]
        yield kind, b"".join(b"".join(part) + bias.tobytes() for part, bias in zip(parts, biases, strict=True))
        # The bytes of the biases are split into planes too: the high ones are nearly constant.
        planes = np.concatenate(biases).view(np.uint8).reshape(-1, biases[0].itemsize).T
        yield kind + ", planar", b"".join(map(b"".join, zip(*parts, strict=True))) + planes.tobytes()


def _int8(values: Ints) -> bytes:
    return values.astype(np.int8).tobytes()


def _packed(values: Ints, bits: int) -> bytes:
    """Pack the values in two's complement of `bits` bits each."""
    codes = (values.ravel()[:, None] >> np.arange(bits)) & 1
    return np.packbits(codes.astype(bool)).tobytes()


def _bitmap(weight: Ints) -> bytes:
    return np.packbits(weight != 0).tobytes()


def _smallest(values: Ints) -> bytes:
    """Store unsigned integers in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0)))).tobytes()


def _csr(weight: Ints, *, delta: bool, pointers: bool) -> list[bytes]:
    rows = weight.reshape(weight.shape[0], -1)
    row, column = np.nonzero(rows)
    counts = np.bincount(row, minlength=rows.shape[0])
    if delta:
        first = np.diff(row, prepend=-1) != 0
        column = np.where(first, column, np.diff(column, prepend=0) - 1)
    return [_smallest(np.cumsum(counts) if pointers else counts), _smallest(column), _int8(rows[rows != 0])]


def _gaps(weight: Ints) -> list[bytes]:
    """Store the zeros before every nonzero value, and after the last, as bytes; 255 continues in the next byte."""
    positions = np.append(np.flatnonzero(weight), weight.size)
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum(gaps // 255 + 1) - 1
    codes = np.full(ends[-1] + 1, 255, np.uint8)
    codes[ends] = gaps % 255
    return [codes.tobytes(), _int8(weight[weight != 0])]


def _zstd(data: bytes) -> int:
    assert zstandard
    compressors = (zstandard.ZstdCompressor(level=level, write_content_size=False) for level in (19, 22))
    return min(len(compressor.compress(data)) for compressor in compressors)


def _brotli(data: bytes) -> int:
    assert brotli
    return len(brotli.compress(data, quality=11))


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, filters=_filter(data, lzma.FILTER_LZMA2)))


def _lzma(data: bytes) -> int:
    """Return the size of the bare stream, without xz's container, with the usual and with no context bits."""
    filters = (_filter(data, lzma.FILTER_LZMA1, **context) for context in ({}, {"lc": 0, "lp": 0, "pb": 0}))
    return min(len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=each)) for each in filters)


def _filter(data: bytes, kind: int, **options: int) -> list[dict[str, int]]:
    """Return the filter of `xz -9e`; a dictionary as large as the data gives the same size as 64 MiB, much faster."""
    dictionary = max(4096, 1 << len(data).bit_length())
    return [{"id": kind, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary, **options}]


_COMPRESSORS: dict[str, Callable[[bytes], int]] = {
    **({"zstd": _zstd} if zstandard else {}),
    "xz": _xz,
    "raw LZMA": _lzma,
    **({"brotli": _brotli} if brotli else {}),
}
_PLAIN = ("dense int8", "bitmap", "CSR with indices", "CSR with deltas", "CSR with pointers")
_FREE = "any, gaps or packed"


# constriction: static models, whose parameters are paid for, and its 32-bit words.


class _Symbols(NamedTuple):
    """Symbols from 0, their model, and the bytes that describe the model."""

    symbols: npt.NDArray[np.int32]
    model: Any
    header: int


def constriction_sizes(layers: Layers, bits: int) -> dict[str, Size]:
    """Return the smaller of range coder and ANS, with the models' parameters and without ("words")."""
    assert constriction
    stream = constriction.stream
    coded = [part for weight, bias in layers for part in _modelled(weight, bias, bits)]

    encoder = stream.queue.RangeEncoder()
    for symbols, model, _ in coded:
        encoder.encode(symbols, model)
    ans = stream.stack.AnsCoder()
    for symbols, model, _ in reversed(coded):
        ans.encode_reverse(symbols, model)

    words = {"range": encoder.get_compressed(), "ANS": ans.get_compressed()}
    for decoder in (stream.queue.RangeDecoder(words["range"]), stream.stack.AnsCoder(words["ANS"])):
        assert all(np.array_equal(decoder.decode(model, symbols.size), symbols) for symbols, model, _ in coded)
    bare = min(Size(4 * len(found), how) for how, found in words.items())
    full = Size(bare.size + sum(part.header for part in coded), bare.how)
    return {"constriction": full, "constriction words": bare}


def _modelled(weight: Ints, bias: Ints, bits: int) -> Iterator[_Symbols]:
    """Yield the positions, nonzero values and biases of a layer."""
    assert constriction
    used = weight.ravel() != 0
    share = np.rint(used.mean() * 65535) / 65535
    positions = used.astype(np.int32)
    # A probability of 0 or 1 says that there is nothing to code.
    yield _Symbols(positions if 0 < used.mean() < 1 else positions[:0], _bernoulli(share), 2)

    values = weight[weight != 0].astype(np.int32)
    if values.size:
        limit = 2 ** (bits - 1) - 1
        symbols = values + limit - (values > 0)
        alphabet = np.delete(np.arange(-limit, limit + 1), limit)
        counts = np.bincount(symbols, minlength=alphabet.size)
        # One byte says which model it is: a table of frequencies in bytes, or two parameters.
        table = np.ceil(counts / counts.max() * 255)
        probabilities, header = min(
            [(table, alphabet.size), *((fit, 4) for fit in _fits(values, alphabet))],
            key=lambda choice: _cost(counts, choice[0]) / 8 + choice[1],
        )
        model = constriction.stream.model.Categorical(_normalized(probabilities), perfect=False)
        yield _Symbols(symbols.astype(np.int32), model, 1 + header)

    # Biases: two parameters, and one byte for the distribution and the number of bits (the coder ends at 23 of them).
    half = 1 << int(np.abs(bias).max()).bit_length()
    alphabet = np.arange(-half, half)
    counts = np.bincount(bias.astype(np.int64) + half, minlength=alphabet.size)
    probabilities = min(_fits(bias, alphabet), key=functools.partial(_cost, counts))
    model = constriction.stream.model.Categorical(_normalized(probabilities), perfect=False)
    yield _Symbols((bias + half).astype(np.int32), model, 5)


def _bernoulli(share: float) -> Any:
    assert constriction
    return constriction.stream.model.Bernoulli(float(share), perfect=False)


def _fits(values: Ints, alphabet: Ints) -> list[npt.NDArray[np.float64]]:
    """Return a fitted Gaussian and a fitted Laplace distribution over the alphabet."""
    mean, median = _bfloat16(values.mean()), _bfloat16(np.median(values))
    std = max(_bfloat16(values.std()), 0.1)
    scale = max(_bfloat16(np.abs(values - median).mean()), 0.1)
    return [np.exp(-0.5 * ((alphabet - mean) / std) ** 2), np.exp(-np.abs(alphabet - median) / scale)]


def _bfloat16(parameter: float) -> float:
    """Round a parameter to what two bytes of a file hold."""
    bits = np.float32(parameter).view(np.uint32)
    return float(((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32))


def _normalized(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    # No symbol gets less than the coder's own resolution, so that none is impossible.
    floored = np.maximum(probabilities / probabilities.sum(), 2.0**-24)
    normalized: npt.NDArray[np.float32] = (floored / floored.sum()).astype(np.float32)
    return normalized


def _cost(counts: Ints, probabilities: npt.NDArray[np.float64]) -> float:
    return float(-(counts * np.log2(_normalized(probabilities))).sum())


# NNCodec: its own units around its own arithmetic coder, one set of switches for every layer.

_UNARY_LENGTHS = (1, 2, 3, 4, 6, 8, 11, 16, 24, 32, 64)


class _Switches(NamedTuple):
    """What can be chosen for a tensor; `zero` is the codebook's entry that is coded as 0, or None without one."""

    unary: int = 11
    optimize: bool = True
    skip_rows: bool = True
    scan: int = 0
    zero: int | None = None


class _Tensor:
    """A tensor with the sizes that NNCodec's arithmetic coder gave it so far."""

    def __init__(self, values: Ints, profile: int) -> None:
        self.values = np.ascontiguousarray(values, dtype=np.int32)
        self.profile = profile
        codebook, indices = np.unique(self.values, return_inverse=True)
        self.codebook = codebook.astype(np.int32)
        self._indices = indices.reshape(self.values.shape).astype(np.int32)
        self._sizes: dict[_Switches, int] = {}
        # NNCodec tries every entry as the zero of its codebook; only the two next to the value 0 ever win.
        middle = int(np.searchsorted(codebook, 0))
        zeros = [zero for zero in (middle - 1, middle) if 0 <= zero < codebook.size]
        # More than one row of blocks resets the contexts and stores entry points, and is never smaller.
        scans = [scan for scan in range(1, 5) if 4 << scan >= values.shape[0] > 1]
        self.choices: dict[str, tuple[Any, ...]] = {
            "unary": _UNARY_LENGTHS,
            "optimize": (True, False),
            "skip_rows": (True, False) if profile == 1 else (),
            "scan": (0, *scans) if values.ndim > 1 else (),
            "zero": (None, *zeros) if values.ndim > 1 else (),
        }

    def coded(self, zero: int | None) -> npt.NDArray[np.int32]:
        return self.values if zero is None else self._indices - np.int32(zero)

    def put(self, encoder: Any, switches: _Switches) -> None:
        coded = self.coded(switches.zero)
        # This mirrors nnc_core.coder.baseline.encode: rows are empty if their coded values are 0.
        empty = ~coded.reshape(coded.shape[0], -1).any(axis=1) if coded.ndim > 1 else np.zeros(coded.shape[0])
        encoder.initCtxModels(switches.unary, int(switches.optimize))
        skip = int(switches.skip_rows and self.profile == 1)
        encoder.encodeLayer(
            coded, 0, switches.scan, self.profile, 0, skip, empty.astype(np.int32), *self._tail(switches)
        )

    def get(self, decoder: Any, switches: _Switches) -> Ints:
        coded = np.zeros(self.values.shape, np.int32)
        decoder.initCtxModels(switches.unary)
        decoder.decodeLayer(coded, 0, switches.scan, self.profile, 0, *self._tail(switches))
        return coded if switches.zero is None else self.codebook[coded + switches.zero]

    def _tail(self, switches: _Switches) -> tuple[Any, ...]:
        assert deep_cabac
        off = deep_cabac.HdspMode.AlwaysOff, np.zeros(2, np.int8)
        if switches.zero is None or self.profile == 0:
            return *off, 0, 0
        return *off, self.codebook.size, switches.zero

    def size(self, switches: _Switches) -> int:
        """Return the coder's bytes alone."""
        assert deep_cabac
        if switches not in self._sizes:
            encoder = deep_cabac.Encoder()
            self.put(encoder, switches)
            self._sizes[switches] = encoder.finish().size
        return self._sizes[switches]

    def described(self, switches: _Switches) -> float:
        """Return the coder's bytes with those of the codebook."""
        assert nnc_core
        if switches.zero is None:
            return self.size(switches)
        # The function's second value is in bits, though NNCodec adds it to bytes when it weighs a codebook.
        bits: int = nnc_core.approximator.codebook.get_best_egk(self.codebook, switches.zero)[1]
        return self.size(switches) + bits / 8


def _search(cost: Callable[[_Switches], float], tensor: _Tensor) -> _Switches:
    """Return the cheapest switches, found by changing one at a time until none gets cheaper."""
    best = _Switches()
    while True:
        before = best
        for switch, values in tensor.choices.items():
            best = min([best, *(best._replace(**{switch: value}) for value in values)], key=cost)
        if best == before:
            return best


def nncodec_sizes(layers: Layers) -> dict[str, Size]:
    """Return NNCodec's stream without and with the names of the tensors, and what its arithmetic coder alone makes."""
    # A caller may also hand over all weights as one tensor and all biases as another: fewer headers, no rows to skip.
    weights, biases = (np.concatenate([layer[part].ravel() for layer in layers]) for part in (0, 1))
    forms = {"layer by layer": layers, "merged": [(weights[None], biases)]}
    results = [
        {name: Size(size, f"{how}, profile {profile}") for name, size in _nncodec(form, profile).items()}
        for how, form in forms.items()
        for profile in (0, 1)
    ]
    return {name: min(result[name] for result in results) for name in results[0]}


def _nncodec(layers: Layers, profile: int) -> dict[str, int]:
    assert deep_cabac
    stream = bytearray()
    names = 0
    bare: list[tuple[_Tensor, _Switches]] = []
    for index, (values, biases) in enumerate(layers):
        weight, bias = _Tensor(values, profile), _Tensor(biases, profile)

        def both(switches: _Switches, weight: _Tensor = weight, bias: _Tensor = bias) -> float:
            return weight.described(switches) + bias.size(switches._replace(scan=0, zero=None))

        name, bias_name = _name(2 * index), _name(2 * index + 1)
        header, alone = _units({name: weight}, _search(weight.described, weight))
        unit = alone + _units({bias_name: bias}, _search(bias.size, bias))[1]
        if biases.size == values.shape[0]:
            block = _units({name: weight, bias_name: bias}, _search(both, weight))[1]
            unit = min(unit, block, key=len)
        stream += unit if stream else header + unit
        names += len(f"{name}\0{bias_name}\0".encode())
        bare += [(weight, _search(weight.size, weight)), (bias, _search(bias.size, bias))]

    _check_stream(stream, layers)
    encoder = deep_cabac.Encoder()
    for tensor, switches in bare:
        tensor.put(encoder, switches)
    payload = encoder.finish()
    decoder = deep_cabac.Decoder()
    decoder.setStream(payload)
    assert all(np.array_equal(tensor.get(decoder, switches), tensor.values) for tensor, switches in bare)
    return {"NNCodec": len(stream) - names, "NNCodec with names": len(stream), "NNCodec CABAC only": payload.size}


def _name(index: int) -> str:
    """Return the shortest name that a tensor can have, one character."""
    return chr(ord("0") + index)


def _units(tensors: dict[str, _Tensor], switches: _Switches) -> tuple[bytearray, bytearray]:
    """Let NNCodec write a layer, or one tensor of it; return its start and parameter-set units, and the data unit.

    Integers go in as what its quantizer would have made at step size 1 (quantization parameter 0).
    """
    assert nnc_core
    block = len(tensors) > 1
    kind = {name: "codebook" if i == 0 and switches.zero is not None else "uniform" for i, name in enumerate(tensors)}
    if not block and switches.zero is None:
        kind = dict.fromkeys(tensors, "skip")  # an integer tensor, without a quantization parameter
    books = {name: tensors[name].codebook for name in tensors if kind[name] == "codebook"}
    zeros = dict.fromkeys(books, switches.zero)
    get_best_egk = nnc_core.approximator.codebook.get_best_egk
    model = {
        "parameter_type": dict(zip(tensors, ("weight", "bias"), strict=False)),
        "parameter_dimensions": {name: tensor.values.shape for name, tensor in tensors.items()},
        "parameter_index": {name: i for i, name in enumerate(tensors)},
        "block_identifier": dict.fromkeys(tensors, "block") if block else {},
        "topology_storage_format": None,  # no topology unit
    }
    data = {
        "approx_method": kind,
        "qp_density": np.int32(0),
        "qp": dict.fromkeys(tensors, 0),
        "dq_flag": dict.fromkeys(tensors, 0),
        "decomposition_rank": {},
        "g_number_of_rows": {},
        "scan_order": {name: switches.scan for name, tensor in tensors.items() if tensor.values.ndim > 1},
        "parameters": {name: tensors[name].coded(zeros.get(name)) for name in tensors},
        "compressed_parameter_types": {"block": int(nnc_core.hls.BlockParameterTypes.NNR_CPT_BI)} if block else {},
        "codebooks": books,
        "codebooks_egk": {name: get_best_egk(book, zeros[name])[0] for name, book in books.items()},
        "codebook_zero_offsets": zeros,
    }
    options = {
        "cabac_unary_length_minus1": switches.unary - 1,
        "param_opt_flag": int(switches.optimize),
        "row_skip_enabled_flag": int(switches.skip_rows),
        "general_profile_idc": next(iter(tensors.values())).profile,
        "node_id_present_flag": 0,
        "parent_node_id_present_flag": 0,
    }
    stream, _ = nnc_core.coder.encode(options, model, data)
    start = 0
    for _ in range(2):
        start += int.from_bytes(stream[start : start + 2], "big")
    return stream[:start], stream[start:]


def _check_stream(stream: bytearray, layers: Layers) -> None:
    """Decode a stream of NNCodec as its own `decompress` does, and compare the integers."""
    assert nnc_core
    kinds = ("parameter_type", "parameter_dimensions", "parameter_index", "block_identifier", "performance_maps")
    model: dict[str, Any] = {kind: {} for kind in kinds}
    model["performance_map_flags"] = collections.defaultdict(dict)
    data = nnc_core.coder.decode(stream, model, hls_stats={}, oob_dict={})
    nnc_core.approximator.rec(data)
    expected = [tensor for layer in layers for tensor in layer]
    decoded = [data["parameters"][_name(i)] for i in range(len(expected))]
    assert all(np.array_equal(got, want) for got, want in zip(decoded, expected, strict=True))
