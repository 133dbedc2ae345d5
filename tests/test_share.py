"""What is given away, through snakemake: merged model, cards, bundle, rollouts there and back."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from chain_for_tests import ONE_CORE, TINY, Chain, Said, fresh_clone
from huggingface_hub import ModelCard
from jsonschema import validate

pytestmark = [pytest.mark.chain, pytest.mark.long]

OURS = ("README.md", "adapter_config.json", "adapter_model.safetensors", "card_receipt.json")
OURS += ("history.csv", "receipt.json")
OF_ROUNDS = ("rounds.csv", "rounds_receipt.json", "round1/history.csv", "round1/receipt.json")
LARGER = f"org/larger@{'a' * 40}"


def made(chain: Chain, *targets: str, overlay: str | None = None) -> Said:
    configs = [TINY, *([overlay] if overlay else [])]
    return chain.snakemake(*ONE_CORE, "--configfile", *configs, "--", *targets)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A run of the workflow with somebody else's adapter, and all that can be given away of it."""
    chain = fresh_clone(tmp_path_factory.mktemp("share") / "workflow")
    said = made(chain, "results/sft/adapter_model.safetensors")
    assert said.status == 0, said.text
    (chain / "checkpoints/mine").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy2(chain / f"results/sft/{name}", chain / f"checkpoints/mine/{name}")
    overlay = chain.overlay({"evaluate": {"adapters": {"mine": "checkpoints/mine"}}})
    merged = [f"results/{model}/merged/model.safetensors" for model in ("sft", "rft", "mine")]
    said = made(
        chain, "results/bundle.zip", "results/rft_data/round1.json", *merged, overlay=overlay
    )
    assert said.status == 0, said.text
    return chain


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def receipt(chain: Chain, path: str) -> dict:
    return json.loads((chain / path).read_text("utf-8"))


def test_every_receipt_is_one_and_states_what_is_there(chain: Chain):
    schema = yaml.safe_load((chain / "schemas/receipt.schema.yaml").read_text("utf-8"))
    stages = set()
    for path in chain.folder.glob("results/**/*receipt.json"):
        one = json.loads(path.read_text("utf-8"))
        validate(one, schema)
        stages.add(one["stage"])
        for file, stated in one["outputs"].items():
            assert sha256(chain / file) == stated, f"{path}: {file}"
    assert {"merge_adapter", "model_card", "bundle", "export_rollouts"} <= stages


# Merged


@pytest.mark.parametrize("model", ["sft", "rft", "mine"])
def test_a_merged_model_is_the_trained_one(chain: Chain, model: str):
    folder = chain / f"results/{model}/merged"
    merged = receipt(chain, f"results/{model}/merged/receipt.json")
    trained = f"results/{'sft' if model == 'mine' else model}"
    label = sha256(chain / f"{trained}/adapter_model.safetensors")
    assert merged["merged"]["adapter"] == (f"unproven:{label}" if model == "mine" else label)
    stated = receipt(chain, f"{trained}/receipt.json")["probes"]["adapter_logprobs"]
    if model != "mine":
        assert merged["merged"]["logprobs"] == pytest.approx(stated, abs=1e-4)
    written = {Path(file).name for file in merged["outputs"]}
    assert written == {path.name for path in folder.iterdir()} - {"receipt.json"}
    weights = [sha256(chain / f"results/{m}/merged/model.safetensors") for m in ("sft", model)]
    assert (weights[0] == weights[1]) == (model != "rft")


