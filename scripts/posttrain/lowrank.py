"""The frozen base of a LoRA training, held in the dtype it is multiplied in, and put back after.

Autocast would round every weight again at every step, and peft's layers and a Llama's norms take a
dozen passes over their input where six do. That is set right here for the length of a training;
before and after it the model is peft's own, on the exact weights, so that the receipt's probes
judge what is done here.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from posttrain.rms_norm import RmsNorm

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


def _forward(layer: Any, x: Tensor) -> Tensor:
    base = layer.base_layer
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return _LowRank.apply(x, base.weight, base.bias, a, b, layer.scaling[ADAPTER])


def _plain_layers(model: "PeftModel") -> list[torch.nn.Module]:
    """Return the adapted linear layers that do what `_forward` does: without dropout."""
    from peft.tuners import lora

    return [
        layer
        for layer in model.modules()
        if type(layer) is lora.Linear
        and type(layer.base_layer) is torch.nn.Linear
        and isinstance(layer.lora_dropout[ADAPTER], torch.nn.Identity)
    ]


def _norms(model: "PeftModel") -> list[LlamaRMSNorm]:
    """Return the norms that do what `RmsNorm` does: a Llama's, their gains frozen."""
    return [
        layer
        for layer in model.modules()
        if type(layer) is LlamaRMSNorm and not layer.weight.requires_grad
    ]


def _normed(epsilon: float, gain: Tensor | None, x: Tensor) -> Tensor:
    return RmsNorm.apply(x.reshape(-1, x.shape[-1]), epsilon, gain).view(x.shape)


def hasten(model: "PeftModel", dtype: torch.dtype) -> dict[str, Tensor]:
    """Round the frozen weights of `model` to `dtype` and quicken its layers, in place.

    The adapter stays in float32. Returns: the exact weights, for `restore`.
    """
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    exact = {name: parameter.data for name, parameter in frozen.items()}
    for parameter in frozen.values():
        parameter.data = parameter.data.to(dtype)
    for layer in _plain_layers(model):
        layer.forward = partial(_forward, layer)
    for norm in _norms(model):
        gain = None if bool((norm.weight == 1).all()) else norm.weight
        norm.forward = partial(_normed, norm.variance_epsilon, gain)
    return exact


def restore(model: "PeftModel", exact: dict[str, Tensor]) -> None:
    """Undo `hasten`: the exact weights again, and peft's own layers."""
    for name, weight in exact.items():
        model.get_parameter(name).data = weight
    for layer in [*_plain_layers(model), *_norms(model)]:
        vars(layer).pop("forward", None)
