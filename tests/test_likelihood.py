"""The loss of training and the probes of receipts are transformers' own figures, row by row."""

import math

import pytest
import torch
from training_for_tests import labelled_rows, tiny_model

from posttrain.errors import MaskError
from posttrain.likelihood import collate, completion_logprobs, mean_logprobs
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
