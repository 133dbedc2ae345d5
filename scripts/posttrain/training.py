"""Fine-tuning with LoRA: one plain loop over labelled rows, for SFT and RFT alike.

Every step is held against what a healthy step cannot be: a loss that is not finite or exactly zero,
a gradient that is missing, not finite or exactly zero. Such a step ends the training, and so does
an adapter that all steps have left as it was; no adapter is written then.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from posttrain import adapters, checkpoints, frozen, weights
from posttrain.devices import compute_dtype, peak_memory, pick_device
from posttrain.errors import MaskError, TrainingError
from posttrain.likelihood import mean_logprobs, mixes_rows, pack, packed_logprobs
from posttrain.logs import Progress, log
from posttrain.masking import IGNORE

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Row = Mapping[str, Any]
# Of AdamW and of clipping: transformers' defaults, which the published recipes for this task use.
BETAS, EPSILON, LARGEST_GRADIENT = (0.9, 0.999), 1e-8, 1.0
CANARY_STEPS = 5
HISTORY = ("step", "epoch", "loss", "grad_norm", "learning_rate")


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Return the rate of `step` (counted from 0) of `steps`: linear from `highest` down to 0."""
    return highest * (1 - step / steps)


def batches(count: int, batch_size: int, epochs: int, seed: int) -> list[tuple[float, list[int]]]:
    """Return each step's (epoch so far, row numbers); rows in a new order every epoch.

    The last batch of an epoch holds what is left over, so that every row is seen once in each.
    """
    order = random.Random(f"order of rows {seed}")
    found = []
    for epoch in range(epochs):
        numbers = list(range(count))
        order.shuffle(numbers)
        for start in range(0, count, batch_size):
            chosen = numbers[start : start + batch_size]
            found.append((epoch + (start + len(chosen)) / count, chosen))
    return found


def fit(
    model: "PreTrainedModel",
    rows: Sequence[Row],
    recipe: Mapping[str, Any],
    base_folder: str,
    kept: checkpoints.Checkpoints | None = None,
) -> adapters.Trained:
    """Train a fresh LoRA adapter on `model`, which is changed in place and used up.

    The adapter stays in float32. The base is held in the machine's dtype for the steps alone: the
    probes, before and after, see the exact weights that the adapter is loaded onto later.

    Args: model, in float32 on the CPU; rows with id, input_ids and labels; recipe, a training
        section of the config with `seed`; base_folder, named in the adapter's config; kept, where
        a job that was stopped left how far it came, and this one does.
    Raises: TrainingError where a step cannot be healthy, naming it, its rows and likely causes, or
        where the training left a part of the adapter as it was, or where what it computes by gives
        another distribution than the model itself; MaskError where rows supervise nothing, before
        the first step.
    """
    if not rows:
        raise TrainingError(
            "there are no rows to train on; see the statistics in results/tokenized"
        )
    _refuse_unlabelled(rows, "before the first step")
    device = pick_device()
    seed = recipe["seed"]
    probes = adapters.probes_of(rows)
    base_logprobs = mean_logprobs(model, probes)
    if recipe["gradient_checkpointing"]:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()  # else no gradient reaches the adapter
    model.config.use_cache = False
    if device.type == "cpu":
        # torch's fused attention has a slow backward pass there: a quarter of a step's time.
        model.set_attn_implementation("eager")
    apart = mixes_rows(model, probes, base_logprobs)
    peft_model = adapters.attach(model, recipe["lora"], seed)
    restore = frozen.hasten(peft_model, compute_dtype(device), device, apart)
    canary = sing(peft_model, rows, recipe["learning_rate"], apart)
    torch.manual_seed(seed)  # of dropout: the canary must not move it
    plan = batches(len(rows), recipe["batch_size"], recipe["epochs"], seed)
    optimiser = _optimiser(peft_model, recipe["learning_rate"])
    history = _go_on(peft_model, optimiser, kept) if kept else []
    peft_model.train()
    with Progress(len(plan), "training", "steps", len(history)) as progress:
        for step, (epoch, numbers) in enumerate(plan[len(history) :], len(history)):
            rate = learning_rate(step, len(plan), recipe["learning_rate"])
            chosen = [rows[number] for number in numbers]
            loss, norm = train_step(peft_model, optimiser, chosen, rate, apart, f"step {step + 1}")
            line = {"step": step + 1, "epoch": round(epoch, 4), "loss": loss}
            history.append(line | {"grad_norm": norm, "learning_rate": rate})
            progress.advance(1, f"loss {loss:.4f}")
            if kept:
                kept.save_in_time("training", lambda: (_state(peft_model, optimiser), history))
    log.info("peak memory: %.1f GB", peak_memory() / 1e9)
    peft_model.eval()
    restore()
    tensors = adapters.tensors_of(peft_model)
    if zero := weights.lora_b_is_zero(tensors):
        raise TrainingError(
            f"after {len(plan)} steps {len(zero)} of {len(tensors) // 2} lora_B tensors are still "
            f"all zero, such as {zero[0]}: the adapter is unchanged there; no adapter is kept"
        )
    return adapters.Trained(
        tensors=tensors,
        config=adapters.config_of(peft_model, base_folder),
        history=history,
        probes=probes,
        base_logprobs=base_logprobs,
        adapter_logprobs=mean_logprobs(peft_model, probes),
        canary=canary,
        trainable_parameters=sum(p.numel() for p in _trainable(peft_model)),
    )


