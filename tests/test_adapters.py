"""Only an adapter that is what its receipt says is ever used, and using one never changes it."""

import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from training_for_tests import (
    RECIPE,
    labelled_rows,
    save_base,
    save_trained,
    tiny_model,
    tokenizer,
)
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain import (
    adapters,
    artifacts,
    devices,
    evaluation,
    models,
    scoring,
    training,
    weights,
)
from posttrain.adapters import CONFIG, RECEIPT, WEIGHTS
from posttrain.errors import AdapterError, ModelError, PosttrainError
from posttrain.likelihood import collate, mean_logprobs

TESTS = Path(__file__).parent
FULL, HALF = torch.float32, torch.bfloat16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of the base model that the adapter below was trained on."""
    return save_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def sound(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter with its receipt; no test may change it."""
    return save_trained(base, tmp_path_factory.mktemp("adapter") / "results" / "sft")


@pytest.fixture
def folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage, where a run has it."""
    shutil.copytree(sound, tmp_path / "results" / "sft")
    monkeypatch.chdir(tmp_path)
    return Path("results/sft")


def refusal(call: Callable[[], object], kind: type[PosttrainError] = AdapterError) -> str:
    """Return the one line that `call` ends in."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file; `change` returns the new value, or None where it changed the old one."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))


def without_receipt(folder: Path) -> Path:
    (folder / RECEIPT).unlink()
    return folder


def forge(folder: Path) -> None:
    """Make the receipt state the files' sha256 as they are now: what is left are the probes."""

    def restate(receipt: dict[str, Any]) -> None:
        receipt["adapter"]["sha256"] = artifacts.sha256_file(folder / WEIGHTS)
        receipt["adapter"]["config_sha256"] = artifacts.sha256_file(folder / CONFIG)

    edit(folder / RECEIPT, restate)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the adapter's tensors; `change` returns a dict of new ones, or changes the old."""
    tensors = weights.read(folder / WEIGHTS)
    changed = change(tensors)
    artifacts.write_tensors(folder / WEIGHTS, changed if isinstance(changed, dict) else tensors)


def fresh_over(folder: Path, base: Path) -> None:
    """What the course's evaluation did: a new, untrained adapter over the trained one."""
    model = adapters.attach(models.load_model(base.parent, FULL), RECIPE["lora"], seed=1)
    model.save_pretrained(folder, save_embedding_layers=False)


