"""Checkpoints and state dicts: weights by name, of networks that frameworks are known to build.

There is no program in such a file, and so nothing that could be run beside what is understood: names that are not
known are refused, and what no file of its kind says, which function stands between the layers, is asked for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policypress.compression.freeze import freeze_graph
from policypress.errors import ConfigError, PolicypressError, RunError, UnsupportedError
from policypress.importers import signals as s
from policypress.importers.archives import read_tensors
from policypress.importers.chain import chain_of
from policypress.importers.formats import Asked
from policypress.importers.opened import Opened, action_of_chain, check_size
from policypress.policy.activations import FUNCTIONS
from policypress.policy.contract import ObservationTransform

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Normalizer:
    """Statistics of observations: ``mean`` and ``spread`` are expressions of their names. ``squared``: the spread is a
    variance. The deviation is sqrt(spread + inside) + outside, or of a spread that is none spread + outside."""

    mean: str
    spread: str
    squared: bool
    inside: float = 0.0
    outside: float = 0.0
    clip: float = np.inf


@dataclass(frozen=True)
class Family:
    """How a framework names a policy's weights.

    ``layers``: expressions of names, without .weight and .bias, in the order the layers run; those of one expression by
    their number, and there is an activation between every two. ``usual``: the activation of its examples. ``squash``: a
    tanh at the end, times ``action_scale``, plus ``action_bias``. ``scaled``: whether a scale of 1 says that there is
    no tanh, or that there is. ``normed``: whether a weight and a bias alone are known to be a LayerNorm's.
    """

    name: str
    layers: tuple[str, ...]
    usual: str
    normalizers: tuple[Normalizer, ...] = ()
    squash: bool = False
    scaled: bool = False
    normed: bool = False


_FAST = r"(?:actor_state_dict\.)?"
_FAST_STATISTICS = Normalizer(r"obs_normalizer_state\._mean", r"obs_normalizer_state\._std", False, outside=1e-2)
FAMILIES: tuple[Family, ...] = (
    Family(
        "rsl_rl", (r"model_state_dict\.actor\.(\d+)",), "elu",
        (
            Normalizer(r"obs_norm_state_dict\._mean", r"obs_norm_state_dict\._std", False, outside=1e-2),
            Normalizer(
                r"model_state_dict\.actor_obs_normalizer\._mean", r"model_state_dict\.actor_obs_normalizer\._std",
                False, outside=1e-2,
            ),
        ),
    ),
    Family(
        "rsl_rl", (r"actor_state_dict\.mlp\.(\d+)",), "elu",
        (
            Normalizer(
                r"actor_state_dict\.obs_normalizer\._mean", r"actor_state_dict\.obs_normalizer\._std", False,
                outside=1e-2,
            ),
        ),
    ),
    Family(
        "rsl_rl", (r"model_state_dict\.student\.(\d+)",), "elu",
        (
            Normalizer(
                r"model_state_dict\.student_obs_normalizer\._mean", r"model_state_dict\.student_obs_normalizer\._std",
                False, outside=1e-2,
            ),
        ),
    ),
    Family(
        "rl_games", (r"(?:model\.)?a2c_network\.actor_mlp\.(\d+)", r"(?:model\.)?a2c_network\.(?:mu|logits)"), "elu",
        (
            Normalizer(
                r"(?:model\.)?running_mean_std\.running_mean", r"(?:model\.)?running_mean_std\.running_var", True,
                inside=1e-5, clip=5.0,
            ),
        ),
    ),
    Family(
        "skrl", (r"policy\.(?:net_container|net|features_extractor)\.(\d+)", r"policy\.(?:policy|mean)_layer"), "elu",
        (
            Normalizer(
                r"(?:state|observation)_preprocessor\.running_mean",
                r"(?:state|observation)_preprocessor\.running_variance", True, outside=1e-8, clip=5.0,
            ),
        ),
    ),
    Family(
        "Sample Factory",
        (
            r"model\.(?:actor_)?encoder\.encoders\.obs\.mlp_head\.(\d+)",
            r"model\.action_parameterization\.distribution_linear",
        ),
        "elu",
        (
            Normalizer(
                r"model\.obs_normalizer\.running_mean_std\.running_mean_std\.obs\.running_mean",
                r"model\.obs_normalizer\.running_mean_std\.running_mean_std\.obs\.running_var", True, inside=1e-5,
                clip=5.0,
            ),
        ),
    ),
    Family(
        "FastTD3", (_FAST + r"net\.(\d+)", _FAST + r"fc_head\.0", _FAST + r"fc_mu\.0"), "relu", (_FAST_STATISTICS,),
        squash=True,
    ),
    Family(
        "FastSAC or FastTD3", (_FAST + r"net\.(\d+)", _FAST + r"fc_mu\.0"), "silu", (_FAST_STATISTICS,),
        squash=True, scaled=True, normed=True,
    ),
    Family(
        "Stable-Baselines3", (r"(?:state_dict\.)?mlp_extractor\.policy_net\.(\d+)", r"(?:state_dict\.)?action_net"),
        "tanh",
    ),
    Family("CleanRL", (r"fc(\d+)", r"fc_(?:mean|mu)"), "relu", squash=True),
    Family("CleanRL", (r"actor_mean\.(\d+)",), "tanh"),
    Family("CleanRL", (r"network\.(\d+)",), "relu"),
    Family("an actor", (r"actor\.(\d+)",), "elu"),
    Family("nn.Sequential", (r"(\d+)",), "relu"),
)  # fmt: skip
_BESIDE = re.compile(
    r"(^|[._])(critic\w*|value\w*|baseline|qf?\d*(_target)?|qnet\w*|target\w*|optimizer\w*|std|log_?std\w*|sigma|"
    r"fc_logstd|noise_scales|learned_stddev|std_param|log_std_param|count|current_count|_var|_std|"
    r"num_batches_tracked|returns_normalizer|reward\w*|curr_lr|scheduler|rnd\w*|env_state|infos|stats|amp\w*|"
    r"discriminator\w*|privileged_obs_norm\w*|teacher\w*|distribution|last_mean_rewards|frame|epoch|iter)([._]|$)"
)
"""Names of what a policy does not need: critics, optimizers, the spread of its exploration, counts."""
_RECURRENT = re.compile(r"(^|\.)(memory_a|a_rnn|rnn|lstm\w*|gru\w*|core)(\.|$)")
_SCALES = re.compile(_FAST + r"action_(?:scale|bias)")
_NORM = re.compile(r"(^|[._])(ln|(layer|batch)?_?norm)\d*\.(weight|bias)$")
_EPSILON = 1e-5
"""Of PyTorch's LayerNorm, where a script gives it none."""
_ALSO = {"swish": "silu", "lrelu": "leaky_relu", "leakyrelu": "leaky_relu"}
_NAMED = re.compile(r"(^|\.)(_orig_mod|module)\.")


