"""Receipts lead from a figure down to all that made it, and every file that differs is named."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_selection import kept_of

from posttrain import ancestry, artifacts, bundle, lineage
from posttrain.errors import BundleError, PosttrainError, ScoringError

HOME = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((HOME / "schemas/receipt.schema.yaml").read_text(encoding="utf-8"))
CODE = ["scripts/stage.py", "scripts/posttrain/part.py"]
BASE, ADAPTER, CONFIG = "resources/base_model", "adapter_model.safetensors", "adapter_config.json"
FIGURE, KEPT = "results/rft_eval.csv", "results/rft_data/round1.jsonl"
SHARD = "results/rollouts/round1/shard_1_of_2.jsonl"
SAMPLES = 4


def write(path: str, content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        artifacts.write_text(path, content)
    else:
        artifacts.write_jsonl(path, content)
    return path


def stage(
    name: str,
    receipt: str,
    inputs: list[str],
    outputs: list[str],
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the receipt of a stage as its rule does."""
    computed = {"device": "cpu AVX512", "dtype": "bfloat16", "threads": 2}
    settings, libraries = {"seed": 0}, {"python": "3.11.7"}
    files = {"inputs": inputs, "code": CODE}
    origin = lineage.origin(name, files, settings, libraries, computed)
    found = lineage.receipt(origin, {"outputs": outputs}, more)
    artifacts.write_json(receipt, found)
    return found


def train(name: str, folder: str, rows: str) -> list[str]:
    """Write an adapter and its receipt; return its files."""
    outputs = [write(f"{folder}/{ADAPTER}", name), write(f"{folder}/{CONFIG}", f"{name}, config")]
    tensor = {"shape": [4, 8], "norm": 0.5}
    adapter = {"sha256": artifacts.sha256_file(outputs[0]), "trainable_parameters": 64}
    adapter |= {"config_sha256": artifacts.sha256_file(outputs[1])}
    proof = {
        "adapter": adapter | {"tensors": {"lora_A": tensor, "lora_B": tensor}},
        "base_model": artifacts.read_json(f"{BASE}/manifest.json")["files"],
        "canary": {"before": -3.0, "after": -2.0},
        "probes": {
            "rows": [{"id": "train-0001", "input_ids": [5, 6], "labels": [-100, 6]}],
            "base_logprobs": [-3.0],
            "adapter_logprobs": [-1.0],
        },
    }
    receipt = f"{folder}/receipt.json"
    stage(name, receipt, [f"{BASE}/manifest.json", rows], outputs, proof)
    return [*outputs, receipt]


def evaluate(model: str, adapter: list[str]) -> None:
    inputs = [f"{BASE}/manifest.json", "results/questions/valid.jsonl", *adapter]
    outputs = [
        write(f"results/{model}_eval.csv", f"model,correct\n{model},1\n"),
        write(f"results/{model}_predictions.jsonl", [{"id": "valid-0001", "verdict": "correct"}]),
    ]
    label = artifacts.sha256_file(adapter[0]) if adapter else "none"
    more = {"adapter": label, "asked_as_trained": True if adapter else None}
    stage("evaluate", f"results/{model}_receipt.json", inputs, outputs, more)


