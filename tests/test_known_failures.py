"""Failures that cost people days, replayed with the libraries that let them pass, and refused here.

Those that need one part alone are replayed where that part is tested: the mask in test_masking, the
overwritten adapter in test_adapters, the learning signal in test_training, the prompt and the
padding in test_prompts and test_sampling, the verifier in test_answers.
"""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights
from training_for_tests import RECIPE, labelled_rows, save_base, save_trained, tiny_model
from transformers import PreTrainedModel, Trainer, TrainingArguments

from posttrain import (
    adapters,
    artifacts,
    lineage,
    models,
    prompts,
    sampling,
    scoring,
    tags,
    task_units,
    training,
    weights,
)
from posttrain.adapters import CONFIG, RECEIPT, WEIGHTS
from posttrain.errors import AdapterError, PosttrainError, ScoringError
from posttrain.likelihood import collate
from posttrain.masking import IGNORE

CPU = torch.device("cpu")
WORDING = {
    "system": None,
    "answer": "{question}\nAnswer:",
    "reasoning": "{question}",
    "examples": [],
}
TOLERANCES = {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a base model."""
    return save_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def sound(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter trained on it, with its receipt; no test may change it."""
    return save_trained(base, tmp_path_factory.mktemp("adapter") / "sft")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "sft"))


def bare(base: Path) -> PreTrainedModel:
    return models.load_model(base.parent, torch.float32)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=collate(labelled_rows(1), CPU)["input_ids"]).logits


