"""Tiny Llamas for tests of sampling: one with fresh weights, one that writes what it is told to."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 64


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of 64 words, w0 to w63: a completion's text says which ids it is made of.

    Its stop token is w1.
    """
    core = Tokenizer(models.WordLevel({f"w{n}": n for n in range(WORDS)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="w1", unk_token="w0")


def llama(vocabulary: int, layers: int = 2) -> LlamaForCausalLM:
    """Return a Llama of width 16 with fresh weights, large ones: what it writes is varied."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def parrot(vocabulary: int, stop: int, ids: Sequence[int]) -> LlamaForCausalLM:
    """Return a Llama that writes `ids` one after another, whatever goes before the first of them.

    A token decides the next one by itself: attention and feed-forward layers add nothing, and each
    token of `ids` (fifteen different ones at most) has a direction of its own, which only the
    output of its successor reads. All other tokens share one, and `ids[0]` follows them.
    """
    model = llama(vocabulary, layers=1)
    model.generation_config.eos_token_id = stop
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
    directions = torch.eye(16)
    embedding, output = model.model.embed_tokens.weight, model.lm_head.weight
    embedding.copy_(directions[0].expand_as(embedding))
    output.zero_()
    place = {token: n for n, token in enumerate(dict.fromkeys(ids), start=1)}
    for token, n in place.items():
        embedding[token] = directions[n]
    output[ids[0]] += 10 * directions[0]
    for token, following in pairwise(ids):
        output[following] += 10 * directions[place[token]]
    return model