def open_weights(asked: Asked) -> Opened:
    """The policy in a checkpoint or a state dict, ``activation`` between its layers.

    ``output`` "mean": the first half of what they give.

    Raises ConfigError without one, UnsupportedError for names of no network that is known.
    """
    path = asked.path
    tensors = {_NAMED.sub(r"\1", name): values for name, values in read_tensors(path).items()}
    if not tensors:
        raise UnsupportedError(f"{path} holds no tensors: save the policy's state dict, by torch.save.")
    if any(name.startswith("#") for name in tensors):  # CleanRL saves the actor and its critics together
        tensors = _actor_among(path, tensors)
    family, layers, normalizer = _family(path, tensors)
    modules = _modules(path, tensors, layers)
    if not family.normed and (norms := [layer for layer in layers if tensors[f"{layer}.weight"].ndim == 1]):
        warnings.warn(
            f"{path}: {', '.join(norms)} is taken as a LayerNorm with an epsilon of {_EPSILON:g}; a GroupNorm has the "
            "same names and answers otherwise: if it is one, export the policy to ONNX or TorchScript instead.",
            stacklevel=2,
        )
    activation = _activation(path, asked.activation, family, modules)
    shape = (int(tensors[f"{layers[0]}.weight"].shape[-1]),)
    check_size(path, shape)

    def follow(x: s.Signal) -> tuple[s.Value, s.Kept]:
        value = _normalized(x, tensors, normalizer)
        for layer in modules:
            value = _applied(value, tensors, layer, activation)
        if asked.output:
            value = _named_part(path, value, asked.output)
        return (_squashed(path, value, tensors, family) if family.squash else value), {}

    try:
        chain = chain_of(*follow(s.observation((1, *shape), batched=True)))
        graph = chain.graph()
        observation = ObservationTransform(shape, "float32", normalization=chain.normalization)
        policy = freeze_graph(graph, observation, action_of_chain(chain))
    except (s.NotUnderstood, ValueError, IndexError) as error:
        if isinstance(error, PolicypressError):
            raise
        raise UnsupportedError(f"the layers in {path} do not fit together: {error}.") from error
    return Opened(
        f"{family.name} weights", shape, "float32", lambda x: np.asarray(policy.predict(x)[0]).reshape(len(x), -1),
        chain, graph, policy, files=(path,), follow=follow,
    )  # fmt: skip


