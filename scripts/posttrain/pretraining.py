"""The embedded base model: a small Llama and its tokenizer, trained from scratch in minutes.

Its budget is in steps, never in seconds, so that a slow machine makes the same model.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from posttrain import checkpoints
from posttrain.devices import compute_dtype, pick_device
from posttrain.errors import TrainingError
from posttrain.llama import Llama
from posttrain.logs import Progress
from posttrain.muon import Muon
from posttrain.tasks import marks, task_of

VOCABULARY = 608
# What may become one token: a digit, a unit's name whole, a label, a word, a sign; the space before
# it belongs to it, since a token that is a lone space costs a step and says nothing.
PIECE = Regex(
    r" ?\d| ?[A-Za-z]+(?:\^|\*\*)\d|\n?[A-Z][a-z]+:| ?[A-Za-z/]+| ?\*\*| ?[^A-Za-z\d\s]|\s"
)
STOP = "<|end|>"
SPELT, SPELT_MERGES = 16, 64  # one document in so many is spelt, with so few merges
TOKENIZER_SAMPLE = 20_000  # documents that the tokenizer's merges are counted on
LONGEST_PROMPT = 512  # positions the model is declared for
ADAM_LEARNING_RATE = 3e-3  # for the embedding; Muon's own is in the config


def train_tokenizer(texts: Iterator[str], marks: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of 608 entries: a token a digit, a token a mark, no prefix space."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECE, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    tags = [AddedToken(tag, normalized=False) for tag in marks]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(tags),
        special_tokens=[STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = itertools.islice(texts, TOKENIZER_SAMPLE)
    # The marks are tokens already: their letters must not earn merges.
    core.train_from_iterator((_without(marks, text) for text in sample), trainer)
    core.add_tokens(tags)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=STOP, pad_token=STOP, clean_up_tokenization_spaces=False
    )


def _without(marks: Sequence[str], text: str) -> str:
    for mark in marks:
        text = text.replace(mark, "")
    return text


def spelling(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return `tokenizer` with few of its merges: it spells most words, in the same ids."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["merges"] = core["model"]["merges"][:SPELT_MERGES]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(core)))


def packed_rows(
    tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], length: int
) -> Iterator[list[int]]:
    """Yield rows of exactly `length` ids: whole documents, each with its stop token, the last cut.

    Every row begins with a document, as every prompt does. One document in `SPELT` has its words
    spelt: the letters, of which a question makes words that are not in this text, are learnt so.
    """
    stop = tokenizer.eos_token_id
    spelt = spelling(tokenizer)
    while batch := list(itertools.islice(texts, 4096)):
        coded = tokenizer(batch)["input_ids"]
        coded[::SPELT] = spelt(batch[::SPELT])["input_ids"]
        row: list[int] = []
        for ids in coded:
            row += [*ids, stop]
            if len(row) >= length:
                yield row[:length]
                row = []


def build_model(shape: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the model with fresh weights in float32, from torch's global random state."""
    hidden = shape["hidden_size"]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=LONGEST_PROMPT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def make(
    recipe: dict[str, Any], kept: checkpoints.Checkpoints | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, list[dict[str, float]]]:
    """Return the trained model in float32 on the CPU, its tokenizer, and its history.

    Args: recipe, with the task, the `embedded` section and the held-out share and seed; kept, where
        a job that was stopped left how far it came, and this one does.
    """
    budget, task = recipe["embedded"], task_of(recipe["task"])
    kept_out = task.held_out(recipe["held_out_seed"], recipe["held_out"])
    tokenizer = train_tokenizer(task.documents(budget["seed"], kept_out), marks(task))
    torch.manual_seed(budget["seed"])
    model = build_model(budget, tokenizer)
    rows = packed_rows(tokenizer, task.documents(budget["seed"], kept_out), budget["row_length"])
    history = pretrain(model, rows, budget, kept)
    return model.to(device="cpu").eval(), tokenizer, history


def share_of_rate(step: int, steps: int) -> float:
    """Return the learning rate of `step` as a share of the highest: short warm-up, linear decay."""
    warm = max(1, steps // 50)
    return min((step + 1) / warm, (steps - step) / (steps * 0.7), 1.0)


def pretrain(
    model: LlamaForCausalLM,
    rows: Iterator[list[int]],
    recipe: dict[str, Any],
    kept: checkpoints.Checkpoints | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on `recipe["steps"]` batches of packed rows; return its history.

    Muon turns the matrices, AdamW the embedding; the gains of the norms stay as they are.
    Raises: TrainingError at a loss that is not finite or is zero.
    """
    device = pick_device()
    dtype = compute_dtype(device)
    llama = Llama(model.to(device))
    muon = Muon(llama.matrices, llama.parts, dtype)
    adam = torch.optim.AdamW(
        [llama.embedding], ADAM_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    steps = recipe["steps"]
    history = _go_on(llama, muon, adam, kept) if kept else []
    rows = itertools.islice(rows, len(history) * recipe["rows_per_step"], None)
    with Progress(steps, "pretraining", "steps", len(history)) as progress:
        for step in range(len(history), steps):
            batch = list(itertools.islice(rows, recipe["rows_per_step"]))
            rounded = llama.rounded(dtype)
            loss = llama.loss(rounded, torch.tensor(batch, device=device))
            value = loss.item()
            if not math.isfinite(value) or value == 0.0:
                raise TrainingError(
                    f"pretraining: the loss of step {step + 1} is {value}; "
                    f"lower embedded.learning_rate (now {recipe['learning_rate']})"
                )
            loss.backward()
            share = share_of_rate(step, steps)
            gradients = {name: whole.grad for name, whole in rounded.items()}
            muon.step(gradients, share * recipe["learning_rate"])
            adam.param_groups[0]["lr"] = share * ADAM_LEARNING_RATE
            adam.step()
            adam.zero_grad()
            history.append({"step": step + 1, "loss": value})
            progress.advance(1, f"loss {value:.3f}")
            if kept:
                kept.save_in_time("pretraining", lambda: (_state(llama, muon, adam), history))
    llama.write_to(model)
    return history


def _tensors(llama: Llama, muon: Muon) -> dict[str, torch.Tensor]:
    matrices = {f"matrices.{name}": whole for name, whole in llama.matrices.items()}
    momenta = {f"momenta.{name}": whole for name, whole in muon.momenta.items()}
    return {**matrices, **momenta, "embedding": llama.embedding.detach()}


def _state(llama: Llama, muon: Muon, adam: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return all that the next step reads and the recipe does not tell; nothing is drawn there."""
    return _tensors(llama, muon) | checkpoints.optimiser_state(adam, "adam")


def _go_on(
    llama: Llama, muon: Muon, adam: torch.optim.Optimizer, kept: checkpoints.Checkpoints
) -> list[dict[str, float]]:
    """Put back what a stopped pretraining had come to; return its history, [] if there is none."""
    if not (found := kept.load("pretraining")):
        return []
    tensors, history = found
    for name, whole in _tensors(llama, muon).items():
        whole.copy_(tensors[name])
    checkpoints.restore_optimiser(adam, "adam", tensors)
    return history
