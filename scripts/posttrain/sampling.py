"""Completions of prompts, greedy or sampled: each prompt read once, finished rows taken out.

A batch is a fixed run of prompts, and its random numbers come from the generator it is given, so
the same call gives the same completions. Rows stop at `</answer>`, at a stop token, or at the
limit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from posttrain.answers import CLOSE
from posttrain.errors import ScoringError

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

# Rows are taken out of the cache once so many of them have finished: each time copies the rest.
FINISHED_SHARE = 0.25


@dataclass(frozen=True)
class Completion:
    """What a model wrote, without its stop token; `finish` tells why it ended."""

    text: str
    tokens: int
    finish: Literal["answer", "stop", "length"]


def complete(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    samples: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[list[Completion]]:
    """Yield, prompt by prompt, `samples[i]` completions of `prompts[i]`.

    Args: prompts, token ids as `masking.prompt_ids` gives them; batch_size, rows generated at once
        (at least one prompt's samples); temperature 0 is greedy, else `generator` is drawn from.
    """
    closers = _closing_tokens(tokenizer)
    start = 0
    while start < len(prompts):
        end = start + 1
        while end < len(prompts) and sum(samples[start : end + 1]) <= batch_size:
            end += 1
        counts = samples[start:end]
        batch = _Batch(model, tokenizer, closers, prompts[start:end], counts)
        done = batch.run(max_new_tokens, temperature, generator)
        for count in counts:
            yield [next(done) for _ in range(count)]
        start = end


class _Batch:
    """Rows that are generated together: their cache, what each has written, and who is still on."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        closers: set[int],
        prompts: Sequence[list[int]],
        counts: Sequence[int],
    ) -> None:
        self.model, self.tokenizer, self.closers = model, tokenizer, closers
        self.device = next(model.parameters()).device
        self.stops = _stop_tokens(model, tokenizer)
        self.prompts, self.counts = prompts, counts
        self.written: list[list[int]] = [[] for _ in range(sum(counts))]
        self.finish: list[str] = ["length"] * len(self.written)

    @torch.inference_mode()
    def run(
        self, max_new_tokens: int, temperature: float, generator: torch.Generator | None
    ) -> Iterator[Completion]:
        logits, cache, mask = self._prefill()
        positions = mask.sum(dim=1)
        rows = list(range(len(self.written)))  # which row each line of the cache belongs to
        for step in range(max_new_tokens):
            ids = _choose(logits, temperature, generator)
            on = [self._note(row, token) for row, token in zip(rows, ids.tolist(), strict=True)]
            if not any(on) or step + 1 == max_new_tokens:
                break
            # Finished rows are written on until enough of them are; `_note` ignores what they say.
            if on.count(False) >= FINISHED_SHARE * len(on):
                kept = torch.tensor([i for i, is_on in enumerate(on) if is_on], device=self.device)
                cache.batch_select_indices(kept)
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
                rows = [row for row, is_on in zip(rows, on, strict=True) if is_on]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self.model(
                input_ids=ids[:, None],
                attention_mask=mask,
                position_ids=positions[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            positions = positions + 1
        yield from map(self._completion, range(len(self.written)))

    def _prefill(self) -> tuple[Tensor, "DynamicCache", Tensor]:
        """Read each prompt once, padded on the left; repeat its cache for each of its samples."""
        longest = max(map(len, self.prompts))
        ids = torch.zeros(len(self.prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for line, prompt in enumerate(self.prompts):
            ids[line, longest - len(prompt) :] = torch.tensor(prompt)
            mask[line, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        lines = torch.arange(len(self.prompts), device=self.device)
        repeated = lines.repeat_interleave(torch.tensor(self.counts, device=self.device))
        out.past_key_values.batch_select_indices(repeated)
        return out.logits[:, -1][repeated], out.past_key_values, mask[repeated]

    def _note(self, row: int, token: int) -> bool:
        """Take down the token that `row` chose; tell whether the row goes on."""
        if self.finish[row] != "length":
            return False
        if token in self.stops:
            self.finish[row] = "stop"
            return False
        written = self.written[row]
        written.append(token)
        # The tag may be several tokens: look at the text, but only where a `>` has just come.
        if token in self.closers and CLOSE in self.tokenizer.decode(written[-2 * len(CLOSE) :]):
            self.finish[row] = "answer"
        return self.finish[row] == "length"

    def _completion(self, row: int) -> Completion:
        text = self.tokenizer.decode(
            self.written[row], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if self.finish[row] == "answer":
            text = text[: text.index(CLOSE) + len(CLOSE)]
        return Completion(text, len(self.written[row]), self.finish[row])


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Return one token id a row, (B,) int64, from logits (B, V) of any float dtype.

    Raises: ScoringError if one of them is NaN: argmax would take it for the largest.
    """
    if logits.isnan().any():
        raise ScoringError(
            "the model's logits hold NaN, so what it writes means nothing; check its weights, and "
            "whether they bear the precision that this machine computes in"
        )
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(shares, 1, generator=generator).squeeze(1)


def _closing_tokens(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of the tokens in whose spelling the last character of the tag stands.

    Every vocabulary spells it as itself; one that falls back on bytes, as <0x3E> too.
    """
    return {i for token, i in tokenizer.get_vocab().items() if CLOSE[-1] in token}


def _stop_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the tokenizer's stop token and those that the model's generation config adds."""
    extra = model.generation_config.eos_token_id
    listed = extra if isinstance(extra, list) else [extra]
    return {tokenizer.eos_token_id, *(token for token in listed if token is not None)}
