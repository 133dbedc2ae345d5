"""The loss of training and the probes of receipts are transformers' own figures, row by row."""

import math

import pytest
import torch
from training_for_tests import labelled_rows, tiny_model

from posttrain.errors import MaskError
from posttrain.likelihood import (
    LINE_MULTIPLE,
    collate,
    completion_logprobs,
    mean_logprobs,
    mixes_rows,
    pack,
    packed_logprobs,
)
from posttrain.masking import IGNORE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def rows():
    """Rows of 3 lengths at least, so that a batch of them is padded."""
    found = labelled_rows(12)
    found[3] = found[3] | {"input_ids": found[3]["input_ids"][4:], "labels": found[3]["labels"][4:]}
    assert len({len(row["input_ids"]) for row in found}) > 2
    return found


def test_a_batch_is_padded_on_the_right_without_label_or_attention(rows):
    batch = collate(rows, CPU)
    longest = max(len(row["input_ids"]) for row in rows)
    for name, filler in (("input_ids", 0), ("attention_mask", 0), ("labels", IGNORE)):
        assert batch[name].shape == (len(rows), longest)
        assert batch[name].dtype == torch.int64
        for row, found in zip(rows, batch[name].tolist(), strict=True):
            count = len(row["input_ids"])
            assert found[:count] == row.get(name, [1] * count)
            assert found[count:] == [filler] * (longest - count)


@torch.no_grad()
def test_the_loss_is_the_one_of_transformers_on_a_padded_batch(model, rows):
    batch = collate(rows, CPU)
    output = model(**batch)
    sums, counts = completion_logprobs(output.logits, batch["labels"])
    assert sums.shape == counts.shape == (len(rows),)
    assert (sums.dtype, counts.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(-sums.sum() / counts.sum(), output.loss)


@torch.no_grad()
def test_each_row_has_the_loss_that_it_has_alone_in_transformers(model, rows):
    batch = collate(rows, CPU)
    sums, counts = completion_logprobs(model(**batch).logits, batch["labels"])
    alone = torch.stack([model(**collate([row], CPU)).loss for row in rows])
    torch.testing.assert_close(-sums / counts, alone)
    assert counts.tolist() == [sum(i != IGNORE for i in row["labels"]) for row in rows]


def test_the_sum_is_the_one_counted_by_hand():
    logits = torch.tensor([[[0.0, math.log(3)], [9.0, 9.0], [math.log(7), 0.0], [5.0, 0.0]]])
    labels = torch.tensor([[0, 1, IGNORE, 0]])
    # Position 0 predicts label 1 with 3/4, position 2 predicts label 0 with 7/8.
    sums, counts = completion_logprobs(logits, labels)
    torch.testing.assert_close(sums, torch.tensor([math.log(3 / 4) + math.log(7 / 8)]))
    assert counts.tolist() == [2]


def test_logits_in_bfloat16_are_summed_in_float32(model, rows):
    batch = collate(rows, CPU)
    logits = model(**batch).logits.detach().bfloat16()
    sums, _ = completion_logprobs(logits, batch["labels"])
    exact, _ = completion_logprobs(logits.double(), batch["labels"])
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, exact)


@pytest.mark.parametrize("kept", [None, 0], ids=["all masked", "only the first, never predicted"])
def test_a_row_without_labels_is_refused_and_not_scored_as_perfect(model, rows, kept):
    labels = [IGNORE] * len(rows[1]["labels"])
    if kept is not None:
        labels[kept] = rows[1]["input_ids"][kept]
    batch = collate([rows[0], rows[1] | {"labels": labels}], CPU)
    logits = model(**batch).logits
    with pytest.raises(MaskError, match=r"rows \[1\] of the batch have no supervised token"):
        completion_logprobs(logits, batch["labels"])
    loss = model(**collate([rows[1] | {"labels": labels}], CPU)).loss
    assert loss.isnan(), "transformers now says something else of a batch without labels"


def test_probes_do_not_depend_on_their_neighbours(model, rows):
    together = mean_logprobs(model, rows)
    assert together == [mean_logprobs(model, [row])[0] for row in rows]
    assert mean_logprobs(model, rows[::-1]) == together[::-1]
    assert all(type(value) is float and value < 0 for value in together)
    padded = collate(rows, CPU)
    sums, counts = completion_logprobs(model(**padded).logits, padded["labels"])
    torch.testing.assert_close(torch.tensor(together), (sums / counts).detach())