def plain_peft(base: Path, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(models.load_model(base.parent, FULL), folder).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    batch = collate(labelled_rows(3), next(model.parameters()).device)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def of(names: str, tensors: dict[str, torch.Tensor]) -> str:
    """The first tensor's name that matches the expression."""
    return next(name for name in sorted(tensors) if re.search(names, name))


# What is sound is proven, and used as it was trained


def test_a_trained_adapter_is_proven_on_loading(base, sound):
    loaded = adapters.load(base, sound)
    assert loaded.receipt == artifacts.read_json(sound / RECEIPT)
    assert loaded.label == loaded.sha256 == artifacts.sha256_file(sound / WEIGHTS)
    found = mean_logprobs(loaded.model, loaded.receipt["probes"]["rows"])
    assert found == loaded.receipt["probes"]["adapter_logprobs"]
    assert min(found) > max(loaded.receipt["probes"]["base_logprobs"]) + 1
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    assert {weight.dtype for weight in loaded.model.parameters()} == {FULL}


def test_the_receipt_states_each_tensor_and_the_base_model(base, sound):
    receipt = artifacts.read_json(sound / RECEIPT)
    tensors = weights.read(sound / WEIGHTS)
    assert receipt["base_model"] == artifacts.read_json(base)["files"]
    assert {"model.safetensors", "tokenizer.json"} <= receipt["base_model"].keys()
    assert receipt["adapter"]["tensors"].keys() == tensors.keys()
    for name, stated in receipt["adapter"]["tensors"].items():
        assert stated["shape"] == list(tensors[name].shape)
        assert stated["norm"] == pytest.approx(tensors[name].norm().item())
        assert stated["norm"] > 0
    assert receipt["adapter"]["trainable_parameters"] == sum(t.numel() for t in tensors.values())
    assert [row["id"] for row in receipt["probes"]["rows"]] == [
        f"train-{n:04}" for n in (1, 3, 6, 8, 11, 13, 16, 18)
    ]


def test_without_an_adapter_it_is_the_base_model(base):
    loaded = adapters.load_any(base, [])
    assert (loaded.label, loaded.folder, loaded.receipt) == ("none", None, None)
    assert torch.equal(logits(loaded.model), logits(tiny_model()))
    adapters.refuse_changed(loaded)


def test_the_merged_model_is_the_unmerged_one_of_plain_peft(base, sound):
    merged = adapters.load_any(base, [str(sound / WEIGHTS)]).model
    unmerged = plain_peft(base, sound)
    torch.testing.assert_close(logits(merged), logits(unmerged), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(merged), logits(tiny_model()), atol=0.1)


def test_the_checks_leave_the_predictions_as_plain_peft_s(base, sound, monkeypatch):
    """Every proof of loading, and the verifier's self-test, against none of them."""
    prompts = {"answer": "Question: {question}\nAnswer:", "examples": [], "system": None}
    recipe = {
        "task": "units",
        "prompts": prompts,
        "answer_digits": 4,
        "max_new_tokens": 24,
        "batch_size": 8,
    }
    recipe |= {"relative_tolerance": 0.05, "absolute_tolerance": 1e-9}
    asked = [
        {"id": f"{n}", "question": f"How many gram are there per {n} kg?", "answer": 1000.0 * n}
        for n in range(1, 21)
    ]

    def said(model: torch.nn.Module) -> list[dict[str, Any]]:
        return evaluation.predictions(model, tokenizer(), asked, "answer", recipe)

    proven = said(adapters.ready(adapters.load(base, sound)))
    monkeypatch.setattr(scoring, "self_test", lambda *_: None)
    merged = plain_peft(base, sound).merge_and_unload().eval()
    assert said(devices.ready(merged)) == proven
    assert said(devices.ready(tiny_model())) != proven


def test_loading_and_using_change_no_file(base, sound):
    def files() -> dict[Path, tuple[str, int]]:
        places = [*sound.rglob("*"), *base.parent.rglob("*")]
        return {p: (artifacts.sha256_file(p), p.stat().st_mtime_ns) for p in places if p.is_file()}

    before = files()
    loaded = adapters.load(base, sound)
    logits(adapters.ready(loaded))
    adapters.refuse_changed(loaded)
    assert files() == before


@pytest.mark.parametrize("dtype", [FULL, HALF])
def test_it_is_proven_again_in_the_dtype_it_generates_in(base, sound, monkeypatch, dtype):
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(devices, "compute_dtype", lambda device: dtype)
    loaded = adapters.load(base, sound)
    assert adapters.ready(loaded).dtype == dtype
    assert not loaded.model.training
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight.neg_()
    assert "this is not the model that was trained" in refusal(lambda: adapters.ready(loaded))


def test_what_a_short_training_added_to_bfloat16_weights_is_there_when_it_generates(
    base, sound, monkeypatch
):
    """Rounded to the nearest, most weights would be what they were before it."""
    monkeypatch.setattr(devices, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(devices, "compute_dtype", lambda device: HALF)
    loaded = adapters.load(base, sound)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.copy_(parameter.to(HALF))
        weight = loaded.model.model.layers[0].mlp.up_proj.weight
        before = weight.clone()
        weight.add_(before.abs() / 1024)  # a quarter or an eighth of a step of bfloat16
        nearest = weight.to(HALF) - before
    assert not nearest.any(), "this test no longer sees the old fault"
    added = adapters.ready(loaded).model.layers[0].mlp.up_proj.weight.float() - before
    assert float(added.abs().sum() / before.abs().sum()) == pytest.approx(1 / 1024, rel=0.2)


def test_positions_are_as_exact_in_bfloat16(monkeypatch):
    monkeypatch.setattr(devices, "compute_dtype", lambda device: HALF)
    exact = tiny_model().model.rotary_emb.inv_freq.clone()
    model = devices.ready(tiny_model())
    assert model.dtype == HALF
    assert torch.equal(model.model.rotary_emb.inv_freq.cpu(), exact)


PRINT_CONFIG = """
import json, sys
from training_for_tests import RECIPE, adapters, tiny_model
model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
print(json.dumps(adapters.config_of(model, sys.argv[1]), indent=2, sort_keys=True))
"""


def test_adapter_config_has_the_same_bytes_from_every_process(sound, base):
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "scripts")])
    found = subprocess.run(
        [sys.executable, "-c", PRINT_CONFIG, str(base.parent)],
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert found == (sound / CONFIG).read_text()
    modules = json.loads(found)["target_modules"]
    assert modules == sorted(modules)
    assert len(modules) == 14
    kept = adapters.attach(tiny_model(), RECIPE["lora"], seed=0).peft_config["default"]
    assert isinstance(kept.target_modules, set), "peft no longer leaves the order to chance"


def test_a_model_with_turned_weights_is_trained_and_loaded_alike(tmp_path):
    """GPT-2 holds its matrices as (in, out)."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer()),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        eos_token_id=tokenizer().eos_token_id,
        bos_token_id=None,
    )
    models.save(GPT2LMHeadModel(config), tokenizer(), tmp_path / "base")
    manifest = tmp_path / "base" / models.MANIFEST
    artifacts.write_json(manifest, models.manifest(tmp_path / "base", {}))
    folder = save_trained(manifest, tmp_path / "results" / "sft")
    merged = adapters.load(manifest, folder).model
    unmerged = plain_peft(manifest, folder)
    torch.testing.assert_close(logits(merged), logits(unmerged), rtol=1e-4, atol=1e-4)


# Somebody else's adapter


def test_an_adapter_without_a_receipt_is_used_and_marked(base, folder):
    loaded = adapters.load(base, without_receipt(folder))
    assert loaded.label == f"unproven:{artifacts.sha256_file(folder / WEIGHTS)}"
    torch.testing.assert_close(
        logits(loaded.model), logits(plain_peft(base, folder)), atol=1e-4, rtol=1e-4
    )
    adapters.ready(loaded)
    adapters.refuse_changed(loaded)


def test_an_adapter_saved_by_peft_itself_is_understood(base, folder):
    plain_peft(base, folder).save_pretrained(folder, save_embedding_layers=False)
    loaded = adapters.load(base, without_receipt(folder))
    assert loaded.label.startswith("unproven:")


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 8}},
        {"init_lora_weights": "pissa"},  # its base model is not the one that it is loaded onto
        {"alora_invocation_tokens": [1, 2]},
        {"layer_replication": [[0, 2], [0, 2]]},
        {"a_key_of_next_year": 1},
        {"peft_type": "LOHA"},
        {"r": "4"},
        {"r": True},
        {"r": -4},
        {"lora_alpha": math.nan},
        {"lora_alpha": 10**400},
        {"lora_alpha": None},
        {"use_rslora": "no"},
        {"target_modules": []},
        {"target_modules": [1, 2]},
        {"target_modules": {"q_proj": 1}},
    ],
    ids=str,
)
def test_what_is_no_plain_lora_is_refused_and_not_half_understood(base, folder, change):
    edit(without_receipt(folder) / CONFIG, lambda config: config | change)
    message = refusal(lambda: adapters.load(base, folder))
    assert message.startswith(f"{folder / CONFIG}: only plain LoRA adapters are understood")
    assert message.endswith("it has no receipt: get it again from its author")


def test_weights_that_merge_into_no_number_are_refused(base, folder):
    rewrite(without_receipt(folder), lambda tensors: {n: t * 1e38 for n, t in tensors.items()})
    assert "does not merge" in refusal(lambda: adapters.load(base, folder))


@pytest.mark.parametrize("forged", [False, True])
def test_without_a_receipt_an_adapter_must_still_make_a_difference(base, folder, forged):
    rewrite(without_receipt(folder), lambda tensors: {n: t * 1e-5 for n, t in tensors.items()})
    message = refusal(lambda: adapters.load(base, folder))
    assert "with this adapter the base model answers as it does without" in message


# The course's second fault: an untrained adapter over the trained one, between training and use


def test_a_fresh_adapter_over_the_trained_one_is_refused_where_peft_scores_the_base(base, folder):
    fresh_over(folder, base)
    silently = plain_peft(base, folder)  # neither an error nor a warning
    assert torch.equal(logits(silently), logits(tiny_model())), "peft now sees the fault itself"
    message = refusal(lambda: adapters.load(base, folder))
    assert f"{folder / CONFIG} was changed since the training that wrote it" in message
    assert message.endswith(f"to train it again: snakemake {folder / WEIGHTS} --forcerun sft_train")

    edit(
        folder / RECEIPT,
        lambda receipt: receipt["adapter"].update(
            config_sha256=artifacts.sha256_file(folder / CONFIG)
        ),
    )
    assert "changed since then" in refusal(lambda: adapters.load(base, folder))

    forge(folder)
    for _ in ("as its receipt says", "without a receipt"):
        message = refusal(lambda: adapters.load(base, folder))
        assert "14 of 14 lora_B tensors are all zero" in message
        (folder / RECEIPT).unlink(missing_ok=True)


# Known faults, each of which ends in one line that says how to train again

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights missing": (
        lambda folder: (folder / WEIGHTS).unlink(),
        "weights missing: no adapter_model.safetensors, the folder holds 'adapter_config.json'",
    ),
    "config missing": (
        lambda folder: (folder / CONFIG).unlink(),
        "adapter_config.json is missing beside the weights",
    ),
    "weights empty": (
        lambda folder: (folder / WEIGHTS).write_bytes(b""),
        "has 0 bytes, too few",
    ),
    "weights cut off": (
        lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100),
        "the file was cut off",
    ),
    "a bit flipped": (
        lambda folder: flip(folder / WEIGHTS),
        "changed since then",
    ),
    "a tensor renamed": (
        lambda folder: rewrite(folder, lambda t: t.update(other=t.pop(of("lora_B", t)))),
        "1 missing .*, 1 unexpected",
    ),
    "a tensor missing": (
        lambda folder: rewrite(folder, lambda t: {n: t[n] for n in sorted(t)[1:]}),
        "of 28 tensors due, 1 missing",
    ),
    "NaN": (
        lambda folder: (
            rewrite(folder, lambda t: t[of("lora_A", t)][0].fill_(math.nan)),
            forge(folder),
        ),
        "48 of 192 values that are NaN",
    ),
    "one lora_B zero": (
        lambda folder: (
            rewrite(folder, lambda t: t[of("v_proj.lora_B", t)].zero_()),
            forge(folder),
        ),
        "1 of 14 lora_B tensors are all zero",
    ),
    "another rank": (
        lambda folder: (
            rewrite(folder, lambda t: {n: v[:2] if "_A" in n else v[:, :2] for n, v in t.items()}),
            forge(folder),
        ),
        "of another shape",
    ),
    "two tensors swapped": (
        lambda folder: (swap(folder), forge(folder)),
        "this is not the model that was trained",
    ),
    "alpha edited": (
        lambda folder: edit(folder / CONFIG, lambda config: config | {"lora_alpha": 17}),
        "adapter_config.json was changed since the training that wrote it",
    ),
    "alpha edited, and the receipt": (
        lambda folder: (
            edit(folder / CONFIG, lambda config: config | {"lora_alpha": 17}),
            forge(folder),
        ),
        "this is not the model that was trained",
    ),
    "another kind of scaling, and the receipt": (
        lambda folder: (
            edit(folder / CONFIG, lambda config: config | {"use_rslora": True}),
            forge(folder),
        ),
        "this is not the model that was trained",
    ),
    "modules of another base model": (
        lambda folder: (
            edit(folder / CONFIG, lambda config: config | {"target_modules": ["c_attn"]}),
            forge(folder),
        ),
        r"adapter_config.json: target_modules \['c_attn'\] names no matrix of the base model",
    ),
    "a .bin planted": (
        lambda folder: torch.save({}, folder / "adapter_model.bin"),
        "holds adapter_model.bin, a pickle, which is never loaded",
    ),
    "another pickle planted": (
        lambda folder: torch.save({}, folder / "optimizer.pt"),
        "holds 'optimizer.pt': pickles",
    ),
    "a probe's log-probability edited": (
        lambda folder: edit(
            folder / RECEIPT, lambda r: r["probes"]["adapter_logprobs"].__setitem__(5, -1.0)
        ),
        "this is not the model that was trained",
    ),
}


def flip(path: Path, byte: int = -7, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def swap(folder: Path) -> None:
    """Let two layers' tensors of one shape take each other's place."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        one, two = (of(rf"layers\.{n}\.self_attn\.q_proj\.lora_B", tensors) for n in (0, 1))
        tensors[one], tensors[two] = tensors[two], tensors[one]

    rewrite(folder, change)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_with_the_command_that_trains_it_again(base, folder, damage):
    act, fault = DAMAGES[damage]
    act(folder)
    message = refusal(lambda: adapters.load(base, folder))
    assert re.search(fault, message)
    assert str(folder) in message
    assert message.endswith(
        f"; to train it again: snakemake {folder / WEIGHTS} --forcerun sft_train"
    )


@pytest.mark.parametrize("place", ["sft", "rft", "rft/round1"])
def test_in_a_sweep_it_is_removed_and_the_sweep_run_again(base, folder, place):
    """Its rules have other names, and stand in a snakefile that is not known."""
    there = Path("results/sweeps/seed1") / place
    shutil.copytree(folder, there)
    flip(there / WEIGHTS)
    rounds = f" and {there}/round*/{WEIGHTS}" if place == "rft" else ""  # it is a copy of one
    assert refusal(lambda: adapters.load(base, there)).endswith(
        f"; to train it again: remove {there / WEIGHTS}{rounds} and run the sweep again, with the "
        "command that it was run with"
    )


def test_a_pickle_that_would_run_code_never_runs(base, folder, tmp_path):
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "it ran",))

    trap = pickle.dumps(Trap())
    for name, fault in {
        WEIGHTS: "is a renamed pickle",
        "adapter_model.bin": "a pickle, which is never loaded",
        "training_args.pkl": "can run code when loaded",
    }.items():
        (folder / name).write_bytes(trap)
        assert fault in refusal(lambda: adapters.load(base, folder))
        (folder / name).unlink()
    assert not (tmp_path / "it ran").exists()
    pickle.loads(trap)
    assert (tmp_path / "it ran").exists(), "this pickle no longer shows the fault"