def rollouts(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sample every question; what is sound has an odd number, and one equation of its own."""
    return [
        {
            "question_id": question["id"],
            "question": question["question"],
            "sample": sample,
            "completion": f"1 * {sample} = {sample}. <answer>{sample}</answer>",
            "path": [f"1 * {sample} = {sample}"],
            "verdict": "correct" if sample % 2 else "wrong",
            "trace": "right",
        }
        for question in questions
        for sample in range(SAMPLES)
    ]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A whole run in small, in the current folder: real receipts of files that are mere text."""
    monkeypatch.chdir(tmp_path)
    for path in CODE:
        write(path, f"# {path}\n")
    manifest = f"{BASE}/manifest.json"
    given = write("mine/train.jsonl", "a person's own\n")
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    model = {name: artifacts.sha256_file(write(f"{BASE}/{name}", name)) for name in names}
    history = write(f"{BASE}/history.csv", "step,loss\n")
    origin = stage("base_model", manifest, [], [history])
    artifacts.write_json(manifest, {"files": model, "origin": origin})
    rows = {
        split: [{"id": f"{split}-{n:04}", "question": f"{split} {n}?"} for n in (1, 2, 3)]
        for split in ("train", "valid")
    }
    splits = [write(f"results/questions/{split}.jsonl", rows[split]) for split in rows]
    stage("questions", "results/questions/receipt.json", [given], splits)
    tokenized = write("results/tokenized/sft.jsonl", [{"id": row["id"]} for row in rows["train"]])
    receipt = "results/tokenized/sft_receipt.json"
    stage("tokenize_sft", receipt, [manifest, splits[0]], [tokenized])
    sft = train("sft_train", "results/sft", tokenized)
    sampled = rollouts(rows["train"])
    shards = [write(SHARD, sampled[:8]), write(SHARD.replace("shard_1", "shard_2"), sampled[8:])]
    for path in shards:
        receipt = path.replace(".jsonl", "_receipt.json")
        stage("generate_rft_data", receipt, [manifest, splits[0], *sft], [path])
    raw = write("results/rollouts/round1.jsonl", sampled)
    stage("gather_rollouts", "results/rollouts/round1_receipt.json", shards, [raw])
    write(KEPT, kept_of(sampled, keep_per_question=2))
    stage("select_rft_data", "results/rft_data/round1_receipt.json", [raw], [KEPT])
    *labelled, dropped = [{"id": row["id"]} for row in artifacts.read_jsonl(KEPT)]
    assert dropped == {"id": "train-0003-03"}
    tokenized = write("results/tokenized/rft.jsonl", labelled)
    stage("tokenize_rft", "results/tokenized/rft_receipt.json", [manifest, KEPT], [tokenized])
    rft = [
        write(path.replace("/round1", ""), Path(path).read_text())
        for path in train("rft_train", "results/rft/round1", tokenized)
    ]
    for model, adapter in {"base": [], "sft": sft, "rft": rft}.items():
        evaluate(model, adapter)
    return tmp_path


def stages() -> list[ancestry.Stage]:
    """Return the stages of all receipts, each of which must be one."""
    found, unread = ancestry.read_stages(SCHEMA)
    if unread:
        raise PosttrainError("; ".join(unread.values()))
    return found


def tree(path: str = FIGURE) -> ancestry.Node:
    return ancestry.tree(stages(), path, ancestry.checker())


def of_row(path: str, row_id: str) -> ancestry.Node:
    return ancestry.row_tree(stages(), path, row_id, ancestry.checker())


def text(node: ancestry.Node) -> str:
    return "\n".join(ancestry.drawn(node, coloured=False))


def nodes(node: ancestry.Node) -> Iterator[ancestry.Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def stands(node: ancestry.Node) -> dict[str, str]:
    return {line.text: line.note for line in node.lines}


def test_an_intact_tree_names_every_file_that_made_the_figure_and_no_other(run):
    found = tree()
    assert ancestry.faults(found) == []
    shown = text(found)
    missed = [path for path in files(run) if path not in shown]
    others = ["base_eval.csv", "base_predictions.jsonl", "base_receipt.json"]
    others += [name.replace("base", "sft") for name in others]
    copies = ["results/rft/adapter_config.json", f"results/rft/{ADAPTER}"]
    assert missed == sorted([*(f"results/{name}" for name in others), *CODE])
    assert all(path in shown for path in copies)
    assert len([line for line in shown.splitlines() if "code: 2 files" in line]) == 11


def test_each_stage_stands_once_in_full_and_is_found_again(run):
    names = [(node.head.text, node.head.note != "see above") for node in nodes(tree())]
    stages = ["base_model", "generate_rft_data", "questions", "rft_train", "select_rft_data"]
    stages += ["gather_rollouts", "generate_rft_data", "sft_train", "tokenize_rft", "tokenize_sft"]
    assert sorted(name for name, is_full in names if is_full) == sorted([*stages, "evaluate"])
    again = {name for name, is_full in names if not is_full}
    assert again == {"base_model", "questions", "sft_train"}


def test_an_adapter_leads_to_its_rollouts_with_their_numbers(run):
    shown = text(tree(f"results/rft/{ADAPTER}"))
    assert "results/rollouts/round1.jsonl  (12 rows)" in shown
    assert f"{KEPT}  (6 rows)" in shown
    assert "results/tokenized/rft.jsonl  (5 rows)" in shown
    assert "results/rft/round1/adapter_model.safetensors" in shown
    assert "rft_eval" not in shown


def test_a_kept_rollout_leads_to_the_adapter_it_shaped_and_to_its_question(run):
    found = of_row(KEPT, "train-0002-01")
    assert list(stands(found).items()) == [
        ("results/questions/train.jsonl", "line 2"),
        (SHARD, "line 6"),
        ("results/rollouts/round1.jsonl", "line 6"),
        (KEPT, "line 3"),
        ("results/tokenized/rft.jsonl", "line 3"),
    ]
    assert [child.head.text for child in found.children] == ["rft_train"]
    adapters = [f"results/rft/{ADAPTER}", f"results/rft/round1/{ADAPTER}"]
    assert list(stands(found.children[0])) == adapters
    for path in (SHARD, "results/rollouts/round1.jsonl", "results/tokenized/rft.jsonl"):
        assert text(of_row(path, "train-0002-01")) == text(found)


def test_a_single_shard_has_the_bytes_of_the_whole_and_closes_no_circle(run):
    whole = "results/rollouts/round1.jsonl"
    shard = write(SHARD.replace("of_2", "of_1"), Path(whole).read_text())
    split = "results/questions/train.jsonl"
    stage("generate_rft_data", shard.replace(".jsonl", "_receipt.json"), [split], [shard])
    stage("gather_rollouts", "results/rollouts/round1_receipt.json", [shard], [whole])
    assert ancestry.faults(tree()) == []
    for path in (split, shard, whole, KEPT):
        row = "train-0002" if path == split else "train-0002-01"
        found = of_row(path, row)
        assert {split, shard, whole, KEPT} <= set(stands(found))
        assert "rft_train" in [child.head.text for child in found.children]


def test_a_question_leads_to_every_adapter_that_learnt_from_it(run):
    found = of_row("results/questions/train.jsonl", "train-0002")
    assert stands(found)["results/rollouts/round1.jsonl"] == "line 5, 6, 7, 8"
    assert stands(found)[KEPT] == "line 3, 4"
    assert sorted(child.head.text for child in found.children) == ["rft_train", "sft_train"]


def test_a_row_of_a_later_round_leads_to_that_rounds_rollout_alone(run):
    first = artifacts.read_jsonl("results/rollouts/round1.jsonl")
    raw = write("results/rollouts/round2.jsonl", [row | {"round": 2} for row in first])
    stage("gather_rollouts", "results/rollouts/round2_receipt.json", [SHARD], [raw])
    rows = artifacts.read_jsonl(KEPT)
    rows.append(rows[0] | {"id": "train-0001-r2-02"})
    rows.append(rows[0] | {"id": "train-0003-gold", "question_id": "train-0003", "reasoning": None})
    kept = write("results/rft_data/round2.jsonl", rows)
    inputs = ["results/rollouts/round1.jsonl", raw]
    stage("select_rft_data", "results/rft_data/round2_receipt.json", inputs, [kept])
    later = stands(of_row(kept, "train-0001-r2-02"))
    assert later[raw] == "line 3"
    assert "results/rollouts/round1.jsonl" not in later
    earlier = stands(of_row(kept, rows[0]["id"]))
    assert earlier["results/rollouts/round1.jsonl"] == "line 2"
    assert raw not in earlier
    gold = stands(of_row(kept, "train-0003-gold"))
    assert gold["results/rollouts/round1.jsonl"] == gold[raw] == "line 9, 10, 11, 12"
    assert gold["results/questions/train.jsonl"] == "line 3"


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("results/rollouts/round1.jsonl", "train-0002-02"),  # not sound
        (KEPT, "train-0003-03"),  # kept, but dropped when it was tokenized
        ("results/questions/valid.jsonl", "valid-0001"),
    ],
)
def test_a_row_that_was_not_trained_on_has_no_adapter(run, path, row):
    found = of_row(path, row)
    assert found.children == []
    assert ancestry.faults(found) == []


