"""What a causal model thinks of labelled rows: the loss of training, and the probes of receipts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posttrain.errors import MaskError
from posttrain.masking import IGNORE

if TYPE_CHECKING:
    from torch import nn

Row = Mapping[str, Any]


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
