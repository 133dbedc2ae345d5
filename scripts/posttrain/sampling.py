"""Completions of prompts, greedy or sampled: each prompt read once, the batch kept full.

A finished row makes room for the next completion of the same call, and nothing crosses a call. Each
completion has random numbers of its own, drawn from the generator when the call starts, so the same
call gives the same completions. Rows stop at a closing text, at a stop token, or at the limit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from posttrain.errors import ScoringError
from posttrain.kv_cache import ColumnCache, use_fast_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

# Finished rows are replaced, or taken out, once they are so many of the batch: reading a few
# prompts by themselves costs more than writing on a few idle rows.
FINISHED_SHARE = 0.125


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
    closing: str,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[list[Completion]]:
    """Yield, prompt by prompt, `samples[i]` completions of `prompts[i]`.

    Args: prompts, token ids as `masking.prompt_ids` gives them; batch_size, rows generated at once
        at most; closing, the text that ends a completion, a task's `AFTER`, "" for none;
        temperature 0 is greedy, else `generator` is drawn from.
    Raises: ScoringError if the model gives NaN; ModelError if it keeps no plain key-value cache.
    """
    run = _Run(model, tokenizer, prompts, samples, max_new_tokens, batch_size, closing)
    if temperature:
        run.draw(temperature, generator)
    steps = run.steps()
    first = 0
    for count in samples:
        while None in run.finish[first : first + count]:
            next(steps)
        yield [run.completion(row) for row in range(first, first + count)]
        first += count


class _Run:
    """A call's completions, one a row, and the lines of the batch, each of which writes a row.

    What belongs to a line is kept on the CPU: its row (once that is done the spare one, after the
    last), how many tokens it has written and how many are in its cache, and whether it goes on.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        prompts: Sequence[list[int]],
        samples: Sequence[int],
        max_new_tokens: int,
        batch_size: int,
        closing: str,
    ) -> None:
        use_fast_attention(model)
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.prompts, self.samples, self.max_new_tokens = prompts, samples, max_new_tokens
        self.stops, self.closing = stop_tokens(model, tokenizer), closing
        self.closers = _closing_tokens(tokenizer, closing) if closing else set()
        self.enders = torch.tensor(sorted(self.stops | self.closers))
        self.temperature, self.draws = 0.0, None

        rows = sum(samples)
        self.tokens = torch.zeros(rows + 1, max_new_tokens, dtype=torch.int64)
        self.counts = [0] * rows
        self.finish: list[str | None] = [None] * rows
        self.next_prompt, self.next_row = 0, 0
        self.waiting: list[tuple[int, int]] = []  # rows to be begun: (line of `read`, row)

        self.row = torch.full((min(batch_size, rows),), rows)
        self.written, self.cached = torch.zeros_like(self.row), torch.zeros_like(self.row)
        self.is_on = torch.zeros_like(self.row, dtype=torch.bool)
        self.cache: ColumnCache | None = None

    def draw(self, temperature: float, generator: torch.Generator | None) -> None:
        """Sample from now on: each token of each row has a number of its own in [0, 1)."""
        device = generator.device if generator else None
        self.temperature = temperature
        self.draws = torch.rand(self.tokens.shape, generator=generator, device=device).cpu()

    @torch.inference_mode()
    def steps(self) -> Iterator[None]:
        """Write all rows to their ends, one token each at a time."""
        while self.is_on.any() or self._are_rows_left():
            idle = len(self.is_on) - int(self.is_on.sum())
            if idle == len(self.is_on) or idle >= FINISHED_SHARE * len(self.is_on):
                self._begin_rows() if self._are_rows_left() else self._take_out_finished()
            draws = None if self.draws is None else self.draws[self.row, self.written]
            ids = _choose(self.logits, self.temperature, draws)
            self._note(ids.cpu())
            yield
            if self.is_on.any():
                self._read_one_token(ids)

    def _are_rows_left(self) -> bool:
        return bool(self.waiting) or self.next_row < len(self.finish)

    def _begin_rows(self) -> None:
        """Give each idle line the next row, if there is one."""
        free = (~self.is_on).nonzero().flatten()
        while len(free) and self._are_rows_left():
            if not self.waiting:
                self._read_prompts(len(free))
            taken, self.waiting = self.waiting[: len(free)], self.waiting[len(free) :]
            lines, free = free[: len(taken)], free[len(taken) :]
            read, self.row[lines] = torch.tensor(taken).T
            self.written[lines], self.cached[lines] = 0, self.lengths[read]
            self.is_on[lines] = True
            lines, read = lines.to(self.device), read.to(self.device)
            self.cache.place(lines, self.read, read)
            self.logits[lines] = self.first_logits[read]

    def _read_prompts(self, rows: int) -> None:
        """Read the next prompts, padded on the left, enough for so many rows."""
        first = self.next_prompt
        while len(self.waiting) < rows and self.next_prompt < len(self.prompts):
            line, count = self.next_prompt - first, self.samples[self.next_prompt]
            self.waiting += [(line, self.next_row + sample) for sample in range(count)]
            self.next_prompt, self.next_row = self.next_prompt + 1, self.next_row + count
        prompts = self.prompts[first : self.next_prompt]
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(self.lengths.max())
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        positions = torch.arange(longest) - (longest - self.lengths)[:, None]
        self.read = DynamicCache()
        self.first_logits = self._forward(ids, positions >= 0, positions.clamp(min=0), self.read)
        if self.cache is None:
            lines, longest = len(self.row), max(map(len, self.prompts))
            self.cache = ColumnCache(self.read, lines, longest)
            self.logits = self.first_logits.new_zeros(lines, self.first_logits.shape[1])

    def _take_out_finished(self) -> None:
        """Let the last lines that go on move to where others are done, and drop what is behind."""
        lines = int(self.is_on.sum())
        targets = (~self.is_on[:lines]).nonzero().flatten()
        sources = self.is_on[lines:].nonzero().flatten() + lines
        for part in (self.row, self.written, self.cached, self.is_on):
            part[targets] = part[sources]
        self.row, self.written, self.cached, self.is_on = (
            part[:lines] for part in (self.row, self.written, self.cached, self.is_on)
        )
        targets, sources = targets.to(self.device), sources.to(self.device)
        self.logits[targets] = self.logits[sources]
        self.logits = self.logits[:lines]
        self.cache.keep(lines, sources, targets)

    def _note(self, ids: Tensor) -> None:
        """Take down the tokens (lines,) that the lines chose, and which rows end with them."""
        self.tokens[self.row, self.written] = ids
        self.written += self.is_on
        ends = torch.isin(ids, self.enders) | (self.written == self.max_new_tokens)
        for line in (ends & self.is_on).nonzero().flatten().tolist():
            row, count, token = (int(part[line]) for part in (self.row, self.written, ids))
            if token in self.stops:
                self.finish[row], count = "stop", count - 1
            # It may be several tokens: look at the text, but only where its last letter just came.
            elif token in self.closers and self._is_closed(row, count):
                self.finish[row] = "answer"
            elif count == self.max_new_tokens:
                self.finish[row] = "length"
            else:
                continue
            self.counts[row] = count
            self.row[line], self.written[line], self.is_on[line] = len(self.finish), 0, False

    def _read_one_token(self, ids: Tensor) -> None:
        """Read what each line has just written; those that are done are read too, for nothing."""
        self.cache.advance(int(self.cached[self.is_on].max()))
        self.cached += self.is_on
        column, end = torch.arange(self.cache.columns), self.cache.end
        is_own = (column >= end - self.cached[:, None]) & (column < end)
        positions = self.cached[:, None] - 1
        self.logits = self._forward(ids[:, None], is_own, positions, self.cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: "Cache") -> Tensor:
        """Return the logits (lines, V) after the last of `ids` (lines, T), all given on the CPU."""
        return self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _is_closed(self, row: int, count: int) -> bool:
        return self.closing in self._text(row, count, last=2 * len(self.closing))

    def _text(self, row: int, count: int, last: int = 0) -> str:
        ids = self.tokens[row, :count].tolist()[-last:]
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def completion(self, row: int) -> Completion:
        """Return a row that is done."""
        text = self._text(row, self.counts[row])
        if self.finish[row] == "answer":
            text = text[: text.index(self.closing) + len(self.closing)]
        return Completion(text, self.counts[row], self.finish[row])


