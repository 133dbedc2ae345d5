"""The peers: the same work as done with transformers and TRL, at the best settings found."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from posttrain.masking import IGNORE
from posttrain.sampling import Completion
from posttrain.tags import CLOSE

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

PADDED_TO = 128  # what the origin pads every row to
ORIGIN_PROMPTS = 32  # prompts in its micro-batch of sampling
BATCHED_ROWS = (16, 32, 64, 128)  # completions at once that continuous batching is tried with


@dataclass(frozen=True)
class Training:
    """What a peer's training took: its loop, its losses, what it supervised."""

    seconds: float
    losses: list[float]
    supervised: int


@dataclass(frozen=True)
class Sampling:
    """What is to be sampled: `samples` completions of each prompt; temperature 0 is greedy."""

    tokenizer: "PreTrainedTokenizerBase"
    prompts: Sequence[list[int]]
    samples: int
    max_new_tokens: int
    temperature: float
    stops: Sequence[int]

    @property
    def closer(self) -> int:
        """The id of `</answer>`, a single token in the embedded vocabulary."""
        return self.tokenizer.convert_tokens_to_ids(CLOSE)


def arguments(recipe: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> dict:
    """Return the arguments that every trainer gets: our recipe, nothing saved, nothing sent."""
    return {
        "output_dir": tempfile.gettempdir(),  # nothing is saved, but it must be there
        "per_device_train_batch_size": recipe["batch_size"],
        "num_train_epochs": 1,
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "bf16": dtype == torch.bfloat16,
        "use_cpu": device.type == "cpu",
        "train_sampling_strategy": "sequential",  # our order of rows, for the same loss curve
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": device.type == "cuda",
        "seed": recipe["seed"],
    }


def train_as_origin(model: "PeftModel", rows: Sequence[Mapping], given: dict) -> Training:
    """Train with `transformers.Trainer`, every row padded to 128."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    padded = [
        {
            "input_ids": row["input_ids"] + [0] * (PADDED_TO - len(row["input_ids"])),
            "attention_mask": [int(place < len(row["input_ids"])) for place in range(PADDED_TO)],
            "labels": row["labels"] + [IGNORE] * (PADDED_TO - len(row["labels"])),
        }
        for row in rows
    ]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**given),
        train_dataset=padded,
        data_collator=default_data_collator,
    )
    return _train(trainer, [row["labels"] for row in padded])


# What is tried for TRL in a short run; the fastest is measured. Packing is padding-free training
# with other rows in a step, so that no loss curve could be compared. Not tried: compilation, and
# kernels that have to be installed, flash attention's and liger's.
TRL_SETTINGS = (
    {"padding_free": False},
    {"padding_free": True},
    {"padding_free": False, "attention": "eager"},
    {"padding_free": False, "rounded": True},
    {"padding_free": False, "rounded": True, "attention": "eager"},
    {"padding_free": True, "micro_batches": 4, "attention": "eager"},
)


def train_with_trl(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Mapping],
    given: dict,
    padding_free: bool,
    micro_batches: int = 1,
    attention: str = "sdpa",
    rounded: bool = False,
) -> Training:
    """Train with TRL's `SFTTrainer`: labels as given, logits only where there is one.

    Args: rounded, whether the base is in bfloat16 from the start, where that is multiplied in.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model.get_base_model().set_attn_implementation(attention)
    if rounded and given["bf16"]:
        in_dtype_but_adapter(model, torch.bfloat16)
    size = given["per_device_train_batch_size"]
    config = SFTConfig(
        **given
        | {
            "per_device_train_batch_size": size // micro_batches,
            "gradient_accumulation_steps": micro_batches,
            "gradient_checkpointing": False,
            "padding_free": padding_free,
            "max_length": None,
        }
    )
    kept = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows]
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(kept),
        processing_class=tokenizer,
    )
    return _train(trainer, trainer.train_dataset["labels"])


def in_dtype_but_adapter(model: "PeftModel", dtype: torch.dtype) -> None:
    """Turn the base of `model` into `dtype`, in place; peft keeps adapters in float32."""
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)


def _train(trainer: "Trainer", labels: Sequence[Sequence[int]]) -> Training:
    """Train, with the clock on from before the first step to after the last, as for ours."""
    from transformers import PrinterCallback, TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    supervised = sum(label != IGNORE for row in labels for label in row[1:])
    return Training(clock.seconds, losses, supervised)


def generate(
    model: "PreTrainedModel | PeftModel", work: Sampling, prompts_at_once: int, closes: bool
) -> list[Completion]:
    """Sample with `generate`, `prompts_at_once` prompts a call, each read for every sample.

    Args: closes, whether `</answer>` ends a completion as a stop token does.
    """
    found = []
    device = next(model.parameters()).device
    config = _generation(work, closes)
    for start in range(0, len(work.prompts), prompts_at_once):
        prompts = work.prompts[start : start + prompts_at_once]
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for line, prompt in enumerate(prompts):
            ids[line, longest - len(prompt) :] = torch.tensor(prompt)
            mask[line, longest - len(prompt) :] = 1
        out = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
        )
        found += [_completion(work, written) for written in out[:, longest:].tolist()]
    return found


def generate_batch(
    model: "PreTrainedModel", work: Sampling, rows: int, page_size: int = 32
) -> list[Completion]:
    """Sample with transformers' continuous batching, `rows` at once.

    Its cache is sized here: left to itself it takes most of the machine's memory.
    Raises: RuntimeError if a request failed or went missing, which it would only log.
    """
    from transformers import ContinuousBatchingConfig

    longest = max(map(len, work.prompts))
    pages = -(-(longest + work.max_new_tokens) // page_size)
    out = model.generate_batch(
        list(work.prompts),
        generation_config=_generation(work, closes=True),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=rows * pages + pages,
            max_batch_tokens=max(rows, 2 * longest),
            max_requests_per_batch=rows,
        ),
    )
    asked = len(work.prompts) * work.samples
    failed = [one.error for one in out.values() if one.error]
    if len(out) != asked or failed:
        raise RuntimeError(f"{len(out)} of {asked} requests came back, {failed[:1]}")
    return [_completion(work, one.generated_tokens) for one in out.values()]


def _generation(work: Sampling, closes: bool) -> Any:
    from transformers import GenerationConfig

    is_greedy = work.temperature == 0.0
    draws = {} if is_greedy else {"temperature": work.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        do_sample=not is_greedy,
        num_return_sequences=work.samples,
        max_new_tokens=work.max_new_tokens,
        eos_token_id=[*work.stops, *([work.closer] if closes else [])],
        pad_token_id=work.tokenizer.eos_token_id,
        **draws,
    )


def _completion(work: Sampling, written: Sequence[int]) -> Completion:
    """Return what was written up to the first stop token or `</answer>`, as ours does."""
    ids, finish = list(written), "length"
    ends = set(work.stops)
    for place, token in enumerate(ids):
        if token in ends or token == work.closer:
            finish = "stop" if token in ends else "answer"
            ids = ids[: place + (finish == "answer")]
            break
    text = work.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Completion(text, len(ids), finish)


def batch_sizes(rows: int, samples: int) -> Iterator[int]:
    """Yield the numbers of prompts a call at which `generate` is tried, up to all at once."""
    size = max(samples, min(rows // 4, 64))
    while size <= rows:
        yield size // samples
        size *= 2
