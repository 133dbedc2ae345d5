"""The whole workflow as people run it: snakemake on the command line, in a copy of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from chain_for_tests import (
    EVALUATION,
    GATHER,
    ONE_CORE,
    ROOT,
    TINY,
    Chain,
    fresh_clone,
    sha256,
    table,
)
from jsonschema import validate
from servers_for_tests import serving
from test_report import Page

pytestmark = pytest.mark.chain

MODELS = ("base", "cot", "sft", "rft")
TRAIN_RFT = {"rft_train": 1, "select_round": 1, "evaluate": 1, **GATHER}
WHOLE = {
    "base_model": 1,
    "questions": 1,
    "tokenize_sft": 1,
    "sft_train": 1,
    "generate_rft_data": 1,
    "gather_rollouts": 1,
    "select_rft_data": 1,
    "ledger": 1,
    "tokenize_rft": 1,
    **TRAIN_RFT,
    "evaluate": 4,
}


# What a run makes


def test_every_file_of_the_contract_is_there(chain: Chain):
    base = [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        "manifest.json",
    ]
    adapter = ["adapter_model.safetensors", "adapter_config.json", "receipt.json", "history.csv"]
    wanted = [
        *(f"resources/base_model/{name}" for name in base),
        *(f"results/questions/{name}" for name in ("train.jsonl", "valid.jsonl", "leaks.csv")),
        *(
            f"results/tokenized/{s}{end}"
            for s in ("sft", "rft")
            for end in (".jsonl", "_stats.csv")
        ),
        *(f"results/{folder}/{n}" for folder in ("sft", "rft", "rft/round1") for n in adapter),
        "results/rollouts/round1.jsonl",
        "results/rft/rounds.csv",
        *(f"results/rft_data/round1{end}" for end in (".jsonl", "_yield.csv", "_ledger.csv")),
        "results/rft_data/round1_left_out.csv",
        *(f"results/rft_data/round1_{name}.csv" for name in ("never_solved", "marginal")),
        *(f"results/{m}_{n}" for m in MODELS for n in ("eval.csv", "predictions.jsonl")),
        "results/summary.csv",
        "results/verdicts.csv",
        "results/passed.csv",
        *(f"results/{name}.csv" for name in ("comparisons", "gained_lost", "breakdown")),
    ]
    assert [path for path in wanted if not (chain / path).is_file()] == []


def test_tables_have_the_columns_of_the_contract(chain: Chain):
    for path in (*(f"results/{model}_eval.csv" for model in MODELS), "results/summary.csv"):
        assert table(chain / path)[0] == EVALUATION, path
    for stage in ("sft", "rft"):
        history = table(chain / f"results/{stage}/history.csv")[0]
        assert history == ["step", "epoch", "loss", "grad_norm", "learning_rate"]
        statistics = table(chain / f"results/tokenized/{stage}_stats.csv")[0]
        assert {"tokens", "supervised", "truncated"} <= {name.split("_")[0] for name in statistics}


def test_the_summary_gathers_the_four_models(chain: Chain):
    rows = table(chain / "results/summary.csv")[1]
    assert [row["model"] for row in rows] == list(MODELS)
    assert rows == [row for m in MODELS for row in table(chain / f"results/{m}_eval.csv")[1]]
    assert {row["questions"] for row in rows} == {"30"}


def test_the_end_of_a_run_prints_the_summary(chain: Chain):
    printed = (chain / "said.txt").read_text(encoding="utf-8")
    end = printed[printed.index("model questions") :].splitlines()
    assert [line.split()[0] for line in end[1:5]] == list(MODELS)


def test_every_question_has_one_prediction_and_they_make_the_figures(chain: Chain):
    ids = [row["id"] for row in chain.rows("results/questions/valid.jsonl")]
    for row in table(chain / "results/summary.csv")[1]:
        lines = chain.rows(f"results/{row['model']}_predictions.jsonl")
        assert [line["id"] for line in lines] == ids
        assert {"prompt", "completion", "parsed", "gold", "verdict"} <= set(lines[0])
        verdicts = Counter(line["verdict"] for line in lines)
        for verdict in ("correct", "unparseable", "truncated"):
            assert int(row[verdict]) == verdicts[verdict]


def test_a_row_names_the_bytes_of_the_adapter_it_scored(chain: Chain):
    found = {r["model"]: r["adapter_sha256"] for r in table(chain / "results/summary.csv")[1]}
    adapters = {m: chain / f"results/{m}/adapter_model.safetensors" for m in ("sft", "rft")}
    assert found == {"base": "none", "cot": "none"} | {m: sha256(f) for m, f in adapters.items()}
    assert found["sft"] != found["rft"]


def test_receipts_state_the_bytes_that_went_in_and_came_out(chain: Chain):
    receipts = sorted(chain.folder.glob("results/**/*receipt.json"))
    stages = {json.loads(path.read_text("utf-8"))["stage"] for path in receipts}
    assert stages == set(WHOLE) - {"base_model", "gate", "all"}
    for path in receipts:
        receipt = json.loads(path.read_text("utf-8"))
        for group in ("inputs", "code", "outputs"):
            for file, stated in receipt[group].items():
                assert sha256(chain / file) == stated, f"{path}: {file}"


def test_kept_reasoning_is_among_the_samples_and_right(chain: Chain):
    sound = {
        (row["question_id"], f"{row['question_id']}-{row['sample']:02d}")
        for row in chain.rows("results/rollouts/round1.jsonl")
        if row["verdict"] == "correct" and row["trace"] == "right"
    }
    kept = chain.rows("results/rft_data/round1.jsonl")
    assert kept
    assert {(row["question_id"], row["id"]) for row in kept} <= sound
    assert {"question", "answer", "reasoning"} <= set(kept[0])


def test_nothing_tried_to_reach_another_machine(chain: Chain):
    assert not (chain / "connections_tried").exists()
    guarded = (chain / "connections_tried.loaded").read_text(encoding="utf-8").splitlines()
    assert len(set(guarded)) > sum(WHOLE.values()) - 2, "some jobs ran without the guard"


def test_the_guard_refuses_and_writes_down_a_connection(clone: Chain):
    asked = subprocess.run(
        [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "tests" / "offline"),
            "CONNECTIONS_TRIED": str(clone / "tried"),
        },
        capture_output=True,
        check=False,
    )
    assert asked.returncode == 1
    assert "look up 127.0.0.1" in (clone / "tried").read_text(encoding="utf-8")


# What a run asks and refuses


def test_a_fresh_clone_plans_the_whole_chain_for_one_result(clone: Chain):
    # Weights come first: what has not been trained cannot be evaluated.
    planned = clone.plan("results/rft_eval.csv").jobs
    assert planned == {rule: 1 for rule in WHOLE if rule not in (*GATHER, "ledger")}
    assert planned["sft_train"] == 1


def test_a_missed_bar_fails_the_run_and_leaves_its_results(chain: Chain, tmp_path: Path):
    """With an adapter of somebody else's, which has no receipt, beside the four models."""
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    (again / "mine").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy2(again / f"results/sft/{name}", again / f"mine/{name}")
    bars = {"adapters": {"mine": "mine"}, "require": {"rft": {"accuracy": 1.0}}}
    said = again.snakemake(*ONE_CORE, "--configfile", TINY, again.overlay({"evaluate": bars}))
    assert said.status == 1
    assert said.jobs == {"evaluate": 1, **GATHER}
    assert said.error.startswith("rft does not pass: accuracy ")
    rows = {row["model"]: row for row in table(again / "results/summary.csv")[1]}
    assert list(rows) == [*MODELS, "mine"]
    assert rows["mine"]["adapter_sha256"] == f"unproven:{rows['sft']['adapter_sha256']}"
    mine, sft = (again / f"results/{model}_predictions.jsonl" for model in ("mine", "sft"))
    assert mine.read_bytes() == sft.read_bytes()
    assert sha256(again / "mine/adapter_model.safetensors") == rows["sft"]["adapter_sha256"]
    verdicts = {row["model"]: row["passed"] for row in table(again / "results/verdicts.csv")[1]}
    assert [model for model, passed in verdicts.items() if passed == "no"] == ["rft"]
    assert not (again / "results/passed.csv").exists()


