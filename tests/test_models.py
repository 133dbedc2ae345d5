"""A base model is loaded as its manifest states it, whole and alone, or not at all."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import RECIPE, save_base, tiny_model, tokenizer
from transformers import AutoModelForCausalLM

from posttrain import adapters, artifacts, models
from posttrain.errors import ModelError
from posttrain.models import MANIFEST

FULL = torch.float32


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model with its manifest; no test may change it."""
    return save_base(tmp_path_factory.mktemp("model") / "base").parent


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "base"))


def refusal(call: Callable[[], object]) -> str:
    """Return the one line that `call` ends in."""
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def save_sharded(folder: Path) -> None:
    tokenizer().save_pretrained(folder)
    tiny_model(seed=1).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def contents(folder: Path) -> dict[str, str]:
    return {path.name: artifacts.sha256_file(path) for path in folder.iterdir()}


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.state_dict().items())


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_model_comes_back_as_it_was(sound):
    assert models.verified(sound / MANIFEST) == sound
    model = models.load_model(sound, FULL)
    assert same_weights(model, tiny_model())
    assert not model.training
    assert models.load_tokenizer(sound).eos_token_id == tokenizer().eos_token_id


# The manifest


def test_a_file_that_changed_is_named_with_the_command_that_mends_it(folder):
    edit(folder / "tokenizer_config.json", pad_token="<s>")
    message = refusal(lambda: models.verified(folder / MANIFEST))
    assert message.startswith(f"{folder / 'tokenizer_config.json'} has changed since {MANIFEST}")
    assert message.endswith(f"snakemake --force {folder / MANIFEST}")


def test_a_file_that_is_gone_is_named(folder):
    (folder / "model.safetensors").unlink()
    message = refusal(lambda: models.verified(folder / MANIFEST))
    assert message.startswith(f"{folder / 'model.safetensors'} is missing though {MANIFEST}")


def test_weights_added_beside_shards_are_named_where_transformers_prefers_them(tmp_path):
    save_sharded(tmp_path)
    artifacts.write_json(tmp_path / MANIFEST, models.manifest(tmp_path, {}))
    assert same_weights(
        models.load_model(models.verified(tmp_path / MANIFEST), FULL), tiny_model(1)
    )
    tiny_model(seed=2).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path)
    silently = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same_weights(silently, tiny_model(2)), "transformers no longer takes the added file"
    message = refusal(lambda: models.verified(tmp_path / MANIFEST))
    assert message.startswith(f"{tmp_path / 'model.safetensors'} was added since {MANIFEST}")


def test_an_adapter_in_the_model_s_folder_is_refused_where_transformers_loads_it(folder):
    model = adapters.attach(tiny_model(), RECIPE["lora"], seed=0)
    for name, part in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(part)
    model.save_pretrained(folder, save_embedding_layers=False)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    silently = AutoModelForCausalLM.from_pretrained(folder)
    assert any("lora_B" in name for name, _ in silently.named_parameters()), "no longer the fault"
    assert "holds an adapter beside the model" in refusal(lambda: models.model_files(folder))
    assert "holds an adapter beside the model" in refusal(
        lambda: models.verified(folder / MANIFEST)
    )


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\x80", b"[]", b"{}", b'{"files": []}', b'{"files": {"config.json": 1}}']
)
def test_a_manifest_that_is_none_is_named(folder, text):
    (folder / MANIFEST).write_bytes(text)
    message = refusal(lambda: models.verified(folder / MANIFEST))
    assert message.startswith(f"{folder / MANIFEST} is no manifest of a base model (")


def test_a_manifest_that_states_nothing_proves_nothing(folder):
    artifacts.write_json(folder / MANIFEST, {"files": {}})
    assert "was added since" in refusal(lambda: models.verified(folder / MANIFEST))


# Weights that are none


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), "the file was cut off"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04"), "too few"),
        (lambda folder: (folder / "config.json").write_text("{"), "does not load"),
        (lambda folder: edit(folder / "config.json", hidden_size="32"), "does not load"),
        (lambda folder: edit(folder / "config.json", model_type="of_next_year"), "does not load"),
        (lambda folder: edit(folder / "config.json", num_hidden_layers=3), "do not fit"),
        (lambda folder: edit(folder / "config.json", num_hidden_layers=1), "do not fit"),
        (lambda folder: edit(folder / "config.json", intermediate_size=64), "does not load"),
    ],
)
def test_a_model_that_does_not_load_whole_is_refused(folder, damage, fault):
    damage(folder)
    message = refusal(lambda: models.load_model(folder, FULL))
    assert fault in message
    assert str(folder) in message


def test_a_weight_that_is_not_a_number_is_named(folder):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = math.nan
    models.save(model, tokenizer(), folder)
    message = refusal(lambda: models.load_model(folder, FULL))
    assert "weight model.layers.1.mlp.up_proj.weight is not finite" in message


def test_code_that_comes_with_a_model_never_runs(folder, tmp_path):
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w').close()\n")
    code = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    edit(folder / "config.json", model_type="theirs", auto_map=code)
    assert "does not load" in refusal(lambda: models.load_model(folder, FULL))
    assert not (tmp_path / "it ran").exists()


def test_pickled_weights_are_not_even_looked_for(folder):
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "lacks model.safetensors" in refusal(lambda: models.model_files(folder))
    assert "does not load" in refusal(lambda: models.load_model(folder, FULL))


def test_a_tokenizer_that_could_never_stop_is_refused(folder):
    edit(folder / "tokenizer_config.json", eos_token=None)
    assert "names no eos_token" in refusal(lambda: models.load_tokenizer(folder))
    (folder / "tokenizer.json").write_text("{}")
    assert "the tokenizer does not load" in refusal(lambda: models.load_tokenizer(folder))


# One folder that holds now this model, now that


def test_a_linked_model_is_its_own_files(sound, tmp_path):
    models.link(sound, tmp_path)
    assert all(path.is_symlink() for path in tmp_path.iterdir())
    assert contents(tmp_path).items() <= contents(sound).items()
    artifacts.write_json(tmp_path / MANIFEST, models.manifest(tmp_path, {}))
    assert same_weights(models.load_model(models.verified(tmp_path / MANIFEST), FULL), tiny_model())


def test_saving_where_links_were_does_not_write_through_them(folder, tmp_path):
    before = contents(folder)
    models.link(folder, tmp_path / "ours")
    models.save(tiny_model(seed=1), tokenizer(), tmp_path / "ours")
    assert contents(folder) == before
    assert same_weights(models.load_model(tmp_path / "ours", FULL), tiny_model(1))


def test_no_weights_of_the_model_before_stay(sound, tmp_path):
    (tmp_path / "sharded").mkdir()
    save_sharded(tmp_path / "sharded")
    ours = tmp_path / "ours"
    for _ in range(2):
        models.link(sound, ours)
        models.link(tmp_path / "sharded", ours)
        assert same_weights(models.load_model(ours, FULL), tiny_model(1))
        models.save(tiny_model(), tokenizer(), ours)
        assert not list(ours.glob("model-*"))
        assert same_weights(models.load_model(ours, FULL), tiny_model())


def test_the_workflow_s_own_folder_is_not_linked_to_itself(folder):
    before = contents(folder)
    assert "keeps its own copy" in refusal(lambda: models.link(folder, folder))
    assert contents(folder) == before