def test_a_row_is_looked_for_in_files_that_are_as_they_were(run):
    path = "results/tokenized/rft.jsonl"
    Path(path).write_text(Path(path).read_text().replace("train-0002-01", "train-0002-05"))
    assert ancestry.faults(of_row(KEPT, "train-0002-01")) == [f"{path}: CHANGED"]
    with pytest.raises(PosttrainError, match="has no row train-0009-01"):
        of_row(KEPT, "train-0009-01")
    with pytest.raises(PosttrainError, match="has no row train-0001"):
        of_row(FIGURE, "train-0001")


def hashed(root: Path) -> list[str]:
    """Return the files whose sha256 is stated by a receipt in the figure's tree."""
    known = [stage.receipt[part] for stage in stages() for part in ("inputs", "code", "outputs")]
    stated = set().union(*known)
    others = ("results/base_", "results/sft_")
    return [path for path in files(root) if path in stated and not path.startswith(others)]


def faults() -> list[str]:
    """Return what the figure's tree finds, or the one line it is refused with."""
    try:
        return ancestry.faults(tree())
    except PosttrainError as error:
        return [str(error)]


def test_one_byte_changed_in_any_hashed_file_is_named(run):
    paths = hashed(run)
    assert len(paths) == 27
    for path in paths:
        whole = Path(path).read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            Path(path).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            found = faults()  # a damaged receipt may be one that cannot be read
            assert f"{path}: CHANGED" in found or found[0].startswith(f"{path} is no receipt")
        Path(path).write_bytes(whole)
    assert faults() == []