def _family(path: Path, tensors: Tensors) -> tuple[Family, list[str], Normalizer | None]:
    """The first family whose names are all there, its layers in order, and its statistics; nothing may be left."""
    if any(_RECURRENT.search(name) for name in tensors):
        raise UnsupportedError(
            f"{path} holds the weights of a recurrent policy: export it as TorchScript, with its state in buffers."
        )
    for family in FAMILIES:
        found = [_layers(tensors, expression) for expression in family.layers]
        if all(found):
            layers = [layer for group in found for layer in group]
            normalizer = next((one for one in family.normalizers if _only(tensors, one.mean)), None)
            _check_names(path, tensors, family, layers, normalizer)
            return family, layers, normalizer
    if any("_parameters." in name for name in tensors):
        raise UnsupportedError(
            f"{path} holds a whole module, whose code is in no file: save its weights alone, "
            "torch.save(module.state_dict(), FILE), or export it to ONNX or TorchScript."
        )
    shown = ", ".join(list(tensors)[:3])
    known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise UnsupportedError(
        f"{path} holds weights of no network that is known ({shown}, ...): known are those of {known}; export the "
        "policy to ONNX or TorchScript instead."
    )


def _actor_among(path: Path, tensors: Tensors) -> dict[str, NDArray[Any]]:
    """Of several state dicts in a tuple the first that is an actor's."""
    numbers = sorted({name.partition(".")[0] for name in tensors if re.match(r"#\d+\.", name)})
    for number in numbers:
        own = {k.removeprefix(f"{number}."): v for k, v in tensors.items() if k.startswith(f"{number}.")}
        if any(all(_layers(own, one) for one in family.layers) for family in FAMILIES):
            return own
    raise UnsupportedError(f"{path} holds several things, and none is an actor that is known: save it alone.")


def _layers(tensors: Tensors, expression: str) -> list[str]:
    """Names of the layers of an expression, by their numbers."""
    found = {name.removesuffix(".weight") for name in tensors if re.fullmatch(expression + r"\.weight", name)}
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _check_names(
    path: Path, tensors: Tensors, family: Family, layers: list[str], normalizer: Normalizer | None
) -> None:
    """Raises UnsupportedError for weights that could be a part of the policy and are not known to be none."""
    used = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    for name in (normalizer.mean, normalizer.spread) if normalizer is not None else ():
        used.add(_only(tensors, name) or "")
    for name, values in tensors.items():
        if name in used or _SCALES.fullmatch(name) or _BESIDE.search(name) or values.size < 2:
            continue
        if _NORM.search(name):
            raise UnsupportedError(
                f"{path} holds {name}, of a normalization whose place among the layers no name says: export the policy "
                "to ONNX or TorchScript instead."
            )
        raise UnsupportedError(
            f"{path} holds {name} of shape {values.shape}, which is no part of a network of {family.name} that is "
            "known: export the policy to ONNX or TorchScript instead."
        )
    for layer in layers:
        weight, bias = tensors[f"{layer}.weight"], tensors.get(f"{layer}.bias")
        norm = weight.ndim == 1 and _number(layer) is not None
        if norm and bias is None:
            raise UnsupportedError(
                f"{path}: {layer} has a weight of shape {weight.shape} and no bias, as an RMSNorm, a PReLU and a "
                "LayerNorm without one have: export the policy to ONNX or TorchScript instead."
            )
        fits = (weight.ndim == 2 or norm) and weight.size and (bias is None or bias.shape == (len(weight),))
        if not fits or weight.dtype.kind != "f" or (bias is not None and bias.dtype.kind != "f"):
            raise UnsupportedError(
                f"{path}: {layer} of shape {weight.shape} is no layer of a plain network: export the policy to ONNX or "
                "TorchScript instead."
            )
        if not all(np.isfinite(values).all() for values in (weight, bias) if values is not None):
            raise UnsupportedError(f"the weights in {path} are not finite ({layer}): its training diverged.")


