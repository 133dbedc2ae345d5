"""One new token a line through the model: a Llama's pass written out, any other's as it is.

When a token is read by itself, half of the time of transformers' pass goes into operations too
small to keep a processor busy. Written out they are a third as many: query, key and value are one
product, what is added to the residual is added by the product, and scale and mask come with the
scores. Weights are laid out once in the order that a CPU multiplies bfloat16 in, not anew for each
token: the same bits in two thirds of the time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn import Embedding, Linear, ModuleList
from torch.nn.functional import embedding, linear, rms_norm, silu
from transformers import DynamicCache, LlamaForCausalLM, LlamaModel
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from posttrain.errors import ScoringError
from posttrain.kv_cache import ColumnCache, use_fast_attention
from posttrain.likelihood import DIVERGENCE, divergence
from posttrain.rotary import turned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Ids (lines,), positions (lines,), a mask (lines, columns), True where a line's own tokens are, and
# the cache with its newest column open -> logits (lines, V).
Step: TypeAlias = Callable[[Tensor, Tensor, Tensor, ColumnCache], Tensor]

# Rotary positions whose frequencies hang on the length of what is read are left to transformers.
FIXED_TURNS = ("default", "linear", "llama3", "yarn")
PARTS = {
    LlamaForCausalLM,
    LlamaModel,
    LlamaDecoderLayer,
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    Embedding,
    Linear,
    ModuleList,
    SiLUActivation,
}
PROVEN = 8  # tokens on which the pass is held to transformers'


def step_of(model: "PreTrainedModel") -> Step:
    """Return what reads one token a line and writes its keys and values into the cache.

    To be used before the model changes: a Llama's weights are taken as they are now.
    Raises: ScoringError if the pass written out does not give what transformers' gives.
    """
    if is_plain_llama(model):
        step = _Llama(model)
        _prove(model, step)
        return step
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
    """Tell whether `model` is transformers' Llama, nothing else: no adapter, bias or hook."""
    return (
        type(model) is LlamaForCausalLM
        and all(type(part) in PARTS and "forward" not in vars(part) for part in model.modules())
        and not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
        and all(part.bias is None for part in model.modules() if type(part) is Linear)
        and model.config.hidden_act == "silu"
        and model.config.rope_parameters["rope_type"] in FIXED_TURNS
    )


@torch.inference_mode()
def _prove(model: LlamaForCausalLM, step: Step) -> None:
    """Hold the step's distribution of a token to that of the model, on its device, in its dtype."""
    ids = torch.arange(PROVEN, device=model.device) * (model.config.vocab_size // PROVEN)
    read = DynamicCache()
    expected = model(
        input_ids=ids[None], past_key_values=read, use_cache=True, logits_to_keep=1
    ).logits
    read.crop(-1)  # the step is to read the last token again
    cache = ColumnCache(read, 1, PROVEN - 1)
    cache.place(ids[:1] * 0, read, ids[:1] * 0)
    cache.advance(PROVEN - 1)
    mask = torch.arange(cache.columns, device=model.device)[None] < PROVEN
    found = step(ids[-1:], torch.full_like(ids[-1:], PROVEN - 1), mask, cache)
    if (apart := divergence(expected[:, -1], found)) is not None:
        raise ScoringError(
            f"the pass that writes tokens gives another distribution than the model's own, by "
            f"{apart:.3g} nats (at most {DIVERGENCE[found.dtype]}): a fault of this machine's "
            "products or of this program; nothing that it would write can be trusted"
        )


class _Product:
    """x W' + added, of x (N, in), W (out, in) and added (N, out) if it is given."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        is_laid_out = (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and torch.backends.mkldnn.is_available()
            and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
        self.laid_out = (
            torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None) if is_laid_out else None
        )

    def __call__(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if self.laid_out is None:
            return linear(x, self.weight) if added is None else added.addmm(x, self.weight.T)
        product = torch.ops.mkldnn._linear_pointwise
        if added is None:
            return product(x, self.laid_out, None, "none", [], "")
        return product.binary(x, added, self.laid_out, None, "add")


class _Llama:
    """The pass of a plain Llama; a test holds its logits to those of transformers."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        config, inner = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size, self.epsilon = inner.layers[0].self_attn.head_dim, config.rms_norm_eps
        self.embedding, self.head = inner.embed_tokens.weight, _Product(model.lm_head.weight)
        self.last_norm = inner.norm.weight
        self.frequencies = inner.rotary_emb.inv_freq.float()
        self.stretch = inner.rotary_emb.attention_scaling
        self.layers = [
            (
                layer.input_layernorm.weight,
                _Product(torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])),
                _Product(own.o_proj.weight),
                layer.post_attention_layernorm.weight,
                _Product(layer.mlp.gate_proj.weight),
                _Product(layer.mlp.up_proj.weight),
                _Product(layer.mlp.down_proj.weight),
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
            every = qkv(self._normed(x, norm)).view(len(x), -1, self.size)
            placed = turned(every[:, : -self.kv_heads], turns)
            keys, values = kept.update(
                placed[:, self.heads :, None], every[:, -self.kv_heads :, None]
            )
            query = placed[:, : self.heads].reshape(-1, per_key, self.size)
            scores = torch.baddbmm(
                unseen, query, keys.flatten(0, 1).transpose(1, 2), alpha=self.size**-0.5
            )
            mixed = torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1))
            x = out(mixed.view(len(x), -1), x)
            y = self._normed(x, next_norm)
            opened = silu(gate(y), inplace=True).mul_(up(y))
            x = down(opened, x)
        return self.head(self._normed(x, self.last_norm))

    def _normed(self, x: Tensor, gain: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), gain, self.epsilon)
