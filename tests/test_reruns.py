"""What a second run makes again of a finished one: what a change asks for, and nothing else."""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import chaos
import pytest
from chain_for_tests import EVALUATION, GATHER, ONE_CORE, TINY, Chain, sha256, table
from changes import CHANGES, Change, planned

pytestmark = pytest.mark.chain


def test_a_second_run_has_nothing_to_do(chain: Chain):
    assert chain.plan(*ONE_CORE, "--configfile", TINY).jobs == {}
    assert chain.plan("results/rft_eval.csv", "--configfile", TINY).jobs == {}


def test_a_deleted_result_is_made_again_and_gathered(chain: Chain):
    with chain.without("results/rft_eval.csv"):
        said = chain.plan("--configfile", TINY)
    assert said.jobs == {"evaluate": 1, **GATHER}
    assert "wildcards: model=rft" in said.text


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.what)
def test_a_change_reruns_what_reads_it_and_nothing_else(chain: Chain, change: Change):
    assert planned(chain, change) == change.expected


def test_stopped_runs_and_failing_disks_lose_nothing(chain: Chain, tmp_path: Path):
    """A few of what `make chaos` does by the hundred."""
    wanted = chaos.hashes(chain)
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow", symlinks=True))
    chance = random.Random(3)
    chaos.fail_often(again, wanted, 1, chance)
    shutil.rmtree(again / "results")
    chaos.strike_often(again, wanted, [signal.SIGKILL, signal.SIGINT], chance)


def test_two_shards_make_the_rollouts_that_one_made(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    configs = ("--configfile", TINY, again.overlay({"rollouts": {"shards": 2}}))
    whole = "results/rollouts/round1.jsonl"
    (again / whole).unlink()
    said = again.snakemake(*ONE_CORE, *configs, "--", whole)
    assert said.status == 0, said.text
    assert said.jobs == {"generate_rft_data": 2, "gather_rollouts": 1}
    assert (again / whole).read_bytes() == (chain / whole).read_bytes()
    shards = [again.rows(f"results/rollouts/round1/shard_{n}_of_2.jsonl") for n in (1, 2)]
    assert [{row["chunk"] for row in shard} for shard in shards] == [{0}, {1}]
    # The gate reads what the receipt of the gathering states, which names its shards.
    assert again.plan(*configs).jobs == {"gate": 1, "all": 1}, "the same bytes rerun nothing else"


# Rounds

A_ROUND = {
    "generate_rft_data": 1,
    "gather_rollouts": 1,
    "select_rft_data": 1,
    "ledger": 1,
    "tokenize_rft": 1,
    "rft_train": 1,
    "evaluate_held_out": 1,
}
CHOICE = {"select_round": 1, "evaluate": 1, **GATHER}


def test_a_second_round_samples_from_the_first_ones_adapter(chain: Chain, tmp_path: Path):
    again = Chain(shutil.copytree(chain.folder, tmp_path / "workflow"))
    two = ("--configfile", TINY, again.overlay({"rft": {"rounds": 2}}, "two.yaml"))
    said = again.snakemake(*ONE_CORE, *two)
    assert said.status == 0, said.text
    assert said.jobs == {"split_questions": 1, **{rule: 2 for rule in A_ROUND}, **CHOICE}

    train, held_out = (
        {row["id"] for row in again.rows(f"results/questions/rft_{part}.jsonl")}
        for part in ("train", "held_out")
    )
    assert (len(train), len(held_out), len(train & held_out)) == (108, 12, 0)
    rollouts = [again.rows(f"results/rollouts/round{number}.jsonl") for number in (1, 2)]
    for sampled in rollouts:
        assert {row["question_id"] for row in sampled} == train
    assert {row["seed"] for row in rollouts[0]}.isdisjoint(row["seed"] for row in rollouts[1])
    first = sha256(again / "results/rft/round1/adapter_model.safetensors")
    shard = json.loads(
        (again / "results/rollouts/round2/shard_1_of_1_receipt.json").read_text("utf-8")
    )
    assert shard["inputs"]["results/rft/round1/adapter_model.safetensors"] == first
    assert shard["settings"]["style"] == "reasoning"

    kept = [again.rows(f"results/rft_data/round{number}.jsonl") for number in (1, 2)]
    assert kept[1][: len(kept[0])] == kept[0]
    new = [row["id"] for row in kept[1][len(kept[0]) :]]
    assert new
    assert all("-r2-" in name for name in new)
    assert max(Counter(row["question_id"] for row in kept[1]).values()) <= 4

    columns, rows = table(again / "results/rft/rounds.csv")
    assert columns[:3] == ["round", "questions", "correct"]
    for row in rows:
        folder = f"results/rft/round{row['round']}"
        [figures] = table(again / f"{folder}/held_out_eval.csv")[1]
        assert list(figures) == EVALUATION
        assert figures["adapter_sha256"] == sha256(again / f"{folder}/adapter_model.safetensors")
        assert (figures["questions"], figures["correct"]) == (row["questions"], row["correct"])
        asked = again.rows(f"{folder}/held_out_predictions.jsonl")
        assert {line["id"] for line in asked} == held_out
    assert [int(row["kept"]) for row in rows] == [len(part) for part in kept]
    [chosen] = [row for row in rows if row["chosen"] == "yes"]
    assert int(chosen["correct"]) == max(int(row["correct"]) for row in rows)
    for name in ("adapter_model.safetensors", "adapter_config.json", "receipt.json"):
        of_round = again / f"results/rft/round{chosen['round']}/{name}"
        assert sha256(again / f"results/rft/{name}") == sha256(of_round)
    of_round = again / f"results/tokenized/rft_round{chosen['round']}.jsonl"
    assert sha256(again / "results/tokenized/rft.jsonl") == sha256(of_round)

    shown = subprocess.run(
        [sys.executable, "scripts/show_lineage.py", "results/rft_data/round2.jsonl", new[-1]],
        cwd=again.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for path in ("questions/rft_train", "rollouts/round2", "tokenized/rft_round2"):
        assert f"results/{path}.jsonl  (line " in shown
    assert "results/rft/round2/adapter_model.safetensors" in shown

    assert again.plan(*ONE_CORE, *two).jobs == {}
    with again.without("results/rft/round1/held_out_predictions.jsonl"):
        assert again.plan(*ONE_CORE, *two).jobs == {"evaluate_held_out": 1, **CHOICE}
    assert again.plan("results/rft/README.md", *two).jobs == {"model_card": 1}
    three = again.overlay({"rft": {"rounds": 3}}, "three.yaml")
    assert again.plan("--configfile", TINY, three).jobs == A_ROUND | CHOICE
    fewer = again.overlay({"rollouts": {"keep_per_question": 3}}, "fewer.yaml")
    wanted = {rule: 2 for rule in A_ROUND} | CHOICE
    wanted |= {"generate_rft_data": 1, "gather_rollouts": 1}  # the first round's stay
    assert again.plan(*two, fewer).jobs == wanted
    one = {rule: 1 for rule in A_ROUND if rule != "evaluate_held_out"} | CHOICE
    assert again.plan("--configfile", TINY).jobs == one
    (again / "results/rft/round1/held_out_predictions.jsonl").unlink()
    assert again.plan(*ONE_CORE, *two).jobs == {"evaluate_held_out": 1} | CHOICE