def test_any_missing_file_is_named(run):
    for path in hashed(run):
        whole = Path(path).read_bytes()
        Path(path).unlink()
        assert f"{path}: missing" in faults()
        Path(path).write_bytes(whole)
    assert faults() == []


def test_outputs_without_a_receipt_are_named(run):
    Path("results/tokenized/rft_receipt.json").unlink()
    assert ancestry.faults(tree()) == ["results/tokenized/rft.jsonl: no receipt"]
    Path("results/rft_receipt.json").unlink()
    with pytest.raises(PosttrainError, match=f"{FIGURE}: no receipt .* states what made it"):
        tree()
    with pytest.raises(PosttrainError, match=r"results/cot_eval.csv: no such file"):
        tree("results/cot_eval.csv")


def test_a_changed_hash_in_any_receipt_is_found(run):
    receipts = [path for path in files(run) if path.endswith(("receipt.json", "manifest.json"))]
    others = ("results/base_", "results/sft_", "results/rft/round1/")  # not what the figure was on
    receipts = [path for path in receipts if not path.startswith(others)]
    assert len(receipts) == 11
    for path in receipts:
        whole = Path(path).read_text()
        receipt = json.loads(whole)
        part = receipt.get("origin", receipt)["outputs"]
        name = min(part)
        part[name] = part[name][:-1] + ("1" if part[name].endswith("0") else "0")
        artifacts.write_json(path, receipt)
        assert faults(), path
        write(path, whole)