def test_probing_leaves_no_gradient_and_no_change(model, rows):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    mean_logprobs(model, rows[:2])
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


# Packed rows


def per_row(model, passes, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and counts of each row, from all passes."""
    sums, counts = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
    for packed in passes:
        logp = packed_logprobs(model, packed)
        sums.index_add_(0, packed.rows, logp)
        counts.index_add_(0, packed.rows, torch.ones(len(logp), dtype=torch.int64))
    return sums, counts


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_packed_row_has_the_loss_that_it_has_alone(model, rows, apart, attention):
    model.set_attn_implementation(attention)
    passes = pack(rows, CPU, apart)
    lines = sum(len(packed.input_ids) for packed in passes)
    assert lines == len(rows) if apart else lines < len(rows)
    sums, counts = per_row(model, passes, len(rows))
    alone = torch.tensor(mean_logprobs(model, rows))
    torch.testing.assert_close(sums / counts, alone)
    assert counts.tolist() == [sum(i != IGNORE for i in row["labels"]) for row in rows]


@torch.no_grad()
def test_a_packed_row_does_not_see_its_neighbours(model, rows):
    """Other words in all rows but one leave that one's log-probabilities as they were."""
    lengths = [len(row["input_ids"]) for row in rows]
    others = [
        row | {"input_ids": row["input_ids"] if n == 5 else [9] * lengths[n]}
        for n, row in enumerate(rows)
    ]
    for passes in (pack(rows, CPU), pack(others, CPU)):
        sums, counts = per_row(model, passes, len(rows))
        assert (sums / counts)[5].item() == pytest.approx(mean_logprobs(model, [rows[5]])[0])
    blind = [
        packed.__class__(packed.input_ids, None, packed.targets, packed.rows)
        for packed in pack(others, CPU)
    ]
    sums, counts = per_row(model, blind, len(rows))
    off = abs((sums / counts)[5].item() - mean_logprobs(model, [rows[5]])[0])
    assert off > 1e-3, "this row no longer stands behind another, so nothing could reach it"


def test_packing_wastes_little_and_loses_nothing():
    lengths = [7, 31, 18, 44, 25, 30, 28, 46, 19, 22, 37, 33, 29, 26, 40, 21]
    rows = [
        {"input_ids": [10 * n + i for i in range(length)], "labels": [IGNORE] * (length - 1) + [5]}
        for n, length in enumerate(lengths, 1)
    ]
    [packed] = pack(rows, CPU)
    assert packed.input_ids.shape[1] % LINE_MULTIPLE == 0
    filled = len(packed.input_ids) * (LINE_MULTIPLE - 1)  # up to a whole length, at most
    assert packed.input_ids.numel() - filled < 1.1 * sum(lengths) < len(lengths) * max(lengths)
    starts = (packed.position_ids == 0) & (packed.input_ids != 0)
    assert sorted(packed.input_ids[starts].tolist()) == [10 * n for n in range(1, 17)]
    assert sorted(packed.rows.tolist()) == list(range(16))
    assert (packed.targets != IGNORE).sum() == 16


def test_a_row_s_last_id_has_no_target_and_its_first_is_none():
    """Else a row would learn to foretell the row that it happens to stand beside."""
    rows = [{"input_ids": [n, n + 1, n + 2], "labels": [n, n + 1, n + 2]} for n in (10, 20, 30)]
    [packed] = pack(rows, CPU)
    pairs = zip(packed.input_ids.flatten().tolist(), packed.targets.flatten().tolist(), strict=True)
    learnt = {(one, target) for one, target in pairs if target != IGNORE}
    assert learnt == {(10, 11), (11, 12), (20, 21), (21, 22), (30, 31), (31, 32)}


def test_a_model_without_positions_is_not_packed(rows):
    class Unplaced(torch.nn.Module):
        def forward(self, input_ids, use_cache=False, logits_to_keep=0): ...

    assert mixes_rows(Unplaced(), rows, [0.0] * len(rows))
