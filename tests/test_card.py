"""A model card says what the receipts and results say, and a hub can read its head."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from posttrain import artifacts, card, scoring

SHA = {name: f"{n:064x}" for n, name in enumerate(("model", "tokenizer", "theirs", "code"), 1)}


def row(model: str, label: str, correct: int) -> dict[str, str]:
    verdicts = ["correct"] * correct + ["wrong"] * (9 - correct) + ["unparseable"]
    return {key: str(cell) for key, cell in scoring.summarised(model, label, verdicts).items()}


def stage(name: str, **settings: object) -> dict[str, object]:
    return {
        "stage": name,
        "code": {"scripts/x.py": SHA["code"]},
        "settings": settings,
        "libraries": {"python": "3.11.7", "torch": "2.13.0"},
        "computed": {"device": "cpu AVX512", "threads": 2},
    }


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> card.Evidence:
    monkeypatch.chdir(tmp_path)
    Path("results/questions").mkdir(parents=True)
    Path("results/rft").mkdir()
    weights, valid = "results/rft/adapter_model.safetensors", "results/questions/valid.jsonl"
    Path(weights).write_bytes(b"weights")
    Path(valid).write_text("{}\n" * 10)
    stages = {
        "results/rft_data/round1_receipt.json": stage("select_rft_data", keep_per_question=4),
        "results/rft/receipt.json": stage(
            "rft_train", lora={"r": 16, "alpha": 32}, system=None, wording="a | b\nc"
        ),
    }
    for path, receipt in stages.items():
        artifacts.write_json(path, receipt)
    return card.Evidence(
        model="rft",
        adapter_files=[weights],
        data=[valid],
        stages=stages,
        manifest={
            "files": {"model.safetensors": SHA["model"], "tokenizer.json": SHA["tokenizer"]},
            "origin": {"stage": "base_model"},
        },
        sampler=None,
        evaluation=stage("evaluate", relative_tolerance=0.05),
        summary=[row("base", "none", 2), row("rft", artifacts.sha256_file(weights), 8)],
        comparisons=["rft over base: 6 gained, 0 lost, McNemar p = 0.031"],
        example={
            "prompt": "Question: How many gram are there per 6 kg?\nReasoning:",
            "completion": " 6 * 1000 = 6000. <answer>6000</answer>",
        },
        yields=[{"questions": "100", "solved": "88", "gold_rows": "0"}],
    )


def tables(text: str) -> list[list[str]]:
    """Return the cells of every line of a table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").replace("\\|", "\0").split(" | ") for line in lines]


def test_a_hub_reads_the_figures_in_its_head(evidence):
    data = ModelCard(card.text(evidence)).data
    assert (data.library_name, data.model_name) == ("peft", "rft")
    assert data.tags == ["lora", "rft"]
    figures = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in figures.items()} == {
        "accuracy": 0.8,
        "answer_rate": 0.9,
    }
    summary = evidence.summary[1]
    assert figures["accuracy"].metric_args == {
        "accuracy_low": float(summary["accuracy_low"]),
        "accuracy_high": float(summary["accuracy_high"]),
        "questions": 10,
    }
    valid = "results/questions/valid.jsonl"
    assert figures["accuracy"].dataset_name == valid
    assert figures["accuracy"].dataset_revision == artifacts.sha256_file(valid)


@pytest.mark.parametrize(
    ("origin", "shown", "named"),
    [
        ({"stage": "base_model"}, "pretrained from scratch by this workflow", None),
        ({"folder": "models/SmolLM2-360M"}, "models/SmolLM2-360M", None),
        ({"model": "org/name", "commit": "0123abc"}, "org/name@0123abc", "org/name"),
    ],
)
def test_a_base_model_is_named_to_a_hub_if_it_is_the_hubs(evidence, origin, shown, named):
    text = card.text(replace(evidence, manifest=evidence.manifest | {"origin": origin}))
    assert ModelCard(text).data.base_model == named
    assert f"Base model: {shown}; sha256: `model.safetensors` {SHA['model']}." in text


def test_the_model_that_was_sampled_from_is_named_beside_the_base(evidence):
    files = {"config.json": SHA["theirs"], "model.safetensors": SHA["code"]}
    origin = {"model": "org/larger", "commit": "4567def"}
    text = card.text(replace(evidence, sampler={"files": files, "origin": origin}))
    said = f"org/larger@4567def; sha256: `model.safetensors` {SHA['code']}."
    assert f"\n\nModel that round 1 sampled from: {said}\n\n" in text
    for name, sha256 in files.items():
        assert [f"sampled from: {name}", sha256] in tables(text)
    assert ["base model: tokenizer.json", SHA["tokenizer"]] in tables(text)
    assert ModelCard(text).data.base_model is None, "it is not what the adapter goes on"


