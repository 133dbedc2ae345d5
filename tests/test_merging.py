"""A merged folder is an ordinary model folder, and holds the model that was trained or nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_adapters import DAMAGES, base, folder, logits, plain_peft, refusal, sound, without_receipt
from training_for_tests import save_base, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from posttrain import adapters, artifacts, merging, models
from posttrain.errors import ModelError

__all__ = ["base", "folder", "sound"]  # fixtures, of those tests and these


def test_the_folder_read_back_is_the_model_that_was_trained(base, sound, tmp_path):
    merged = merging.merge(base, sound, tmp_path / "merged")
    receipt = artifacts.read_json(sound / adapters.RECEIPT)
    assert merged["adapter"] == receipt["adapter"]["sha256"]
    stated = receipt["probes"]["adapter_logprobs"]
    assert merged["logprobs"] == pytest.approx(stated, abs=1e-5)
    assert min(stated) > max(receipt["probes"]["base_logprobs"]) + 1, "no difference to prove"


def test_transformers_alone_loads_it_and_answers_as_peft_does(base, sound, tmp_path):
    merging.merge(base, sound, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(model), logits(plain_peft(base, sound)), rtol=1e-4, atol=1e-4)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = "How many gram are there per 6 kg? <answer>6000</answer>"
    assert theirs(text)["input_ids"] == tokenizer()(text)["input_ids"]


def test_the_folder_is_complete_in_float32_and_the_tokenizer_the_same_bytes(base, sound, tmp_path):
    merging.merge(base, sound, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    of_base = {path.name for path in base.parent.iterdir()} - {models.MANIFEST}
    assert names == of_base >= {"config.json", "generation_config.json", "model.safetensors"}
    for name in names - {"config.json", "generation_config.json", "model.safetensors"}:
        there = (base.parent / name).read_bytes()
        assert (tmp_path / "merged" / name).read_bytes() == there, name
    with safe_open(tmp_path / "merged/model.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F32"}  # noqa: SIM118
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "float32"
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "merged").iterdir()}
    assert modes == {0o644}, "not for everyone to read"
    files = merging.files_of(tmp_path / "merged")["files"]
    assert {Path(file).name for file in files} == names


def test_two_merges_have_the_same_bytes(base, sound, tmp_path):
    for name in ("one", "two"):
        merging.merge(base, sound, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_the_merged_folder_is_a_base_model_like_any_other(base, sound, tmp_path):
    merging.merge(base, sound, tmp_path / "merged")
    models.link(tmp_path / "merged", tmp_path / "base_model")
    artifacts.write_json(
        tmp_path / "base_model/manifest.json", models.manifest(tmp_path / "base_model", {})
    )
    assert models.verified(tmp_path / "base_model/manifest.json") == tmp_path / "base_model"


def test_no_file_of_another_model_stays(base, sound, tmp_path):
    (tmp_path / "merged").mkdir()
    for name in ("model-00001-of-00002.safetensors", "chat_template.jinja"):
        (tmp_path / "merged" / name).write_bytes(b"of another model")
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "merged/config.json").symlink_to(tmp_path / "mine.json")
    merging.merge(base, sound, tmp_path / "merged")
    assert not (tmp_path / "merged/chat_template.jinja").exists()
    assert [path.name for path in (tmp_path / "merged").glob("*.safetensors")] == [
        "model.safetensors"
    ]
    assert (tmp_path / "mine.json").read_text() == "{}", "written through a link"


def test_a_chat_template_and_odd_generation_settings_come_along(sound, folder, tmp_path):
    """Published models have settings that transformers warns of; they are the model's own."""
    manifest = save_base(tmp_path / "chat")
    GenerationConfig(eos_token_id=tokenizer().eos_token_id, max_length=77).save_pretrained(
        manifest.parent
    )
    settings = manifest.parent / "generation_config.json"
    odd = json.loads(settings.read_text()) | {"do_sample": False, "temperature": 0.6}
    settings.write_text(json.dumps(odd))
    (manifest.parent / "chat_template.jinja").write_text("{{ messages[0].content }}")
    artifacts.write_json(manifest, models.manifest(manifest.parent, {}))
    merging.merge(manifest, without_receipt(folder), tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    kept = json.loads((tmp_path / "merged/generation_config.json").read_text())
    assert (kept["temperature"], kept["max_length"]) == (0.6, 77)


def test_an_adapter_without_a_receipt_is_merged_and_marked(base, folder, tmp_path):
    merged = merging.merge(base, without_receipt(folder), tmp_path / "merged")
    assert merged["adapter"].startswith("unproven:")
    assert len(merged["logprobs"]) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_before_anything_is_written(base, folder, damage, tmp_path):
    act, _ = DAMAGES[damage]
    act(folder)
    message = refusal(lambda: merging.merge(base, folder, tmp_path / "merged"))
    assert str(folder) in message
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_model_is_refused(folder, tmp_path):
    other = save_base(tmp_path / "other", seed=1)
    message = refusal(lambda: merging.merge(other, folder, tmp_path / "merged"))
    assert "trained on another base model" in message
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("with_receipt", [True, False])
def test_a_folder_that_is_not_the_model_in_memory_is_refused(
    base, folder, tmp_path, monkeypatch, with_receipt
):
    """As a save in bfloat16 is, which loads without a word and answers otherwise."""
    if not with_receipt:
        without_receipt(folder)
    save = LlamaForCausalLM.save_pretrained

    def in_half(model, *arguments, **options):
        halves = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
        save(model, *arguments, state_dict=halves, **options)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", in_half)
    message = refusal(lambda: merging.merge(base, folder, tmp_path / "merged"))
    assert "weights are not those that were merged, such as " in message


def test_a_changed_base_model_is_refused(base, sound, tmp_path):
    shutil.copytree(base.parent, tmp_path / "base")
    with (tmp_path / "base/tokenizer.json").open("a") as file:
        file.write(" ")
    message = refusal(
        lambda: merging.merge(tmp_path / "base/manifest.json", sound, tmp_path / "merged"),
        ModelError,
    )
    assert "tokenizer.json has changed" in message
