"""Tasks: each gives all of the interface, and `arithmetic` is a second one, whole numbers alone."""

import importlib
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from chain_for_tests import TINY, fresh_clone
from test_selection import SELECTION
from tokenizers_for_tests import build

from posttrain import (
    arithmetic,
    arithmetic_corpus,
    comparison,
    leaks,
    prompts,
    questions,
    scoring,
    selection,
    task_arithmetic,
    tasks,
    triples,
)
from posttrain.errors import PromptError, QuestionError, ScoringError
from posttrain.sampling import Completion

ROOT = Path(__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
NAMES = SCHEMA["properties"]["task"]["enum"]
TOLERANCES = {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}
KEPT_OUT = task_arithmetic.held_out(0, 0.3)
PENS = "Ann has 5 bags with 6 pens in each. Ann gives away 4 of them. How many pens are there now?"


@pytest.fixture(scope="module")
def splits():
    return task_arithmetic.questions(0, 600, 600, KEPT_OUT)


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(task_arithmetic.documents(0, KEPT_OUT), 4000))


# What every task gives


def test_the_tasks_that_the_config_may_name_are_the_modules_there_are():
    modules = (ROOT / "scripts" / "posttrain").glob("task_*.py")
    assert sorted(NAMES) == sorted(path.stem.removeprefix("task_") for path in modules)
    assert CONFIG["task"] in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_task_gives_all_of_the_interface(name):
    task = tasks.task_of(name)
    assert isinstance(task, tasks.Task)
    assert task is importlib.import_module(tasks.module_of(name))
    kept_out = task.held_out(0, 0.05)
    splits = task.questions(0, 60, 60, kept_out)
    for rows in splits.values():
        for row in rows:
            assert tuple(row) == ("id", "question", "answer", "category", *task.COLUMNS)
            assert type(row["answer"]) is float
    kinds = list(task.kinds(splits["valid"], splits["train"], kept_out))
    assert {group for kind in kinds for group in kind} == set(task.GROUPS)
    question, answer, reasoning = task.EXAMPLE
    assert task.about(question, answer).keys() == {"category", *task.COLUMNS}
    assert scoring.is_right(reasoning, answer, TOLERANCES, task)
    assert scoring.judge_trace(reasoning, task)["trace"] == "right"
    parted = tasks.parted(task, reasoning)
    assert tasks.answered(task, parted[1], parted[0]) == reasoning
    scoring.self_test([row["answer"] for row in splits["valid"]], 4, TOLERANCES, task)


@pytest.mark.parametrize("name", NAMES)
def test_every_pretrained_answer_is_right_and_its_steps_lead_to_it(name):
    task = tasks.task_of(name)
    worked = 0
    for document in itertools.islice(task.documents(0, task.held_out(0, 0.3)), 1000):
        if "Reasoning:" in document:
            completion = document.partition("Reasoning:")[2]
            assert task.parse(completion) is not None, document
            assert scoring.judge_trace(completion, task)["trace"] == "right", document
            worked += 1
    assert worked > 100


# Answers of arithmetic