def test_an_adapter_of_another_base_model_is_refused(folder, tmp_path):
    other = save_base(tmp_path / "other", seed=1)
    message = refusal(lambda: adapters.load(other, folder))
    assert f"trained on another base model than the one in {other.parent}" in message
    # Without a receipt nothing tells two models of one shape apart, and the label says so.
    assert adapters.load(other, without_receipt(folder)).label.startswith("unproven:")


def test_an_adapter_of_a_base_model_of_another_shape_is_refused_without_a_receipt(
    base, folder, tmp_path
):
    wide = tiny_model().config
    wide.hidden_size = 64
    models.save(type(tiny_model())(wide), tokenizer(), tmp_path / "other")
    other = tmp_path / "other" / models.MANIFEST
    artifacts.write_json(other, models.manifest(other.parent, {}))
    message = refusal(lambda: adapters.load(other, without_receipt(folder)))
    assert "of another shape" in message
    assert "made for another base model" in message


def test_an_adapter_added_twice_is_not_what_its_receipt_says(base, sound):
    loaded = adapters.load(base, sound)
    rows = loaded.receipt["probes"]["rows"]
    adapters.prove(loaded.receipt, mean_logprobs(loaded.model, rows), FULL, sound)
    twice = PeftModel.from_pretrained(loaded.model, sound).merge_and_unload()
    found = mean_logprobs(twice, rows)
    for dtype in (FULL, HALF):
        with pytest.raises(AdapterError, match="this is not the model that was trained"):
            adapters.prove(loaded.receipt, found, dtype, sound)
    again = adapters.load(base, sound)
    assert not torch.equal(logits(again.model), logits(twice)), "a second load is a first one"


