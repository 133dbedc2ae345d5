"""Rotary positions: each pair of a head's values turned by an angle (Su et al. 2021, RoFormer)."""

import torch
from torch import Tensor


def turned(x: Tensor, turns: tuple[Tensor, Tensor], into: Tensor | None = None) -> Tensor:
    """Return x (..., heads, D), each pair (i, i + D / 2) turned by its position's angle.

    `turns` are cosine and sine of the angles, (..., 1, D / 2), in the dtype of x; the result is
    written to `into`, of x's shape, if that is given.
    """
    cosine, sine = turns
    one, other = x.chunk(2, dim=-1)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device) if into is None else into
    first, second = result.chunk(2, dim=-1)
    torch.mul(one, cosine, out=first).addcmul_(other, sine, value=-1)
    torch.mul(other, cosine, out=second).addcmul_(one, sine)
    return result
