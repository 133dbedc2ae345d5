"""Somebody's rollouts are judged as sampled ones are, and ours survive the way there and back."""

import json
import re
from pathlib import Path

import pytest
from test_selection import kept_of

from posttrain import artifacts, scoring, task_units, triples
from posttrain.errors import RolloutError
from posttrain.triples import OTHER, UNKNOWN, Triple

TOLERANCES = {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}
KG = "How many gram are there per 6 kg?"
OZ = "What is the equivalent of 3 oz in gram?"
ASKED = [
    {"id": "train-0001", "question": KG, "answer": 6000.0},
    {"id": "train-0002", "question": OZ, "answer": 85.04856937500001},
]
SOUND = "1 kg = 1000 gram. 6 * 1000 = 6000. <answer>6000</answer>"
OTHER_PATH = "6 * 1000 = 6000. <answer>6000</answer>"


def judged(*rows: tuple[str, float, str], set_aside: tuple[str, ...] = ()) -> triples.Judged:
    return triples.judged([Triple(*row) for row in rows], ASKED, TOLERANCES, task_units, set_aside)


def written(folder: Path, value: object) -> Path:
    path = folder / "mine.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


# Judged


def test_a_rollout_has_the_columns_and_verdicts_of_a_sampled_one():
    [rollout] = judged((KG, 6000, SOUND)).rollouts
    assert rollout == {
        "question_id": "train-0001",
        "question": KG,
        "gold": 6000.0,
        "sft_verdict": None,
        "sft_parsed": None,
        "chunk": None,
        "seed": None,
        "sample": 0,
        "completion": SOUND,
        "tokens": None,
        "finish": None,
        "parsed": 6000.0,
        "verdict": "correct",
        "trace": "right",
        "path": scoring.judge_trace(SOUND, task_units)["path"],
    }


def test_its_columns_stand_in_the_order_of_a_sampled_one():
    source = (Path(triples.__file__).parent / "rollouts.py").read_text(encoding="utf-8")
    sampled = [
        name
        for indent in (12, 20)  # of the question, then of each of its samples
        for name in re.findall(rf'^ {{{indent}}}"(\w+)": ', source, re.MULTILINE)
    ]
    assert {"question_id", "sample", "completion", "finish"} <= set(sampled), "this sees nothing"
    assert [key for key in judged((KG, 6000, SOUND)).rollouts[0] if key in sampled] == sampled


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("How many gram are there per 7 kg?", 7000, SOUND), UNKNOWN),
        ((KG, 6001, SOUND), OTHER),
        ((KG, -6000, SOUND), OTHER),
        ((KG, 6000, "6 * 1000 = 6000. <answer>7000</answer>"), "wrong"),
        ((KG, 6000, "6 * 1000 = 6000. <answer>6,000</answer>"), "unparseable"),
        ((KG, 6000, "6 * 1000 = 6000."), "unparseable"),
        ((KG, 6000, ""), "unparseable"),
        ((KG, 6000, "</answer> 6 * 1000 = 6000. <answer>6000</answer>"), "unparseable"),
        ((KG, 6000, "6 * 100 = 6000. <answer>6000</answer>"), "correct with wrong trace"),
        ((KG, 6000, "6 % 1000 = 6000. <answer>6000</answer>"), "correct with unreadable trace"),
        ((KG, 6000, "2 * 2 = 4. <answer>6000</answer>"), "correct with unrelated trace"),
        ((KG, 6000, "<answer>6000</answer>"), "correct with none trace"),
    ],
)
def test_a_row_is_refused_with_its_reason(row, reason):
    assert reason in triples.REASONS
    found = judged((KG, 6000, SOUND), row, row)
    assert found.refused == [(2, reason), (3, reason)]
    is_rollout = reason not in (UNKNOWN, OTHER)
    assert len(found.rollouts) == (3 if is_rollout else 1)
    counts = {row["reason"]: row for row in triples.counted(found.refused)}
    assert counts.pop(reason) == {"reason": reason, "rows": 2, "first_row": 2}
    assert {(row["rows"], row["first_row"]) for row in counts.values()} == {(0, None)}
    kept = kept_of(found.rollouts)
    assert [row["id"] for row in kept] == ["train-0001-00"], "only what is sound is trained on"


def test_a_question_set_aside_to_choose_a_round_by_is_not_trained_on():
    found = judged((KG, 6000, SOUND), (OZ, 85.04856937500001, SOUND), set_aside=("train-0001",))
    assert found.refused[0] == (1, triples.SET_ASIDE)
    assert [row["question_id"] for row in found.rollouts] == ["train-0002"]
    assert triples.SET_ASIDE in triples.REASONS


@pytest.mark.parametrize(
    ("question", "answer"),
    [(f"  {KG.upper()} ", 6000), (KG.replace(" ", "  "), 6000.000001), (KG, 5999.999999)],
)
def test_case_spacing_and_rounding_do_not_make_another_question(question, answer):
    found = judged((question, answer, SOUND))
    assert found.refused == []
    assert found.rollouts[0]["question"] == KG
    assert found.rollouts[0]["gold"] == 6000.0