def _number(layer: str) -> int | None:
    """A layer's place in its nn.Sequential; None for one that is in none."""
    found = re.search(r"(?:^|\.)(\d+)$", layer)
    return int(found[1]) if found else None


def _modules(path: Path, tensors: Tensors, layers: list[str]) -> list[str | None]:
    """``layers`` as they run, and None for the activation, of which there is one between every two that have a matrix.

    It stands where a number is left out, before a LayerNorm or behind it; where numbers do not say, right before the
    matrix. Raises UnsupportedError for other things between them.
    """
    found: list[str | None] = []
    acted = True  # nothing stands before the first matrix
    for place, layer in enumerate(layers):
        before, number = _number(layers[place - 1]) if place else None, _number(layer)
        numbered = place and layer.rpartition(".")[0] == layers[place - 1].rpartition(".")[0]
        gap = number - before - 1 if numbered and number is not None and before is not None else None
        matrix = tensors[f"{layer}.weight"].ndim == 2
        acts = (matrix and not acted) if gap is None else bool(gap)
        if gap not in (None, 0, 1) or (acts and acted) or (matrix and not acted and not acts):
            raise UnsupportedError(
                f"{path} has other things than one activation between its layers ({', '.join(layers)}): export the "
                "policy to ONNX or TorchScript instead."
            )
        found += [None, layer] if acts else [layer]
        acted = (acted or acts) and not matrix
    return found


def _activation(path: Path, given: str, family: Family, modules: list[str | None]) -> str:
    name = _ALSO.get(given.lower(), given.lower())
    if not name and None in modules:
        raise ConfigError(
            f"{path} does not say which function stands between its layers: give --activation, for example "
            f"--activation {family.usual}."
        )
    if name and name != "relu" and name not in FUNCTIONS:
        raise ConfigError(f"activation={given!r} is not one of relu, {', '.join(FUNCTIONS)}.")
    return name


def _applied(x: s.Value, tensors: Tensors, layer: str | None, activation: str) -> s.Value:
    if layer is None:
        return s.relu(x) if activation == "relu" else s.named(x, activation, _usual(activation))
    weight, bias = tensors[f"{layer}.weight"], tensors.get(f"{layer}.bias")
    return s.layer_norm(x, weight, bias, _EPSILON) if weight.ndim == 1 else s.linear(x, weight, bias)


def _usual(activation: str) -> tuple[float, ...]:
    return FUNCTIONS[activation].usual


def _normalized(x: s.Value, tensors: Tensors, normalizer: Normalizer | None) -> s.Value:
    if normalizer is None:
        return x
    mean, spread = (tensors[_only(tensors, name) or ""].ravel() for name in (normalizer.mean, normalizer.spread))
    mean, spread = mean.astype(np.float64), spread.astype(np.float64)
    deviation = np.sqrt(spread + normalizer.inside) if normalizer.squared else spread
    scaled = s.divide(s.subtract(x, mean), deviation + normalizer.outside)
    if normalizer.clip == np.inf:
        return scaled
    return s.clip(scaled, np.full(1, -normalizer.clip), np.full(1, normalizer.clip))


def _named_part(path: Path, x: s.Value, part: str) -> s.Value:
    """The first half of the outputs, where the second is the spread of a policy's exploration."""
    outputs = s.signal_of(x).shape[-1]
    if part != "mean" or outputs % 2:
        raise ConfigError(f"{path} gives {outputs} values in one: leave --output out, or --output mean for their half.")
    return s.move(x, lambda v: v[..., : outputs // 2])


def _squashed(path: Path, x: s.Value, tensors: Tensors, family: Family) -> s.Value:
    value = s.named(x, "tanh")
    for part, operation in (("scale", s.multiply), ("bias", s.add)):
        if (name := _only(tensors, _FAST + f"action_{part}")) is None:
            continue
        values = np.asarray(tensors[name])
        if family.scaled and part == "scale" and bool(np.all(values == 1)):
            raise UnsupportedError(
                f"{path} does not say whether its actions end in a tanh, for {name} is 1 either way: export the policy "
                "to ONNX or TorchScript instead."
            )
        value = operation(value, values.ravel() if values.ndim else values)
    return value


def _only(tensors: Tensors, expression: str) -> str | None:
    found = [name for name in tensors if re.fullmatch(expression, name)]
    if len(found) > 1:
        raise RunError(f"there are several of {expression}: {', '.join(found)}.")
    return found[0] if found else None