@pytest.mark.parametrize("place", [0, 7])
def test_a_probe_that_is_not_a_number_is_no_proof(sound, place):
    receipt = artifacts.read_json(sound / RECEIPT)
    found = list(receipt["probes"]["adapter_logprobs"])
    adapters.prove(receipt, found, FULL, sound)
    found[place] = math.nan
    refusal(lambda: adapters.prove(receipt, found, FULL, sound))


def test_an_adapter_changed_while_in_use_is_refused(base, folder):
    loaded = adapters.load(base, folder)
    adapters.refuse_changed(loaded)
    fresh_over(folder, base)
    message = refusal(lambda: adapters.refuse_changed(loaded))
    assert "was changed while it was in use; only a training may write it" in message
    (folder / WEIGHTS).unlink()
    refusal(lambda: adapters.refuse_changed(loaded))


def test_an_adapter_that_differs_on_disk_from_the_trained_one_gets_no_receipt(base, tmp_path):
    model = models.load_model(models.verified(base), FULL)
    trained = training.fit(model, labelled_rows(), RECIPE | {"epochs": 1}, str(base.parent))
    artifacts.write_json(tmp_path / CONFIG, trained.config)
    artifacts.write_tensors(tmp_path / WEIGHTS, trained.tensors)
    swap(tmp_path)
    message = refusal(lambda: adapters.prove_saved(base, tmp_path, trained))
    assert "this is not the model that was trained" in message