def edited(path: str) -> str:
    """Return the line on a receipt that was edited."""
    again = f"make it again: snakemake --force {path} (or remove it, if no rule makes it any more)"
    return f"{path} is no receipt: it was edited by hand; {again}"


def test_an_edited_setting_is_found_in_any_receipt(run):
    """Also where no later stage states the receipt's own sha256."""
    receipts = [path for path in files(run) if path.endswith("receipt.json")]
    assert len(receipts) == 13
    for path in receipts:
        whole = Path(path).read_text()
        for part in ("settings", "libraries"):
            receipt = json.loads(whole)
            receipt[part]["seed"] = "1"
            artifacts.write_json(path, receipt)
            assert faults() == [edited(path)]
        write(path, whole)
    assert faults() == []


def test_an_edited_proof_or_label_is_found(run):
    changes = {
        "results/rft/receipt.json": {"canary": {"before": -3.0, "after": -1.0}},
        "results/rft_receipt.json": {"adapter": "none"},
    }
    for path, change in changes.items():
        whole = Path(path).read_text()
        artifacts.write_json(path, json.loads(whole) | change)
        assert faults() == [edited(path)]
        write(path, whole)
    assert faults() == []


def test_a_figure_whose_data_was_made_again_is_stale(run):
    rows = [{"id": "valid-0007", "question": "another?"}]
    splits = ["results/questions/train.jsonl", write("results/questions/valid.jsonl", rows)]
    stage("questions", "results/questions/receipt.json", ["mine/train.jsonl"], splits)
    assert ancestry.faults(tree()) == ["results/questions/valid.jsonl: CHANGED"]
    assert ancestry.faults(tree(f"results/rft/{ADAPTER}")) == []


def test_a_local_base_model_and_given_files_need_no_receipt(run):
    manifest = artifacts.read_json(f"{BASE}/manifest.json")
    artifacts.write_json(
        "resources/base_model/manifest.json", manifest | {"origin": {"folder": "m"}}
    )
    outputs = [write("results/x_eval.csv", "x\n")]
    inputs = ["resources/base_model/manifest.json", write("theirs/adapter_model.safetensors", "x")]
    stage("evaluate", "results/x_receipt.json", inputs, outputs)
    found = tree("results/x_eval.csv")
    assert ancestry.faults(found) == []
    assert "theirs/adapter_model.safetensors  (given)" in text(found)
    assert f"{BASE}/tokenizer.json" in text(found)


def test_a_given_file_of_the_same_bytes_as_an_output_does_not_close_a_circle(run):
    write("mine/train.jsonl", artifacts.read_jsonl("results/questions/train.jsonl"))
    splits = [f"results/questions/{split}.jsonl" for split in ("train", "valid")]
    stage("questions", "results/questions/receipt.json", ["mine/train.jsonl"], splits)
    found = tree("results/questions/train.jsonl")
    assert stands(found)["mine/train.jsonl"] == "3 rows, given"
    assert found.children == []


NO_RECEIPTS = ["", "{", "null", "[]", "{}", "NaN", "\x00\ud7ff", '{"stage": "x"}']
NO_MANIFESTS = ['{"files": null, "origin": {}}', '{"files": {}, "origin": "stage"}']
NO_MANIFESTS += ['{"files": {"a": "b"}, "origin": {"stage": "x"}}']


@pytest.mark.parametrize("content", [*NO_RECEIPTS, *NO_MANIFESTS])
@pytest.mark.parametrize("path", ["results/rft_receipt.json", f"{BASE}/manifest.json"])
def test_what_is_no_receipt_is_named_in_one_line(run, path, content):
    write(path, content)
    [said] = faults()
    assert said.startswith(f"{path} is no receipt: ")
    assert len(said.splitlines()) == 1


