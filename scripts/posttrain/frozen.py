"""The frozen base of a LoRA training, held in the dtype it is multiplied in, and put back after.

Autocast would round every weight again at every step, peft's layers and a Llama's take a dozen
passes over their input where six do, and a Llama's last layer goes on with tokens whose logits
nobody asks for. That is set right here for the length of a training. What it computes by is first
held against what it takes the place of; before and after it the model is peft's own, on the exact
weights, so that the receipt's probes judge what is done here.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
)

from posttrain.errors import TrainingError
from posttrain.likelihood import DIVERGENCE, divergence, pack, packed_logits
from posttrain.lowrank import is_plain, projection
from posttrain.masking import IGNORE
from posttrain.nodes import Attention, Gate, RmsNorm

if TYPE_CHECKING:
    from peft import PeftModel

PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PROJECTIONS += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
# The last layer reads so many tokens, or a multiple: products are prepared anew for every number.
KEPT_MULTIPLE = 64
# Rows of so many ids, the first of them asked from the middle on, are what a pass is proven on.
PROVEN = (8, 5, 3)


class _Llama:
    """The pass of an adapted Llama over packed rows, written out."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        inner = model.model
        self.embedding, self.rotary, self.head = inner.embed_tokens, inner.rotary_emb, model.lm_head
        self.kv_heads = model.config.num_key_value_heads
        self.size = inner.layers[0].self_attn.head_dim
        self.last_norm = _normed(inner.norm)
        self.is_checkpointing = model.is_activation_checkpointing
        self.layers = [
            (
                _normed(layer.input_layernorm),
                projection([own.q_proj, own.k_proj, own.v_proj]),
                projection([own.o_proj]),
                _normed(layer.post_attention_layernorm),
                projection([layer.mlp.gate_proj], [layer.mlp.up_proj]),
                projection([layer.mlp.down_proj]),
            )
            for layer in inner.layers
            for own in (layer.self_attn,)
        ]

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        logits_to_keep: Tensor | None = None,
        use_cache: bool = False,
        **others: None,
    ) -> CausalLMOutputWithPast:
        """Return logits, (B, T, V), or (n, V) at the n places that `logits_to_keep`, (B, T), marks.

        input_ids and position_ids are (B, T), int64; a row begins at each position 0. Whatever else
        transformers' pass takes, peft hands on as None.
        Raises: TypeError if it is not, or if what is to be kept is not marked place by place.
        """
        if given := [key for key, value in others.items() if value is not None]:
            raise TypeError(f"a training's pass takes no {', '.join(given)}")
        is_asked = input_ids >= 0 if logits_to_keep is None else logits_to_keep
        if use_cache or is_asked.dtype != torch.bool or is_asked.shape != input_ids.shape:
            raise TypeError("a training's pass takes no cache, and a mark for each place")
        batch, length = input_ids.shape
        asked = is_asked.flatten().nonzero().flatten()
        kept = torch.nn.functional.pad(asked, (0, -len(asked) % KEPT_MULTIPLE))
        places = torch.arange(length, device=input_ids.device)
        positions = places.expand(batch, -1) if position_ids is None else position_ids
        rows = (positions == 0).cumsum(1)
        is_seen = (rows[:, :, None] == rows[:, None]) & (places[:, None] >= places)
        x = self.embedding(input_ids).flatten(0, 1)
        mask = torch.zeros(is_seen.shape, dtype=x.dtype, device=x.device)
        mask = mask.masked_fill_(~is_seen, -torch.inf)[:, None]
        # transformers states the angles of a pair twice.
        turns = tuple(t[..., None, : self.size // 2] for t in self.rotary(x, positions))
        run = partial(checkpoint, self._layer, use_reentrant=False)
        run = run if self.is_checkpointing and torch.is_grad_enabled() else self._layer
        for layer in self.layers[:-1]:
            x = run(layer, x, turns, mask)
        x = run(self.layers[-1], x, turns, mask, kept)
        logits = self.head(self.last_norm(x))[: len(asked)]
        if logits_to_keep is None:
            logits = logits.view(batch, length, -1)
        return CausalLMOutputWithPast(logits=logits)

    def _layer(
        self,
        layer: tuple[Callable[..., Any], ...],
        x: Tensor,
        turns: tuple[Tensor, Tensor],
        mask: Tensor,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Return what a layer makes of x (B * T, H), or of its `kept` rows alone."""
        norm, qkv, out, next_norm, gate_up, down = layer
        [heads] = qkv(norm(x))
        batch, _, length, _ = mask.shape
        heads = heads.view(batch, length, -1, self.size)
        mixed = Attention.apply(heads, self.kv_heads, turns, mask).flatten(0, 1)
        if kept is not None:
            x, mixed = x.index_select(0, kept), mixed.index_select(0, kept)
        [x] = out(mixed, x)
        [x] = down(Gate.apply(*gate_up(next_norm(x))), x)
        return x


def _is_written_out(model: torch.nn.Module) -> bool:
    """Tell whether `_Llama` is the pass of `model`: a Llama whose every layer is adapted.

    With attention written out ("eager"), as trainings on a CPU have it.
    """
    if not (
        type(model) is LlamaForCausalLM
        and type(model.model) is LlamaModel
        and model.config._attn_implementation == "eager"
        and model.config.attention_dropout == 0.0
        and model.config.hidden_act == "silu"
        and getattr(model.config, "is_causal", True)
        and not any(map(_is_changed, model.model.layers.modules()))
    ):
        return False
    norms = [model.model.norm]
    for layer in model.model.layers:
        parts = (type(layer), type(layer.self_attn), type(layer.mlp))
        projections = [layer.get_submodule(path) for path in PROJECTIONS]
        if parts != (LlamaDecoderLayer, LlamaAttention, LlamaMLP) or not all(
            map(is_plain, projections)
        ):
            return False
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    return all(map(_is_plain_norm, norms))


def _is_changed(part: torch.nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def _is_plain_norm(layer: torch.nn.Module) -> bool:
    return type(layer) is LlamaRMSNorm and not layer.weight.requires_grad


def _normed(layer: LlamaRMSNorm) -> Callable[[Tensor], Tensor]:
    gain = None if bool((layer.weight == 1).all()) else layer.weight
    return lambda x: RmsNorm.apply(x, layer.variance_epsilon, gain)


def _on_tokens(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _gated(layer: LlamaMLP, x: Tensor) -> Tensor:
    return layer.down_proj(Gate.apply(layer.gate_proj(x), layer.up_proj(x)))


def _adapted(layer: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    project = projection([layer])
    return lambda x: project(x)[0]


def _quicker(model: "PeftModel") -> Iterator[tuple[torch.nn.Module, Callable[..., Any]]]:
    """Yield parts of `model` and what computes the same as their forward pass, in less time."""
    if _is_written_out(whole := model.get_base_model()):
        yield whole, _Llama(whole)
        return
    for layer in model.modules():
        if "forward" in vars(layer):
            continue  # somebody's own
        if is_plain(layer):
            yield layer, _on_tokens(_adapted(layer))
        elif _is_plain_norm(layer):
            yield layer, _on_tokens(_normed(layer))
        elif type(layer) is LlamaMLP and layer.config.hidden_act == "silu":
            yield layer, partial(_gated, layer)


def hasten(
    model: "PeftModel",
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    apart: bool = False,
) -> Callable[[], None]:
    """Round the frozen weights of `model` to `dtype`, move it, and quicken its passes, in place.

    The adapter stays in float32. Returns: what undoes it and brings the model to the CPU.
    Args: apart, where the model mixes packed rows (`likelihood.mixes_rows`).
    Raises: TrainingError, here or when it is undone, if the quick passes give other distributions
        than the model's own: before a training a fresh adapter adds nothing, after it it does.
    """
    frozen = {name: p for name, p in model.named_parameters() if "lora_" not in name}
    exact = {name: parameter.data for name, parameter in frozen.items()}
    for parameter in frozen.values():
        parameter.data = parameter.data.to(dtype)
    model.to(device)  # before weights are joined, which no later move would take along
    own = _logits(model, apart)
    quickened = list(_quicker(model))
    for part, forward in quickened:
        part.forward = forward
    _refuse_another(own, _logits(model, apart))

    def restore() -> None:
        quick = _logits(model, apart)
        for part, _ in quickened:
            del part.forward
        quickened.clear()  # and with them the weights that were joined
        _refuse_another(_logits(model, apart), quick)
        model.to("cpu")
        for name, weight in exact.items():
            model.get_parameter(name).data = weight

    return restore


def _refuse_another(own: Tensor, quick: Tensor) -> None:
    """Raise TrainingError if logits (n, V) are other distributions than the model's own."""
    if (apart := divergence(own, quick)) is not None:
        raise TrainingError(
            f"the passes that a training computes by give other distributions than the model's own,"
            f" by {apart:.3g} nats (at most {DIVERGENCE[own.dtype]}): a fault of this machine's "
            "products or of this program; no adapter is kept"
        )


@torch.no_grad()
def _logits(model: "PeftModel", apart: bool) -> Tensor:
    """Return logits (n, V) on a few packed rows of ids from all over the vocabulary."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = [[place * vocabulary // length for place in range(length)] for length in PROVEN]
    rows = [{"input_ids": row, "labels": row} for row in ids]
    rows[0] = {"input_ids": ids[0], "labels": [IGNORE] * 4 + ids[0][4:]}
    was_training = model.training
    model.eval()
    found = [
        packed_logits(model, packed)
        for packed in pack(rows, next(model.parameters()).device, apart)
    ]
    model.train(was_training)
    return torch.cat(found)
