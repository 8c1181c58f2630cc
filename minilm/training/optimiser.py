"""Which parameters are decayed, the optimiser, and its state as named tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minilm.errors import TrainingError, argument, setting
from minilm.training.lamb import Lamb
from minilm.training.muon import Muon
from minilm.training.settings import TrainingSettings

# what optimisers know of a parameter; LAMB the same as AdamW
ADAM_STATE, MUON_STATE = ("exp_avg", "exp_avg_sq", "step"), ("momentum_buffer",)


def parameter_groups(
    module: nn.Module, weight_decay: float, shared_weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Two groups for an optimiser: what is decayed, and norms and biases, which are not.

    Differs from the released DistilBERT code, which looks for "LayerNorm.weight" in names and so
    decays DistilBERT's norms, which are named differently: here the kind of module decides.

    Args:
        module: any module; a parameter used in several places counts once.
        weight_decay: weight decay of the first group.
        shared_weight_decay: weight decay of a separate group, the second of three, for parameters
            that layers share. None = they are in the first group.

    Returns:
        `[{"params": [...], "weight_decay": weight_decay, "adapt": True},
        {"params": [...], "weight_decay": 0.0, "adapt": False}]` with the trainable parameters in
        the order of `module.named_parameters()`; only `minilm.Lamb` reads "adapt".

    Raises:
        TrainingError: there is a `shared_weight_decay`, but no layers share weights.
    """
    in_norms = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.LayerNorm)
        for parameter in part.parameters()
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            bias = name.rpartition(".")[2] == "bias"
            (others if bias or id(parameter) in in_norms else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay, "adapt": True},
        {"params": others, "weight_decay": 0.0, "adapt": False},
    ]
    if shared_weight_decay is not None:
        several = _applied_several_times(module)
        shared = [parameter for parameter in decayed if parameter in several]
        if not shared:
            raise TrainingError(
                f"{argument('shared_weight_decay')} is {shared_weight_decay}, but no layers share "
                f"weights that are trained: use {argument('weight_decay')} alone."
            )
        groups[0]["params"] = [parameter for parameter in decayed if parameter not in several]
        groups.insert(1, {"params": shared, "weight_decay": shared_weight_decay, "adapt": True})
    return groups


def _applied_several_times(module: nn.Module) -> set[nn.Parameter]:
    """The parameters that occur in more than one application of an encoder's layers."""
    applied = Counter(
        parameter
        for _, layers in _encoders(module)
        for layer in layers
        for parameter in layer.parameters()
    )
    return {parameter for parameter, times in applied.items() if times > 1}


def _encoders(module: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """The encoders in a module, each with its layers as they are applied."""
    for encoder in module.modules():
        layers = getattr(encoder, "virtual_layers", None)
        if layers is not None:
            yield encoder, list(layers())


def layer_groups(
    module: nn.Module,
    weight_decay: float,
    layer_decay: float,
    shared_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The groups of `parameter_groups`, divided by the depth of their parameters.

    The lower a layer, the more general is what it has learned, and the more slowly it learns:

        heads, poolers and all else     rate
        layer i of L, counted from 1    rate * layer_decay ** (L + 1 - i)
        embeddings                      rate * layer_decay ** (L + 1)

    Args:
        module: a module that contains encoders of this package, at any depth.
        weight_decay, shared_weight_decay: as for `parameter_groups`.
        layer_decay: above 0 and at most 1.

    Returns:
        Groups with one more key, "rate_factor", which the engine multiplies the schedule's rate by.

    Raises:
        TrainingError: a layer is applied more than once, as ALBERT's is, and so has no single
            depth.

    References: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text
        Classification", section 3.2; optimization.py of google-research/electra.
    """
    factors: dict[int, float] = {}
    for encoder, stack in _encoders(module):
        lowest: nn.Module = encoder.embeddings  # type: ignore[assignment]
        for depth, part in enumerate([lowest, *stack]):
            factor = layer_decay ** (len(stack) + 1 - depth)
            for parameter in part.parameters():
                if factors.setdefault(id(parameter), factor) != factor:
                    raise TrainingError(
                        f"{argument('layer_decay')} is {layer_decay}, but layers of "
                        f"{type(encoder).__name__} share weights, which then have no one depth: "
                        f"set {argument('layer_decay')} to 1."
                    )
    divided = []
    for group in parameter_groups(module, weight_decay, shared_weight_decay):
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        for factor in sorted(by_factor):
            divided.append({**group, "params": by_factor[factor], "rate_factor": factor})
    return divided


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The matrices of attention and feed-forward blocks in layers: what Muon is meant for.

    Not among them are embeddings and their projection, poolers and heads: the rows of an embedding
    matrix and of a classifier have meanings of their own, and of most rows of an embedding matrix a
    step gives no gradient.

    Args:
        module: a module that contains encoders of this package, at any depth.

    Returns:
        Those that are trainable, each once, in the order of the layers.
    """
    found: dict[nn.Parameter, None] = {}
    for _, layers in _encoders(module):
        for part in (part for layer in layers for part in layer.modules()):
            if not isinstance(part, nn.Embedding):
                found |= dict.fromkeys(
                    p for p in part.parameters(recurse=False) if p.requires_grad and p.ndim == 2
                )
    return list(found)


def build_optimiser(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of the settings, with the groups of `parameter_groups` or `layer_groups`.

    Muon trains the `hidden_matrices`, AdamW what is left.

    Raises:
        TrainingError: Muon has nothing to train, or layers that share weights are to learn at
            different rates.
    """
    decays = settings.weight_decay, settings.shared_weight_decay
    if settings.layer_decay == 1:
        groups = parameter_groups(module, *decays)
    else:
        groups = layer_groups(module, decays[0], settings.layer_decay, decays[1])
    rates: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.epsilon,
    }
    if settings.optimiser == "lamb":
        return Lamb(groups, **rates)
    if settings.optimiser == "muon":
        matrices = set(hidden_matrices(module))
        if not matrices:
            raise TrainingError(
                f"{argument('optimiser')} is 'muon', which trains the matrices of layers, but no "
                f"layer is trained: use {setting('optimiser', 'adamw')}."
            )
        return Muon(_divided(groups, matrices), **rates)
    return torch.optim.AdamW(groups, **rates, fused=True)


def _divided(groups: Sequence[dict[str, Any]], matrices: set[nn.Parameter]) -> list[dict[str, Any]]:
    """Every group in two: the matrices for Muon, the others for AdamW; none is empty."""
    divided = [
        {
            **group,
            "params": [p for p in group["params"] if (p in matrices) is chosen],
            "orthogonalise": chosen,
        }
        for group in groups
        for chosen in (True, False)
    ]
    return [group for group in divided if group["params"]]


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> float:
    """The norm of all gradients together; above `max_norm` they are scaled down to it.

    The same as `nn.utils.clip_grad_norm_`, but on a CPU the products of BLAS take half the time
    of its norms or less.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: None = no clipping, only the norm.

    Returns:
        The norm before scaling; infinite or NaN if a gradient is.
    """
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    if all(gradient.device.type == "cpu" for gradient in gradients):
        squares = sum(float(torch.dot(gradient, gradient)) for gradient in gradients)
        norm = torch.tensor(squares, dtype=torch.float64).sqrt()
    else:
        norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None and float(norm) > max_norm:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def optimiser_tensors(optimiser: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The state of an optimiser: `"<parameter name>.<key>"` to tensor."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Restores what `optimiser_tensors` returned.

    State of another kind of optimiser is left out: the state of those parameters starts afresh.

    Raises:
        TrainingError: a tensor belongs to no trained parameter of the module, or has another shape.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    matrices = {
        parameter
        for group in optimiser.param_groups
        if group.get("orthogonalise")
        for parameter in group["params"]
    }
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        parameter = trained.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size()):
            raise TrainingError(
                f"The snapshot holds {full_name} {tuple(value.shape)}, which fits no parameter "
                "that is trained. It belongs to another model."
            )
        if key in (MUON_STATE if parameter in matrices else ADAM_STATE):
            optimiser.state[parameter][key] = value.to(parameter.device)
