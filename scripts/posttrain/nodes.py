"""The parts of a Llama that training computes, a node each, their gradients written out.

autograd's own nodes keep and pass over several copies of what they are given: here a norm is four
passes each way, not a dozen, and attention with its positions one node, not fifteen.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from posttrain.rotary import turned


class RmsNorm(Function):
    """x / rms(x) times a gain that takes no gradient; x (N, H), gain (H,) or None for 1.

    The mean is summed in float32 and what x is divided by rounded to the dtype of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float, gain: Tensor | None = None) -> Tensor:
        """Return x (N, H) normed."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (norm.square() / x.shape[-1] + epsilon).rsqrt().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale, gain)
        return y if gain is None else y * gain

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        y, scale, gain = ctx.saved_tensors
        if gain is not None:
            gradient = gradient * gain
        along = (gradient * y).sum(-1, keepdim=True, dtype=torch.float32) / y.shape[-1]
        return torch.addcmul(gradient, y, along.to(y.dtype), value=-1).mul_(scale), None, None


class Gate(Function):
    """silu(gate) * up, all of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Return what the gate lets through."""
        opened = torch.nn.functional.silu(gate)
        ctx.save_for_backward(gate, up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of gate and up."""
        gate, up, opened = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), gradient * opened


class Attention(Function):
    """Attention with rotary positions, from qkv (B, T, heads + 2 KV heads, D) to (B, T, heads * D).

    Heads that share a key are one product. `turns` are cosine and sine, (B or 1, T, 1, D / 2);
    `mask`, 0 or so low that nothing is left, is added to the scores, (B, heads, T, T), and
    broadcast to them. All in one dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, kv_heads: int, turns: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        """Return the values that each position attends to, its heads side by side."""
        batch, length, all_heads, size = qkv.shape
        heads = all_heads - 2 * kv_heads
        stacked = (batch * kv_heads, -1, size)
        # The scores' scale comes with the queries' turns: a pass less over the scores each way.
        scaled = tuple(turn * size**-0.5 for turn in turns)
        query = qkv.new_empty(batch, heads, length, size)
        key = qkv.new_empty(batch, kv_heads, length, size)
        turned(qkv[:, :, :heads], scaled, into=query.transpose(1, 2))
        turned(qkv[:, :, heads:-kv_heads], turns, into=key.transpose(1, 2))
        query, key = query.view(stacked), key.view(stacked)
        value = qkv[:, :, -kv_heads:].transpose(1, 2).reshape(stacked)
        scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, length, length)
        shares = (scores + mask).softmax(dim=-1).view(len(query), -1, length)
        mixed = torch.bmm(shares, value)
        ctx.save_for_backward(query, key, value, shares, *turns, *scaled)
        ctx.heads, ctx.kv_heads = heads, kv_heads
        return mixed.view(batch, heads, length, size).transpose(1, 2).reshape(batch, length, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of qkv."""
        query, key, value, shares, cosine, sine, scaled_cosine, scaled_sine = ctx.saved_tensors
        heads, kv_heads = ctx.heads, ctx.kv_heads
        batch, length, _ = gradient.shape
        size = key.shape[-1]
        gradient = gradient.view(batch, length, heads, size).transpose(1, 2)
        gradient = gradient.reshape(query.shape)
        result = gradient.new_empty(batch, length, heads + 2 * kv_heads, size)

        def by_position(part: Tensor, count: int) -> Tensor:
            return part.view(batch, count, length, size).transpose(1, 2)

        of_value = torch.bmm(shares.transpose(1, 2), gradient)
        result[:, :, -kv_heads:] = by_position(of_value, kv_heads)
        of_shares = torch.bmm(gradient, value.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        of_key = by_position(torch.bmm(of_scores.transpose(1, 2), query), kv_heads)
        turned(of_key, (cosine, -sine), into=result[:, :, heads:-kv_heads])
        of_query = by_position(torch.bmm(of_scores, key), heads)
        turned(of_query, (scaled_cosine, -scaled_sine), into=result[:, :, :heads])
        return result, None, None, None