# Adapters that peft loads without an error


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Return what changes the tensors of the adapter in a folder."""

    def act(folder: Path) -> None:
        tensors = weights.read(folder / WEIGHTS)
        change(tensors)
        artifacts.write_tensors(folder / WEIGHTS, tensors)

    return act


def one(tensors: dict[str, torch.Tensor], kind: str) -> str:
    return next(name for name in sorted(tensors) if kind in name)


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1  # of the last number's exponent
    (folder / WEIGHTS).write_bytes(data)


def train_with_another_rank(folder: Path) -> None:
    """Let weights and config be those of an earlier run, as a copied folder has them."""
    recipe = RECIPE | {"epochs": 1, "lora": RECIPE["lora"] | {"r": 2}}
    trained = training.fit(tiny_model(), labelled_rows(), recipe, "resources/base_model")
    artifacts.write_json(folder / CONFIG, trained.config)
    artifacts.write_tensors(folder / WEIGHTS, trained.tensors)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit flipped": (flip_a_bit, "changed since then"),
    "a tensor renamed": (edited(lambda t: t.update(other=t.pop(one(t, "lora_B")))), "1 unexpected"),
    "a tensor missing": (edited(lambda t: t.pop(one(t, "lora_B"))), "28 tensors due, 1 missing"),
    "NaN": (edited(lambda t: t[one(t, "lora_A")].fill_(math.nan)), "changed since then"),
    "lora_B zero": (
        edited(lambda t: [tensor.zero_() for name, tensor in t.items() if "lora_B" in name]),
        "changed since then",
    ),
    "another rank": (train_with_another_rank, "changed since the training that wrote it"),
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # all that peft says
@pytest.mark.parametrize("damage", DAMAGES)
def test_peft_scores_a_damaged_adapter_that_is_refused_here(base, sound, folder, damage):
    act, fault = DAMAGES[damage]
    act(folder)
    found = logits(PeftModel.from_pretrained(bare(base), folder))
    trained = logits(PeftModel.from_pretrained(bare(base), sound))
    assert not torch.equal(found, trained), "this test no longer sees the old fault"
    with pytest.raises(AdapterError, match=fault):
        adapters.load(base, folder)


def test_peft_scores_an_adapter_on_another_base_model(sound, tmp_path):
    other = save_base(tmp_path / "other", seed=1)
    assert not torch.equal(
        logits(PeftModel.from_pretrained(bare(other), sound)), logits(bare(other))
    )
    with pytest.raises(AdapterError, match="trained on another base model"):
        adapters.load(other, sound)


def make_run(manifest: Path, folder: Path, count: int, name: str = "sft") -> None:
    """Make of a run what a training reads and writes: so many rows, an adapter and its receipt."""
    rows = folder / f"results/tokenized/{name.replace('/', '_')}.jsonl"
    artifacts.write_jsonl(rows, labelled_rows(count))
    adapter = save_trained(manifest, folder / f"results/{name}", count=count)
    named = {"base": str(manifest), "rows": str(rows), "code": []}
    origin = lineage.origin(f"{name[:3]}_train", named, RECIPE, {})
    proof = artifacts.read_json(adapter / RECEIPT)
    stated = lineage.receipt(origin, {"weights": str(adapter / WEIGHTS)}, proof)
    artifacts.write_json(adapter / RECEIPT, stated)


def test_another_run_s_adapter_copied_over_with_its_receipt_is_sound_in_all_else(
    base, tmp_path, monkeypatch
):
    for name, count in (("here", 20), ("there", 12)):
        make_run(base, tmp_path / name, count)
    monkeypatch.chdir(tmp_path / "here")
    rows, adapter = Path("results/tokenized/sft.jsonl"), Path("results/sft")
    own = adapters.load(base, adapter).sha256
    shutil.copytree(tmp_path / "there" / adapter, adapter, dirs_exist_ok=True)
    PeftModel.from_pretrained(bare(base), adapter)  # not a word
    with pytest.raises(AdapterError) as caught:
        adapters.load(base, adapter)
    assert str(caught.value) == (
        "results/sft: this adapter was not trained on results/tokenized/sft.jsonl: it is another "
        "run's, or the rows have changed since; to train it again: snakemake "
        "results/sft/adapter_model.safetensors --forcerun sft_train"
    )
    # A person may name it as their own, from where it was made or from a copy under another name.
    for place in (tmp_path / "there" / adapter, adapter.rename("results/theirs")):
        assert adapters.load(base, place).sha256 != own
    rows.unlink()
    shutil.copytree(tmp_path / "there" / adapter, adapter)
    assert adapters.load(base, adapter).receipt, "rows that are gone refuse nothing"


def test_a_rounds_adapter_is_held_against_the_rows_of_its_round(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, count in ((1, 20), (2, 12)):
        make_run(base, Path(), count, f"rft/round{number}")
    own = adapters.load(base, "results/rft/round1").sha256
    shutil.copytree("results/rft/round2", "results/rft/round1", dirs_exist_ok=True)
    with pytest.raises(AdapterError) as caught:
        adapters.load(base, "results/rft/round1")
    assert str(caught.value).startswith(
        "results/rft/round1: this adapter was not trained on results/tokenized/rft_round1.jsonl: "
    )
    Path("results/tokenized/rft_round1.jsonl").unlink()
    assert adapters.load(base, "results/rft/round1").sha256 != own


def test_a_chat_template_taken_away_makes_another_base_model(tmp_path):
    """As a model trained through its template, and then asked without."""
    manifest = save_base(tmp_path / "base")
    template = manifest.parent / "chat_template.jinja"

    def asked() -> list[int]:
        artifacts.write_json(manifest, models.manifest(manifest.parent, {}))
        tokenizer = models.load_tokenizer(manifest.parent)
        [(_, ids)] = prompts.fed(
            tokenizer, [{"id": "q", "question": "How many?"}], "answer", WORDING, task_units
        )
        return ids

    template.write_text("{% for turn in messages %}<s>{{ turn['content'] }}{% endfor %}")
    in_training = asked()
    folder = save_trained(manifest, tmp_path / "sft")
    template.unlink()
    assert asked() != in_training, "this test no longer sees the old fault"
    PeftModel.from_pretrained(bare(manifest), folder)  # not a word
    with pytest.raises(AdapterError, match="trained on another base model"):
        adapters.load(manifest, folder)


def test_an_adapter_made_from_its_config_alone_is_the_base_model(base, folder):
    (folder / WEIGHTS).unlink()
    fresh = get_peft_model(bare(base), PeftConfig.from_pretrained(folder))
    assert torch.equal(logits(fresh), logits(bare(base))), "this test no longer sees the old fault"
    with pytest.raises(AdapterError, match="weights missing"):
        adapters.load(base, folder)


def test_a_planted_bin_is_what_peft_takes_once_the_weights_are_away(base, folder):
    planted = {name: torch.zeros(1) for name in weights.read(folder / WEIGHTS)}
    torch.save(planted, folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"holds adapter_model\.bin, a pickle"):
        adapters.load(base, folder)
    (folder / RECEIPT).unlink()
    with pytest.raises(AdapterError, match=r"holds adapter_model\.bin, a pickle"):
        adapters.load(base, folder)
    (folder / WEIGHTS).unlink()
    taken = load_peft_weights(str(folder), device="cpu")
    assert not any(tensor.any() for tensor in taken.values()), "peft no longer takes it"
    with pytest.raises(AdapterError, match=r"holds adapter_model\.bin, a pickle"):
        adapters.load(base, folder)


# A training that learns nothing


def overflowing() -> PreTrainedModel:
    """Return a model whose weights are finite and whose logits are not."""
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    return model


def masked(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"labels": [IGNORE] * len(row["labels"])}


@pytest.mark.parametrize(
    ("make_model", "changed", "fault"),
    [
        (tiny_model, masked, "4 of 4 rows have no supervised token"),
        (overflowing, dict, "trial step 1: the loss is nan on rows train-0001"),
    ],
    ids=["all labels masked", "a loss of NaN"],
)
def test_a_trainer_shows_a_loss_of_zero_and_completes(tmp_path, make_model, changed, fault):
    """What it shows has NaN filtered out."""
    rows = [changed(row) for row in labelled_rows(4)]
    trainer = Trainer(
        adapters.attach(make_model(), RECIPE["lora"], seed=0),
        TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        data_collator=lambda batch: collate(batch, CPU),
        train_dataset=[{key: row[key] for key in ("input_ids", "labels")} for row in rows],
    )
    trainer.train()
    logged = trainer.state.log_history[:2]
    assert [line["loss"] for line in logged] == [0.0, 0.0], "the trainer now shows the fault itself"
    assert not any(line["grad_norm"] > 0 for line in logged)
    with pytest.raises(PosttrainError, match=fault):
        training.fit(make_model(), rows, RECIPE, "resources/base_model")


# Answers that a lenient verifier reads


def lenient(text: str, gold: float) -> bool:
    """Judge as many do: the first number found, wrong only if it is too far off."""
    number = re.search(r"nan|[-+]?\d+(\.\d+)?", text)
    return number is not None and not abs(float(number[0]) - gold) > 0.05 * abs(gold)


@pytest.mark.parametrize(
    ("text", "gold"),
    [("1,000", 1.0), ("5 kg", 5.0), ("1e400", 1.0), ("nan", 7.0), ("٦٠٠٠", 6000.0)],
)
def test_what_is_no_plain_decimal_is_counted_as_no_answer(text, gold):
    assert lenient(text, gold), "this test no longer sees the old fault"
    completion = sampling.Completion(f" <answer>{text}</answer>", 9, "answer")
    verdict = scoring.judge(completion, gold, TOLERANCES, task_units)
    assert verdict == {"parsed": None, "verdict": "unparseable"}
    row = scoring.summarised("sft", "none", [verdict["verdict"]])
    assert (row["correct"], row["answered"], row["unparseable"]) == (0, 0, 1)
    with pytest.raises(ScoringError, match="no score of it can be trusted"):
        tags.self_test(lenient, [gold], 4)
