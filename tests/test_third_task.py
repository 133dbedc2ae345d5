"""A third task is one module and nothing else: no other knows what is asked and answered."""

import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import test_report
import test_tasks

import posttrain
from posttrain import (
    comparison,
    imports,
    masking,
    mistakes,
    pretraining,
    prompts,
    questions,
    scoring,
    tasks,
    triples,
)
from posttrain.errors import PromptError, QuestionError
from posttrain.sampling import Completion

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
PACKAGE = SCRIPTS / "posttrain"
MODULE = Path(__file__).parent / "third_task" / "task_letters.py"
TOLERANCES = test_tasks.TOLERANCES


@pytest.fixture
def letters(monkeypatch):
    """The task as the config would load it, by its name, from a file of the package."""
    monkeypatch.setattr(posttrain, "__path__", [*posttrain.__path__, str(MODULE.parent)])
    yield tasks.task_of("letters")
    del sys.modules[tasks.module_of("letters")], posttrain.task_letters


def test_it_gives_all_of_the_interface(letters):
    test_tasks.test_a_task_gives_all_of_the_interface("letters")
    test_tasks.test_every_pretrained_answer_is_right_and_its_steps_lead_to_it("letters")


def test_its_questions_are_asked_and_ones_own_read(letters, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[["How many letters have ab and c?", 3], ["And a word?", 4]]')
    kept_out = letters.held_out(0, 0.2)
    found = questions.splits(
        {"train": None, "valid": str(path)}, lambda: letters.questions(0, 30, 0, kept_out), letters
    )
    assert len(found["train"].rows) == 30
    assert [row["words"] for row in found["valid"].rows] == ["ab c", None]
    path.write_text('[["How many letters have ab and c?", 2.5]]')
    with pytest.raises(QuestionError, match=r"mine\.json row 1: the answer 2\.5 is no count"):
        questions.splits(dict.fromkeys(("train", "valid"), str(path)), dict, letters)


def test_its_text_makes_the_tokenizer_and_its_answers_are_trained_on(letters):
    texts = itertools.islice(letters.documents(0, frozenset()), 500)
    tokenizer = pretraining.train_tokenizer(texts, tasks.marks(letters))
    assert {"[[", "]]"} <= set(tokenizer.get_vocab())
    recipe = {"task": "letters", "prompts": test_tasks.CONFIG["prompts"], "answer_digits": 1}
    row = {"id": "train-0001", "question": letters.EXAMPLE[0], "answer": 10.0}
    kept = row | {"answer": "10", "reasoning": "5 + 5 = 10."}
    for style, said in (("answer", " [[10]]"), ("reasoning", " 5 + 5 = 10. [[10]]")):
        pair = prompts.training_pair(
            tokenizer, kept if style == "reasoning" else row, style, recipe
        )
        assert pair[1] == said
        made = masking.encode(tokenizer, *pair, max_length=200)
        learnt = [label for label in made.labels if label != masking.IGNORE]
        assert tokenizer.decode(learnt) == said + tokenizer.eos_token
    with pytest.raises(PromptError, match=r"leave \[\[ and \]\] out of it"):
        prompts.training_pair(tokenizer, kept | {"reasoning": "[[10]]"}, "reasoning", recipe)


def judged(task, text):
    return scoring.judge_reasoned(Completion(text, 9, "stop"), 10.0, TOLERANCES, task)


def test_its_answers_and_traces_are_judged(letters, tmp_path):
    for text in (letters.EXAMPLE[2], "5 + 5 = [[10]]"):
        found = judged(letters, text)
        assert scoring.is_sound(found), text
        assert letters.held_out_teller(0, 1.0, [])(found["path"])
    assert judged(letters, "5 + 5 = 11. [[10]]")["trace"] == "wrong"
    assert judged(letters, "5 + 5 = <answer>10</answer>")["verdict"] == "unparseable"
    assert judged(letters, "5 + 5 = 10.\n#### 10")["verdict"] == "unparseable"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([[*letters.EXAMPLE[:2], f"{letters.EXAMPLE[2]} and on"]]))
    asked = [{"id": "train-0001", "question": letters.EXAMPLE[0], "answer": 10.0}]
    found = triples.judged(triples.read(path, letters), asked, TOLERANCES, letters)
    assert (found.rollouts[0]["completion"], found.cut) == (letters.EXAMPLE[2], 1)


