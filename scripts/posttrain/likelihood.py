"""What a causal model thinks of labelled rows: the loss of training, and the probes of receipts."""

import heapq
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posttrain.errors import MaskError
from posttrain.masking import IGNORE

if TYPE_CHECKING:
    from torch import nn

Row = Mapping[str, Any]
# Tokens of one forward and backward pass: bounds what activations take, 8 GiB at SmolLM2-360M.
PASS_TOKENS = 2048
# A token's matrix products cost about as much as its attention over so many neighbours, masked ones
# too: what weighs the emptiness of lines against their length when rows are packed into them.
ATTENTION_PARITY = 512
# Lines are so many tokens long, or a multiple: a CPU's products are prepared anew for every length.
LINE_MULTIPLE = 4
# By how much two passes of one model may differ, in nats, Kullback and Leibler's. Rounding alone
# gives some 1e-7 in float32, and in bfloat16 from 4e-5 to 0.03, the most with the large logits of
# random weights ten times the usual.
DIVERGENCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Packed:
    """Rows side by side in lines of one length, for one pass; each row sees itself alone.

    input_ids, position_ids, targets: (lines, T), int64. A target is the label of the next token of
    the same row, IGNORE where that is masked or there is none. position_ids are None where each
    line is one row. rows: for every target that is not ignored, line by line, its row's number.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    targets: Tensor
    rows: Tensor


def collate(rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
    """Return rows as one batch, padded on the right to the longest of them.

    Args: rows with `input_ids` and `labels`, lists of one length each.
    Returns: input_ids, attention_mask and labels, each (B, T) int64. The padding id is 0, whatever
        token that is: it is masked from attention and has no label.
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(lists: list[list[int]], filler: int) -> Tensor:
        full = [one + [filler] * (longest - len(one)) for one in lists]
        return torch.tensor(full, dtype=torch.int64, device=device)

    return {
        "input_ids": padded([list(row["input_ids"]) for row in rows], 0),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": padded([list(row["labels"]) for row in rows], IGNORE),
    }


def pack(rows: Sequence[Row], device: torch.device, apart: bool = False) -> list[Packed]:
    """Return `rows` packed for one pass or several, none above `PASS_TOKENS` but of one long row.

    A row begins at position 0; that is how transformers tells where one ends and the next begins.
    Args: apart, one row a line, for models that mix neighbours however their positions run.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    numbers = sorted(range(len(rows)), key=lambda number: -lengths[number])
    lines = [[number] for number in numbers] if apart else _lines(lengths, numbers)
    size = _whole(max(sum(lengths[number] for number in line) for line in lines))
    passes = math.ceil(len(lines) / max(1, PASS_TOKENS // size))
    a_pass = math.ceil(len(lines) / passes)
    chunks = [lines[start : start + a_pass] for start in range(0, len(lines), a_pass)]
    return [_pack_lines(rows, chunk, device, apart) for chunk in chunks]


def _lines(lengths: Sequence[int], longest_first: Sequence[int]) -> list[list[int]]:
    """Return row numbers by line, in as many lines as cost least.

    Each row goes to the shortest line so far (Graham 1969), so that the lines end alike.
    """
    best, least = [], math.inf
    longest = max(PASS_TOKENS, max(lengths))
    for count in range(1, len(lengths) + 1):
        lines = [(0, number, []) for number in range(count)]
        for number in longest_first:
            size, rank, line = lines[0]
            heapq.heapreplace(lines, (size + lengths[number], rank, [*line, number]))
        tokens = max(lines)[0]
        size = _whole(tokens)
        cost = count * size * (ATTENTION_PARITY + size)
        if tokens <= longest and cost < least:
            best, least = [line for _, _, line in lines], cost
        if tokens == max(lengths):
            break  # more lines only waste more
    return best


def _whole(length: int) -> int:
    return math.ceil(length / LINE_MULTIPLE) * LINE_MULTIPLE


def _pack_lines(
    rows: Sequence[Row], lines: Sequence[Sequence[int]], device: torch.device, apart: bool
) -> Packed:
    ids = [[i for number in line for i in rows[number]["input_ids"]] for line in lines]
    positions = [[i for n in line for i in range(len(rows[n]["input_ids"]))] for line in lines]
    targets = [[t for n in line for t in [*rows[n]["labels"][1:], IGNORE]] for line in lines]
    owners = [
        number
        for line in lines
        for number in line
        for label in rows[number]["labels"][1:]
        if label != IGNORE
    ]
    longest = _whole(max(map(len, ids)))

    def filled(lists: list[list[int]], filler: int) -> Tensor:
        full = [one + [filler] * (longest - len(one)) for one in lists]
        return torch.tensor(full, dtype=torch.int64, device=device)

    # The filling is a row of one id each, at position 0: without label, and nobody's neighbour.
    return Packed(
        input_ids=filled(ids, 0),
        position_ids=None if apart else filled(positions, 0),
        targets=filled(targets, IGNORE),
        rows=torch.tensor(owners, dtype=torch.int64, device=device),
    )


def packed_logits(model: "nn.Module", packed: Packed) -> Tensor:
    """Return the logits (n, V) that foretell every target of `packed.rows`."""
    positions = {} if packed.position_ids is None else {"position_ids": packed.position_ids}
    # Only supervised positions meet the vocabulary: prompts would cost as much again.
    return model(
        input_ids=packed.input_ids,
        use_cache=False,
        logits_to_keep=packed.targets != IGNORE,
        **positions,
    ).logits


def packed_logprobs(model: "nn.Module", packed: Packed) -> Tensor:
    """Return the log-probability of every target of `packed.rows`, (n,) float32, in nats."""
    targets = packed.targets[packed.targets != IGNORE]
    logits = packed_logits(model, packed).float()
    return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def mixes_rows(model: "nn.Module", rows: Sequence[Row], alone: Sequence[float]) -> bool:
    """Tell whether `model` gives rows of one line other log-probabilities than it gives `alone`.

    Layers that carry a state along, such as convolutions, run over a row's end into the next; so
    do models that take no positions.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return True
    # Not as `pack` would: rows of one length it puts in a line each, and nothing could mix.
    packed = _pack_lines(rows, [range(len(rows))], next(model.parameters()).device, apart=False)
    logp = packed_logprobs(model, packed).cpu()
    sums = torch.zeros(len(rows)).index_add_(0, packed.rows.cpu(), logp)
    counts = torch.bincount(packed.rows.cpu(), minlength=len(rows))
    return not torch.allclose(sums / counts, torch.tensor(alone), rtol=1e-3, atol=1e-3)


