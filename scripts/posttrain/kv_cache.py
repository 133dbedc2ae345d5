"""The key-value cache that sampling writes into, and attention of one new token over it.

Every line of the cache belongs to one completion, and all write their newest token to the same
column. A completion that starts late gets its prompt in the columns just before. So a step writes
one column and reads the window of columns that the longest completion fills; what a shorter one
leaves of it is to the model padding on the left.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from posttrain.errors import ModelError

# Columns beyond those that the longest completion fills: once they are used up, all moves back.
SLACK = 64
ATTENTION = "posttrain_decoding"


class ColumnCache(Cache):
    """Keys and values of `lines` completions; `end` is the column after the newest, of all.

    Args: like, what the model kept of a prompt: its layers and their shapes; lines, at most; width,
        tokens that a completion has at most, prompt included; end, of the longest prompt.
    Raises: ModelError if the model keeps anything but keys and values.
    """

    def __init__(self, like: DynamicCache, lines: int, width: int, end: int) -> None:
        if not like.layers or any(type(layer) is not DynamicLayer for layer in like.layers):
            raise ModelError(
                "the model keeps something else than keys and values of the tokens before; only "
                "models with attention alone can be sampled"
            )
        self.lines, self.columns, self.end, self.longest_prompt = lines, width + SLACK, end, end
        self.width = end
        super().__init__(layers=[_Layer(self, layer) for layer in like.layers])

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
                window = part[:, :, self.end - self.width : self.end]
                window[targets] = window[sources]
        self.lines = lines

    def advance(self, width: int) -> None:
        """Open the next column; from there on the window is `width` columns, that one included."""
        if self.end == self.columns:
            kept = max(self.width, self.longest_prompt)  # a prompt that starts now needs its room
            for layer in self.layers:
                for part in (layer.keys, layer.values):
                    part[:, :, :kept] = part[:, :, self.end - kept : self.end].clone()
            self.end = kept
        self.end, self.width = self.end + 1, width


class _Layer(DynamicLayer):
    """A layer's keys and values, each (lines, KV heads, columns, head size)."""

    def __init__(self, cache: ColumnCache, like: DynamicLayer) -> None:
        super().__init__()
        self.cache, self.is_initialized = cache, True
        self.keys, self.values = (
            part.new_empty(cache.lines, part.shape[1], cache.columns, part.shape[3])
            for part in (like.keys, like.values)
        )
        # All columns up to `end` hold numbers: what is masked counts 0 times, but 0 * NaN is NaN.
        for part in (self.keys, self.values):
            part[:, :, : cache.end] = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the newest column, (lines, KV heads, 1, head size); return views of the window."""
        lines, end = self.cache.lines, self.cache.end
        self.keys[:lines, :, end - 1 : end] = key_states
        self.values[:lines, :, end - 1 : end] = value_states
        window = slice(end - self.cache.width, end)
        return self.keys[:lines, :, window], self.values[:lines, :, window]

    def get_seq_length(self) -> int:
        """Return the columns of the window before the newest: what is seen when a step begins."""
        return self.cache.width - 1


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
    # Keys times queries, not the other way: several times faster where rows lie apart in memory.
    scores = torch.bmm(key.flatten(0, 1), grouped.transpose(1, 2)).transpose(1, 2).float()
    scores = scores.unflatten(0, (batch, shared)) * (size**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    shares = scores.softmax(dim=-1).to(value.dtype)
    mixed = torch.bmm(shares.flatten(0, 1), value.flatten(0, 1))
    return mixed.view(batch, 1, heads, value.shape[-1]), None