def test_its_mistakes_and_groups_are_told_in_its_own_words(letters, tmp_path):
    kept_out = letters.held_out(0, 0.2)
    splits = letters.questions(0, 300, 60, kept_out)
    lines = []
    for row in splits["valid"]:
        said = f"[[{len(row['words'].split()[0])}]]"
        verdict = scoring.judge(Completion(said, 9, "stop"), row["answer"], TOLERANCES, letters)
        asked = {"id": row["id"], "question": row["question"], "prompt": row["question"]}
        lines.append({**asked, "completion": said, "gold": row["answer"], **verdict})
    counts = mistakes.counted(lines, splits["valid"], letters)
    assert list(counts)[2:4] == ["the first word alone", "the second word alone"]
    assert counts["the first word alone"] > 30

    rows = comparison.breakdown({"sft": lines}, *reversed(splits.values()), kept_out, letters)
    assert {row["group"] for row in rows} == set(letters.GROUPS)
    table = test_report.as_csv(tmp_path / "table.csv", rows, comparison.BREAKDOWN_COLUMNS)
    evidence = replace(
        test_report.made_in(tmp_path),
        breakdown=table,
        questions=splits["valid"],
        predictions={"sft": lines},
        task=letters,
    )
    text = test_report.Page(test_report.written(evidence)).text
    for words in ("a word never in training (", "held out: yes (", "the first word alone"):
        assert words in text
    assert "quantity" not in text


# What knows a task

TASKS = sorted(PACKAGE.glob("task_*.py"))
COMMON = {"all", "category", "held_out", "steps"}  # of every task, and keys of the config


def code(scripts: Iterable[Path], loaded: str | None = None) -> set[Path]:
    """Return what scripts are made of, with the task that is loaded, or with none."""
    load = {tasks.__name__: tasks.module_of(loaded)} if loaded else None
    return {path for script in scripts for path in imports.code_files(script, load)}


def known_of(name: str, text: str) -> list[str]:
    """Return what a text names of a task: itself, its marks, its own columns, groups and words."""
    task = tasks.task_of(name)
    [row] = task.questions(0, 1, 0, frozenset())["train"]
    said = {word for values in task.WORDS.values() for word in values.values()}
    strings = {name, *task.COLUMNS, *task.GROUPS, *task.slips(row), *said} - COMMON
    found = [mark for mark in tasks.marks(task) if mark in text]
    found += [task.EXAMPLE[0]] if task.EXAMPLE[0] in text else []
    found += re.findall(rf"\btask_{name}\b", text)
    return found + [s for s in sorted(strings) if re.search(f"[\"'`]{re.escape(s)}[\"'`]", text)]


def test_no_other_file_knows_a_task():
    names = [path.stem.removeprefix("task_") for path in TASKS]
    assert len(names) > 1
    scripts = sorted(SCRIPTS.glob("*.py"))
    shared = code(scripts)
    own = set().union(*(code(scripts, name) for name in names)) - shared
    assert own >= set(TASKS)
    others = [*scripts, *(path for path in PACKAGE.glob("*.py") if path not in own)]
    others += [ROOT / "Snakefile", *ROOT.glob("rules/*.smk"), *ROOT.glob("report/*")]
    assert PACKAGE / "report.py" in others
    for name in names:
        for path in others:
            assert known_of(name, path.read_text("utf-8")) == [], path
        own_text = (PACKAGE / f"task_{name}.py").read_text("utf-8")
        assert len(known_of(name, own_text)) > 3, "this test no longer sees a task"


def test_a_run_with_it_has_its_code_and_no_other_tasks(tmp_path):
    copied = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, copied, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(MODULE, copied / "posttrain")
    for script in sorted(copied.glob("*.py")):
        found = {path.stem for path in code([script], "letters")}
        assert ("task_letters" in found) is ("tasks" in found)
        assert not {"task_units", "units", "tags", "task_arithmetic", "arithmetic"} & found
