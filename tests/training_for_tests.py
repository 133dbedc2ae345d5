"""A tiny base model, labelled rows and an adapter trained on them, all real and made in seconds."""

from pathlib import Path
from typing import Any

import torch
from tokenizers_for_tests import build
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain import adapters, artifacts, masking, models, training

RECIPE = {
    "seed": 0,
    "lora": {"r": 4, "alpha": 16, "dropout": 0.0},
    "learning_rate": 0.01,
    "epochs": 3,
    "batch_size": 8,
    "gradient_checkpointing": False,
}


def tokenizer():
    return build("byte_level").tokenizer


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of two layers; its weights are large enough for its answers to differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


def labelled_rows(count: int = 20) -> list[dict[str, Any]]:
    """Rows of several lengths, as rule tokenize_sft writes them."""
    found = []
    for n in range(1, count + 1):
        prompt = f"Question: How many gram are there per {n} kg?\nAnswer:"
        row = masking.encode(tokenizer(), prompt, f" <answer>{n}000</answer>", 128)
        found.append({"id": f"train-{n:04}", "input_ids": row.input_ids, "labels": row.labels})
    return found


def save_base(folder: Path, seed: int = 0) -> Path:
    """Save a base model as the rules do; return its manifest's path."""
    models.save(tiny_model(seed), tokenizer(), folder)
    path = folder / models.MANIFEST
    artifacts.write_json(path, models.manifest(folder, {"seed": seed}))
    return path


def save_trained(
    manifest: Path, folder: Path, recipe: dict[str, Any] = RECIPE, count: int = 20
) -> Path:
    """Train on so many rows, write and prove an adapter as sft_train does; return its folder."""
    model = models.load_model(models.verified(manifest), torch.float32)
    trained = training.fit(model, labelled_rows(count), recipe, str(manifest.parent))
    artifacts.write_json(folder / adapters.CONFIG, trained.config)
    artifacts.write_tensors(folder / adapters.WEIGHTS, trained.tensors)
    receipt = adapters.prove_saved(manifest, folder, trained)
    artifacts.write_json(folder / adapters.RECEIPT, receipt)
    return folder