def test_what_follows_the_answer_is_left_out_and_counted():
    found = judged((KG, 6000, f"{SOUND} I mean <answer>1</answer>"), (KG, 6000, f"{SOUND}\n"))
    assert [rollout["completion"] for rollout in found.rollouts] == [SOUND, SOUND]
    assert found.cut == 1
    assert found.refused == []


def test_samples_of_a_question_are_numbered_wherever_they_stand():
    oz = "1 oz = 28.35 gram. 3 * 28.35 = 85.05. <answer>85.05</answer>"
    found = judged((KG, 6000, SOUND), (OZ, 85.048569375, oz), (KG, 6000, OTHER_PATH))
    ids = [(rollout["question_id"], rollout["sample"]) for rollout in found.rollouts]
    assert ids == [("train-0001", 0), ("train-0002", 0), ("train-0001", 1)]


def test_rollouts_of_other_questions_alone_end_in_one_line():
    with pytest.raises(RolloutError) as caught:
        judged(("What is 7 times 8?", 56, "7 * 8 = 56. <answer>56</answer>"))
    assert "asks 'What is 7 times 8?' and is not a training question" in str(caught.value)
    assert "data.train" in str(caught.value)


# There and back


def test_what_is_exported_comes_back_as_the_same_kept_rows(tmp_path):
    oz = "1 oz = 28.35 gram, so 3 oz = 3 * 28.35 gram = 85.05 gram. <answer>85.05</answer>"
    sampled = judged(
        (KG, 6000, "6 * 10 = 60. <answer>60</answer>"),
        (KG, 6000, SOUND),
        (OZ, 85.04856937500001, oz),
        (KG, 6000, SOUND),
        (KG, 6000, OTHER_PATH),
    )
    kept = kept_of(sampled.rollouts)
    assert [row["id"] for row in kept] == ["train-0001-01", "train-0002-00", "train-0001-03"]
    path = tmp_path / "round1.json"
    artifacts.write_json(path, triples.of_kept(kept, ASKED, task_units))
    assert json.loads(path.read_text())[0] == [KG, 6000.0, SOUND]
    found = triples.judged(triples.read(path, task_units), ASKED, TOLERANCES, task_units)
    again = kept_of(found.rollouts)
    assert found.refused == []
    # Ids number the samples, of which the kept ones alone came along.
    assert [{**row, "id": ""} for row in again] == [{**row, "id": ""} for row in kept]
    first = path.read_bytes()
    artifacts.write_json(path, triples.of_kept(again, ASKED, task_units))
    assert path.read_bytes() == first


# Malformed


def test_a_file_is_read_as_it_stands(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([[KG, 6000, "ü <answer>6000</answer>"]]).encode())
    assert triples.read(path, task_units) == [Triple(KG, 6000.0, "ü <answer>6000</answer>")]


GOOD = [KG, 6000, SOUND]


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ([KG, 6000], f'["{KG}", 6000.0]'),
        ([KG, "6000", SOUND], f'["{KG}", "6000"'),
        ([KG, True, SOUND], "true"),
        ([KG, None, SOUND], "null"),
        ([KG, float("nan"), SOUND], "NaN"),
        ([KG, 10**400, SOUND], "Infinity"),
        ([KG, 6000, None], "null"),
        ([KG, 6000, ["6"]], '["6"]'),
        ([KG, 6000, SOUND, 0], SOUND[:20]),
        ([7, 6000, SOUND], "[7.0, "),
        ([" ", 6000, SOUND], '[" ", '),
        ([KG, 6000, "half a character \ud800"], "half a character \\ud800"),
        ([KG, 6000, "a zero \0"], "a zero \\u0000"),
        ({"question": KG, "answer": 6000, "reasoning": SOUND}, '{"question": '),
        (KG, f'"{KG}"'),
    ],
    ids=str,
)
def test_a_malformed_row_is_named_with_its_file(tmp_path, row, shown):
    path = written(tmp_path, [GOOD, GOOD, row])
    with pytest.raises(RolloutError) as caught:
        triples.read(path, task_units)
    message = str(caught.value)
    assert message.startswith(f"{path} row 3 is ")
    assert shown in message
    assert message.endswith(f"a text, a number, a text; write {json.dumps(task_units.EXAMPLE)}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "line 1, column 1 is not JSON"),
        (b'[["q", 1, "r"]\n["q"', "line 2, column 1 is not JSON"),
        (b"[]", "is no list of rows"),
        (b'{"rows": []}', "is no list of rows"),
        (b"[" * 100_000, "is nested too deeply"),
        ("[µ]".encode("latin-1"), "is not UTF-8 at byte 1"),
    ],
    ids=["empty", "cut off", "no rows", "object", "deep", "latin"],
)
def test_a_malformed_file_ends_in_one_line(tmp_path, data, said):
    path = tmp_path / "mine.json"
    path.write_bytes(data)
    with pytest.raises(RolloutError) as caught:
        triples.read(path, task_units)
    assert str(caught.value).startswith(f"{path} {said}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RolloutError, match=r"gone\.json cannot be read: No such file"):
        triples.read(tmp_path / "gone.json", task_units)


def test_the_example_in_the_messages_is_itself_a_sound_row(tmp_path):
    found = triples.judged(
        triples.read(written(tmp_path, [task_units.EXAMPLE]), task_units),
        ASKED,
        TOLERANCES,
        task_units,
    )
    assert found.refused == []
