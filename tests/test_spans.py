"""A row as it is shown to a person: its labels as they are, and nothing invisible."""

import re

from tokenizers_for_tests import build

from posttrain import masking, spans
from posttrain.masking import IGNORE, Row


def test_view_shows_what_is_masked_and_what_is_learnt():
    tokenizer = build("byte_level").tokenizer
    row = masking.encode(tokenizer, "6 kg?\nAnswer:", " <answer>6000</answer>", max_length=64)
    shown = spans.view(tokenizer, row, colour=False).splitlines()
    assert [line.rstrip() for line in shown[::2]] == [
        "masked    6  6│·kg│?│↵│Answer│:",
        "learnt    4  ·│<answer>│6000│</answer>",
        "stop      1  </s>",
    ]
    assert [int(i) for line in shown[1::2] for i in line.split()] == row.input_ids
    coloured = spans.view(tokenizer, row)
    assert "\033[32m·│<answer>│6000│</answer>\033[0m" in coloured
    assert re.sub("\033\\[[0-9;]*m", "", coloured).splitlines() == shown


def test_view_shows_wrong_labels_as_they_are_and_no_control_characters():
    tokenizer = build("byte_level").tokenizer
    row = masking.encode(tokenizer, "a\033[31m|é😀", " 6", max_length=64)
    bad = Row(row.input_ids, [row.input_ids[0], *row.labels[1:-1], IGNORE])
    shown = spans.view(tokenizer, bad, colour=False)
    assert [line.split()[0] for line in shown.splitlines()[::2]] == ["learnt", "masked"] * 2
    assert "\033" not in shown
    assert "a" in shown
    assert "\\x1b│[│3│1│m│|│" in shown