def train_step(
    model: "PeftModel",
    optimiser: torch.optim.Optimizer,
    rows: Sequence[Row],
    rate: float,
    apart: bool,
    place: str,
) -> tuple[float, float]:
    """Take one step on `rows` and return its loss (nats a supervised token) and gradient norm.

    In passes of so many tokens as the memory holds; their gradients add up to that of the batch.

    Args: apart, where the model mixes packed rows (`likelihood.mixes_rows`).
    Raises: TrainingError, naming `place` and the rows, at a loss or gradient no step can have.
        MaskError, naming them too, if rows supervise nothing.
    """
    _refuse_unlabelled(rows, place)
    names = _names(rows)
    passes = pack(rows, next(model.parameters()).device, apart)
    count = sum(len(packed.rows) for packed in passes)
    value = 0.0
    for packed in passes:
        loss = -packed_logprobs(model, packed).sum() / count
        value += loss.item()
        if not math.isfinite(value):
            break
        if loss.requires_grad:
            loss.backward()
    if not math.isfinite(value) or value == 0.0:
        raise TrainingError(
            f"{place}: the loss is {abs(value)} on rows {names}: labels that supervise nothing, "
            f"weights that are not finite, or a learning rate too high (now {rate:.2g}); "
            "no adapter is kept"
        )
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    if any(p.grad is None for p in parameters):
        raise TrainingError(
            f"{place}: on rows {names} no gradient reaches the adapter: gradient checkpointing "
            "without input gradients, or a part of it that is not connected; no adapter is kept"
        )
    norm = torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT).item()
    if not math.isfinite(norm) or norm == 0.0:
        raise TrainingError(
            f"{place}: the gradient's norm is {norm} on rows {names} at a loss of {value:.4g}; "
            f"lower the learning rate (now {rate:.2g}); no adapter is kept"
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return value, norm


def sing(model: "PeftModel", rows: Sequence[Row], rate: float, apart: bool) -> dict[str, float]:
    """Learn a few rows by heart, see that it worked, and put the fresh adapter back: a canary.

    Returns: mean log-probability per supervised token of those rows, before and after.
    Raises: TrainingError if `CANARY_STEPS` steps on them did not make them likelier.
    """
    chosen = adapters.probes_of(rows)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    before = _mean(model, chosen)
    optimiser = _optimiser(model, rate)
    model.train()
    for step in range(CANARY_STEPS):
        train_step(model, optimiser, chosen, rate, apart, f"trial step {step + 1}")
    after = _mean(model, chosen)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in fresh:
                parameter.copy_(fresh[name])
    if not after > before:
        raise TrainingError(
            f"{CANARY_STEPS} trial steps on {len(chosen)} rows did not make their answers likelier "
            f"({before:.4f} to {after:.4f} nats a token): a learning rate too high ({rate:.2g}) "
            "or too low, labels in the wrong place, or an adapter that is not connected"
        )
    log.info("trial steps: %.4f to %.4f nats a supervised token", before, after)
    return {"before": before, "after": after}


def _state(model: "PeftModel", optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return all that the next step reads and the recipe does not tell."""
    weights = {f"adapter.{i}": p for i, p in enumerate(_trainable(model))}
    remembered = checkpoints.optimiser_state(optimiser, "optimiser")
    return weights | remembered | checkpoints.random_state()


def _go_on(
    model: "PeftModel", optimiser: torch.optim.Optimizer, kept: checkpoints.Checkpoints
) -> list[dict[str, float]]:
    """Put back what a stopped training had come to; return its history, [] if there is none."""
    if not (found := kept.load("training")):
        return []
    tensors, history = found
    with torch.no_grad():
        for i, parameter in enumerate(_trainable(model)):
            parameter.copy_(tensors[f"adapter.{i}"])
    checkpoints.restore_optimiser(optimiser, "optimiser", tensors)
    checkpoints.restore_random(tensors)
    return history


def _refuse_unlabelled(rows: Sequence[Row], place: str) -> None:
    """Raise MaskError if rows have no label that is predicted from the ids before it."""
    if empty := [row for row in rows if all(label == IGNORE for label in row["labels"][1:])]:
        raise MaskError(
            f"{place}: {len(empty)} of {len(rows)} rows have no supervised token, so nothing to "
            f"learn from: {_names(empty)}; no adapter is kept"
        )


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(str(row["id"]) for row in rows[:5]) + (" ..." if len(rows) > 5 else "")


def _mean(model: "PeftModel", rows: Sequence[Row]) -> float:
    model.eval()
    found = mean_logprobs(model, rows)
    return sum(found) / len(found)


def _trainable(model: "PeftModel") -> list[torch.nn.Parameter]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError("the adapter is frozen: no parameter of it takes a gradient")
    return parameters


def _optimiser(model: "PeftModel", rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _trainable(model), rate, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True
    )