def test_a_damaged_adapter_is_not_merged(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    weights = again / "results/sft/adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    said = made(again, "results/sft/merged/model.safetensors")
    assert said.status == 1
    assert said.jobs == {"merge_adapter": 1}
    assert said.error.startswith("results/sft/adapter_model.safetensors: its sha256 is ")
    assert not list((again / "results/sft/merged").glob("*"))


# Cards


@pytest.mark.parametrize("model", ["sft", "rft", "mine"])
def test_a_card_states_the_figures_of_the_summary(chain: Chain, model: str):
    text = (chain / f"results/{model}/README.md").read_text("utf-8")
    with (chain / "results/summary.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["model"] == model)
    [figure] = [r for r in ModelCard(text).data.eval_results if r.metric_type == "accuracy"]
    assert figure.metric_value == float(row["accuracy"])
    assert f"| {row['accuracy_low']} to {row['accuracy_high']} |" in text
    lines = (chain / "logs/comparisons.log").read_text("utf-8").splitlines()
    told = [line.split(" ", 2)[2] for line in lines if " McNemar " in line]
    mine = [line for line in told if model in line.split(":")[0].split()]
    assert len(mine) == 4
    figures = text.split("## Figures")[1].splitlines()
    assert [line[2:] for line in figures if line.startswith("- ")] == mine
    for path in chain.folder.glob(f"results/{model}/adapter_*"):
        assert f"| results/{model}/{path.name} | {sha256(path)} |" in text


def test_a_card_has_the_same_bytes_when_made_again(chain: Chain):
    before = (chain / "results/rft/README.md").read_bytes()
    overlay = "overlay.yaml"
    said = chain.snakemake(
        *ONE_CORE,
        "--configfile",
        TINY,
        overlay,
        "--forcerun",
        "model_card",
        "--",
        "results/rft/README.md",
    )
    assert said.status == 0, said.text
    assert said.jobs == {"model_card": 1}
    assert (chain / "results/rft/README.md").read_bytes() == before


@pytest.mark.parametrize(
    ("rule", "target"),
    [("model_card", "results/rft/README.md"), ("bundle", "results/bundle.zip")],
)
def test_a_figure_edited_after_its_evaluation_is_not_given_away(
    chain: Chain, tmp_path: Path, rule: str, target: str
):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    summary = again / "results/summary.csv"
    summary.write_text(re.sub(r"(?m)^(rft,.*),\d+,\d+$", r"\1,0,0", summary.read_text()) + "\n")
    only = ("--force", "--allowed-rules", rule)
    said = again.snakemake(*ONE_CORE, "--configfile", TINY, "overlay.yaml", *only, "--", target)
    assert said.status == 1
    assert "results/summary.csv was changed since it was written" in said.error


# The bundle


def names(chain: Chain) -> set[str]:
    with zipfile.ZipFile(chain / "results/bundle.zip") as archive:
        return set(archive.namelist())


def test_a_bundle_holds_what_was_asked_for_and_nothing_else(chain: Chain):
    found = names(chain)
    for model in ("sft", "rft"):
        assert {n for n in found if n.startswith(f"results/{model}/")} == {
            f"results/{model}/{name}" for name in (*OURS, *(OF_ROUNDS if model == "rft" else ()))
        }
    assert {name for name in found if name.startswith("adapters/")} == {
        "adapters/mine/adapter_config.json",
        "adapters/mine/adapter_model.safetensors",
    }
    assert {
        *("config.yaml", "manifest.json", "Snakefile", "profiles/default/config.yaml"),
        *("rules/share.smk", "scripts/posttrain/bundle.py", "schemas/config.schema.yaml"),
        *("envs/train.yaml", "results/summary.csv", "results/verdicts.csv"),
        *("results/mine/README.md", "resources/base_model/manifest.json"),
        *("results/rollouts/round1/shard_1_of_1_receipt.json", "results/comparisons.csv"),
        *("results/rft_data/round1_ledger.csv", "results/breakdown.csv"),
        *(f"results/{m}_eval.csv" for m in ("base", "cot", "sft", "rft", "mine")),
    } <= found
    assert not [n for n in found if "checkpoint" in n.replace("checkpoints.py", "")]
    assert not [n for n in found if "merged" in n or "pycache" in n or ".snakemake" in n]
    assert {n for n in found if n.endswith((".safetensors", ".bin", ".pt"))} == {
        *(f"results/{model}/adapter_model.safetensors" for model in ("sft", "rft")),
        "adapters/mine/adapter_model.safetensors",
    }


@pytest.mark.parametrize("file", ["mine.json", None])
def test_a_bundle_holds_what_was_refused_of_rollouts_that_were_given(tmp_path: Path, file: str):
    plain = fresh_clone(tmp_path / "workflow")
    (plain / "mine.json").write_text("[]")
    overlay = plain.overlay({"rollouts": {"file": file}})
    said = plain.plan("--configfile", TINY, overlay, "--", "results/bundle.zip")
    inputs = re.search(r"(?m)^rule bundle:\n    input: (.*)$", said.text)[1].split(", ")
    assert "results/rollouts/round1_receipt.json" in inputs
    assert ("results/rollouts/round1_refused.csv" in inputs) == (file is not None)


@pytest.mark.parametrize(
    ("model", "file"), [(LARGER, None), (LARGER, "mine.json"), (None, None)], ids=str
)
def test_the_model_that_was_sampled_from_is_told_of(
    tmp_path: Path, model: str | None, file: str | None
):
    plain = fresh_clone(tmp_path / "workflow")
    (plain / "mine.json").write_text("[]")
    overlay = plain.overlay({"rollouts": {"file": file, "model": model}})
    said = plain.plan("--configfile", TINY, overlay, "--", "results/bundle.zip")
    jobs = re.findall(r"(?m)^rule (\w+):\n    input: (.*)\n    output: (.*)$", said.text)
    cards = {made.split("/")[1]: read for rule, read, made in jobs if rule == "model_card"}
    [bundled] = [read for rule, read, _ in jobs if rule == "bundle"]
    sampler = "resources/sampler_model/manifest.json"
    is_told = model is not None and file is None  # where a file stands in, nothing was sampled
    assert (sampler in cards["rft"]) == (sampler in bundled) == is_told
    assert sampler not in cards["sft"]


def test_a_bundle_made_again_has_the_same_bytes(chain: Chain):
    before = sha256(chain / "results/bundle.zip")
    for path in chain.folder.glob("results/*.csv"):
        os.utime(path)
    configs = ("--configfile", TINY, "overlay.yaml")
    said = chain.snakemake(*ONE_CORE, *configs, "--force", "--", "results/bundle.zip")
    assert said.status == 0, said.text
    assert sha256(chain / "results/bundle.zip") == before


def test_a_bundle_unpacked_is_a_workflow_with_the_settings_of_the_run(chain: Chain, tmp_path: Path):
    script = [sys.executable, str(chain / "scripts/open_bundle.py")]
    folder = tmp_path / "received"
    subprocess.run([*script, chain / "results/bundle.zip", folder], check=True)
    received = Chain(folder)
    for name in ("results/rft/adapter_model.safetensors", "results/summary.csv", "Snakefile"):
        assert (received / name).read_bytes() == (chain / name).read_bytes()
    used = yaml.safe_load((received / "config.yaml").read_text("utf-8"))
    assert used["sft"]["epochs"] == 2
    assert used["evaluate"]["adapters"] == {"mine": "checkpoints/mine"}
    (received / "checkpoints").mkdir()
    shutil.copytree(received / "adapters/mine", received / "checkpoints/mine")
    shutil.rmtree(received / "results")
    said = received.snakemake("results/questions/train.jsonl", *ONE_CORE)
    assert said.status == 0, said.text
    path = "results/questions/train.jsonl"
    assert (received / path).read_bytes() == (chain / path).read_bytes()


def test_a_bundle_above_its_limit_is_refused(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    overlay = again.overlay({"bundle": {"largest_megabytes": 0.1}}, "small.yaml")
    configs = ("--configfile", TINY, "overlay.yaml", overlay)
    said = again.snakemake(*ONE_CORE, *configs, "--", "results/bundle.zip")
    assert said.status == 1
    assert said.jobs == {"bundle": 1}
    assert "more than bundle.largest_megabytes (0.1)" in said.error
    assert "adapter_model.safetensors 0." in said.error
    assert not (again / "results/bundle.zip").exists()


# Rollouts of one's own


def test_what_was_exported_stands_in_for_sampling(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    kept = again.rows("results/rft_data/round1.jsonl")
    exported = json.loads((again / "results/rft_data/round1.json").read_text("utf-8"))
    assert [(q, r.partition("<answer>")[0].strip()) for q, _, r in exported] == [
        (row["question"], row["reasoning"]) for row in kept
    ]
    odd = [["What is 7 times 8?", 56, "7 * 8 = 56. <answer>56</answer>"], [exported[0][0], -1, ""]]
    (again / "mine.json").write_text(json.dumps([*exported, *odd]), encoding="utf-8")
    overlay = again.overlay({"rollouts": {"file": "mine.json"}}, "own.yaml")
    said = made(again, "results/rft_eval.csv", overlay=overlay)
    assert said.status == 0, said.text
    assert "import_rollouts" in said.jobs
    assert not {"generate_rft_data", "gather_rollouts", "sft_train"} & said.jobs.keys()
    assert f"{len(kept)} of {len(kept) + 2} rows are sound" in said.text
    with (again / "results/rollouts/round1_refused.csv").open() as file:
        refused = {row["reason"]: row["rows"] for row in csv.DictReader(file)}
    assert refused.pop("not a training question") == "1"
    assert refused.pop("another answer than the training question has") == "1"
    assert set(refused.values()) == {"0"}
    columns = ("question_id", "question", "answer", "reasoning")
    now = again.rows("results/rft_data/round1.jsonl")
    assert [[row[c] for c in columns] for row in now] == [[row[c] for c in columns] for row in kept]
    said = made(again, "results/rft_data/round1.json", overlay=overlay)
    assert json.loads((again / "results/rft_data/round1.json").read_text("utf-8")) == exported


def test_a_malformed_file_ends_in_a_line_with_file_and_row(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    (again / "mine.json").write_text('[["How many?", "6", "<answer>6</answer>"]]')
    overlay = again.overlay({"rollouts": {"file": "mine.json"}}, "own.yaml")
    said = made(again, "results/rollouts/round1.jsonl", overlay=overlay)
    assert said.status == 1
    assert said.error.startswith('mine.json row 1 is ["How many?", "6", "<answer>6</answer>"], not')
    assert "Traceback" not in said.text


def test_each_run_of_a_sweep_gives_away_its_own(chain: Chain):
    targets = [f"results/sweeps/{run}/bundle.zip" for run in ("seed1", "rank8")]
    said = chain.plan("--snakefile", "presets/sweep.smk", "--configfile", TINY, "--", *targets)
    assert {"seed1_bundle", "rank8_bundle", "seed1_model_card"} <= said.jobs.keys()
    lines = re.findall(r"(?m)^    output: (.*)$", said.text)
    written = [path for line in lines for path in line.split(", ")]
    assert "results/sweeps/seed1/rft/README.md" in written
    assert not [path for path in written if "/sweeps/" not in path and "base_model" not in path]


def test_a_sweep_takes_the_same_file_of_rollouts(chain: Chain):
    (chain / "mine.json").write_text("[]")
    overlay = chain.overlay({"rollouts": {"file": "mine.json"}}, "own.yaml")
    configs = ("--snakefile", "presets/sweep.smk", "--configfile", TINY, overlay)
    said = chain.plan(*configs, "--", "results/sweeps/seed1/rft_eval.csv")
    assert said.jobs.keys() >= {"seed1_import_rollouts", "seed1_select_rft_data"}
    assert not {"seed1_generate_rft_data", "seed1_gather_rollouts"} & said.jobs.keys()
    assert "    input: mine.json, results/sweeps/seed1/questions/train.jsonl" in said.text
