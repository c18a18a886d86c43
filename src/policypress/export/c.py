"""Export to C99: a folder with the policy as constant data, the engine that runs it, and a self test.

``docs/c-export.md`` describes the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from policypress.errors import ConfigError, UnsupportedError
from policypress.export import c_folder, c_header, c_kit, c_loop, c_payload, c_source, c_test, c_text
from policypress.export.c_int16 import Int16, int16_of
from policypress.export.c_names import RESERVED, name_of
from policypress.export.c_resources import NOT_MEASURED, Resources, header_lines
from policypress.export.compile import CompiledPolicy, check_folder, compiler
from policypress.export.taking import taking
from policypress.policy import reference
from policypress.policy.artifact import encode_payload
from policypress.policy.canonical import canonical
from policypress.policy.description import labelled, layer_titles
from policypress.policy.observations import Answers, answers, sequence
from policypress.policy.ops import Layer
from policypress.policy.policy import Policy
from policypress.policy.state import initial_state
from policypress.runtime import lower
from policypress.runtime.lower import Program
from policypress.runtime.structures import Dtype, Form
from policypress.version import __version__

__all__ = ["CExport", "CExportConfig", "CompiledPolicy", "LayerFlash", "export_c"]

Weights = Literal["auto", "dense", "packed", "sparse", "quarters", "payload"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_OBSERVATIONS = ("float64", "float32", "int16")
_VECTOR_BYTES = 2**16  # of observations, so that images do not fill a controller
_SCALE_LIMIT = 2.0**96  # times 2^31 still a float32
_CODE_BYTES = {Form.FOURS: 480, Form.SPARSE: 200, Form.PACKED: 430, Form.QUARTERS: 1060}
"""What engine.c takes more for each form, on a Cortex-M4 with gcc -Os (docs/c-export.md)."""
_INSTRUCTIONS = {Form.FOURS: 1.7, Form.SPARSE: 2.8, Form.PACKED: 8.0, Form.QUARTERS: 1.75}
"""About, of a byte of weights there."""
_NEAR = 0.01
"""Of the fewest bytes: so many more are given for fewer instructions."""


@dataclass(frozen=True)
class CExportConfig:
    """How to export.

    ``name``: C identifier that all public names begin with; None: from the folder's or environment's.
    ``integer_only``: codes in, sums out, without any float operation. ``weights``: form of integer layers' weights
    (docs/c-export.md).
    ``vectors``: at most so many test vectors, fewer where observations are large. ``seed``: of the random ones.
    ``check``: compile the export and run its self test, if there is a compiler. ``observation``: dtype of observations,
    by default the policy's; "float32" for a policy that takes float64, or "int16", whose codes are worth
    ``observation_scale`` each, a number for every input or one for all (by default the codes span what the policy
    tells apart). ``measure``: what the header says it takes of processors: rows of ``policypress.measure.targets``, or
    why there are none.
    """

    name: str | None = None
    integer_only: bool = False
    weights: Weights = "auto"
    vectors: int = 32
    seed: int = 0
    check: bool = True
    observation: str | None = None
    observation_scale: tuple[float, ...] | None = None
    measure: tuple[Resources, ...] | str = NOT_MEASURED

    def __post_init__(self) -> None:
        if self.name is not None and (
            not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", self.name) or self.name.lower() in RESERVED
        ):
            raise ConfigError(
                f"name={self.name!r} cannot begin names in C: use a letter, then letters, digits and _, at most 63 in"
                " all, and no name of the engine's files or of a standard header."
            )
        if self.weights not in WEIGHTS:
            raise ConfigError(f"weights={self.weights!r} is not known: use {', '.join(WEIGHTS)}.")
        if self.observation not in (None, *_OBSERVATIONS):
            raise ConfigError(f"observation={self.observation!r} is not known: use {', '.join(_OBSERVATIONS)}.")
        if self.observation is not None and self.integer_only:
            raise ConfigError("observation is for exports with floats: integer_only takes codes.")
        if self.observation_scale is not None and self.observation != "int16":
            raise ConfigError("observation_scale is for observation=int16: leave it out, or add that.")
        if self.vectors < 1:
            raise ConfigError(f"vectors={self.vectors} must be at least 1.")


@dataclass(frozen=True)
class LayerFlash:
    """A layer's ``form`` ("dense", "packed", "sparse" or "real") and the bytes of its weights, counts included.

    In "payload" form: of all that the layer takes there. ``title``: "hidden 1"; ``name``: the training framework's.
    """

    title: str
    name: str
    form: str
    weight_bytes: int


@dataclass(frozen=True)
class CExport:
    """What an export holds.

    ``array_bytes``: of constant arrays, equal ones once; ``structure_bytes``: of constant structures where pointers
    have 4 bytes; ``constant_bytes``: both, what the policy takes in flash beside code. ``work_bytes``: of RAM for a
    call; ``unpacked_bytes``: of RAM for weights, if they come from a payload; ``state_bytes``: of RAM for a state.
    ``vector_bytes``: of the test vectors, which only the self test has. ``observation``: dtype of what it takes.
    ``left_out``: parts of engine.c that the policy does not need. ``check``: how the self test went, in a sentence.
    """

    folder: str
    name: str
    numerics: str
    integer_only: bool
    observation: str
    layers: tuple[LayerFlash, ...]
    array_bytes: int
    structure_bytes: int
    work_bytes: int
    unpacked_bytes: int
    state_bytes: int
    vectors: int
    vector_bytes: int
    left_out: tuple[str, ...]
    check: str

    @property
    def constant_bytes(self) -> int:
        return self.array_bytes + self.structure_bytes

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**dataclasses.asdict(self), "constant_bytes": self.constant_bytes}

    def rows(self) -> dict[str, str]:
        """What people read of it."""
        layers = {
            labelled(layer.title, layer.name): f"{layer.form} weights, {layer.weight_bytes:,} bytes"
            for layer in self.layers
        }
        return layers | {
            "constants": f"{self.constant_bytes:,} bytes of flash beside code: {self.array_bytes:,} in arrays, "
            f"{self.structure_bytes:,} in structures",
            "memory": f"{self.work_bytes:,} bytes of RAM to work in, {self.unpacked_bytes:,} for unpacked weights"
            + (f", {self.state_bytes:,} for a state" if self.state_bytes else ""),
            "check": f"{self.vectors} test vectors; {self.check}",
        }


def export_c(policy: Policy, folder: str | Path, config: CExportConfig | None = None) -> CExport:
    """Write ``policy`` as C99 to ``folder``, at once or not at all, after its self test passed.

    An earlier export in ``folder`` is replaced. Raises ConfigError or UnsupportedError if the policy cannot be exported
    so, ExportError if the folder holds anything else or the self test does not pass.
    """
    config = config or CExportConfig()
    target = Path(folder)
    name = config.name or name_of(policy, target.name)
    c_folder.require_ours(target)
    files, report = _files(policy, dataclasses.replace(config, name=name), target)
    check = c_folder.write(files, target, _check if config.check else lambda _: report.check)
    return dataclasses.replace(report, check=check)


def flash_bytes(policy: Policy) -> int:
    """Bytes of constant data that the export takes in flash beside code, with pointers of 4 bytes."""
    _, constants, structures = c_source.network(program_of(policy, "auto"), "policy", None)
    return constants.bytes + structures


def program_of(policy: Policy, weights: Weights) -> Program:
    """The program with weights of these forms; "auto": those of the fewest bytes, the code to read them included."""
    sizes: list[dict[Form, int]] = []

    def record(layer: Layer, pairs: int) -> Form:
        sizes.append(_sizes(layer, pairs))
        return Form.FOURS

    if weights != "auto":
        wanted = Form.FOURS if weights == "dense" else Form[weights.upper()]
        return lower.lower(policy, lambda layer, pairs: wanted if wanted in _sizes(layer, pairs) else Form.FOURS)
    program = lower.lower(policy, record)
    if not sizes:
        return program

    def fewest(size: dict[Form, int], forms: Iterable[Form]) -> Form:
        return min((form for form in forms if form in size), key=lambda form: size[form])

    def total(forms: tuple[Form, ...]) -> float:
        weight_bytes = sum(size[fewest(size, forms)] for size in sizes)
        return weight_bytes + sum(_CODE_BYTES[form] for form in forms)

    def instructions(forms: tuple[Form, ...]) -> float:
        chosen = [(size, fewest(size, forms)) for size in sizes]
        return sum(_INSTRUCTIONS[form] * size[form] for size, form in chosen)

    choices = [
        forms
        for n in range(1, len(_CODE_BYTES) + 1)
        for forms in itertools.combinations(_CODE_BYTES, n)
        if all(size.keys() & set(forms) for size in sizes)
    ]
    most = (1 + _NEAR) * min(map(total, choices))
    best = min((forms for forms in choices if total(forms) <= most), key=instructions)
    return lower.lower(policy, lambda layer, pairs: fewest(_sizes(layer, pairs), best))


def _sizes(layer: Layer, pairs: int) -> dict[Form, int]:
    """Bytes of a layer's weights in every form that it can have."""
    outputs, size = len(layer.weight), layer.weight.size
    found = {Form.FOURS: size, Form.SPARSE: 2 * (pairs + outputs)}
    bits = lower.packed_bits(layer.weight)
    if lower.fits_quarters(layer.weight):
        found[Form.QUARTERS] = 12 * outputs * -(-(size // outputs) // 32)
    if bits < 8:
        found[Form.PACKED] = outputs * -(-(size // outputs * bits) // 8)
    return found


def _files(policy: Policy, config: CExportConfig, target: Path) -> tuple[dict[str, str], CExport]:
    """Every file of the export by name, and the report."""
    integer, name, version = config.integer_only, cast(str, config.name), __version__
    if policy.input is None and (integer or config.weights != "auto"):
        option = "integer_only" if integer else f"weights={config.weights}"
        raise UnsupportedError(f"{option} is for policies of integer numerics, not {policy.numerics} ones.")
    if integer and _overflows(policy):
        raise UnsupportedError("The scales or the start of this policy are too large for integer_only.")
    int16 = int16_of(policy, config.observation_scale) if config.observation == "int16" else None
    digest = hashlib.sha256(encode_payload(canonical(policy))).hexdigest()
    policy = int16.policy if int16 is not None else taking(policy, config.observation)
    unpacked = None
    if config.weights == "payload":
        program, smallest = c_payload.program_of(policy)
        unpacked = c_payload.unpacked(smallest, program, name)
    else:
        program = program_of(policy, config.weights)
    payload = unpacked is not None
    if int16 is not None:
        program = _of_int16(program)
    used = c_source.uses(program, integer_only=integer)
    size = program.observation_size if not integer else 4 * program.input.size
    most = min(_VECTOR_BYTES // size, c_text.AVR_ARRAY // (4 * program.output.outputs))
    found = answers(policy, min(config.vectors, max(2, most)), config.seed)
    about = c_header.About(version, payload, digest, int16, tuple(header_lines(config.measure)))
    if integer:
        header = c_header.integer_header(policy, program, name, about)
        source, constants, structures = c_source.integer_network(policy, program, name, unpacked)
        vectors, vector_bytes = _integer_vectors(policy, found, config, constants.bytes)
    else:
        if int16 is not None:
            found = _int16_answers(int16, found, config.seed)
        header = c_header.header(policy, program, name, about)
        source, constants, structures = c_source.network(program, name, unpacked, int16)
        vectors = c_test.vectors(name, found, payload, bool(policy.state_size))
        vector_bytes = sum(array.nbytes for array in found)
    report = CExport(
        folder=str(target),
        name=name,
        numerics=policy.numerics,
        integer_only=integer,
        observation="int32" if integer else _dtype(policy, int16),
        layers=_layers(policy, program, unpacked),
        array_bytes=constants.bytes,
        structure_bytes=structures,
        work_bytes=program.work_size,
        unpacked_bytes=unpacked.ram_bytes if unpacked is not None else 0,
        state_bytes=initial_state(policy, 1).nbytes,
        vectors=len(found.observations),
        vector_bytes=vector_bytes,
        left_out=tuple(macro for macro, needed in used.items() if not needed),
        check="not checked",
    )
    files = {
        f"include/{name}.h": header,
        f"src/{name}.c": source,
        f"src/{name}_vectors.c": vectors,
        f"src/{name}_test.c": c_test.test_program(name),
        **c_loop.files(policy, name, integer_only=integer, payload=payload),
        "Makefile": c_folder.makefile(name),
        "README.md": c_folder.readme(policy, report, version),
        **c_kit.manifests(name, c_folder.sentence(policy), version),
    }
    for file in [file for file in files if file.startswith("include/")]:
        files[file.replace("include/", "src/")] = c_folder.forwarder(file)
    number = hashlib.sha256((header + source).encode()).hexdigest()[:8]
    files = {file: text.replace(c_text.ID, number) for file, text in files.items()}
    facts = {
        "policypress": version,
        "name": name,
        "integer_only": integer,
        "id": number,
        "sources": [f"src/{name}.c"],
        "tests": [f"src/{name}{part}.c" for part in ("_vectors", "_test", "_loop")],
        "init": payload,
        "observation": {"dtype": _dtype(policy, int16), "shape": list(policy.observation.shape)},
        "action": {"dtype": policy.action.dtype, "shape": list(policy.action.shape), "kind": policy.action.kind},
        "outputs": program.output.outputs,
        "state": {"dtype": initial_state(policy, 0).dtype.name, "size": policy.state_size},
        "array_bytes": report.array_bytes,
        "structure_bytes": report.structure_bytes,
        "work_bytes": report.work_bytes,
        "layers": [dataclasses.asdict(layer) for layer in report.layers],
    }
    return files | {c_folder.MANIFEST: c_folder.manifest(facts, files)}, report


def _dtype(policy: Policy, int16: Int16 | None) -> str:
    return policy.observation.dtype if int16 is None else "int16"


def _of_int16(program: Program) -> Program:
    """The program without what only floats at its beginning need."""
    entry = dataclasses.replace(
        program.input, dtype=Dtype.INT16, mean=None, deviation=None, clip=0.0, inverse_scale=None, zero_point=None
    )
    return dataclasses.replace(program, input=entry, observation_size=2 * entry.size)


def _int16_answers(int16: Int16, found: Answers, seed: int) -> Answers:
    """The reference's answers to what ``found`` holds as codes, every second one of any codes."""
    codes = int16.nearest(found.observations.reshape(len(found.observations), -1))
    rng = np.random.default_rng(seed)
    codes[1::2] = rng.integers(-(2**15), 2**15, codes[1::2].shape)
    outputs = sequence(int16.policy, int16.values(codes).reshape(found.observations.shape))[0]
    return Answers(codes, outputs, reference.act(int16.policy.action, outputs))


def _overflows(policy: Policy) -> bool:
    """Whether a sum times its scale, or a choice plus the start, might not fit."""
    last = policy.layers[-1]
    return float(last.scale.max()) >= _SCALE_LIMIT or policy.action.start + len(last.weight) >= 2**31


def _integer_vectors(policy: Policy, found: Answers, config: CExportConfig, constant_bytes: int) -> tuple[str, int]:
    assert policy.input is not None
    codes = reference.quantize_input(policy.input, reference.observe(policy.observation, found.observations))
    sums = sequence(policy, found.observations)[1]
    choices = None if policy.action.kind == "box" else found.actions
    payload, stateful = config.weights == "payload", bool(policy.state_size)
    arrays = [array.astype(np.int32) for array in (codes, sums)]
    name = cast(str, config.name)
    return c_test.integer_vectors(name, arrays[0], arrays[1], choices, constant_bytes, payload, stateful)


def _layers(policy: Policy, program: Program, unpacked: c_payload.Unpacked | None) -> tuple[LayerFlash, ...]:
    titles = iter(layer_titles([layer.is_conv for layer in policy.layers]))
    found = []
    for step in program.steps:
        if step.layer is None or step.form is None or step.weight is None:
            continue
        size = step.weight.nbytes + (0 if step.counts is None else step.counts.nbytes)
        form = Form.DENSE if step.form == Form.FOURS else step.form
        found.append(LayerFlash(next(titles), step.layer, form.name.lower(), size))
    if unpacked is None:
        return tuple(found)
    sizes = zip(found, unpacked.layer_bytes, strict=True)
    return tuple(dataclasses.replace(layer, form="payload", weight_bytes=size) for layer, size in sizes)


def _check(folder: Path) -> str:
    found = compiler()
    if found is None:
        return "not checked: no C compiler was found; install one or set CC"
    check_folder(folder, found)
    return f"self test passed, compiled by {Path(found[0]).name}"
