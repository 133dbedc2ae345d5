"""Wrong answers by their numbers: each in one kind, the first that fits."""

import pytest

from posttrain import mistakes, task_arithmetic, task_units

SLIPS = ["the quantity unconverted", "the factor alone", "the factor the wrong way round"]


@pytest.mark.parametrize(
    ("parsed", "gold", "quantity", "kind"),
    [
        (600, 6000, 6, "off by a power of ten"),
        (6e6, 6000, 6, "off by a power of ten"),
        (601, 6000, 6, "off by a power of ten"),
        (-6000, 6000, 6, "the other sign"),
        (6, 72, 6, "the quantity unconverted"),
        (12, 72, 6, "the factor alone"),
        (0.5, 72, 6, "the factor the wrong way round"),
        (80, 72, 6, "within 20%"),
        (60, 72, 6, "within 20%"),
        (100, 72, 6, "another number"),
        (0.5, 72, None, "another number"),
        (1, 0, 6, "another number"),
        (6, 0, 6, "another number"),
        # Both a quantity left as it is and a factor of 100: the number alone cannot tell.
        (6, 600, 6, "off by a power of ten"),
    ],
)
def test_a_wrong_answer_is_of_one_kind(parsed, gold, quantity, kind):
    slips = task_units.slips({"quantity": quantity, "answer": gold})
    assert mistakes.kind(parsed, gold, slips) == kind


def test_only_wrong_answers_count_and_every_kind_stands():
    questions = [{"id": n, "quantity": 6, "answer": 72.0} for n in range(4)]
    lines = [
        {"id": 0, "verdict": "correct", "parsed": 72.0, "gold": 72.0},
        {"id": 1, "verdict": "wrong", "parsed": 6.0, "gold": 72.0},
        {"id": 2, "verdict": "unparseable", "parsed": None, "gold": 72.0},
        {"id": 3, "verdict": "wrong", "parsed": 12.0, "gold": 72.0},
    ]
    found = mistakes.counted(lines, questions, task_units)
    assert list(found) == [*mistakes.FIRST, *SLIPS, *mistakes.LAST]
    assert {kind: n for kind, n in found.items() if n} == {
        "the quantity unconverted": 1,
        "the factor alone": 1,
    }


@pytest.mark.parametrize(
    ("task", "question"),
    [
        (task_arithmetic, {"id": 0, "plot": "sharing", "answer": 72.0}),
        (task_units, {"id": 0, "quantity": None, "answer": 72.0}),
        (task_units, {"id": 0, "quantity": 1e10, "answer": 5e-324}),
    ],
)
def test_what_no_question_lets_tell_is_not_counted_as_none(task, question):
    lines = [{"id": 0, "verdict": "wrong", "parsed": 6.0, "gold": 72.0}]
    found = mistakes.counted(lines, [question], task)
    assert list(found) == [*mistakes.FIRST, *mistakes.LAST]
    assert found["another number"] == 1