def test_nothing_is_said_of_a_sampler_that_is_the_base_model(evidence):
    plain = card.text(evidence)
    assert "sampled from" not in plain
    same = {"files": evidence.manifest["files"], "origin": {"folder": "a/copy"}}
    assert card.text(replace(evidence, sampler=same)) == plain


@pytest.mark.parametrize(
    ("before", "reasoning"),
    [
        ([], "sampled reasoning"),
        (["generate_rft_data", "gather_rollouts"], "sampled reasoning"),
        (["import_rollouts"], "reasoning from a given file, none of it sampled here,"),
        (["seed1_import_rollouts"], "reasoning from a given file, none of it sampled here,"),
        (
            ["import_rollouts", "generate_rft_data"],
            "reasoning from a given file and, in later rounds, sampled here,",
        ),
    ],
)
def test_it_says_where_the_reasoning_came_from(evidence, before, reasoning):
    stages = {f"results/{name}_receipt.json": stage(name) for name in before}
    for path, receipt in stages.items():
        artifacts.write_json(path, receipt)
    text = card.text(replace(evidence, stages=stages | dict(evidence.stages)))
    how = f"(arXiv 2308.01825) on {reasoning} whose answer and every equation a program found right"
    assert f"{how}.\n\nBase model: " in text


def test_it_says_that_rows_without_reasoning_were_trained_on_too(evidence):
    rounds = [{"questions": "100", "gold_rows": count} for count in ("5", "3", "0")]
    said = "found right, and on the bare true answers to some questions of which no reasoning was "
    for count in (1, 2, 3):
        text = card.text(replace(evidence, yields=rounds[:count]))
        assert (f"{said}kept.\n\nBase model: " in text) == (count < 3), "the chosen round's count"


def test_each_figure_stands_with_its_interval_and_comparison(evidence):
    text = card.text(evidence)
    for model in evidence.summary:
        low, high = model["accuracy_low"], model["accuracy_high"]
        [cells] = [c for c in tables(text) if c[:2] == [model["model"], model["accuracy"]]]
        assert cells[2:5] == [f"{low} to {high}", f"{model['correct']} of 10", "0.9"]
    assert "- rft over base: 6 gained, 0 lost, McNemar p = 0.031" in text


def test_recipe_data_and_lineage_are_those_of_the_receipts(evidence):
    found = tables(card.text(evidence))
    for cells in (
        ["select_rft_data", "keep_per_question", "4"],
        ["rft_train", "lora.r", "16"],
        ["rft_train", "system", "null"],
        ["rft_train", "wording", '"a \0 b\\nc"'],
        ["evaluate", "relative_tolerance", "0.05"],
        ["torch", "2.13.0"],
        ["100", "88", "0"],
        ["base model: tokenizer.json", SHA["tokenizer"]],
        ["rft_train: code", artifacts.sha256_json({"scripts/x.py": SHA["code"]})],
        *(
            [f"{one['stage']}: receipt {path}", artifacts.sha256_file(path)]
            for path, one in evidence.stages.items()
        ),
        *([path, artifacts.sha256_file(path)] for path in evidence.adapter_files),
        [evidence.data[0], "10", artifacts.sha256_file(evidence.data[0])],
    ):
        assert cells in found


def test_it_shows_the_prompt_and_how_to_load_it(evidence):
    text = card.text(evidence)
    assert "    Question: How many gram are there per 6 kg?\n    Reasoning:\n" in text
    assert 'from_pretrained(base), "results/rft")' in text


def test_the_same_evidence_gives_the_same_text(evidence):
    assert card.text(evidence) == card.text(replace(evidence, stages=dict(evidence.stages)))
    other = [evidence.summary[0], row("rft", "none", 7)]
    assert card.text(evidence) != card.text(replace(evidence, summary=other))


def test_of_somebody_elses_adapter_it_says_what_is_not_known(evidence):
    theirs = replace(
        evidence,
        model="mine",
        stages={},
        summary=[evidence.summary[0], row("mine", f"unproven:{SHA['theirs']}", 5)],
        yields=[],
    )
    text = card.text(theirs)
    assert "of somebody else's making" in text
    assert "It has no receipt: what made it is not known." in text
    assert ["mine", "0.5"] in [cells[:2] for cells in tables(text)]
    assert f"unproven:{SHA['theirs'][:12]}" in text
    assert ModelCard(text).data.tags == ["lora"]