FAILING_PARSER = """

_parse = parse


def parse(completion):
    if completion == {text!r}:
        raise ZeroDivisionError("of the verifier's own")
    return _parse(completion)
"""


def test_an_error_of_the_verifier_is_counted_apart_and_fails_the_run(chain: Chain, tmp_path: Path):
    """One completion of the sft adapter is scored by a verifier that fails on it, at a bar of 0."""
    before = chain.rows("results/sft_predictions.jsonl")
    text = before[0]["completion"]
    failed = [line["completion"] == text for line in before]
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    with (again / "scripts/posttrain/tags.py").open("a", encoding="utf-8") as file:
        file.write(FAILING_PARSER.format(text=text))
    # Else all that imports the parser would run again, which is almost everything.
    assert again.snakemake("--touch", *ONE_CORE, "--configfile", TINY).status == 0
    said = again.snakemake(*ONE_CORE, "--forcerun", "results/sft_eval.csv", "--configfile", TINY)
    assert said.status == 1
    assert said.jobs == {"evaluate": 1, **GATHER}
    assert said.error.startswith("sft does not pass: accuracy ")
    assert said.error.endswith(
        f"it looks like: error of the verifier, it failed on {sum(failed)} of 30 completions, "
        """first on that of valid-0001: "ZeroDivisionError: of the verifier's own\""""
    )
    for line, old, is_failed in zip(
        again.rows("results/sft_predictions.jsonl"), before, failed, strict=True
    ):
        error = {"verdict": "error", "error": "ZeroDivisionError: of the verifier's own"}
        assert line == (old | {"parsed": None} | error if is_failed else old)
    rows = {row["model"]: row for row in table(again / "results/verdicts.csv")[1]}
    assert {model: row["error"] for model, row in rows.items()} == {
        **dict.fromkeys(MODELS, "0"),
        "sft": str(sum(failed)),
    }
    assert [model for model, row in rows.items() if row["passed"] == "no"] == ["sft"]
    columns, [row] = table(again / "results/sft_eval.csv")
    kept = Counter(line["verdict"] for line, fails in zip(before, failed, strict=True) if not fails)
    assert columns == EVALUATION
    assert (row["correct"], row["answered"]) == (
        str(kept["correct"]),
        str(kept["correct"] + kept["wrong"]),
    )
    assert not (again / "results/passed.csv").exists()


