"""Adapted linear layers as one node: peft's take a dozen passes over their input where six do."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from peft.tuners.lora import Linear

ADAPTER = "default"  # peft's name for the first adapter


class Product(NamedTuple):
    """Layers whose outputs are wanted side by side: their frozen weights as one.

    weight (out, in), bias (out) or None; of each layer the shape of its B, (its part of out, rank).
    """

    weight: Tensor
    bias: Tensor | None
    shapes: list[torch.Size]

    def parted(self, gradient: Tensor) -> Iterator[Tensor]:
        """Yield the gradient of each layer's B, given that of all, (ranks, out)."""
        row = column = 0
        for height, rank in self.shapes:
            yield gradient[column : column + rank, row : row + height].T
            row, column = row + height, column + rank


class LowRank(Function):
    """x W' + bias + (x (s A)') B' + added of layers that read the same x, no gradient for W.

    The A of all are one product, for ranks are small, and 48 columns take little longer than 16; so
    are the B of layers whose outputs lie side by side, blocks on a diagonal.

    Shapes: x (N, in) and added (N, out) or None, in the dtype of the weights; scales, s of each row
    of A, (ranks, 1) float32; factors, the A (r, in) and B (out, r) of every layer in turn, in
    float32, rounded for the products as autocast rounds them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        added: Tensor | None,
        products: Sequence[Product],
        scales: Tensor,
        *factors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return an output of each product, (N, out); `added` counts in the first."""
        a = (torch.cat(factors[::2]) * scales).to(x.dtype)
        b_of_layers = iter(factors[1::2])
        joined = [
            torch.block_diag(*itertools.islice(b_of_layers, len(product.shapes))).to(x.dtype)
            for product in products
        ]
        inner = (x @ a.T).split([b.shape[1] for b in joined], 1)
        results = []
        for product, own, b in zip(products, inner, joined, strict=True):
            if added is None:
                result = torch.nn.functional.linear(x, product.weight, product.bias)
            else:
                result = torch.addmm(added, x, product.weight.T)
                result = result if product.bias is None else result.add_(product.bias)
            results.append(result.addmm_(own, b.T))
            added = None
        ctx.save_for_backward(x, scales, a, *inner, *joined)
        ctx.products = products
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, of what was added, and of the factors."""
        x, scales, a, *rest = ctx.saved_tensors
        inner, joined = rest[: len(gradients)], rest[len(gradients) :]
        into = [gradient @ b for gradient, b in zip(gradients, joined, strict=True)]
        into = torch.cat(into, 1) if len(into) > 1 else into[0]
        of_x = of_added = None
        if ctx.needs_input_grad[0]:  # not of the first layer: nothing before it is trained
            of_x = gradients[0] @ ctx.products[0].weight
            for gradient, product in zip(gradients[1:], ctx.products[1:], strict=True):
                of_x.addmm_(gradient, product.weight)
            of_x.addmm_(into, a)
        if ctx.needs_input_grad[1]:
            of_added = gradients[0]
        of_a = iter(((into.T @ x) * scales).split([s[1] for p in ctx.products for s in p.shapes]))
        of_factors = []
        for gradient, product, own in zip(gradients, ctx.products, inner, strict=True):
            for of_b in product.parted((own.T @ gradient).float()):
                of_factors += [next(of_a), of_b]
        return of_x, of_added, None, None, *of_factors


def is_plain(layer: torch.nn.Module) -> bool:
    """Tell whether `layer` is an adapted linear layer that does what `LowRank` does."""
    from peft.tuners import lora

    return (
        type(layer) is lora.Linear
        and type(layer.base_layer) is torch.nn.Linear
        and isinstance(layer.lora_dropout[ADAPTER], torch.nn.Identity)
        and layer.lora_B[ADAPTER].bias is None
        and not layer.lora_variant
    )


def projection(*groups: Sequence["Linear"]) -> Callable[..., tuple[Tensor, ...]]:
    """Return what maps x (N, in), and what is to be added, to an output of each group of layers.

    The layers, plain ones, all read x; the outputs of a group lie side by side.
    """
    products, factors, scales = [], [], []
    for layers in groups:
        bases = [layer.base_layer for layer in layers]
        biases = [base.bias for base in bases if base.bias is not None]
        own = [part[ADAPTER].weight for layer in layers for part in (layer.lora_A, layer.lora_B)]
        product = Product(
            weight=torch.cat([base.weight for base in bases])
            if len(bases) > 1
            else bases[0].weight,
            bias=torch.cat(biases) if biases else None,
            shapes=[b.shape for b in own[1::2]],
        )
        products.append(product)
        factors += own
        scales += [layer.scaling[ADAPTER] for layer in layers for _ in range(layer.r[ADAPTER])]
    column = torch.tensor(scales, device=factors[0].device)[:, None]
    return lambda x, added=None: LowRank.apply(x, added, products, column, *factors)
