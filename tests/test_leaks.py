"""Validation questions that stand in training or in a text, letter by letter or in other dress."""

import time
from typing import Any

import pytest

from posttrain import leaks


def rows_of(*asked: str) -> list[dict[str, Any]]:
    return [{"id": f"valid-{n:04d}", "question": q} for n, q in enumerate(asked, start=1)]


def test_leaks_into_training_are_exact_or_normalised_and_whole():
    valid = rows_of("What is 2 m in cm?", "What is 3 m in cm?", "2 + 3", "What is 4 m in cm?")
    training = [
        "What is 2 m in cm?",
        "what is  3 m in \uff43\uff4d?",
        "2 + 3 + 4",
        "What is 4 m in cm",
    ]
    assert leaks.found(valid, questions={"training": training}, texts={}) == [
        {"id": "valid-0001", "where": "training", "how": "exact"},
        {"id": "valid-0002", "where": "training", "how": "normalised"},
    ]


@pytest.mark.parametrize(
    ("document", "how"),
    [
        ("What is 2 m in cm?", "exact"),
        ("Question: What is 2 m in cm?\nReasoning: 2 * 100 = 200.", "exact"),
        ("WHAT IS 2 m in cm? ... What is 2 m in cm?", "exact"),
        ("Question: what is 2 m\nin cm? 200", "normalised"),
        ('She asked, "what is \uff12 m in CM"; nobody knew.', "normalised"),
        ("What is 2 m in cm/s?", None),
        ("What is 2 m in mm? What is 3 m in cm?", None),
        ("What is 12 m in cm?", None),
        ("What is 2 m in", None),
        ("", None),
    ],
)
def test_leaks_into_texts(document, how):
    texts = {"pretraining": ["nothing", document]}
    found = leaks.found(rows_of("What is 2 m in cm?"), questions={}, texts=texts)
    assert [leak["how"] for leak in found] == [how] * (how is not None)


def test_leaks_come_in_the_order_of_the_questions_and_once_a_place():
    valid = rows_of("Q one?", "Q two?", "Q two? really?")
    found = leaks.found(
        valid,
        questions={"training": ["q two?", "Q one?", "Q one?"]},
        texts={"pretraining": iter(["Q two? Really? Q two?", "q TWO? Q one?"])},
    )
    assert [(leak["id"][-1], leak["where"], leak["how"]) for leak in found] == [
        ("1", "training", "exact"),
        ("1", "pretraining", "exact"),
        ("2", "training", "normalised"),
        ("2", "pretraining", "exact"),
        ("3", "pretraining", "normalised"),
    ]


def test_the_search_in_texts_takes_time_in_proportion_to_them():
    valid = rows_of(*(f"How many gram are there per {n} kg?" for n in range(1000)))
    texts = [f"Question: how many gram are there per {n}.5 kg? No." for n in range(4000)]

    def seconds(times: int) -> float:
        began = time.perf_counter()
        assert not leaks.found(valid, questions={}, texts={"pretraining": texts * times})
        return time.perf_counter() - began

    once, fourfold = (min(seconds(times) for _ in range(3)) for times in (1, 4))
    assert fourfold < 10 * once  # 4 where it is linear, 16 where it is quadratic
