"""The forward and backward pass that the embedded model is pretrained by: few, large operations.

The same numbers as transformers' `LlamaForCausalLM` gives, in less time: weights are rounded to the
dtype of the products once a step, query, key and value are one product, and each of norm,
attention, feed-forward gate and loss is one node with its gradient written out. The gains of the
norms stay 1, as they are made. A test holds loss and gradients to the model's own.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from posttrain.nodes import Attention, Gate, RmsNorm

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# What is one product here -> the layers of transformers' that it is made of, in their order.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    # Not one product: what comes out would not lie in one piece, and passes take thrice as long.
    "gate": ("mlp.gate_proj",),
    "up": ("mlp.up_proj",),
    "down": ("mlp.down_proj",),
}


class _Loss(Function):
    """Mean cross-entropy of x E' (N, V) against targets (N,); -1 counts for nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
        is_asked = targets >= 0
        logp = torch.log_softmax(x @ embedding.T, dim=-1, dtype=torch.float32)
        picked = logp.gather(1, targets.clamp(min=0)[:, None])
        weight = is_asked.float()[:, None] / is_asked.sum()
        slope = logp.exp_().mul_(weight)
        slope.scatter_add_(1, targets.clamp(min=0)[:, None], -weight)
        slope = slope.to(x.dtype)
        ctx.save_for_backward(slope @ embedding, slope.T @ x)
        return -(picked * weight).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_x, of_embedding = ctx.saved_tensors
        return of_x * gradient.to(of_x.dtype), of_embedding * gradient.to(of_x.dtype), None


class Llama:
    """A model's weights as few tensors, and its loss on rows of ids.

    `matrices` are float32, (layers, out, in) each, by the names in `FUSED`; `embedding`, (V, H),
    also gives the logits. `parts` tells how many rows of a fused matrix each of its layers has.
    """

    def __init__(self, model: "LlamaForCausalLM") -> None:
        config = model.config
        self.kv_heads = config.num_key_value_heads
        self.size = config.hidden_size // config.num_attention_heads
        self.epsilon = config.rms_norm_eps
        self.base = config.rope_parameters["rope_theta"]
        self.stop = config.pad_token_id  # what only ends a text is not learnt from being read
        layers = model.model.layers
        found = {
            name: [
                [layer.get_submodule(path).weight.detach() for path in paths] for layer in layers
            ]
            for name, paths in FUSED.items()
        }
        self.parts = {name: [len(w) for w in of_layer[0]] for name, of_layer in found.items()}
        self.matrices = {
            name: torch.stack([torch.cat(of_layer) for of_layer in whole])
            for name, whole in found.items()
        }
        self.embedding = model.get_input_embeddings().weight.detach().clone().requires_grad_()

    @torch.no_grad()
    def write_to(self, model: "LlamaForCausalLM") -> None:
        """Put the weights into `model`, which had the same shape."""
        for name, paths in FUSED.items():
            for layer, whole in zip(model.model.layers, self.matrices[name], strict=True):
                for path, part in zip(paths, whole.split(self.parts[name]), strict=True):
                    layer.get_submodule(path).weight.copy_(part)
        model.get_input_embeddings().weight.copy_(self.embedding)

    def rounded(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the matrices in the dtype they are multiplied in, to collect gradients."""
        return {
            name: whole.to(dtype, copy=True).requires_grad_()
            for name, whole in self.matrices.items()
        }

    def loss(self, rounded: dict[str, Tensor], ids: Tensor) -> Tensor:
        """Return the mean loss in nats of each id of a row, (B, T), given those before it."""
        batch, length = ids.shape
        dtype = rounded["qkv"].dtype
        turns = self._turns(length, dtype, ids.device)
        future = torch.full((length, length), -torch.inf, dtype=dtype, device=ids.device).triu_(1)
        x = torch.nn.functional.embedding(ids.flatten(), self.embedding, self.stop).to(dtype)
        by_layer = zip(*(rounded[name].unbind() for name in FUSED), strict=True)
        for qkv, out, gate, up, down in by_layer:
            heads = (RmsNorm.apply(x, self.epsilon) @ qkv.T).view(batch, length, -1, self.size)
            mixed = Attention.apply(heads, self.kv_heads, turns, future)
            x = torch.addmm(x, mixed.flatten(0, 1), out.T)
            y = RmsNorm.apply(x, self.epsilon)
            x = torch.addmm(x, Gate.apply(y @ gate.T, y @ up.T), down.T)
        targets = torch.full_like(ids, -1)
        targets[:, :-1] = ids[:, 1:]
        embedding = self.embedding.to(dtype)
        return _Loss.apply(RmsNorm.apply(x, self.epsilon), embedding, targets.flatten())

    def _turns(
        self, length: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        powers = torch.arange(0, self.size, 2, device=device).float() / self.size
        angles = torch.arange(length, device=device).float()[:, None, None] / self.base**powers
        return angles.cos().to(dtype), angles.sin().to(dtype)