# Receipts that are none


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(receipt: dict[str, Any]) -> None:
        for key in keys[:-1]:
            receipt = receipt[key]
        del receipt[keys[-1]]

    return change


def probes(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda receipt: receipt["probes"].update(changes)


def first_probe(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda receipt: receipt["probes"]["rows"][0].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda receipt: [],
        lambda receipt: "receipt",
        lambda receipt: 7,
        drop("adapter"),
        drop("adapter", "sha256"),
        drop("adapter", "config_sha256"),
        drop("base_model"),
        drop("probes"),
        drop("probes", "rows"),
        drop("probes", "adapter_logprobs"),
        drop("probes", "base_logprobs"),
        probes(base_logprobs=[-1.0]),
        lambda receipt: receipt["adapter"].update(sha256=7),
        lambda receipt: receipt.update(adapter=None),
        lambda receipt: receipt.update(base_model=["model.safetensors"]),
        lambda receipt: receipt.update(inputs=["results/tokenized/sft.jsonl"]),
        probes(rows=[], adapter_logprobs=[]),
        probes(rows={}, adapter_logprobs={}),
        probes(adapter_logprobs=[-1.0]),
        probes(adapter_logprobs=[math.nan] * 8),
        probes(adapter_logprobs=[-math.inf] * 8),
        probes(adapter_logprobs=[10**400] * 8),
        probes(adapter_logprobs=["-1.0"] * 8),
        first_probe(labels=[]),
        first_probe(labels=None),
        first_probe(input_ids=["a", "b"], labels=["a", "b"]),
        first_probe(input_ids=[-1, -1], labels=[-1, -1]),
        first_probe(input_ids=[1, 2], labels=[-100, -100]),
        first_probe(input_ids=[1, 2], labels=[1, -100]),
        first_probe(input_ids=[1, 2], labels=[-100, 3]),
    ],
)
def test_a_receipt_that_lacks_something_is_named(base, folder, change):
    edit(folder / RECEIPT, change)
    message = refusal(lambda: adapters.load(base, folder))
    assert message.startswith(f"{folder / RECEIPT} is no receipt of an adapter (")
    assert message.endswith(f"to train it again: snakemake {folder / WEIGHTS} --forcerun sft_train")