def test_the_schema_refuses_a_receipt_with_any_part_missing_added_or_of_another_kind(run):
    validator = Draft202012Validator(SCHEMA)
    for path in ("results/sft/receipt.json", "results/sft_receipt.json"):
        receipt = artifacts.read_json(path)
        assert validator.is_valid(receipt)
        for key in receipt:
            assert not validator.is_valid({k: v for k, v in receipt.items() if k != key}), key
            assert not validator.is_valid(receipt | {key: 3}), key
        assert not validator.is_valid(receipt | {"more": {}})
        assert not validator.is_valid(receipt | {"outputs": {"x": "A" * 64}})


def test_receipts_of_a_real_training_and_evaluation_fit_the_schema(tmp_path):
    from training_for_tests import RECIPE, save_base, save_trained, tokenizer

    from posttrain import adapters, devices, evaluation

    Draft202012Validator.check_schema(SCHEMA)
    manifest = save_base(tmp_path / "base")
    folder = save_trained(manifest, tmp_path / "sft")
    names = [str(folder / name) for name in (adapters.WEIGHTS, adapters.CONFIG)]
    origin = lineage.origin(
        "sft_train",
        {"base": str(manifest), "code": [__file__]},
        RECIPE,
        {"python": "3.11.7"},
        devices.describe(1),
    )
    receipt = lineage.receipt(origin, {"adapter": names})
    proof = artifacts.read_json(folder / adapters.RECEIPT)
    validator = Draft202012Validator(SCHEMA)
    validator.validate(json.loads(json.dumps(receipt | proof)))
    loaded = adapters.load(manifest, folder)
    prompts = {"answer": "Question: {question}\nAnswer:", "examples": [], "system": None}
    recipe = {"task": "units", "prompts": prompts}
    alike = evaluation.asked_as_trained(tokenizer(), loaded.receipt, "answer", recipe)
    assert alike is True
    validator.validate(receipt | {"adapter": loaded.label, "asked_as_trained": alike})


