"""Save and load of agents and runs: whole or not at all, and compression survives."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from policypress.config import CompressionConfig, from_json
from policypress.errors import RunError
from policypress.files import new_folder
from policypress.rl.adapters import Adapter, adapter_named, adapter_that_saved
from policypress.rl.callback import STATE_ATTRIBUTE, TENSORS_ATTRIBUTE, attach

QUANTIZER_KEY = ".policypress_quantizer."
ADD_KEY = ".add."
_BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "means")
_BUFFER_PLACE = ("pos", "full", "forgotten", "added")


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
    contents["policy.pth"] = _torch_bytes({key: value for key, value in weights.items() if key not in ranges})
    adapter = adapter_named(algo)
    saved = adapter_that_saved(attributes)
    if saved is not adapter and (saved is not None or "policy_class" not in attributes):
        raise RunError(f"{path} holds no {adapter.model_class.__name__} agent: name the algorithm that trained it.")
    check_settings(path, attributes)
    missing = _unreadable_spaces(attributes)
    if missing and env is None:
        raise RunError(f"{path} does not tell its {missing[0]}: give the agent's environment (env=...).")
    found = {name: getattr(env, name) for name in missing}
    model = adapter.opened(unpickled(path, adapter, contents, attributes, found, env=env, device=device))
    state = getattr(model, STATE_ATTRIBUTE, None)
    if state is not None:
        tensors = getattr(model, TENSORS_ATTRIBUTE, None)
        compressor = attach(model, from_json(CompressionConfig, state["config"]), state["steps"])
        compressor.load_state_dict(state["compressor"], tensors)
        setattr(model, STATE_ATTRIBUTE, state)
        model.policy.load_state_dict({**model.policy.state_dict(), **ranges})
    return model


def unpickled(
    path: Path,
    adapter: Adapter,
    contents: Mapping[str, bytes],
    attributes: Mapping[str, Any],
    found: Mapping[str, Any],
    **kwargs: Any,
) -> BaseAlgorithm:
    """The agent in the zip with these ``contents``, ``found`` in place of its own ``attributes`` (its JSON).

    What gym before Gymnasium wrote cannot be unpickled any more: the schedule of the learning rate is then made anew
    from that rate. ``kwargs`` go to Stable-Baselines3's ``load``. Raises RunError if that fails.
    """
    if _by_gym(attributes, "observation_space"):
        found = {**found, "lr_schedule": None}
    # What Stable-Baselines3 asks for, and a zip may lack.
    data = {"n_envs": 1, **dict.fromkeys(found), **attributes}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**contents, "data": json.dumps(data).encode()}.items():
            archive.writestr(name, content)
    buffer.seek(0)
    try:
        model: BaseAlgorithm = adapter.model_class.load(buffer, custom_objects=dict(found), **kwargs)
    except Exception as error:  # a foreign class can raise anything
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(" .:")
        raise RunError(
            f"{path} cannot be opened by {adapter.model_class.__name__}.load: {reason}; open it where it was trained, "
            "and save it again with model.save."
        ) from error
    return model


def check_settings(path: Path, attributes: Mapping[str, Any]) -> None:
    """Raises RunError if an agent's JSON does not say how its policy is built: defaults would be another policy."""
    kwargs = attributes.get("policy_kwargs")
    if not isinstance(kwargs, dict) or (":serialized:" in kwargs and all(key.startswith(":") for key in kwargs)):
        raise RunError(
            f"{path} does not tell how its policy is built (policy_kwargs): save the agent again with model.save."
        )


def _by_gym(attributes: Mapping[str, Any], space: str) -> bool:
    """Whether a space was saved with gym, before Gymnasium."""
    return "'gym." in str((attributes.get(space) or {}).get(":type:"))


def _unreadable_spaces(attributes: Mapping[str, Any]) -> list[str]:
    """Spaces that are missing or cannot be unpickled any more."""
    return [
        name
        for name in ("observation_space", "action_space")
        if ":serialized:" not in (attributes.get(name) or {}) or _by_gym(attributes, name)
    ]


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
    parts = list(_buffer_parts(buffer))
    needed, free = sum(holder[name].nbytes for _, holder, name in parts), shutil.disk_usage(folder).free
    if not resume and needed > free:
        raise RunError(
            f"the replay buffer needs {needed / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} are free: "
            "lower it, for example --set buffer_size=100000."
        )
    for label, holder, name in parts:
        file, array = folder / f"{label}.npy", holder[name]
        if resume:
            mapped = np.lib.format.open_memmap(file, mode="r+")
            if mapped.shape != array.shape or mapped.dtype != array.dtype:
                raise RunError(
                    f"the replay buffer in {folder} is of another shape: start the run anew in another folder."
                )
        else:
            mapped = np.lib.format.open_memmap(file, mode="w+", dtype=array.dtype, shape=array.shape)
        holder[name] = mapped


def _buffer_parts(buffer: ReplayBuffer) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The arrays of a buffer: a label of each, what holds it, and under which name; those of Dict observations are
    some by themselves."""
    for name in _BUFFER_ARRAYS:
        held = vars(buffer).get(name)
        if isinstance(held, dict):
            yield from ((f"{name}-{number}", held, key) for number, key in enumerate(held))
        elif held is not None:
            yield name, vars(buffer), name


def flush_replay_buffer(buffer: ReplayBuffer) -> None:
    """Writes what ``map_replay_buffer`` has mapped."""
    for _, holder, name in _buffer_parts(buffer):
        if isinstance(holder[name], np.memmap):
            holder[name].flush()


def save_checkpoint(model: BaseAlgorithm, folder: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint named after ``num_timesteps`` under ``folder``, then removes the older ones.

    ``state`` (JSON values) travels with it. A replay buffer must be mapped by ``map_replay_buffer``.
    """
    final = folder / f"step-{model.num_timesteps:012d}"
    if final.exists():
        return
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, ReplayBuffer):
        flush_replay_buffer(buffer)
    everything = {**state, "random": random_state()}
    if isinstance(buffer, ReplayBuffer):
        everything["buffer"] = {name: getattr(buffer, name) for name in _BUFFER_PLACE if hasattr(buffer, name)}
    with new_folder(final) as partial:
        model.save(partial / "agent.zip")
        (partial / "state.json").write_text(json.dumps(everything))
    for old in folder.iterdir():
        if old != final and old.name.startswith(("step-", ".step-", ".partial-")):  # the last: of earlier versions
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
        vars(buffer).update(state["buffer"])
    set_random_state(state["random"])
    return state


def set_random_state(saved: Mapping[str, Any]) -> None:
    """The inverse of ``random_state``."""
    torch.set_rng_state(torch.tensor(saved["torch"], dtype=torch.uint8))
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))


def _torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def random_state() -> dict[str, Any]:
    """Where the global generators of torch, NumPy and Python stand, in JSON values."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - Stable-Baselines3 draws from it
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "python": random.getstate(),
    }
