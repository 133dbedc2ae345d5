"""Plots are figures as pictures: every value is there as text, and the bytes are the same."""

import xml.etree.ElementTree as ET

import pytest

from posttrain import plots
from posttrain.diagram import Step, drawn, edges

POINTS = {
    "length": [plots.Point("sft", 0.5, 0.4, 0.6), plots.Point("rft", 0.875, 0.8, 0.95)],
    "mass <&> $x$": [plots.Point("sft", 0.0, 0.0, 0.1), plots.Point("rft", 1.0, 0.9, 1.0)],
}
DRAWINGS = {
    "intervals": lambda: plots.intervals(POINTS, ["sft", "rft"], 'said "so"', "share"),
    "stacked": lambda: plots.stacked(
        {"sft": {"correct": 7, "wrong": 3}, "rft": {"correct": 10, "wrong": 0}}, "said", "questions"
    ),
    "bars": lambda: plots.bars({"0": 3, "0.00-0.25": 0, "1": 12}, "said", "rate"),
    "shares": lambda: plots.shares({"all": 0.25, "mass": 1.0}, "said", "share"),
    "curves": lambda: plots.curves({"loss": [(1, 2.5), (2, 1.25)]}, "said", "step"),
}
LABELS = {
    "intervals": ["length", "mass <&> $x$", "sft 0.500", "rft 0.875", "sft 0.000", "rft 1.000"],
    "stacked": ["sft", "rft", "correct", "wrong", "7", "3", "10"],
    "bars": ["0", "0.00-0.25", "1", "3", "12"],
    "shares": ["all", "mass", "0.250", "1.000"],
    "curves": ["loss", "1.25", "step"],
}


def texts(svg: str) -> list[str]:
    """Return what is written in an SVG; it is XML by itself."""
    return [node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


@pytest.mark.parametrize("name", DRAWINGS)
def test_values_and_labels_are_text(name):
    assert [label for label in LABELS[name] if label not in texts(DRAWINGS[name]())] == []


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_figures_make_the_same_bytes(name):
    assert DRAWINGS[name]() == DRAWINGS[name]()


def test_a_drawing_is_told_in_words_and_names_no_date_and_no_font_of_ours():
    svg = DRAWINGS["intervals"]()
    assert ET.fromstring(svg).get("aria-label") == 'said "so"'
    assert "metadata" not in svg
    assert "DejaVu" not in svg


def test_two_drawings_of_a_page_share_no_id():
    one, two = (plots.bars({"0": 3, "1": 12}, alt, "rate") for alt in ("one", "two"))
    ids = [
        {node.get("id") for node in ET.fromstring(svg).iter() if node.get("id")}
        for svg in (one, two)
    ]
    assert not ids[0] & ids[1]


def step(name: str, read: str = "", wrote: str = "") -> Step:
    return Step(name, True, "1 s", frozenset(read.split()), frozenset(wrote.split()))


CHAIN = [
    step("base", wrote="b"),
    step("questions", wrote="q v"),
    step("tokenize", "b q", "t"),
    step("train", "b t", "a"),
    step("evaluate", "b v a", "p"),
    step("a <leaf>", "t"),
]


def test_an_arrow_leads_from_what_was_read_but_not_where_others_lead_too():
    assert edges(CHAIN) == {
        ("base", "tokenize"),
        ("questions", "tokenize"),
        ("tokenize", "train"),
        ("train", "evaluate"),
        ("tokenize", "a <leaf>"),
    }


def test_a_diagram_names_every_step_and_stands_within_its_width():
    svg = drawn(CHAIN, "the chain")
    assert [text for text in texts(svg) if text != "1 s"] == [one.name for one in CHAIN]
    for box in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect"):
        assert float(box.get("x")) >= 0
        assert float(box.get("x")) + float(box.get("width")) <= 360
