"""Why a model is under its bar: each of five causes, told from predictions and receipts."""

import pytest

from posttrain import artifacts, diagnosis, scoring
from posttrain.errors import ScoringError

PROMPT = "Question: How many g in 6 kg?\nAnswer:"
WRITTEN = {
    "correct": " <answer>6000</answer>",
    "wrong": " <answer>600</answer>",
    "unparseable": " It is 6,000 g.",
    "truncated": " Let us think about 6 kg",
    "error": " <answer>6e3</answer>",
}
REQUIRE = {"accuracy": 0.4, "answer_rate": 0.9}


def predictions(tag="", **counts):
    """Return a hundred predictions or so; `tag` makes the completions unlike another model's."""
    return [
        {"prompt": PROMPT, "completion": WRITTEN[verdict] + tag, "verdict": verdict}
        for verdict, count in counts.items()
        for _ in range(count)
    ]


def receipt(adapter="ab12", asked_as_trained=True, style="answer"):
    return {
        "adapter": adapter,
        "asked_as_trained": asked_as_trained,
        "settings": {"style": style},
    }


SUMMARY = "results/summary.csv"
BASE = predictions(wrong=30, unparseable=70, tag=" base")


def verdict_on(lines, require=REQUIRE, told=None, base=BASE):
    """Return the verdict on `sft`, whose base model said `base`, as the rule reaches it."""
    rows = [
        {key: str(value) for key, value in scoring.summarised(name, "ab12", said).items()}
        for name, said in (
            ("base", [line["verdict"] for line in base]),
            ("sft", [line["verdict"] for line in lines]),
        )
    ]
    receipts = [receipt(adapter="none", asked_as_trained=None), told or receipt()]
    said, require = [base, lines], {"sft": require}
    found = diagnosis.verdicts(SUMMARY, rows, said, receipts, ["base", "sft"], require)
    assert [tuple(row) for row in found] == [diagnosis.COLUMNS] * 2
    assert found[0]["passed"] == "yes", "a model without a bar passes"
    return found[1]


@pytest.mark.parametrize(
    ("looks_like", "evidence", "lines", "told"),
    [
        (
            "untrained or wrong adapter",
            "100 of 100 completions are the base model's own",
            BASE,
            receipt(),
        ),
        (
            "untrained or wrong adapter",
            "96 of 100 completions are the base model's own",
            BASE[:96] + predictions(correct=4),
            receipt(asked_as_trained=None),
        ),
        (
            "prompt differs between training and inference",
            f"asked {PROMPT!r}, which is not how its training rows begin; write under prompts the "
            "words that it was trained with",
            predictions(wrong=40, unparseable=60),
            receipt(asked_as_trained=False),
        ),
        (
            "answers cut off",
            "51 completions reached evaluate.max_new_tokens before an answer",
            predictions(correct=20, wrong=25, unparseable=4, truncated=51),
            receipt(),
        ),
        (
            "format not learnt",
            "51 completions hold no readable answer, as ' It is 6,000 g.'",
            predictions(correct=20, wrong=25, unparseable=51, truncated=4),
            receipt(),
        ),
        (
            "simply weak",
            "65 of 100 answers are readable and wrong",
            predictions(correct=30, wrong=65, unparseable=3, truncated=2),
            receipt(),
        ),
    ],
)
def test_each_cause_is_told_from_its_evidence(looks_like, evidence, lines, told):
    row = verdict_on(lines, told=told)
    assert (row["passed"], row["looks_like"]) == ("no", looks_like)
    assert row["evidence"] == evidence


@pytest.mark.parametrize("silence", ["unparseable", "truncated"])
def test_a_missed_answer_rate_is_put_down_to_missing_answers(silence):
    """Fewer than its wrong answers, and still what fails it."""
    row = verdict_on(predictions(correct=65, wrong=20, **{silence: 15}))
    cause = {"unparseable": "format not learnt", "truncated": "answers cut off"}
    assert (row["passed"], row["looks_like"]) == ("no", cause[silence])
    row = verdict_on(predictions(correct=30, wrong=60, **{silence: 10}))
    assert row["looks_like"] == "simply weak", "the rate is met"


def test_a_model_that_reaches_its_bar_needs_no_cause():
    lines = predictions(correct=40, wrong=50, unparseable=4, truncated=6)
    assert verdict_on(lines) == {
        "model": "sft",
        "passed": "yes",
        "accuracy": 0.4,
        "required_accuracy": 0.4,
        "answer_rate": 0.9,
        "required_answer_rate": 0.9,
        "wrong": 50,
        "unparseable": 4,
        "truncated": 6,
        "error": 0,
        "looks_like": "",
        "evidence": "",
    }
    assert verdict_on(lines, require={"accuracy": 0.41})["passed"] == "no"
    assert verdict_on(lines, require={"answer_rate": 0.91})["passed"] == "no"
    assert verdict_on(lines, require={"accuracy": 0.0})["passed"] == "yes"


def test_a_weak_base_model_is_not_called_an_untrained_adapter():
    rows = [{"model": "base", "accuracy": "0.0", "answer_rate": "0.3"}]
    told = [receipt(adapter="none", asked_as_trained=None)]
    [row] = diagnosis.verdicts(SUMMARY, rows, [BASE], told, ["base"], {"base": REQUIRE})
    assert row["looks_like"] == "format not learnt"