ACCEPTED = {
    "#### 42": 42,
    " #### 42\n": 42,
    "5 * 6 = 30.\n30 + 12 = 42.\n#### 42": 42,
    "#### -7": -7,
    "#### +7": 7,
    "#### 007": 7,
    "#### 0": 0,
    "#### 999999999999999": 999999999999999,
    "1 + 1 = 2\r\n#### 2\r\n": 2,
}
REFUSED = [
    "",
    "42",
    "####",
    "#### ",
    "####42",
    "####  42",
    "#### 1,000",
    "#### 42.0",
    "#### 42.",
    "#### 4e1",
    "#### 42 pens",
    "#### pens",
    "#### nan",
    "#### 1_000",
    "#### \u0664\u0662",
    "#### \uff14\uff12",
    "#### - 7",
    "#### --7",
    "#### 1000000000000000",  # more than 15 digits
    "##### 42",
    "### 42",
    "2 * 21 = 42. #### 42",
    "#### 42\nThat is all.",
    "#### 42\n\n#### 42",
    "#### 41\n#### 42",
    "#### 42 #### 42",
    "42 ####",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_whole_number_in_the_last_line_is_an_answer(text):
    assert task_arithmetic.parse(text) == ACCEPTED[text]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_none(text):
    assert task_arithmetic.parse(text) is None


def test_a_cut_completion_is_truncated_and_what_is_near_is_wrong():
    def verdict(text, finish="stop"):
        return scoring.judge(Completion(text, 9, finish), 42.0, TOLERANCES, task_arithmetic)

    assert verdict(" #### 42") == {"parsed": 42.0, "verdict": "correct"}
    assert verdict(" #### 41") == {"parsed": 41.0, "verdict": "wrong"}, "no tolerance applies"
    assert verdict(" 5 * 6 = 30.", "length")["verdict"] == "truncated"
    assert verdict(" 5 * 6 = 30.")["verdict"] == "unparseable"


def leniently(text, gold):
    """Judge as GSM8K's own reading would: the first match anywhere, commas dropped."""
    found = re.search(r"#### (-?[0-9.,]+)", text)
    return found is not None and float(found[1].replace(",", "").rstrip(".") or "nan") == gold


BROKEN = {
    "reads the first of several": leniently,
    "within 5 %": lambda text, gold: (
        (found := task_arithmetic.parse(text)) is not None and abs(found - gold) <= 0.05 * abs(gold)
    ),
    "reads nothing as 0": lambda text, gold: (task_arithmetic.parse(text) or 0.0) == gold,
    "ignores the sign": lambda text, gold: (
        (found := task_arithmetic.parse(text)) is not None and abs(found) == abs(gold)
    ),
    "says yes": lambda text, gold: True,
    "says no": lambda text, gold: False,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_verifier_does_not_pass_its_test(fault):
    with pytest.raises(ScoringError, match="no score of it can be trusted"):
        task_arithmetic.self_test(BROKEN[fault], [20.0, 61.0], 4)


def test_a_verifier_that_raises_does_not_pass_its_test():
    with pytest.raises(ScoringError, match=r"failed on.*ZeroDivisionError"):
        task_arithmetic.self_test(lambda text, gold: 1 / 0, [20.0], 4)


def test_numbers_are_written_in_full_whatever_the_digits():
    assert task_arithmetic.written(123456.0, 4) == "123456"
    with pytest.raises(PromptError, match=r"2\.5 is not whole"):
        task_arithmetic.written(2.5, 4)


# Traces


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("5 * 6 = 30. 30 - 4 = 26.\n#### 26", "right"),
        ("There are 5 * 6 = 30 pens, so 30 - 4 = 26 are left.\n#### 26", "right"),
        ("5 * 6 - 4 = 30 - 4 = 26\n#### 26", "right"),
        ("5 * 6 = 31. 31 - 5 = 26.\n#### 26", "wrong"),
        ("201 + 3 = 203. 203 - 177 = 26.\n#### 26", "wrong"),  # by less than half a per cent
        ("5 * 6 = 30. 30 - 5 = 25.\n#### 26", "unrelated"),
        ("5 bags * 6 pens = 30. 30 - 4 = 26.\n#### 26", "unreadable"),
        ("There are 26.\n#### 26", "none"),
    ],
)
def test_every_equation_has_to_hold_and_the_last_to_lead_to_the_answer(text, trace):
    assert scoring.judge_trace(text, task_arithmetic)["trace"] == trace


def kept_of(rollouts):
    """Return the training rows of a single round."""
    fates = selection.fates([rollouts], SELECTION, lambda path: False)
    return selection.rows_kept([rollouts], fates, task_arithmetic)


def test_a_kept_rollout_is_trained_as_it_was_written():
    text = "5 * 6 = 30. 30 - 4 = 26.\n#### 26"
    rollout = {
        "question_id": "train-0001",
        "question": PENS,
        "sample": 0,
        "completion": text,
        **scoring.judge_reasoned(Completion(text, 9, "stop"), 26.0, TOLERANCES, task_arithmetic),
    }
    [row] = kept_of([rollout])
    assert (row["reasoning"], row["answer"]) == ("5 * 6 = 30. 30 - 4 = 26.", "26")
    recipe = {"task": "arithmetic", "prompts": CONFIG["prompts"], "answer_digits": 1}
    tokenizer = build("byte_level").tokenizer
    assert prompts.training_pair(tokenizer, row, "reasoning", recipe)[1] == f" {text}"
    bare = {"id": "train-0001", "question": PENS, "answer": 26.0}
    assert prompts.training_pair(tokenizer, bare, "answer", recipe)[1] == " #### 26"
    again = row | {"reasoning": "#### 26"}
    with pytest.raises(PromptError, match="trained after the answer; leave #### out of it"):
        prompts.training_pair(tokenizer, again, "reasoning", recipe)


def test_somebodys_rollouts_are_judged(tmp_path):
    text = "5 * 6 = 30. 30 - 4 = 26.\n#### 26"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([[PENS, 26, text], [PENS, 26, f"{text}\nSo 26."]]))
    asked = [{"id": "train-0001", "question": PENS, "answer": 26.0}]
    found = triples.judged(triples.read(path, task_arithmetic), asked, TOLERANCES, task_arithmetic)
    assert [one["verdict"] for one in found.rollouts] == ["correct", "unparseable"]
    kept = kept_of(found.rollouts)
    assert triples.of_kept(kept, asked, task_arithmetic) == [(PENS, 26.0, text)]


# Questions and pretraining text of arithmetic


