"""One new token a line through the model: a Llama's pass written out, any other's as it is.

When a token is read by itself, half of the time of transformers' pass goes into operations too
small to keep a processor busy. Written out they are a third as many: query, key and value are one
product, what is added to the residual is added by the product, and scale and mask come with the
scores.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import Embedding, Linear
from torch.nn.functional import embedding, linear, rms_norm, silu
from transformers import LlamaForCausalLM

from posttrain.kv_cache import ColumnCache, use_fast_attention
from posttrain.rotary import turned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Ids (lines,), positions (lines,), a mask (lines, columns), True where a line's own tokens are, and
# the cache with its newest column open -> logits (lines, V).
Step: TypeAlias = Callable[[Tensor, Tensor, Tensor, ColumnCache], Tensor]

# Rotary positions whose frequencies hang on the length of what is read are left to transformers.
FIXED_TURNS = ("default", "linear", "llama3", "yarn")


def step_of(model: "PreTrainedModel") -> Step:
    """Return what reads one token a line and writes its keys and values into the cache.

    To be used before the model changes: a Llama's weights are taken as they are now.
    """
    if is_plain_llama(model):
        return _Llama(model)
    use_fast_attention(model)

    def step(ids: Tensor, positions: Tensor, mask: Tensor, cache: ColumnCache) -> Tensor:
        return model(
            input_ids=ids[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    return step


def is_plain_llama(model: "PreTrainedModel") -> bool:
    """Tell whether `model` is transformers' Llama and nothing else: no adapter, no bias."""
    if type(model) is not LlamaForCausalLM or type(model.model.embed_tokens) is not Embedding:
        return False
    projections = [
        layer
        for name, layer in model.named_modules()
        if name.endswith("_proj") or name == "lm_head"
    ]
    config = model.config
    return (
        all(type(layer) is Linear and layer.bias is None for layer in projections)
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in FIXED_TURNS
    )


class _Llama:
    """The pass of a plain Llama; a test holds its logits to those of transformers."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        config, inner = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size, self.epsilon = inner.layers[0].self_attn.head_dim, config.rms_norm_eps
        self.embedding, self.head = inner.embed_tokens.weight, model.lm_head.weight
        self.last_norm = inner.norm.weight
        self.frequencies = inner.rotary_emb.inv_freq.float()
        self.stretch = inner.rotary_emb.attention_scaling
        self.layers = [
            (
                layer.input_layernorm.weight,
                torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight]),
                own.o_proj.weight,
                layer.post_attention_layernorm.weight,
                layer.mlp.gate_proj.weight,
                layer.mlp.up_proj.weight,
                layer.mlp.down_proj.weight,
            )
            for layer in inner.layers
            for own in (layer.self_attn,)
        ]

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: ColumnCache) -> Tensor:
        x = embedding(ids, self.embedding)
        angles = positions[:, None, None].float() * self.frequencies
        turns = tuple((part * self.stretch).to(x.dtype) for part in (angles.cos(), angles.sin()))
        per_key = self.heads // self.kv_heads
        # A key's heads are one product: a mask for each line and key.
        unseen = torch.zeros(mask.shape, dtype=x.dtype, device=x.device)
        unseen.masked_fill_(~mask, -torch.inf)
        unseen = unseen.repeat_interleave(self.kv_heads, 0)[:, None].expand(-1, per_key, -1)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            norm, qkv, out, next_norm, gate, up, down = layer
            every = linear(self._normed(x, norm), qkv).view(len(x), -1, self.size)
            placed = turned(every[:, : -self.kv_heads], turns)
            keys, values = kept.update(
                placed[:, self.heads :, None], every[:, -self.kv_heads :, None]
            )
            query = placed[:, : self.heads].reshape(-1, per_key, self.size)
            scores = torch.baddbmm(
                unseen, query, keys.flatten(0, 1).transpose(1, 2), alpha=self.size**-0.5
            )
            mixed = torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1))
            x = torch.addmm(x, mixed.view(len(x), -1), out.T)
            y = self._normed(x, next_norm)
            opened = silu(linear(y, gate), inplace=True).mul_(linear(y, up))
            x = torch.addmm(x, opened, down.T)
        return linear(self._normed(x, self.last_norm), self.head)

    def _normed(self, x: Tensor, gain: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), gain, self.epsilon)