def divergence(true: Tensor, found: Tensor) -> float | None:
    """Return how far the distributions that logits (n, V) give lie apart, None if not at all.

    The most that one of `found` diverges from its `true` one, in nats, Kullback and Leibler's; NaN
    if one of `found` is none. Not at all is what rounding explains, `DIVERGENCE`, and whatever goes
    with a `true` that is NaN: that is told where a loss is taken, or a token chosen.
    """
    told, ours = (logits.float().log_softmax(-1) for logits in (true, found))
    each = torch.nn.functional.kl_div(ours, told, reduction="none", log_target=True)
    apart = each.sum(-1).max().item()
    return None if apart <= DIVERGENCE[true.dtype] or not true.isfinite().all() else apart


def completion_logprobs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the log-probabilities that a causal model gives each row's supervised tokens.

    Args: logits (B, T, V), any float dtype, position t predicting token t + 1;
        labels (B, T), int64, IGNORE where masked.
    Returns: the sums, (B,) float32, and how many tokens each row supervises, (B,) int64.
    Raises: MaskError if a row supervises nothing: its 0.0 would be a perfect score.
    Source: transformers' ForCausalLMLoss, summed by row; a test holds the two equal.
    """
    targets = labels[:, 1:]
    supervised = targets != IGNORE
    counts = supervised.sum(dim=1)
    if empty := (counts == 0).nonzero().flatten().tolist():
        raise MaskError(f"rows {empty} of the batch have no supervised token")
    # Only supervised positions meet the vocabulary in float32: prompts would cost as much again.
    picked = logits[:, :-1][supervised].float()
    logp = -torch.nn.functional.cross_entropy(picked, targets[supervised], reduction="none")
    rows = supervised.nonzero()[:, 0]
    return torch.zeros(len(labels), device=logits.device).index_add(0, rows, logp), counts


@torch.no_grad()
def mean_logprobs(model: "nn.Module", rows: Sequence[Row]) -> list[float]:
    """Return each row's mean log-probability per supervised token, in nats, rows one at a time.

    One at a time, without padding: the figure must not depend on its neighbours.
    """
    device = next(model.parameters()).device
    found = []
    for row in rows:
        batch = collate([row], device)
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits
        total, count = completion_logprobs(logits, batch["labels"])
        found.append(float(total / count))
    return found