def test_a_table_edited_by_hand_passes_no_gate(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    edited = {
        "verdicts": "gate",
        "summary": "verdicts",
        "comparisons": "gate",
        "gained_lost": "gate",
        "breakdown": "gate",
        "rft_data/round1_ledger": "gate",
        "rft_data/round1_yield": "gate",
        "rft/rounds": "gate",
    }
    for name, rule in edited.items():
        with again.with_line(f"results/{name}.csv", ""):
            said = again.snakemake(*ONE_CORE, "--configfile", TINY)
        assert said.status == 1
        assert rule in said.jobs
        assert said.error.startswith(f"results/{name}.csv was changed since it was written, by ")
        assert not (again / "results/passed.csv").exists()


def test_questions_edited_by_hand_pass_no_gate(chain: Chain, tmp_path: Path):
    """All models are asked them anew; what they come to is of nobody's making."""
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    valid = again / "results/questions/valid.jsonl"
    row, *others = again.rows("results/questions/valid.jsonl")
    lines = [json.dumps(row | {"answer": row["answer"] + 1}), *map(json.dumps, others)]
    valid.write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = again.snakemake(*ONE_CORE, "--configfile", TINY)
    assert said.status == 1
    assert said.jobs == {"evaluate": len(MODELS), **GATHER}
    assert said.error.startswith(
        "results/questions/valid.jsonl was changed since it was written, by results/questions/"
    )
    assert not (again / "results/passed.csv").exists()


# What is told of a run


def test_the_report_says_what_the_run_left(chain: Chain):
    said = chain.snakemake("report.html", *ONE_CORE, "--configfile", TINY)
    assert said.status == 0, said.text
    assert said.jobs == {"report": 1}
    text = (chain / "report.html").read_text("utf-8")
    assert len(text) < 3_000_000
    page = Page(text)
    shown = {tuple(row) for row in page.rows}
    tables = {
        "summary.csv": [name for name in EVALUATION if name != "adapter_sha256"],
        "comparisons.csv": None,
        **{f"rft_data/round1_{n}.csv": None for n in ("yield", "ledger", "never_solved")},
        "rft_data/round1_marginal.csv": None,
    }
    for name, columns in tables.items():
        names, rows = table(chain / "results" / name)
        wanted = [tuple(row[column] for column in columns or names) for row in rows]
        assert [row for row in wanted if row not in shown] == [], name
    for row in table(chain / "results/summary.csv")[1]:
        assert row["adapter_sha256"] in page.text
    assert "Not as the receipts state" not in page.text
    assert "Every model passes its bar." in page.text
    (chain / "report.html").unlink()
    chain.snakemake("report.html", *ONE_CORE, "--configfile", TINY)
    assert (chain / "report.html").read_text("utf-8") == text
    (chain / "report.html").unlink()


# Runs beside the first


def test_a_pickled_adapter_is_refused_then_converted_then_scored(chain: Chain):
    from safetensors.torch import load_file
    from torch import save

    folder = chain / "adapters/pickled"
    folder.mkdir(parents=True)
    shutil.copy(chain / "results/sft/adapter_config.json", folder)
    save(load_file(chain / "results/sft/adapter_model.safetensors"), folder / "adapter_model.bin")
    named = chain.overlay({"evaluate": {"adapters": {"pickled": "adapters/pickled"}}})
    refused = chain.snakemake("--dry-run", "--configfile", TINY, named)
    assert refused.status == 1
    [line] = [line for line in refused.text.splitlines() if "adapter_model.bin" in line]
    assert "snakemake results/converted/pickled/adapter_model.safetensors" in line
    convert = re.search(r"--config '([^']*)'", line)[1]
    weights = "results/converted/pickled/adapter_model.safetensors"
    said = chain.snakemake(weights, *ONE_CORE, "--configfile", TINY, "--config", convert)
    assert said.status == 0, said.text
    adapters = {"pickled": "results/converted/pickled"}
    now = {"convert": {"pickled": "adapters/pickled"}, "evaluate": {"adapters": adapters}}
    said = chain.snakemake(
        "results/pickled_eval.csv", *ONE_CORE, "--configfile", TINY, chain.overlay(now)
    )
    assert said.status == 0, said.text
    _, [row] = table(chain / "results/pickled_eval.csv")
    assert row["adapter_sha256"] == f"unproven:{sha256(chain / weights)}"
    assert chain.rows("results/pickled_predictions.jsonl") == chain.rows(
        "results/sft_predictions.jsonl"
    )


def test_a_sampled_evaluation_is_asked_for_by_name(chain: Chain):
    few = chain.overlay({"evaluate": {"limit": 5, "samples": 2}})
    said = chain.snakemake(
        "results/sampled/sft_pass_at_k.csv", *ONE_CORE, "--configfile", TINY, few
    )
    assert said.status == 0, said.text
    assert said.jobs == {"sampled": 1}
    _, rows = table(chain / "results/sampled/sft_pass_at_k.csv")
    assert [(row["model"], row["k"], row["questions"]) for row in rows] == [
        ("sft", "1", "5"),
        ("sft", "2", "5"),
    ]
    asked = [row["id"] for row in chain.rows("results/questions/valid.jsonl")][:5]
    lines = chain.rows("results/sampled/sft_completions.jsonl")
    assert [(row["id"], row["sample"]) for row in lines] == [(i, n) for i in asked for n in (0, 1)]
    receipt = json.loads((chain / "results/sampled/sft_receipt.json").read_text("utf-8"))
    assert receipt["adapter"] == sha256(chain / "results/sft/adapter_model.safetensors")
    shutil.rmtree(chain / "results/sampled")


def test_another_engine_evaluates_and_samples_once_it_is_proven(chain: Chain, tmp_path: Path):
    """The base model is served, under the name of the sft model too, which must not be scored."""
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"), {"ENGINE_API_KEY": "sk-no"})
    base = str(again / "resources/base_model")
    few = {"samples_per_question": 1, "samples_when_sft_is_right": 1, "keep_per_question": 1}
    settings = {
        "rollouts": {**few, "max_new_tokens": 16},
        "evaluate": {"limit": 10, "max_new_tokens": 16},
    }
    with serving(tmp_path / "cache") as port:
        engine = {"url": f"http://127.0.0.1:{port}/v1", "server": "transformers"}
        engine |= {"models": {"base": base, "sft": base}, "check_prompts": 10, "most_flips": 0.3}
        told = ("--configfile", TINY, again.overlay(settings | {"engine": engine}), "--")
        allowed = again.environ | {"ALLOWED": f"evaluate_model.py 127.0.0.1:{port}"}
        said = Chain(again.folder, allowed).snakemake(*ONE_CORE, *told, "results/base_eval.csv")
        assert said.status == 0, said.text
        refused = Chain(again.folder, allowed).snakemake(*ONE_CORE, *told, "results/sft_eval.csv")
        engine["models"] = {"base": base}
        again.overlay(settings | {"engine": engine})
        rollouts = "results/rollouts/round1/shard_1_of_1.jsonl"
        allowed |= {"ALLOWED": f"generate_rft_data.py 127.0.0.1:{port}"}
        sampled = Chain(again.folder, allowed).snakemake(*ONE_CORE, *told, rollouts)
        assert sampled.status == 0, sampled.text
    assert refused.status == 1
    assert f"{engine['url']} does not serve under {base!r} the model that is here" in refused.error
    schema = yaml.safe_load((again / "schemas/receipt.schema.yaml").read_text("utf-8"))
    for path, role in (
        ("results/base_receipt.json", "model"),
        ("results/rollouts/round1/shard_1_of_1_receipt.json", "sampler"),
    ):
        receipt = json.loads((again / path).read_text("utf-8"))
        validate(receipt, schema)
        [(name, proof)] = receipt["computed"]["engines"].items()
        assert (name, proof["model"], proof["prompts"]) == (role, base, 10)
        assert proof["flips"] <= 3
        assert "sk-no" not in json.dumps(receipt)
    assert len(again.rows("results/base_predictions.jsonl")) == 10
    assert {row["sample"] for row in again.rows(rollouts)} == {0}


def test_chunks_of_another_server_or_another_model_of_it_are_not_gone_on_from(clone: Chain):
    """A checkpoint's fingerprint is made of the recipe: it holds whom a chunk was asked of."""
    (clone / "recipe.smk").write_text(
        'include: "Snakefile"\n\nprint("recipe", json.dumps(engine_of(**rollout_models("1"))))\n',
        encoding="utf-8",
    )
    engine = {"url": "http://node7:8000/v1", "models": {"sft": "mine", "base": "base"}}
    told = ("--configfile", clone.overlay({"engine": engine}), "--snakefile", "recipe.smk")
    said = clone.plan(*told, "--", "results/questions/train.jsonl")
    recipe = json.loads(re.search(r"^recipe (.*)$", said.text, re.MULTILINE)[1])
    assert recipe["engine"]["url"] == engine["url"]
    assert recipe["engine"]["models"] == {"sft": "mine", "sampler": "base"}


def test_a_sweep_runs_beside_the_first_run_on_one_base_model(clone: Chain):
    said = clone.plan("--snakefile", "presets/sweep.smk")
    not_asked = ("comparisons", "breakdown", "ledger", "gate", "all")
    first = {rule: count for rule, count in WHOLE.items() if rule not in not_asked}
    own = {f"{run}_{rule}": n for run in ("seed1", "rank8") for rule, n in first.items()}
    shared = {f"{run}_base_model" for run in ("seed1", "rank8")}
    own = {rule: count for rule, count in own.items() if rule not in shared}
    assert said.jobs == {"all_runs": 1, "sweep": 1, **first, **own}


def test_a_sweeps_figures_are_told_by_the_runs_they_are_of(clone: Chain):
    """By their place: the runs come as they are stated, which is not in the alphabet's order."""
    (clone / "told.smk").write_text(
        'include: "presets/sweep.smk"\n\n'
        "said = rules.sweep.params.runs, rules.sweep.input.summaries\n"
        'print("told", json.dumps(list(zip(*said, strict=True))))\n',
        encoding="utf-8",
    )
    said = clone.plan("results/questions/train.jsonl", "--snakefile", "told.smk")
    told = json.loads(re.search(r"^told (.*)$", said.text, re.MULTILINE)[1])
    runs = [run for run, _ in told]
    assert runs != sorted(runs)
    wanted = {run: f"results/sweeps/{run}/summary.csv" for run in runs}
    assert dict(map(tuple, told)) == wanted | {"first": "results/summary.csv"}


def test_what_a_rule_asks_of_a_cluster_it_asks_in_a_sweep_too(clone: Chain):
    """The cluster's profile names rules, and those of a sweep have other names."""
    adapter = "results/sweeps/rank8/sft/adapter_model.safetensors"
    said = clone.plan(adapter, "--snakefile", "presets/sweep.smk", "--configfile", TINY)
    asked = re.findall(r"^rule (\w+):\n(?: {4}.*\n)*? {4}resources: (.*)$", said.text, re.MULTILINE)
    found = {rule: set(said.split(", ")) for rule, said in asked}
    assert {"gpu=1", "mem_mb=16000", "runtime=120"} <= found["base_model"]
    assert {"gpu=1", "mem_mb=32000", "runtime=240"} <= found["rank8_sft_train"]
    assert not any("mem_mb" in one for one in found["rank8_tokenize_sft"])


@pytest.mark.parametrize(("preset", "runs"), [("seeds", 4), ("ablations", 17)])
def test_a_finished_run_counts_as_the_first_of_a_sweep(chain: Chain, preset: str, runs: int):
    said = chain.plan("--snakefile", f"presets/{preset}.smk", "--configfile", TINY)
    jobs = said.jobs
    assert jobs.pop(preset) == jobs.pop("sweep") == 1
    assert sum(rule.endswith("_sft_train") for rule in jobs) == runs
    assert not set(jobs) & set(WHOLE), "the first run, and with it the base model, is there"
    outputs = re.findall(r"^ {4}output: (.*)$", said.text, re.MULTILINE)
    assert outputs
    assert all("results/sweeps/" in path for line in outputs for path in line.split(", "))


def test_a_run_of_a_sweep_has_a_report_of_its_own(clone: Chain):
    page = "results/sweeps/rank8/report.html"
    said = clone.plan(page, "--snakefile", "presets/sweep.smk", "--configfile", TINY)
    assert said.jobs["rank8_report"] == 1
    [job] = re.findall(r"^(?:local)?rule rank8_report:\n((?: {4}.*\n)*)", said.text, re.MULTILINE)
    read = re.search(r"input: (.*)", job)[1].split(", ")
    made = [path for path in read if path.startswith("results/")]
    assert [path for path in made if not path.startswith("results/sweeps/rank8/")] == []
    assert "results/sweeps/rank8/sft/receipt.json" in made


@pytest.mark.long
def test_two_seeds_make_one_table(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow", symlinks=True))
    (again / "presets/two.smk").write_text(
        'SWEEP, RUNS = "two", {"seed1": {"seed": 1}}\n\ninclude: "runs.smk"\n'
        "rule two:\n    default_target: True\n    input: rules.sweep.output\n",
        encoding="utf-8",
    )
    bars = again.overlay({"evaluate": {"require": {"rft": {"accuracy": 1.0}}}})
    said = again.snakemake("--snakefile", "presets/two.smk", *ONE_CORE, "--configfile", TINY, bars)
    assert said.status == 0, said.text
    _, rows = table(again / "results/sweeps/two.csv")
    assert [(row["run"], row["value"], row["model"]) for row in rows] == [
        (run, value, model) for run, value in (("first", ""), ("seed1", "1")) for model in MODELS
    ]
    for run, folder in (("first", "results"), ("seed1", "results/sweeps/seed1")):
        summary = table(again / folder / "summary.csv")[1]
        of_run = [row for row in rows if row["run"] == run]
        assert [{key: row[key] for key in EVALUATION} for row in of_run] == summary
    assert {row["passed"] for row in rows if row["model"] == "rft"} == {"no"}, "and yet it is there"
    _, spread = table(again / "results/sweeps/two_spread.csv")
    assert [(row["changed"], row["model"], row["runs"]) for row in spread] == [
        ("seed", model, "2") for model in MODELS
    ]
    assert "<svg" in (again / "results/sweeps/two.svg").read_text("utf-8")


def test_a_run_whose_models_would_be_others_is_refused(clone: Chain):
    """The embedded model is pretrained for its task: no other task's run may share it."""
    (clone / "presets/tasks.smk").write_text(
        'SWEEP, RUNS = "tasks", {"other": {"task": "arithmetic"}}\n\ninclude: "runs.smk"\n',
        encoding="utf-8",
    )
    said = clone.snakemake("--dry-run", "--snakefile", "presets/tasks.smk")
    (clone / "presets/tasks.smk").unlink()
    assert said.status == 1
    assert "other: all runs share their models; change them in config.yaml, for all" in said.text


def test_a_run_named_as_the_first_is_refused_as_the_snakefile_is_read(clone: Chain):
    (clone / "presets/two.smk").write_text(
        'SWEEP, RUNS = "two", {"first": {"seed": 1}}\n\ninclude: "runs.smk"\n', encoding="utf-8"
    )
    said = clone.snakemake("--dry-run", "--snakefile", "presets/two.smk")
    (clone / "presets/two.smk").unlink()
    assert said.status == 1
    assert "RUNS: 'first' is the name of the run in results/" in said.text
    assert "Traceback" not in said.text


def test_a_path_of_a_persons_own_stays_their_own_in_a_sweep(clone: Chain):
    (clone / "results/first").mkdir(parents=True, exist_ok=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (clone / f"results/first/{name}").touch()
    named = clone.overlay({"evaluate": {"adapters": {"first": "results/first"}}})
    said = clone.plan("--snakefile", "presets/sweep.smk", "--configfile", TINY, named)
    assert "results/sweeps/seed1/first_eval.csv" in said.text
    assert "results/first/adapter_model.safetensors" in said.text
    assert "results/sweeps/seed1/first/" not in said.text
    shutil.rmtree(clone / "results/first")


def test_a_run_of_a_sweep_has_its_own_settings(clone: Chain):
    runs = {run: f"results/sweeps/{run}/questions" for run in ("seed1", "rank8")}
    targets = [f"{folder}/train.jsonl" for folder in runs.values()]
    said = clone.snakemake("--snakefile", "presets/sweep.smk", "--configfile", TINY, "--", *targets)
    assert said.status == 0, said.text
    seeds = [
        json.loads((clone / f"{folder}/receipt.json").read_text("utf-8"))["settings"]["seed"]
        for folder in runs.values()
    ]
    assert seeds == [1, 0]
    assert [len(clone.rows(target)) for target in targets] == [120, 120]
    assert clone.rows(targets[0]) != clone.rows(targets[1])


# A person's mistakes


@pytest.mark.parametrize(
    ("text", "place", "instead"),
    [
        ("seeed: 1", "seeed is no key", "seed: 1"),
        ("sft:", "sft is empty", "sft: {lora: {r: 32}}"),
        ("sft: {learning_rate: 1e-3}", "sft.learning_rate is", "sft: {learning_rate: 1.0e-3}"),
        ("rft: {lora: {r: 0}}", "rft.lora.r is 0", "rft: {lora: {r: 16}}"),
        ("evaluate: {limit: ten}", "evaluate.limit is", "evaluate: {limit: 100}"),
        ("data: {train: a.csv, valid: config.csv}", "data.train is", "data: {train: my_train.csv}"),
        ("data: {train: q.csv}", "data.valid is empty", "data: {valid: my_valid.csv}"),
        ("prompts: {answer: 'Answer:'}", "prompts.answer is", "prompts: {answer: "),
        (
            "evaluate: {require: {srf: {}}}",
            "evaluate.require.srf",
            "evaluate: {require: {sft: {",
        ),
        ("base_model: enveds", "base_model is", "base_model: envs"),
        ("base_model: envs", "base_model: envs is no usable model folder", "save_pretrained()"),
        (
            "base_model: gpt2",
            "base_model is",
            "base_model: path/to/model",
        ),
    ],
)
def test_a_faulty_config_ends_in_one_line(clone: Chain, text: str, place: str, instead: str):
    for name in ("q.csv", "config.csv"):
        (clone / name).write_text("question,answer\nHow many g are in 1 kg?,1000\n", "utf-8")
    (clone / "faulty.yaml").write_text(text, encoding="utf-8")
    said = clone.snakemake("--configfile", "faulty.yaml")
    assert said.status == 1
    of_snakemake = ("Using workflow specific profile", "Config file config.yaml is extended")
    [line] = [line for line in said.text.splitlines() if not line.startswith(of_snakemake)]
    assert line.startswith(f"config: {place}")
    assert instead in line


GOOD, PAIR = "How many g are in 1 kg?,1000", '["How many g are in 1 kg?", 1000]'
OTHER = "How many g are in 2 kg?"
MALFORMED = {
    "nan.csv": (
        f"question,answer\n{GOOD}\n{OTHER},nan\n".encode(),
        "nan.csv row 2 (line 3) has the answer the text 'nan'",
    ),
    "latin.jsonl": (
        f'{PAIR}\n["How many µm are in 1 m?", 1e6]'.encode("latin-1"),
        "latin.jsonl line 2 is not UTF-8: byte 0xB5",
    ),
    "two.json": (
        f'[{PAIR}, ["How many g are in 1 kg?", 100]]'.encode(),
        "two.json row 2 asks, case and spacing aside, what row 1 asks",
    ),
    "comma.csv": (
        f'question,answer\n{GOOD}\n{OTHER},"2,000"\n'.encode(),
        "comma.csv row 2 (line 3) has the answer the text '2,000', not a number",
    ),
    "unit.json": (
        f'[{PAIR}, ["{OTHER}", "2000 g"]]'.encode(),
        "unit.json row 2 has the answer the text '2000 g', not a number",
    ),
    "large.json": (
        f'[{PAIR}, ["{OTHER}", 1e400]]'.encode(),
        "large.json row 2 has the answer inf, not a finite number",
    ),
    "short.csv": (
        f"question,answer\n{GOOD}\n{OTHER}\n".encode(),
        "short.csv row 2 (line 3) has 1 cells where the header has 2",
    ),
    "blank.jsonl": (
        f'{PAIR}\n["  ", 2000]\n'.encode(),
        "blank.jsonl row 2 (line 2) has no question",
    ),
    "four.json": (
        f'[{PAIR}, ["{OTHER}", 2000, "mass", 1]]'.encode(),
        "four.json row 2 is a list of 4",
    ),
    "cut.jsonl": (
        f'{PAIR}\n["How many g are in 2'.encode(),
        "cut.jsonl row 2 (line 2), column 2 is not JSON",
    ),
}
LONG = list(MALFORMED)[3:]  # a few seconds each: with the other long tests


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.fuzz if name in LONG else ()) for name in MALFORMED],
)
def test_a_malformed_question_ends_in_a_line_with_file_and_row(clone: Chain, name: str):
    data, error = MALFORMED[name]
    (clone / name).write_bytes(data)
    (clone / "good.csv").write_text(f"question,answer\n{GOOD}\n", encoding="utf-8")
    overlay = clone.overlay({"data": {"train": name, "valid": "good.csv"}})
    said = clone.snakemake("--configfile", TINY, overlay, "--", "results/questions/train.jsonl")
    assert said.status == 1
    assert said.error.startswith(error)
    assert "Traceback" not in said.text
    assert said.error in (clone / "logs/questions.log").read_text("utf-8")
    assert not (clone / "results/questions").exists()