@pytest.mark.parametrize("text", [b"", b"{", b"\x80\x04 no text", b"[" * 100_000, b"null"])
def test_a_receipt_that_is_no_json_is_named(base, folder, text):
    (folder / RECEIPT).write_bytes(text)
    message = refusal(lambda: adapters.load(base, folder))
    assert message.startswith(f"{folder / RECEIPT} is no receipt of an adapter (")
    assert len(message) < 500


@pytest.mark.parametrize("text", [b"", b"{", b"\x80\x04 no text", b"[]", b"{}", b"null"])
def test_an_adapter_config_that_is_none_is_named(base, folder, text):
    (without_receipt(folder) / CONFIG).write_bytes(text)
    message = refusal(lambda: adapters.load(base, folder))
    assert message.startswith(f"{folder / CONFIG}: not a LoRA config of peft (")


def test_probes_beyond_the_vocabulary_are_refused(base, folder):
    edit(folder / RECEIPT, first_probe(input_ids=[1, 10**6], labels=[-100, 10**6]))
    assert "tokens that the base model lacks" in refusal(lambda: adapters.load(base, folder))


def test_a_folder_that_is_not_there_is_named(base, tmp_path):
    assert str(tmp_path / "gone") in refusal(lambda: adapters.load(base, tmp_path / "gone"))


def test_a_base_model_that_changed_is_refused_before_the_adapter_is_tried(sound, tmp_path):
    manifest = save_base(tmp_path / "base")
    adapters.load(manifest, sound)
    flip(manifest.parent / "model.safetensors")
    message = refusal(lambda: adapters.load(manifest, sound), ModelError)
    assert "model.safetensors has changed since manifest.json was made" in message
