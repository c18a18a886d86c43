"""Save and load of agents and runs: whole or not at all, and compression survives."""

from __future__ import annotations

import fcntl
import io
import json
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from policypress.config import CompressionConfig, from_json
from policypress.errors import RunError
from policypress.rl.adapters import adapter_named, adapter_that_saved
from policypress.rl.callback import STATE_ATTRIBUTE, attach

QUANTIZER_KEY = ".policypress_quantizer."
ADD_KEY = ".add."
_BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def load(path: str | Path, algo: str, env: Any = None, device: str = "cpu") -> BaseAlgorithm:
    """An agent saved by Stable-Baselines3's ``save``, with pruning and quantization where they stood.

    Plain ``SAC.load`` refuses an agent that was saved while quantizing (unexpected keys
    ``policypress_quantizer``); this is the door for it. Like Stable-Baselines3's own, it unpickles: open
    only files you trust. Raises RunError if the file is missing or not an agent.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        attributes = json.loads(contents["data"])
        weights = torch.load(io.BytesIO(contents["policy.pth"]), map_location=device, weights_only=True)
    except (OSError, zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise RunError(
            f"{path} is not an agent saved by Stable-Baselines3: give the zip that model.save wrote."
        ) from error
    ranges = {key: value for key, value in weights.items() if QUANTIZER_KEY in key or ADD_KEY in key}
    plain = {key: value for key, value in weights.items() if key not in ranges}
    contents["policy.pth"] = _torch_bytes(plain)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    buffer.seek(0)
    adapter = adapter_named(algo)
    model_class = adapter.model_class
    no_agent = f"{path} holds no {model_class.__name__} agent: name the algorithm that trained it."
    if (saved := adapter_that_saved(attributes)) is not None and saved is not adapter:
        raise RunError(no_agent)
    try:
        found = None if env is None else stand_ins(attributes, env.observation_space, env.action_space)
        model: BaseAlgorithm = model_class.load(buffer, env=env, device=device, custom_objects=found)
    except (AttributeError, KeyError) as error:
        raise RunError(no_agent) from error
    state = getattr(model, STATE_ATTRIBUTE, None)
    if state is not None:
        compressor = attach(model, from_json(CompressionConfig, state["config"]), state["steps"])
        compressor.load_state_dict(state["compressor"])
        setattr(model, STATE_ATTRIBUTE, state)
        model.policy.load_state_dict({**model.policy.state_dict(), **ranges})
    return model


def stand_ins(attributes: Mapping[str, Any], observation_space: Any, action_space: Any) -> dict[str, Any] | None:
    """What stands for parts of an agent that cannot be unpickled any more, if it was saved with gym before Gymnasium.

    Spaces are those of its environment; the schedule of the learning rate is made anew from that rate.
    """
    if "'gym." not in str((attributes.get("observation_space") or {}).get(":type:")):
        return None
    return {"observation_space": observation_space, "action_space": action_space, "lr_schedule": None}


def map_replay_buffer(model: BaseAlgorithm, folder: Path, resume: bool) -> None:
    """Puts the replay buffer's arrays into files under ``folder``, so that a checkpoint need not copy them.

    Does nothing for on-policy agents: they have none, and collect a rollout anew after a resume.

    After a crash, transitions newer than the checkpoint are overwritten as training goes on; no older one is lost
    except those that they had already replaced in a full buffer.
    """
    buffer = getattr(model, "replay_buffer", None)
    if not isinstance(buffer, ReplayBuffer):
        return
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(buffer, name) for name in _BUFFER_ARRAYS if getattr(buffer, name, None) is not None}
    needed, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(folder).free
    if not resume and needed > free:
        raise RunError(
            f"the replay buffer needs {needed / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} are free: "
            "lower it, for example --set buffer_size=100000."
        )
    for name, array in arrays.items():
        file = folder / f"{name}.npy"
        if resume:
            mapped = np.lib.format.open_memmap(file, mode="r+")
            if mapped.shape != array.shape or mapped.dtype != array.dtype:
                raise RunError(
                    f"the replay buffer in {folder} is of another shape: start the run anew in another folder."
                )
        else:
            mapped = np.lib.format.open_memmap(file, mode="w+", dtype=array.dtype, shape=array.shape)
        setattr(buffer, name, mapped)


def save_checkpoint(model: BaseAlgorithm, folder: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint named after ``num_timesteps`` under ``folder``, then removes the older ones.

    ``state`` (JSON values) travels with it. A replay buffer must be mapped by ``map_replay_buffer``.
    """
    final = folder / f"step-{model.num_timesteps:012d}"
    if final.exists():
        return
    buffer = getattr(model, "replay_buffer", None)
    for name in _BUFFER_ARRAYS:
        array = getattr(buffer, name, None)
        if isinstance(array, np.memmap):
            array.flush()
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    model.save(partial / "agent.zip")
    everything = {**state, "random": _random_state()}
    if isinstance(buffer, ReplayBuffer):
        everything["buffer"] = {"pos": buffer.pos, "full": buffer.full}
    (partial / "state.json").write_text(json.dumps(everything))
    partial.rename(final)
    for old in folder.iterdir():
        if old != final and (old.name.startswith("step-") or old.name.startswith(".partial-")):
            shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint under ``folder``, if any."""
    found = sorted(folder.glob("step-*")) if folder.is_dir() else []
    return found[-1] if found else None


def restore_checkpoint(model: BaseAlgorithm, checkpoint: Path) -> dict[str, Any]:
    """Buffer position and random states of ``checkpoint``; returns the ``state`` it was saved with."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        buffer.pos, buffer.full = int(state["buffer"]["pos"]), bool(state["buffer"]["full"])
    saved = state["random"]
    torch.set_rng_state(torch.tensor(saved["torch"], dtype=torch.uint8))
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    return state


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process; RunError if another one trains there or nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"nothing can be written to {folder} ({error.strerror}): choose another --out.") from error
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another process is training in {folder}: wait for it or choose another --out.") from error
        yield


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed otherwise."""
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(*paths: Path) -> None:
    """Removes the temporary files of ``paths`` that a killed process left; nothing may be writing them."""
    for path in paths:
        for partial in path.parent.glob(f".{path.name}[-.]*"):
            partial.unlink()


def write_whole(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` at once: readers see the old file or the new one."""
    with replace_file(path) as partial:
        partial.write_text(text)


def _torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - Stable-Baselines3 draws from it
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }
