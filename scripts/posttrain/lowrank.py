"""The frozen base of a LoRA training, held in the dtype it is multiplied in, and put back after.

Autocast would round every weight again at every step, and peft's layers and a Llama's take a dozen
passes over their input where six do. That is set right here for the length of a training; before
and after it the model is peft's own, on the exact weights, so that the receipt's probes judge what
is done here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from posttrain.nodes import Attention, Gate, RmsNorm

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "default"  # peft's name for the first adapter


class _LowRank(torch.autograd.Function):
    """x W' + bias + (x A') B' in one node, with no gradient for W.

    Of one adapted layer, or of several that read the same x, their outputs side by side: the ranks
    are small, and one product of 48 columns takes little longer than one of 16.

    Shapes: x (..., in), weight (out, in), bias (out) or None, all in one dtype; scales, a number a
    layer; factors, a (r, in) and b (its own part of out, r) of each, in float32, rounded for the
    products as autocast rounds them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scales: Sequence[float],
        *factors: Tensor,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        a = torch.cat([a.to(x.dtype) for a in factors[::2]])
        scaled = [(b * s).to(x.dtype) for b, s in zip(factors[1::2], scales, strict=True)]
        b = torch.block_diag(*scaled) if len(scaled) > 1 else scaled[0]
        inner = flat @ a.T
        result = torch.nn.functional.linear(flat, weight, bias).addmm_(inner, b.T)
        ctx.save_for_backward(flat, weight, a, b, inner)
        ctx.scales, ctx.shapes = scales, [b.shape for b in scaled]
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, inner = ctx.saved_tensors
        outer = gradient.reshape(-1, gradient.shape[-1])
        into = outer @ b
        x = None
        if ctx.needs_input_grad[0]:  # not of the first layer: nothing before it is trained
            x = (outer @ weight).addmm_(into, a).view(*gradient.shape[:-1], -1)
        of_a, of_b = (into.T @ flat).float(), (outer.T @ inner).float()
        of_factors = []
        row = column = 0
        for scale, (rows, rank) in zip(ctx.scales, ctx.shapes, strict=True):
            own = slice(column, column + rank)
            of_factors += [of_a[own], of_b[row : row + rows, own] * scale]
            row, column = row + rows, column + rank
        return x, None, None, None, *of_factors


def _is_plain(layer: torch.nn.Module) -> bool:
    """Tell whether `layer` is an adapted linear layer that does what `_LowRank` does."""
    from peft.tuners import lora

    return (
        type(layer) is lora.Linear
        and type(layer.base_layer) is torch.nn.Linear
        and isinstance(layer.lora_dropout[ADAPTER], torch.nn.Identity)
    )


def _together(layers: Sequence[Any]) -> Callable[[Tensor], Tensor]:
    """Return what gives the outputs of plain layers that read the same, side by side."""
    bases = [layer.base_layer for layer in layers]
    weight = torch.cat([base.weight for base in bases]) if len(bases) > 1 else bases[0].weight
    biases = [base.bias for base in bases if base.bias is not None]
    bias = torch.cat(biases) if biases else None
    scales = [layer.scaling[ADAPTER] for layer in layers]
    factors = [part[ADAPTER].weight for layer in layers for part in (layer.lora_A, layer.lora_B)]
    return lambda x: _LowRank.apply(x, weight, bias, scales, *factors)


def _normed(epsilon: float, gain: Tensor | None, x: Tensor) -> Tensor:
    return RmsNorm.apply(x.reshape(-1, x.shape[-1]), epsilon, gain).view(x.shape)


def _gated(layer: LlamaMLP, x: Tensor) -> Tensor:
    return layer.down_proj(Gate.apply(layer.gate_proj(x), layer.up_proj(x)))


def _attended(
    layer: LlamaAttention,
    project: Callable[[Tensor], Tensor],
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    qkv = project(hidden_states).view(*hidden_states.shape[:-1], -1, layer.head_dim)
    # transformers states the angles of a pair twice.
    turns = tuple(x[..., None, : layer.head_dim // 2] for x in position_embeddings)
    kv_heads = layer.config.num_key_value_heads
    return layer.o_proj(Attention.apply(qkv, kv_heads, turns, attention_mask)), None


def _quicker(model: "PeftModel") -> Iterator[tuple[torch.nn.Module, Callable[..., Any]]]:
    """Yield layers of `model` and what computes the same as their forward pass, in less time."""
    for layer in model.modules():
        if _is_plain(layer):
            yield layer, _together([layer])
        elif type(layer) is LlamaRMSNorm and not layer.weight.requires_grad:
            gain = None if bool((layer.weight == 1).all()) else layer.weight
            yield layer, partial(_normed, layer.variance_epsilon, gain)
        elif type(layer) is LlamaMLP and layer.config.hidden_act == "silu":
            yield layer, partial(_gated, layer)
        elif type(layer) is LlamaAttention:
            is_eager = layer.config._attn_implementation == "eager"
            projections = [layer.q_proj, layer.k_proj, layer.v_proj]
            if is_eager and layer.attention_dropout == 0.0 and all(map(_is_plain, projections)):
                yield layer, partial(_attended, layer, _together(projections))


def hasten(
    model: "PeftModel", dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Round the frozen weights of `model` to `dtype`, move it, and quicken its layers, in place.

    The adapter stays in float32. Returns: the exact weights, for `restore`.
    """
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    exact = {name: parameter.data for name, parameter in frozen.items()}
    for parameter in frozen.values():
        parameter.data = parameter.data.to(dtype)
    model.to(device)  # before weights are joined, which no later move would take along
    for layer, forward in _quicker(model):
        layer.forward = forward
    return exact


def restore(model: "PeftModel", exact: dict[str, Tensor]) -> None:
    """Undo `hasten`: the exact weights again, and the layers' own passes."""
    for name, weight in exact.items():
        model.get_parameter(name).data = weight
    for layer, _ in _quicker(model):
        vars(layer).pop("forward", None)