def told(row):
    """Work a question out from its text alone: its numbers, and its steps as they are stated."""
    values = {}
    for form in row["steps"].split("; "):
        left, sign, right = form.split()
        pair = (int(left), int(right))
        values[form] = {arithmetic.WORK[sign](*pair), arithmetic.WORK[sign](*pair[::-1])}
    return values


def test_questions_are_disjoint_and_keep_the_facts_that_are_held_out_to_validation(splits):
    texts = [row["question"] for rows in splits.values() for row in rows]
    assert len(set(texts)) == len(texts) == 1200
    facts = {
        split: [tuple(row["steps"].split("; ")) for row in rows] for split, rows in splits.items()
    }
    assert not any(fact in KEPT_OUT for fact in facts["train"])
    assert 0.2 < sum(fact in KEPT_OUT for fact in facts["valid"]) / 600 < 0.4
    assert splits == task_arithmetic.questions(0, 600, 600, KEPT_OUT)
    assert splits != task_arithmetic.questions(1, 600, 600, KEPT_OUT)


def test_answers_follow_from_the_steps_and_the_numbers_stand_in_the_question(splits):
    plots = Counter()
    for row in splits["valid"]:
        values = told(row)
        assert any(row["answer"] in found for found in values.values())
        given = set(map(int, re.findall(r"\d+", row["question"])))
        used = {int(n) for form in values for n in form.split()[::2]}
        made = set().union(*values.values())
        assert used <= given | made
        assert given <= used
        assert 0 < row["answer"] <= arithmetic.LARGEST
        plots[row["plot"]] += 1
    assert len(plots) > 40


def test_there_are_many_ways_to_ask():
    assert min(len(arithmetic.plots(2)), len(arithmetic.plots(3))) >= 20
    parts = {part for plot in arithmetic.plots(2) + arithmetic.plots(3) for part in plot}
    assert parts == set(arithmetic.SENTENCES) == set(arithmetic_corpus.SENTENCES)


def test_an_asker_of_too_much_is_told(monkeypatch):
    monkeypatch.setattr(arithmetic, "NAMES", ("Ann", "Ben"))
    monkeypatch.setattr(arithmetic, "THINGS", ("pens",))
    monkeypatch.setattr(arithmetic, "BOXES", ("bags",))
    monkeypatch.setattr(arithmetic, "plots", lambda steps: (("some", "less", "less", "count"),))
    monkeypatch.setattr(arithmetic, "RANGES", dict.fromkeys("ABabcdk", (2, 50)))
    with pytest.raises(QuestionError, match=r"ran out of new questions .* lower data\.train_size"):
        task_arithmetic.questions(0, 1000, 1000, frozenset())


def facts_in(document):
    """Return every two or three sums of a document, in the words of a fact."""
    sums = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", document)
    steps = [arithmetic.Step(int(a), sign, int(b), int(c)) for a, sign, b, c in sums]
    for many in (2, 3):
        for some in itertools.combinations(steps, many):
            yield arithmetic.fact(some)


def test_no_document_holds_a_fact_that_is_held_out(documents):
    """Of a whole problem at the least: what is left out are facts, not sums by themselves."""
    worked = [text for text in documents if "Reasoning:" in text]
    whole = [max(facts_in(text), key=len, default=()) for text in worked]
    assert len(worked) > 1000
    assert not any(len(fact) > 1 and fact in KEPT_OUT for fact in whole)
    free = itertools.islice(task_arithmetic.documents(0, frozenset()), 4000)
    worked = [text for text in free if "Reasoning:" in text]
    whole = [max(facts_in(text), key=len, default=()) for text in worked]
    assert any(len(fact) > 1 and fact in KEPT_OUT for fact in whole), "nothing to see"


def test_the_leak_gate_finds_no_question_in_the_text_and_one_that_is_put_there(splits, documents):
    def met(texts):
        return leaks.found(splits["valid"], questions={}, texts={"pretraining": texts})

    assert met(documents) == []
    row = splits["valid"][7]
    planted = arithmetic_corpus.ANSWER.format(question=row["question"].upper(), answer=1)
    assert met([*documents, planted]) == [
        {"id": row["id"], "where": "pretraining", "how": "normalised"}
    ]


def words(sentences):
    told = " ".join(sentence for some in sentences.values() for sentence in some)
    return set(re.findall("[a-z]+", re.sub("{.*?}", "", told.casefold())))


def test_every_word_of_the_questions_is_read_in_pretraining():
    assert words(arithmetic.SENTENCES) <= words(arithmetic_corpus.SENTENCES)


def test_no_sentence_is_in_both():
    ours, theirs = (
        {re.sub(r"\W", "", sentence.casefold()) for some in given.values() for sentence in some}
        for given in (arithmetic.SENTENCES, arithmetic_corpus.SENTENCES)
    )
    assert not ours & theirs
    assert min(map(len, arithmetic.SENTENCES.values())) >= 2