def test_an_adapter_is_held_against_the_base_model_asked_alike():
    """A reasoning adapter against `cot`, never against the bare answers of `base`."""
    own = predictions(wrong=100, tag=" reasoned")
    names = ("base", "cot", "rft")
    rows = [{"model": name, "accuracy": "0.0", "answer_rate": "1.0"} for name in names]
    receipts = [receipt("none", None), receipt("none", None, "worked"), receipt(style="reasoning")]
    for said, looks_like in (([own, BASE, own], "simply weak"), ([BASE, own, own], "untrained or")):
        found = diagnosis.verdicts(SUMMARY, rows, said, receipts, names, {"rft": REQUIRE})
        assert found[2]["looks_like"].startswith(looks_like)


def test_no_model_gets_the_verdict_of_another():
    """A summary made in another order: predictions and receipts are told by their place."""
    rows = [{"model": name, "accuracy": "0.5", "answer_rate": "1.0"} for name in ("b", "a")]
    told = [receipt(adapter="none", asked_as_trained=None)] * 2
    diagnosis.verdicts(SUMMARY, rows, [BASE, BASE], told, ["b", "a"], {})
    for summary, again in (
        (SUMMARY, f"make it again: snakemake --force {SUMMARY}"),
        ("results/sweeps/seed1/summary.csv", "remove results/sweeps/seed1/summary.csv and run the"),
    ):
        with pytest.raises(ScoringError) as caught:
            diagnosis.verdicts(summary, rows, [BASE, BASE], told, ["a", "b"], {})
        assert f"{summary} has rows of ['b', 'a'], not of ['a', 'b']; {again}" in str(caught.value)


def test_the_gate_names_every_model_under_its_bar(tmp_path):
    """Through the file that stands between the two rules."""
    good = verdict_on(predictions(correct=90, wrong=10))
    bad = verdict_on(predictions(correct=20, wrong=25, unparseable=4, truncated=51))
    other = verdict_on(predictions(correct=30, wrong=70)) | {"model": "rft"}
    path = tmp_path / "verdicts.csv"

    artifacts.write_csv(path, [good], diagnosis.COLUMNS)
    assert diagnosis.refuse_failed(artifacts.read_csv(path)) is None

    artifacts.write_csv(path, [good, bad, other], diagnosis.COLUMNS)
    with pytest.raises(ScoringError) as caught:
        diagnosis.refuse_failed(artifacts.read_csv(path))
    assert str(caught.value).splitlines() == [
        "sft does not pass: accuracy 0.2 (bar 0.4), answer_rate 0.45 (bar 0.9); it "
        "looks like: answers cut off, 51 completions reached evaluate.max_new_tokens before an "
        "answer",
        "rft does not pass: accuracy 0.3 (bar 0.4), answer_rate 1.0 (bar 0.9); it "
        "looks like: simply weak, 70 of 100 answers are readable and wrong",
        "all results are written; bars stand in the config under evaluate.require",
    ]


def test_an_error_of_the_verifier_fails_at_any_accuracy_and_is_named():
    lines = predictions(correct=97, wrong=1, error=2)
    lines[-2] |= {"id": "valid-0099", "error": "ValueError: no\nsuch digit"}
    row = verdict_on(lines, require={"accuracy": 0.0, "answer_rate": 0.0})
    assert (row["passed"], row["looks_like"]) == ("no", "error of the verifier")
    assert (row["accuracy"], row["answer_rate"]) == (0.97, 0.98), "neither right nor answered"
    assert [row[name] for name in diagnosis.FAILINGS] == [1, 0, 0, 2]
    assert row["evidence"] == (
        "it failed on 2 of 100 completions, first on that of valid-0099: "
        "'ValueError: no\\nsuch digit'"
    )
    with pytest.raises(ScoringError, match=r"sft does not pass: .* error of the verifier, it fail"):
        diagnosis.refuse_failed([row])


def test_the_table_shows_all_but_the_hashes():
    row = {"model": "sft", "adapter_sha256": "ab", "correct": "12"}
    assert diagnosis.table([row]) == "model correct\n  sft      12"


def test_an_adapter_asked_otherwise_fails_at_any_accuracy():
    asked = verdict_on(predictions(correct=99, wrong=1), told=receipt(asked_as_trained=False))
    assert asked["passed"] == "no"
    assert asked["looks_like"] == "prompt differs between training and inference"
    with pytest.raises(
        ScoringError, match=r"\(bar 0\.9\), enough, and yet it fails at any figures"
    ):
        diagnosis.refuse_failed([asked])


@pytest.mark.parametrize(
    ("style", "learnt", "prompt"),
    [("answer", "reason first", "reasoning"), ("reasoning", "answer at once", "answer")],
)
def test_a_person_s_adapter_asked_otherwise_is_told_the_prompt_to_write(style, learnt, prompt):
    rows = [{"model": "mine", "accuracy": "0.9", "answer_rate": "1.0"}]
    told = [receipt(asked_as_trained=False, style=style)]
    [row] = diagnosis.verdicts(SUMMARY, rows, [BASE], told, ["mine"], {})
    assert row["evidence"].endswith(
        f"if it was trained to {learnt}, write prompt: {prompt} (evaluate.adapters.mine.prompt); "
        "else write under prompts the words that it was trained with"
    )
