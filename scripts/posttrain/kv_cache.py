"""The key-value cache that sampling writes into, and attention of one new token over it.

Every line of the cache belongs to one completion, and all write their newest token to the same
column. A completion that starts late gets its prompt in the columns just before; what its line
holds further left is to the model padding. Columns are added some at a time, and those that no
completion needs any more are dropped with that.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from posttrain.errors import ModelError

# Columns come in so many: softmax in bfloat16 takes twice as long over a width between. At least
# ADDED are new, so that they are seldom copied.
COLUMNS, ADDED = 32, 8
ATTENTION = "posttrain_decoding"


class ColumnCache(Cache):
    """Keys and values of the completions being written; `end` is the column after the newest.

    Args: like, what the model keeps of a prompt: its layers and their shapes; lines, one a
        completion; longest_prompt, in tokens.
    Raises: ModelError if the model keeps anything but keys and values.
    """

    def __init__(self, like: DynamicCache, lines: int, longest_prompt: int) -> None:
        if not like.layers or any(type(layer) is not DynamicLayer for layer in like.layers):
            raise ModelError(
                "the model keeps something else than keys and values of the tokens before; only "
                "models with attention alone can be sampled"
            )
        self.longest_prompt = self.end = longest_prompt
        self.columns = _width(longest_prompt)
        super().__init__(layers=[_Layer(self, layer, lines) for layer in like.layers])

    def place(self, lines: Tensor, prompts: DynamicCache, rows: Tensor) -> None:
        """Put the given rows of prompts, padded on the left, in the last columns of `lines`."""
        for own, read in zip(self.layers, prompts.layers, strict=True):
            start = self.end - read.keys.shape[2]
            own.keys[lines, :, start : self.end] = read.keys[rows]
            own.values[lines, :, start : self.end] = read.values[rows]

    def keep(self, lines: int, sources: Tensor, targets: Tensor) -> None:
        """Go on with the first `lines` alone, once `sources` have been copied to `targets`."""
        for layer in self.layers:
            for part in (layer.keys, layer.values):
                part[targets] = part[sources]
            layer.keys, layer.values = layer.keys[:lines], layer.values[:lines]

    def advance(self, needed: int) -> None:
        """Open the next column; if there is none, drop those before the `needed` last and add some.

        A prompt may start right after, so its columns are always kept.
        """
        if self.end == self.columns:
            kept = max(needed, self.longest_prompt)
            columns = _width(kept)
            for layer in self.layers:
                layer.keys, layer.values = (
                    pad(part[:, :, self.end - kept :], (0, 0, 0, columns - kept))
                    for part in (layer.keys, layer.values)
                )
            self.end, self.columns = kept, columns
        self.end += 1


def _width(kept: int) -> int:
    """Return the columns of a cache of which so many are taken."""
    return -(-(kept + ADDED) // COLUMNS) * COLUMNS


class _Layer(DynamicLayer):
    """A layer's keys and values, each (lines, KV heads, columns, head size).

    They are read whole and contiguous: the product in bfloat16 copies anything else first. What is
    not yet written is zeros: masked it counts 0 times, but 0 times what lay in memory may be NaN.
    """

    def __init__(self, cache: ColumnCache, like: DynamicLayer, lines: int) -> None:
        super().__init__()
        self.cache, self.is_initialized = cache, True
        self.keys, self.values = (
            part.new_zeros(lines, part.shape[1], cache.columns, part.shape[3])
            for part in (like.keys, like.values)
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the newest column, (lines, KV heads, 1, head size); return all columns."""
        self.keys[:, :, self.cache.end - 1] = key_states[:, :, 0]
        self.values[:, :, self.cache.end - 1] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the columns before the newest, which is open already when a step begins."""
        return self.cache.end - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns the mask is for, and the first of them."""
        return self.cache.columns, 0


def use_fast_attention(model: PreTrainedModel) -> None:
    """Let `model` attend by `decoding_attention` from now on, if it is on a CPU and would by SDPA.

    PyTorch's fused kernel for CPUs is made for long queries: for one token a row it takes 2.5 times
    as long as the two products do.
    """
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION, decoding_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


def decoding_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention of one new token a row, (B, 1, H, D), and no weights.

    Heads that share a key are one product. Anything but one token a row is left to transformers.
    Args: query (B, H, 1, D); key and value (B, KV heads, T, D); attention_mask, bool, (B, 1, 1, T),
        True where a key counts; as transformers' attention functions have them.
    """
    if query.shape[2] > 1 or any(
        kwargs.get(key) is not None for key in ("softcap", "position_bias")
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    batch, heads, _, size = query.shape
    shared = key.shape[1]
    grouped = query.reshape(batch * shared, heads // shared, size)
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).float()
    scores = scores.unflatten(0, (batch, shared)) * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, -torch.inf)
    shares = scores.softmax(dim=-1).to(value.dtype)
    mixed = torch.bmm(shares.flatten(0, 1), value.flatten(0, 1))
    return mixed.view(batch, 1, heads, value.shape[-1]), None
