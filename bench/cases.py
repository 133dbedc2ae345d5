"""The models that sides are compared on, and how much work each gets, so that it ends in minutes.

`embedded` is the finished run's base model with the adapter of rft, and `smollm2` random weights in
the shape of SmolLM2-360M with a fresh adapter. Both read the finished run's rows. As smollm2 knows
no answer, one token in 20 ends its completions: that gives them lengths like real ones, and the
limit is 2.6 times their mean, as the default limit is for the embedded model.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import adapters, devices, models, pretraining

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = Path("resources/base_model")
STOPPING = 20  # one token in so many ends a completion of smollm2
SMOLLM2 = {
    "hidden_size": 960,
    "intermediate_size": 2560,
    "layers": 32,
    "heads": 15,
    "kv_heads": 5,
}
SMOLLM2_VOCABULARY = 49152


@dataclass(frozen=True)
class Case:
    """A model and how much work it is given, so that all of it ends in minutes."""

    name: str
    base: "PreTrainedModel"  # without adapter, float32, on the CPU
    tokenizer: "PreTrainedTokenizerBase"
    adapter: "PeftModel"  # base and adapter, unmerged, float32
    batch_size: int
    steps: int
    sampled_prompts: int
    samples: int
    max_new_tokens: int
    stops: Sequence[int]


def embedded(config: Mapping[str, Any]) -> Case:
    """Return the finished run's base model with its rft adapter."""
    from peft import PeftModel

    folder = models.verified(BASE / models.MANIFEST)
    base = models.load_model(folder, devices.FULL)
    tokenizer = models.load_tokenizer(folder)
    return Case(
        name="embedded",
        base=base,
        tokenizer=tokenizer,
        adapter=PeftModel.from_pretrained(copy.deepcopy(base), "results/rft").eval(),
        batch_size=config["sft"]["batch_size"],
        steps=20,
        sampled_prompts=64,
        samples=config["rollouts"]["samples_per_question"],
        max_new_tokens=config["rollouts"]["max_new_tokens"],
        stops=[tokenizer.eos_token_id],
    )


def smollm2(config: Mapping[str, Any]) -> Case:
    """Return random weights in SmolLM2-360M's shape, the tokenizer filled up to its vocabulary."""
    tokenizer = models.load_tokenizer(BASE)
    words = range(len(tokenizer), SMOLLM2_VOCABULARY)
    tokenizer.add_tokens([f"[{number}]" for number in words])
    torch.manual_seed(0)
    base = pretraining.build_model(SMOLLM2, tokenizer).eval()
    base.set_attn_implementation("sdpa")  # as a loaded model has it
    stops = list(range(0, SMOLLM2_VOCABULARY, STOPPING))
    base.generation_config.eos_token_id = stops
    adapter = adapters.attach(copy.deepcopy(base), config["sft"]["lora"], config["seed"])
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return Case(
        name="smollm2",
        base=base,
        tokenizer=tokenizer,
        adapter=adapter.eval(),
        batch_size=8,
        steps=2,
        sampled_prompts=8,
        samples=4,
        max_new_tokens=48,
        stops=stops,
    )