# A person's own questions and model


def test_own_questions_are_read_and_told_apart(clone: Chain):
    (clone / "train.csv").write_text(
        "question,answer,category\n"
        '"How many gram are there per 6 kg, roughly?",6000,weights\n'
        "How many inches are 2 ft?,24,\n"
        "How many inches are 2 ft?,24,\n",
        encoding="utf-8",
    )
    valid = [["how many inches are  2 ft?", 24], ["What is 7 times 8?", 56]]
    (clone / "valid.json").write_text(json.dumps(valid), encoding="utf-8")
    overlay = clone.overlay({"data": {"train": "train.csv", "valid": "valid.json"}})
    said = clone.snakemake("--configfile", TINY, overlay, "--", "results/questions/train.jsonl")
    assert said.status == 0, said.text
    train = clone.rows("results/questions/train.jsonl")
    assert [(row["id"], row["answer"], row["category"]) for row in train] == [
        ("train-0001", 6000, "weights"),
        ("train-0002", 24, "length"),
    ]
    assert (train[1]["quantity"], train[1]["from_unit"], train[1]["to_unit"]) == (2, "foot", "inch")
    assert "2 questions, 1 duplicates dropped" in said.text
    leaks = table(clone / "results/questions/leaks.csv")[1]
    assert leaks == [{"id": "valid-0001", "where": "training", "how": "normalised"}]
    other = clone.rows("results/questions/valid.jsonl")[1]
    assert [other[key] for key in ("answer", "category", "quantity")] == [56, None, None]


