"""Rows that are written together: each prompt read once, the batch kept full.

A finished row makes room for the next, and so no line of the batch is idle for long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from posttrain.decoding import Step
from posttrain.errors import ScoringError
from posttrain.kv_cache import ColumnCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Finished rows are replaced, or taken out, once they are so many of the batch: to put new ones in
# their place costs more than to write on a few idle lines.
FINISHED_SHARE = 0.06


@dataclass(frozen=True)
class Completion:
    """What a model wrote, without its stop token; `finish` tells why it ended."""

    text: str
    tokens: int
    finish: Literal["answer", "stop", "length"]


@dataclass(frozen=True)
class Ends:
    """What ends a completion: a stop token, a closing text ("" is none), the limit of tokens."""

    tokenizer: "PreTrainedTokenizerBase"
    stops: set[int]
    closing: str
    closers: set[int]  # the tokens with which the closing text may come to an end
    max_new_tokens: int

    def text(self, ids: Sequence[int]) -> str:
        """Return what the ids say, as it is written."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def finish(self, ids: Tensor) -> str | None:
        """Return why a completion ends with the last of the ids (T,) it has; None if it goes on."""
        if (token := int(ids[-1])) in self.stops:
            return "stop"
        # The closing text may be several tokens: look at it, but only where its last letter came.
        if token in self.closers and self.closing in self.text(
            ids[-2 * len(self.closing) :].tolist()
        ):
            return "answer"
        return "length" if len(ids) == self.max_new_tokens else None

    def completion(self, ids: Tensor, finish: str) -> Completion:
        """Return the completion whose ids (T,) have come to an end."""
        told = ids[:-1] if finish == "stop" else ids
        text = self.text(told.tolist())
        if finish == "answer":
            text = text[: text.index(self.closing) + len(self.closing)]
        return Completion(text, len(told), finish)


class Batch:
    """Completions, one a row, and the lines of a batch, each of which writes a row at a time.

    What belongs to a line is kept on the CPU: its row (once that is done the spare one, after the
    last), how many tokens it has written and how many are in its cache, and whether it goes on.

    Args: step, `decoding.step_of` the model; lines, rows written at once at most; temperature, 0
        for the likeliest token; draws, else a number in [0, 1) for each token of each row.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        step: Step,
        ends: Ends,
        prompts: Sequence[list[int]],
        samples: Sequence[int],
        lines: int,
        temperature: float,
        draws: Tensor | None,
    ) -> None:
        self.model, self.step, self.ends, self.device = model, step, ends, model.device
        self.prompts, self.samples = prompts, samples
        self.temperature, self.draws = temperature, draws
        self.enders = torch.tensor(sorted(ends.stops | ends.closers))

        rows = sum(samples)
        self.tokens = torch.zeros(rows + 1, ends.max_new_tokens, dtype=torch.int64)
        self.done: list[Completion | None] = [None] * rows
        self.next_prompt, self.next_row = 0, 0
        self.waiting: list[tuple[int, int]] = []  # rows to be begun: (line of `read`, row)

        self.row = torch.full((min(lines, rows),), rows)
        self.written, self.cached = torch.zeros_like(self.row), torch.zeros_like(self.row)
        self.is_on = torch.zeros_like(self.row, dtype=torch.bool)
        self.cache: ColumnCache | None = None
        self.is_stopped = False

    def stop(self) -> None:
        """Write no token more, for good."""
        self.is_stopped = True

    @torch.inference_mode()
    def write(self, tokens: int) -> None:
        """Write so many tokens on each line, or fewer if all rows come to their ends."""
        for _ in range(tokens):
            idle = len(self.is_on) - int(self.is_on.sum())
            if self.is_stopped or (idle == len(self.is_on) and not self._are_rows_left()):
                return
            if idle == len(self.is_on) or idle >= FINISHED_SHARE * len(self.is_on):
                self._begin_rows() if self._are_rows_left() else self._take_out_finished()
            ids = choose(self.logits, self.temperature, self._drawn())
            self._note(ids.cpu())
            if self.is_on.any():
                self._read_one_token(ids)

    def _are_rows_left(self) -> bool:
        return bool(self.waiting) or self.next_row < len(self.done)

    def _begin_rows(self) -> None:
        """Give each idle line the next row, if there is one."""
        free = (~self.is_on).nonzero().flatten()
        while len(free) and self._are_rows_left():
            if not self.waiting:
                self._read_prompts()
            taken, self.waiting = self.waiting[: len(free)], self.waiting[len(free) :]
            lines, free = free[: len(taken)], free[len(taken) :]
            read, self.row[lines] = torch.tensor(taken).T
            self.written[lines], self.cached[lines] = 0, self.lengths[read]
            self.is_on[lines] = True
            lines, read = lines.to(self.device), read.to(self.device)
            self.cache.place(lines, self.read, read)
            self.logits[lines] = self.first_logits[read]
            if not self.waiting:
                self.read = self.first_logits = None

    def _read_prompts(self) -> None:
        """Read the next prompts, padded on the left, enough for as many rows as there are lines."""
        first = self.next_prompt
        while len(self.waiting) < len(self.row) and self.next_prompt < len(self.prompts):
            line, count = self.next_prompt - first, self.samples[self.next_prompt]
            self.waiting += [(line, self.next_row + sample) for sample in range(count)]
            self.next_prompt, self.next_row = self.next_prompt + 1, self.next_row + count
        prompts = self.prompts[first : self.next_prompt]
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])
        longest = int(self.lengths.max())
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        positions = torch.arange(longest) - (longest - self.lengths)[:, None]
        self.read = DynamicCache()
        # A place, not a number of places: of a slice the head's product on a CPU first copies the
        # head's weights for every prompt.
        last = torch.tensor([longest - 1], device=self.device)
        self.first_logits = self.model(
            input_ids=ids.to(self.device),
            attention_mask=(positions >= 0).to(self.device),
            position_ids=positions.clamp(min=0).to(self.device),
            past_key_values=self.read,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, -1]
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

    def _drawn(self) -> Tensor | None:
        """Return the lines' random numbers (lines,); an idle one has that of the last row."""
        if self.draws is None:
            return None
        return self.draws[self.row.clamp(max=len(self.draws) - 1), self.written]

    def _note(self, ids: Tensor) -> None:
        """Take down the tokens (lines,) that the lines chose, and which rows end with them."""
        self.tokens[self.row, self.written] = ids
        self.written += self.is_on
        ends = torch.isin(ids, self.enders) | (self.written == self.ends.max_new_tokens)
        for line in (ends & self.is_on).nonzero().flatten().tolist():
            row = int(self.row[line])
            own = self.tokens[row, : int(self.written[line])]
            if finish := self.ends.finish(own):
                self.done[row] = self.ends.completion(own, finish)
                self.row[line], self.written[line], self.is_on[line] = len(self.done), 0, False

    def _read_one_token(self, ids: Tensor) -> None:
        """Read what each line has just written; those that are done are read too, for nothing."""
        self.cache.advance(int(self.cached[self.is_on].max()))
        self.cached += self.is_on
        column, end = torch.arange(self.cache.columns), self.cache.end
        is_own = (column >= end - self.cached[:, None]) & (column < end)
        told = (part.to(self.device) for part in (ids, self.cached - 1, is_own))
        self.logits = self.step(*told, self.cache)


def choose(logits: Tensor, temperature: float, draws: Tensor | None) -> Tensor:
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
