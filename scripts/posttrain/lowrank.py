"""The frozen base of a LoRA training, held in the dtype it is multiplied in, and put back after.

Autocast would round every weight again at every step, and peft's layers and a Llama's take a dozen
passes over their input where six do. That is set right here for the length of a training; before
and after it the model is peft's own, on the exact weights, so that the receipt's probes judge what
is done here.
"""

from collections.abc import Callable, Iterator
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
    """x W' + bias + scale (x A') B' in one node, with no gradient for W.

    Shapes: x (..., in), weight (out, in), bias (out) or None, a (r, in), b (out, r); x and weight
    in one dtype, a and b in float32, rounded for the products as autocast rounds them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        a, b = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = flat @ a.T
        result = torch.nn.functional.linear(flat, weight, bias).addmm_(inner, b.T)
        ctx.save_for_backward(flat, weight, a, b, inner)
        ctx.scale = scale
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, inner = ctx.saved_tensors
        outer = gradient.reshape(-1, gradient.shape[-1])
        into = outer @ b
        x = None
        if ctx.needs_input_grad[0]:  # not of the first layer: nothing before it is trained
            x = (outer @ weight).addmm_(into, a).view(*gradient.shape[:-1], -1)
        return x, None, None, (into.T @ flat).float(), (outer.T @ inner).float() * ctx.scale, None


def _adapted(layer: Any, x: Tensor) -> Tensor:
    base = layer.base_layer
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return _LowRank.apply(x, base.weight, base.bias, a, b, layer.scaling[ADAPTER])


def _normed(epsilon: float, gain: Tensor | None, x: Tensor) -> Tensor:
    return RmsNorm.apply(x.reshape(-1, x.shape[-1]), epsilon, gain).view(x.shape)


def _gated(layer: LlamaMLP, x: Tensor) -> Tensor:
    return layer.down_proj(Gate.apply(layer.gate_proj(x), layer.up_proj(x)))


def _attended(
    layer: LlamaAttention,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    parts = [project(hidden_states) for project in (layer.q_proj, layer.k_proj, layer.v_proj)]
    qkv = torch.cat(parts, dim=-1).view(*hidden_states.shape[:-1], -1, layer.head_dim)
    # transformers states the angles of a pair twice.
    turns = tuple(x[..., None, : layer.head_dim // 2] for x in position_embeddings)
    kv_heads = layer.config.num_key_value_heads
    return layer.o_proj(Attention.apply(qkv, kv_heads, turns, attention_mask)), None


def _quicker(model: "PeftModel") -> Iterator[tuple[torch.nn.Module, Callable[..., Any]]]:
    """Yield layers of `model` and what computes the same as their forward pass, in less time."""
    from peft.tuners import lora

    for layer in model.modules():
        if type(layer) is lora.Linear:
            is_plain = type(layer.base_layer) is torch.nn.Linear
            if is_plain and isinstance(layer.lora_dropout[ADAPTER], torch.nn.Identity):
                yield layer, partial(_adapted, layer)
        elif type(layer) is LlamaRMSNorm and not layer.weight.requires_grad:
            gain = None if bool((layer.weight == 1).all()) else layer.weight
            yield layer, partial(_normed, layer.variance_epsilon, gain)
        elif type(layer) is LlamaMLP and layer.config.hidden_act == "silu":
            yield layer, partial(_gated, layer)
        elif type(layer) is LlamaAttention:
            is_eager = layer.config._attn_implementation == "eager"
            if is_eager and layer.attention_dropout == 0.0:
                yield layer, partial(_attended, layer)


def hasten(model: "PeftModel", dtype: torch.dtype) -> dict[str, Tensor]:
    """Round the frozen weights of `model` to `dtype` and quicken its layers, in place.

    The adapter stays in float32. Returns: the exact weights, for `restore`.
    """
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    exact = {name: parameter.data for name, parameter in frozen.items()}
    for parameter in frozen.values():
        parameter.data = parameter.data.to(dtype)
    for layer, forward in _quicker(model):
        layer.forward = forward
    return exact


def restore(model: "PeftModel", exact: dict[str, Tensor]) -> None:
    """Undo `hasten`: the exact weights again, and the layers' own passes."""
    for name, weight in exact.items():
        model.get_parameter(name).data = weight
    for layer, _ in _quicker(model):
        vars(layer).pop("forward", None)