def smollm2_of_random_weights(folder: Path, tokenizer: Path) -> None:
    """Make a folder as a SmolLM2 is downloaded, its tokenizer real and its weights fresh and few.

    Same family and head counts, but narrow and shallow.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=49152,
        hidden_size=60,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=15,
        num_key_value_heads=5,
        tie_word_embeddings=True,
        rope_theta=100000.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy2(tokenizer / name, folder / name)


def test_a_folder_of_smollm2s_shape_goes_through_the_same_rules(tmp_path: Path, test_data: Path):
    """With its preset. Fresh weights sample nothing right: there the chain ends, and says so."""
    folder = tmp_path / "smollm2"
    smollm2_of_random_weights(folder, test_data / "smollm2")
    chain = fresh_clone(tmp_path / "workflow")
    settings = {
        "base_model": str(folder),
        "data": {"train_size": 20, "valid_size": 20},
        "sft": {"epochs": 2, "batch_size": 10},
        "rollouts": {
            "samples_per_question": 2,
            "samples_when_sft_is_right": 1,
            "keep_per_question": 2,
            "max_new_tokens": 8,
        },
        "evaluate": {"max_new_tokens": 8},
    }
    targets = ("results/sft_eval.csv", "results/rft_data/round1.jsonl")
    configs = ("--configfile", "presets/smollm2-360m.yaml", chain.overlay(settings))
    said = chain.snakemake(*ONE_CORE, "--keep-going", *configs, "--", *targets)
    assert said.status == 1
    assert said.error.startswith("none of 40 samples can be trained on (")
    assert (chain / "resources/base_model/model.safetensors").is_symlink()
    [row] = table(chain / "results/sft_eval.csv")[1]
    adapter = chain / "results/sft/adapter_model.safetensors"
    assert (row["questions"], row["adapter_sha256"]) == ("20", sha256(adapter))
    prompt = chain.rows("results/sft_predictions.jsonl")[0]["prompt"]
    assert prompt.startswith("<|im_start|>system\nYou convert units.")
    for row in chain.rows("results/tokenized/sft.jsonl"):
        assert row["labels"][-1] == 2, "the stop token, which is SmolLM2's pad token too, is learnt"