def _choose(logits: Tensor, temperature: float, draws: Tensor | None) -> Tensor:
    """Return one token id a row, (B,) int64, from logits (B, V) of any float dtype.

    Args: temperature 0 takes the likeliest, else `draws`, (B,) in [0, 1), say where in the
        cumulated probabilities: one number a row, where torch.multinomial draws V.
    Raises: ScoringError if one of them is NaN: argmax would take it for the largest.
    """
    if temperature == 0.0:
        total, ids = logits.max(dim=-1)
    else:
        shares = torch.softmax(logits.float() / temperature, dim=-1).cumsum(dim=-1)
        total = shares[:, -1]
        # Rounding must not reach the total: behind it there is no token.
        drawn = torch.minimum(draws.to(total.device) * total, total.nextafter(total.new_zeros(())))
        ids = torch.searchsorted(shares, drawn[:, None], right=True).squeeze(1)
    if total.isnan().any():
        raise ScoringError(
            "the model's logits hold NaN, so what it writes means nothing; check its weights, and "
            "whether they bear the precision that this machine computes in"
        )
    return ids


def _closing_tokens(tokenizer: "PreTrainedTokenizerBase", closing: str) -> set[int]:
    """Return the ids of the tokens in whose spelling the last character of `closing` stands.

    Every vocabulary spells it as itself; one that falls back on bytes, as <0x3E> too.
    """
    return {i for token, i in tokenizer.get_vocab().items() if closing[-1] in token}


def stop_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the tokenizer's stop token and those that the model's generation config adds."""
    extra = model.generation_config.eos_token_id
    listed = extra if isinstance(extra, list) else [extra]
    return {tokenizer.eos_token_id, *(token for token in listed if token is not None)}
