"""SmolLM2-360M as it is published, but for its weights: from a hub, through its preset, to the end.

Weights of its shape are drawn at random: 724 MB in bfloat16, of which nothing is known. So sampling
finds nothing right, the run ends at the selection, and goes on with rollouts of a person's own.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain_for_tests import EVALUATION, ONE_CORE, ROOT, Chain, Said, sha256, table
from hub_for_tests import Hub, serving
from test_hub import LARGER, SMOLLM2, clone_that_asks

from posttrain import models
from posttrain.answers import formatted
from posttrain.scoring import VERDICTS

pytestmark = [pytest.mark.chain, pytest.mark.long]

PRESET, BEST = "presets/smollm2-360m.yaml", "presets/smollm2-360m-best.yaml"
LAYERS, HIDDEN, INTERMEDIATE, KEYS = 32, 960, 2560, 320
# Its config.json, in the words of the transformers that it was saved by.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 15,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 5,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}
GENERATION = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
LEFT = ("README.md", "onnx/model.safetensors", "training_args.bin")
# Amounts alone: all else is the preset's.
FEW = {
    "data": {"train_size": 4, "valid_size": 4},
    "sft": {"epochs": 1, "batch_size": 2},
    "rft": {"epochs": 1, "batch_size": 2},
    "rollouts": {
        "samples_per_question": 2,
        "samples_when_sft_is_right": 2,
        "max_new_tokens": 12,
    },
    "evaluate": {
        "limit": 2,
        "max_new_tokens": 8,
        "require": {name: {"accuracy": 0, "answer_rate": 0} for name in ("sft", "rft")},
    },
}
BREAKS_AFTER = 300_000_000  # bytes of the weights


def published(folder: Path, tokenizer: Path) -> None:
    """Make a folder with the files that the model's repository has, its weights drawn anew."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(torch.bfloat16)
    assert model.num_parameters() == 361_821_120
    model.save_pretrained(folder)
    for name, content in (("config.json", CONFIG), ("generation_config.json", GENERATION)):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    for name in TOKENIZER:
        shutil.copy2(tokenizer / name, folder / name)
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"of no use here")


@dataclass
class Run:
    """What came of the two commands: the first ends at the selection, the second at the end."""

    chain: Chain
    pinned: str
    published: dict[str, str]  # sha256 of each file that makes the model
    server: Hub
    first: Said
    sampled: list[dict[str, Any]]
    sampling: dict[str, Any]  # the receipt
    second: Said


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("smollm2")
    pinned = yaml.safe_load((ROOT / PRESET).read_text(encoding="utf-8"))["base_model"]
    name, _, commit = pinned.partition("@")
    published(folder / "hub", test_data / "smollm2")
    stated = {path.name: sha256(path) for path in models.model_files(folder / "hub")}
    with serving() as server:
        server.add(name, folder / "hub", commit)
        shutil.rmtree(folder / "hub")
        server.breaks_after.append(BREAKS_AFTER)
        chain = clone_that_asks(server, folder / "workflow")
        configs = ("--configfile", PRESET, chain.overlay(FEW))
        first = chain.snakemake(*ONE_CORE, *configs)
        assert (chain / "results/rollouts/round1.jsonl").exists(), first.text
        sampled = chain.rows("results/rollouts/round1.jsonl")
        [receipt] = (chain / "results/rollouts/round1").glob("*_receipt.json")
        own = chain.overlay({"rollouts": {"file": reasoned(chain)}}, "own.yaml")
        server.is_down = True
        second = chain.snakemake(*ONE_CORE, *configs, own)
        sampling = json.loads(receipt.read_text(encoding="utf-8"))
        yield Run(chain, pinned, stated, server, first, sampled, sampling, second)
    shutil.rmtree(folder)  # two models' worth of disk


def reasoned(chain: Chain) -> str:
    """Write rollouts of a person's own about the training questions; return the file's name."""
    rows = []
    for row in chain.rows("results/questions/train.jsonl"):
        answer = formatted(row["answer"], 4)
        equation = f"{row['quantity']} * {formatted(row['answer'] / row['quantity'], 6)} = {answer}"
        reasoning = f"{equation}. <answer>{answer}</answer>"
        rows.append([row["question"], row["answer"], reasoning])
    (chain / "own.json").write_text(json.dumps(rows), encoding="utf-8")
    return "own.json"