def test_the_formats_are_those_of_the_default_prompts():
    tokenizer = build("byte_level").tokenizer
    recipe = {"task": "arithmetic", "prompts": CONFIG["prompts"], "answer_digits": 4}
    fields = {"id": "train-0001", "question": PENS, "reasoning": "30 - 4 = 26.", "answer": "26"}
    for style, wording in (
        ("answer", arithmetic_corpus.ANSWER),
        ("reasoning", arithmetic_corpus.REASONING),
    ):
        prompt, completion = prompts.training_pair(tokenizer, fields, style, recipe)
        assert prompt + completion == wording.format(**fields)


def test_questions_of_ones_own_have_whole_answers(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": PENS, "answer": 26, "plot": "x"}, {"question": "Half of 5?", "answer": 5}]
    path.write_text("\n".join(map(json.dumps, rows)))
    given = {"train": str(path), "valid": str(path)}
    found = questions.splits(given, lambda: {}, task_arithmetic)
    assert found["train"].rows[0] == {
        "id": "train-0001",
        "question": PENS,
        "answer": 26.0,
        "category": None,
        "plot": None,
        "steps": None,
    }
    path.write_text("\n".join(map(json.dumps, [rows[0], rows[1] | {"answer": 2.5}])))
    with pytest.raises(QuestionError, match=r"mine\.jsonl row 2: the answer 2\.5 is not whole"):
        questions.splits(given, lambda: {}, task_arithmetic)


def test_accuracy_is_broken_down_by_the_tasks_own_groups(splits):
    lines = [
        {"id": row["id"], "verdict": "correct" if n % 2 else "wrong"}
        for n, row in enumerate(splits["valid"])
    ]
    rows = comparison.breakdown(
        {"rft": lines}, splits["valid"], splits["train"], KEPT_OUT, task_arithmetic
    )
    sizes = Counter()
    for row in rows:
        sizes[row["group"]] += row["questions"]
    assert sizes == dict.fromkeys(task_arithmetic.GROUPS, 600)
    values = {(row["group"], row["value"]) for row in rows}
    assert {("steps", "2"), ("steps", "3"), ("held_out", "yes"), ("category", "share")} <= values


# The whole chain

# As small as brings rollouts to train on: one answer in eight is right, with 200 steps none.
SMALL = {
    "task": "arithmetic",
    "data": {"train_size": 60, "valid_size": 20},
    "embedded": {"layers": 3, "heads": 4, "kv_heads": 2, "steps": 500, "learning_rate": 0.02},
}


@pytest.mark.chain
def test_the_whole_chain_runs_on_arithmetic_and_knows_no_other_task(tmp_path):
    chain = fresh_clone(tmp_path / "workflow")
    given = ("--cores", "1", "--resources", "gpu=1", "--configfile", TINY, chain.overlay(SMALL))
    said = chain.snakemake("all", "results/rft_data/round1.json", *given)
    assert said.status == 0, said.text

    asked = chain.rows("results/questions/valid.jsonl")
    for model in ("base", "cot", "sft", "rft"):
        lines = chain.rows(f"results/{model}_predictions.jsonl")
        assert [line["gold"] for line in lines] == [row["answer"] for row in asked]
        for line in lines:
            parsed = task_arithmetic.parse(line["completion"])
            assert line["parsed"] == parsed
            assert (line["verdict"] == "correct") == (parsed == line["gold"])
    kept = chain.rows("results/rft_data/round1.jsonl")
    golds = {row["id"]: row["answer"] for row in chain.rows("results/questions/train.jsonl")}
    assert kept
    for row in kept:
        assert float(row["answer"]) == golds[row["question_id"]]
        text = f"{row['reasoning']}\n#### {row['answer']}"
        assert scoring.judge_trace(text, task_arithmetic)["trace"] == "right"
    exported = json.loads((chain / "results/rft_data/round1.json").read_text())
    assert [row[2] for row in exported] == [f"{r['reasoning']}\n#### {r['answer']}" for r in kept]
    groups = (chain / "results/breakdown.csv").read_text().splitlines()[1:]
    assert {line.split(",")[1] for line in groups} == set(task_arithmetic.GROUPS)

    for receipt in (chain / "results").rglob("*receipt.json"):
        code = json.loads(receipt.read_text())["code"]
        assert not any(re.search(r"(/units|task_units|/corpus)\.py", path) for path in code)
    for module in ("units", "task_units", "corpus"):
        with chain.with_line(f"scripts/posttrain/{module}.py", "# changed"):
            assert chain.plan("all", *given).jobs == {}, module
    with chain.with_line("scripts/posttrain/arithmetic.py", "# changed"):
        assert {"base_model", "questions", "evaluate"} <= chain.plan("all", *given).jobs.keys()
