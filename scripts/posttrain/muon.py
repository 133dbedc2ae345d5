"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon) on stacks of matrices, as batched products.

torch.optim.Muon takes one matrix at a time.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MOMENTUM, WEIGHT_DECAY = 0.95, 0.01
ITERATIONS = ((3.4445, -4.7750, 2.0315),) * 5  # Jordan's
EPSILON = 1e-7


def orthogonal(stack: Tensor) -> Tensor:
    """Return about U V' of each matrix U S V' of `stack`, (n, rows, columns), in its dtype.

    Newton-Schulz iterations, on the shorter side.
    """
    if stack.shape[1] > stack.shape[2]:
        return orthogonal(stack.transpose(1, 2)).transpose(1, 2)
    x = stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    for a, b, c in ITERATIONS:
        square = torch.bmm(x, x.transpose(1, 2))
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    return x


class Muon:
    """The optimiser of named stacks of matrices, float32, changed in place.

    Args: parts, name -> the rows of each matrix that stand one below the other in one of the stack.
        dtype, of the iterations' products.
    """

    def __init__(
        self,
        matrices: Mapping[str, Tensor],
        parts: Mapping[str, Sequence[int]],
        dtype: torch.dtype,
    ) -> None:
        self.matrices, self.parts, self.dtype = matrices, parts, dtype
        self.momenta = {name: torch.zeros_like(whole) for name, whole in matrices.items()}

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Take a step along `gradients`, of any dtype, with Nesterov's momentum."""
        for name, whole in self.matrices.items():
            gradient = gradients[name].float()
            momentum = self.momenta[name].lerp_(gradient, 1 - MOMENTUM)
            ahead = gradient.lerp_(momentum, MOMENTUM).to(self.dtype)
            whole.mul_(1 - rate * WEIGHT_DECAY)
            split = self.parts[name]
            for matrices, part in zip(whole.split(split, 1), ahead.split(split, 1), strict=True):
                rows, columns = part.shape[1:]
                far = rate * max(1.0, rows / columns) ** 0.5
                matrices.add_(orthogonal(part), alpha=-far)