def test_the_model_is_fetched_whole_as_its_commit_states_it(run: Run):
    manifest = json.loads((run.chain / "resources/base_model/manifest.json").read_text("utf-8"))
    model, _, commit = run.pinned.partition("@")
    assert (model, len(commit)) == (SMOLLM2, 40)
    assert manifest["origin"] == {"model": model, "commit": commit}
    assert manifest["files"] == run.published
    assert set(run.published) >= {"model.safetensors", "generation_config.json", *TOKENIZER}
    assert not set(LEFT) & set(run.server.fetched())
    [resumed] = {asked for _, _, asked in run.server.asked if asked}
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= BREAKS_AFTER
    assert not (run.chain / "connections_tried").exists()


def test_it_is_sampled_from_and_nothing_it_says_is_trained_on(run: Run):
    assert run.first.status == 1
    begin, _, counted = run.first.error.partition("(")
    assert begin == "none of 8 samples can be trained on "
    # For one reason or for several, as random weights have it.
    reasons = [reason.split(maxsplit=1) for reason in counted.partition(")")[0].split(", ")]
    assert sum(int(count) for count, _ in reasons) == 8
    assert all(reason.split()[0] in VERDICTS for _, reason in reasons), reasons
    assert len(run.sampled) == 8
    assert len({row["completion"] for row in run.sampled}) == 8, "they were not drawn"
    assert not {row["verdict"] for row in run.sampled} & {"correct", "error"}
    base = "resources/base_model/manifest.json"
    assert run.sampling["inputs"][base] == sha256(run.chain / base)
    adapter = run.chain / "results/sft/adapter_model.safetensors"
    assert run.sampling["inputs"]["results/sft/adapter_model.safetensors"] == sha256(adapter)


def test_the_chain_ends_with_its_tables(run: Run):
    assert run.second.status == 0, run.second.text
    assert not {"base_model", "questions", "tokenize_sft", "sft_train"} & set(run.second.jobs)
    columns, rows = table(run.chain / "results/summary.csv")
    assert columns == EVALUATION
    assert [(row["model"], row["questions"]) for row in rows] == [
        (model, "2") for model in ("base", "cot", "sft", "rft")
    ]
    weights = {s: f"results/{s}/adapter_model.safetensors" for s in ("sft", "rft")}
    scored = {row["model"]: row["adapter_sha256"] for row in rows}
    adapters = {stage: sha256(run.chain / path) for stage, path in weights.items()}
    assert scored == {"base": "none", "cot": "none"} | adapters
    for model in scored:
        lines = run.chain.rows(f"results/{model}_predictions.jsonl")
        assert [line["tokens"] for line in lines] == [8, 8]
        assert lines[0]["prompt"].startswith("<|im_start|>system\nYou convert units.")
    assert run.chain.plan("--configfile", PRESET, "overlay.yaml", "own.yaml").jobs == {}


@pytest.mark.parametrize("stage", ["sft", "rft"])
def test_an_adapter_stands_on_every_linear_layer(run: Run, stage: str):
    from safetensors.torch import load_file

    receipt = json.loads((run.chain / f"results/{stage}/receipt.json").read_text("utf-8"))
    found = load_file(run.chain / f"results/{stage}/adapter_model.safetensors")
    rank = receipt["settings"]["lora"]["r"]
    assert rank == yaml.safe_load((ROOT / PRESET).read_text("utf-8"))[stage]["lora"]["r"]
    sides = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN, KEYS),
        "self_attn.v_proj": (HIDDEN, KEYS),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
        "mlp.up_proj": (HIDDEN, INTERMEDIATE),
        "mlp.down_proj": (INTERMEDIATE, HIDDEN),
    }
    wanted = {}
    for module, (into, out) in sides.items():
        for layer in range(LAYERS):
            path = f"base_model.model.model.layers.{layer}.{module}"
            wanted[f"{path}.lora_A.weight"] = (rank, into)
            wanted[f"{path}.lora_B.weight"] = (out, rank)
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == wanted
    assert sum(tensor.numel() for tensor in found.values()) == 2_170_880  # as the preset says
    assert all(tensor.any() for tensor in found.values())
    assert receipt["base_model"] == run.published
    steps = table(run.chain / f"results/{stage}/history.csv")[1]
    assert [row["step"] for row in steps] == ["1", "2"]


def test_what_did_best_is_planned_on_the_same_model_with_a_larger_sampler(run: Run):
    few = run.chain.overlay({"rollouts": {"keep_per_question": 2}}, "best.yaml")
    jobs = run.chain.plan("--configfile", BEST, "overlay.yaml", few).jobs
    assert jobs["sampler_model"] == jobs["generate_rft_data"] == jobs["sft_train"] == 1
    assert "base_model" not in jobs, "the same commit as the other preset's"
    sampler = yaml.safe_load((ROOT / BEST).read_text("utf-8"))["rollouts"]["model"]
    assert sampler.partition("@")[0] == LARGER