def trace(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HOME / "scripts/show_lineage.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_the_command_prints_the_tree_and_ends_in_failure_where_a_file_differs(run):
    done = trace(f"./{FIGURE}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:-1] == ancestry.drawn(tree(), coloured=False)
    assert "train-0001" in trace(KEPT, "train-0001-01").stdout
    write(f"results/rft/{ADAPTER}", "a fresh one")
    done = trace(FIGURE)
    assert done.returncode == 1
    assert f"CHANGED     {tree().lines[3].sha256[:12]}  │  results/rft/{ADAPTER}" in done.stdout
    said = f"error: not as the receipts state: results/rft/{ADAPTER}: CHANGED\n"
    assert done.stderr == said


def test_the_command_names_receipts_that_cannot_be_read_and_shows_the_others(run):
    whole = ancestry.drawn(tree(), coloured=False)
    again = "make it again: snakemake --force results/old_receipt.json (or remove it, if no rule"
    write("results/old_receipt.json", "{")  # of no stage that the figure hangs on
    done = trace(FIGURE)
    assert (done.returncode, done.stdout.splitlines()) == (1, whole)
    assert done.stderr.startswith("error: results/old_receipt.json is no receipt: ")
    assert again in done.stderr
    assert len(done.stderr.splitlines()) == 1
    Path("results/old_receipt.json").unlink()
    write("results/sft/receipt.json", "{")
    done = trace(FIGURE)
    assert done.returncode == 1
    unread, differs = done.stderr.splitlines()
    assert unread.startswith("error: results/sft/receipt.json is no receipt: ")
    assert f"results/sft/{ADAPTER}: no receipt" in differs
    write("results/rft_receipt.json", "{")
    done = trace(FIGURE)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split()[1] for line in done.stderr.splitlines()] == [
        "results/rft_receipt.json",
        "results/sft/receipt.json",
        f"{FIGURE}:",
    ]


def test_colour_marks_what_differs(run):
    write(f"results/sft/{ADAPTER}", "a fresh one")
    lines = ancestry.drawn(tree(), coloured=True)
    red = [line for line in lines if ancestry.RED in line]
    assert [line.split()[-1] for line in red] == [f"results/sft/{ADAPTER}"]
    assert any(line.startswith(f"{ancestry.GREEN}ok") for line in lines)


def test_a_figure_edited_after_its_evaluation_is_not_gathered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text("x = 1\n", encoding="utf-8")
    Path("sft_eval.csv").write_text("model,accuracy\nsft,0.587\n", encoding="utf-8")
    origin = lineage.origin("evaluate", {"code": "code.py"}, {}, {})
    stated = lineage.receipt(origin, {"row": "sft_eval.csv"})
    artifacts.write_json("sft_receipt.json", stated)
    lineage.refuse_changed(["sft_receipt.json"])
    Path("sft_eval.csv").write_text("model,accuracy\nsft,0.687\n", encoding="utf-8")
    with pytest.raises(ScoringError, match=r"^sft_eval\.csv was changed since it was written"):
        lineage.refuse_changed(["sft_receipt.json"])
    stated["outputs"] = lineage.hashes({"row": "sft_eval.csv"})
    artifacts.write_json("sft_receipt.json", stated)
    with pytest.raises(ScoringError, match=r"^sft_receipt\.json was edited by hand"):
        lineage.refuse_changed(["sft_receipt.json"])
    del stated["seal"]
    artifacts.write_json("sft_receipt.json", stated)
    with pytest.raises(ScoringError, match=r"^sft_receipt\.json was edited by hand"):
        lineage.refuse_changed(["sft_receipt.json"])


@pytest.mark.parametrize(
    ("folder", "remedy"),
    [
        ("results", "make it again: snakemake --force {}"),
        (
            "results/sweeps/seed1",
            "remove {} and run the sweep again, with the command that it was run with",
        ),
    ],
)
def test_what_is_refused_is_told_with_what_makes_it_again(folder, remedy, tmp_path, monkeypatch):
    """No command names a sweep's file without the snakefile of the sweep, which is not known."""
    monkeypatch.chdir(tmp_path)
    row, path = write(f"{folder}/sft_eval.csv", "before"), f"{folder}/sft_receipt.json"
    origin = lineage.origin("evaluate", {"code": [write("stage.py", "x = 1")]}, {}, {})
    stated = lineage.receipt(origin, {"row": row})
    artifacts.write_json(path, stated)
    write(row, "after")
    with pytest.raises(ScoringError) as caught:
        lineage.refuse_changed([path])
    changed = f"{row} was changed since it was written"
    assert str(caught.value) == f"{changed}, by {path}; {remedy.format(row)}"
    with pytest.raises(BundleError) as caught:
        bundle.refuse_changed([row], [stated])
    assert str(caught.value) == f"{changed}; {remedy.format(row)}"
    artifacts.write_json(path, stated | {"settings": {"seed": 1}})
    with pytest.raises(ScoringError) as caught:
        lineage.read_receipt(path)
    assert str(caught.value) == f"{path} was edited by hand; {remedy.format(path)}"


@pytest.mark.parametrize("changed", ["inputs", "code"])
def test_what_was_changed_while_a_stage_ran_is_in_no_receipt(changed, tmp_path, monkeypatch):
    """Hashed at the end alone, a receipt would state bytes that made nothing."""
    monkeypatch.chdir(tmp_path)
    files = {"inputs": [write("in.jsonl", "before")], "code": [write("stage.py", "before")]}
    origin = lineage.origin("evaluate", files, {}, {}, {})
    outputs = {"outputs": [write("out.csv", "made")]}
    assert lineage.receipt(origin, outputs)["inputs"] == origin["inputs"]
    write(files[changed][0], "after")
    with pytest.raises(ScoringError, match=rf"{files[changed][0]} was changed while evaluate ran"):
        lineage.receipt(origin, outputs)
