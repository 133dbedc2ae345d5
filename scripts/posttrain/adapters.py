"""LoRA adapters: made fresh for training, and proven whenever one is loaded.

A fresh adapter has lora_B = 0 and is exactly the base model, and peft fills in what a file lacks
with fresh weights. So nothing here is loaded on trust: the file's bytes and names are held against
the receipt, and the loaded model's log-probabilities of a few fixed rows, the probes, against those
that the receipt states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import artifacts, devices, models, weights
from posttrain.errors import AdapterError
from posttrain.likelihood import mean_logprobs

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from posttrain.training import Trained

WEIGHTS, CONFIG, RECEIPT = "adapter_model.safetensors", "adapter_config.json", "receipt.json"
PROBES = 8
# Nats per supervised token by which a loaded model may differ from its receipt. Float32 differs in
# the order of sums alone; bfloat16 keeps 8 bits of each weight, activation and merge.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Loaded:
    """A model in float32, with an adapter merged into it or none, and what was proven of that."""

    model: "PreTrainedModel"
    folder: Path | None = None
    sha256: str = "none"
    receipt: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Return the adapter's sha256, marked where no receipt vouches for it."""
        return f"unproven:{self.sha256}" if self.folder and not self.receipt else self.sha256


def attach(model: "PreTrainedModel", lora: Mapping[str, Any], seed: int) -> "PeftModel":
    """Return `model`, changed in place, with a fresh LoRA on all its linear layers, in float32.

    The seed is set before the adapter is made, so that the same seed gives the same lora_A.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def tensors_of(model: "PeftModel") -> dict[str, "Tensor"]:
    """Return the adapter's tensors under the names that peft saves them by, on the CPU."""
    from peft import get_peft_model_state_dict

    # Without save_embedding_layers=False peft asks the hub whether the vocabulary has grown.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def config_of(model: "PeftModel", base_folder: str) -> dict[str, Any]:
    """Return what adapter_config.json is to hold; lists sorted, as peft keeps them in sets."""

    def plain(value: Any) -> Any:
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        if isinstance(value, dict):
            return {str(key): plain(entry) for key, entry in value.items()}
        return value.value if hasattr(value, "value") else value

    config = plain(model.peft_config["default"].to_dict())
    return config | {"base_model_name_or_path": base_folder, "inference_mode": True}


def probes_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `PROBES` of the tokenized training rows, spread evenly over them."""
    count = min(PROBES, len(rows))
    spread = [rows[i * len(rows) // count] for i in range(count)]
    return [{key: row[key] for key in ("id", "input_ids", "labels")} for row in spread]


def load(
    manifest_path: str | Path,
    folder: str | Path,
    target: str = "convert_bin_adapter",
) -> Loaded:
    """Return the base model with the adapter in `folder` merged into it, in float32, proven.

    With a receipt: same bytes, same base model, and the probes as the receipt states them. Without
    one what can be checked is: names and shapes against its config and the base, every value
    finite, no lora_B zero. In both cases the adapter must make a difference to the base model.

    Args: manifest_path, of the base model; target, what converts a `.bin` found in `folder`.
    Raises: AdapterError, one line, naming the fault and the command that trains again.
    """
    folder = Path(folder)
    weights.refuse_pickles(folder, target)
    receipt = read_receipt(folder)
    merged = _merged(manifest_path, folder, receipt)
    return Loaded(merged, folder, artifacts.sha256_file(folder / WEIGHTS), receipt)


def load_any(manifest_path: str | Path, files: Sequence[str]) -> Loaded:
    """Return the base model with the adapter whose `files` are given, or as it is without any."""
    if files:
        return load(manifest_path, Path(files[0]).parent)
    return Loaded(models.load_model(models.verified(manifest_path), torch.float32))


def ready(loaded: Loaded) -> "PreTrainedModel":
    """Return the model on the device and in the dtype it is to generate in, proven again there."""
    model = devices.ready(loaded.model)
    if loaded.receipt:
        found = mean_logprobs(model, loaded.receipt["probes"]["rows"])
        prove(loaded.receipt, found, model.dtype, loaded.folder)
    return model


def refuse_changed(loaded: Loaded) -> None:
    """Raise AdapterError if the adapter's file is not the one that was loaded: reading is all."""
    if loaded.folder and artifacts.sha256_file(loaded.folder / WEIGHTS) != loaded.sha256:
        raise AdapterError(
            f"{loaded.folder / WEIGHTS} was changed while it was in use; only a training may write "
            f"it; {_retrain(loaded.folder)}"
        )


def prove_saved(manifest_path: str | Path, folder: Path, trained: "Trained") -> dict[str, Any]:
    """Return what a receipt says of the adapter just written to `folder`, read back from there.

    The probes' log-probabilities are those of the model as anybody will load it, and must be those
    of the model that was trained.
    Raises: AdapterError where the file gives another model than the one in memory.
    """
    tensors = weights.read(folder / WEIGHTS)
    sha256 = artifacts.sha256_file(folder / WEIGHTS)
    stated = {
        "base_model": artifacts.read_json(manifest_path)["files"],
        "adapter": {
            "sha256": sha256,
            "trainable_parameters": trained.trainable_parameters,
            "tensors": {
                name: {"shape": list(tensors[name].shape), "norm": norm}
                for name, norm in weights.norms(tensors).items()
            },
        },
        "canary": trained.canary,
        "probes": {
            "rows": trained.probes,
            "base_logprobs": trained.base_logprobs,
            "adapter_logprobs": trained.adapter_logprobs,
        },
    }
    model = _merged(manifest_path, folder, stated)
    found = mean_logprobs(model, trained.probes)
    return stated | {"probes": stated["probes"] | {"adapter_logprobs": found}}


def read_receipt(folder: Path) -> dict[str, Any] | None:
    """Return the adapter's receipt, None if it has none. Raises AdapterError if it is damaged."""
    path = folder / RECEIPT
    if not path.is_file():
        return None
    try:
        receipt = artifacts.read_json(path)
        _ = receipt["adapter"]["sha256"], receipt["probes"]["adapter_logprobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"{path} is no receipt of an adapter ({error!r}); {_retrain(folder)}"
        ) from error
    return receipt


def _merged(
    manifest_path: str | Path, folder: Path, receipt: Mapping[str, Any] | None
) -> "PreTrainedModel":
    """Load base and adapter from disk, merge them in float32, and prove the result."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    config = _plain_lora(folder)
    base_files = artifacts.read_json(manifest_path)["files"]
    if receipt and receipt["base_model"] != base_files:
        raise AdapterError(
            f"{folder}: this adapter was trained on another base model than the one in "
            f"{Path(manifest_path).parent}; {_retrain(folder)}"
        )
    model = models.load_model(models.verified(manifest_path), torch.float32)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    expected = weights.expected_adapter(shapes, config["target_modules"], config["r"])
    stated = receipt["adapter"]["sha256"] if receipt else None
    tensors = weights.read(folder / WEIGHTS, expected, stated)
    if zero := weights.lora_b_is_zero(tensors):
        raise AdapterError(
            f"{folder / WEIGHTS}: {len(zero)} of {len(tensors) // 2} lora_B tensors are all zero, "
            f"such as {zero[0]}: the adapter is untrained there; {_retrain(folder)}"
        )
    probes = receipt["probes"]["rows"] if receipt else _any_probe(model)
    before = mean_logprobs(model, probes)
    peft_config = LoraConfig(**{key: config[key] for key in ("r", "lora_alpha", "target_modules")})
    peft_config.use_rslora = config.get("use_rslora", False)
    peft_config.task_type = "CAUSAL_LM"
    wrapped = get_peft_model(model, peft_config)
    set_peft_model_state_dict(wrapped, tensors)
    merged = wrapped.merge_and_unload(safe_merge=True).eval()
    after = mean_logprobs(merged, probes)
    if receipt:
        prove(receipt, after, torch.float32, folder)
    gap = max(abs(a - b) for a, b in zip(after, before, strict=True))
    if gap <= TOLERANCE[torch.float32]:
        raise AdapterError(
            f"{folder}: with this adapter the base model answers as it does without "
            f"(largest difference {gap:.2g} nats a token); {_retrain(folder)}"
        )
    return merged


def prove(
    receipt: Mapping[str, Any], found: Sequence[float], dtype: torch.dtype, place: str | Path
) -> None:
    """Hold the probes' log-probabilities against the receipt's.

    Raises: AdapterError where one differs by more than `TOLERANCE` of its dtype.
    """
    stated = receipt["probes"]["adapter_logprobs"]
    worst = max(abs(a - b) for a, b in zip(found, stated, strict=True))
    if not worst <= TOLERANCE[dtype]:  # also where it is not a number
        raise AdapterError(
            f"{place}: the loaded model's log-probabilities are up to {worst:.3g} nats a token off "
            f"its receipt's (at most {TOLERANCE[dtype]} in {str(dtype).removeprefix('torch.')}): "
            f"this is not the model that was trained; {_retrain(place)}"
        )


def _plain_lora(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json. Raises AdapterError where it is missing or no plain LoRA."""
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(
            f"{folder}: {CONFIG} is missing beside the weights; copy the folder whole"
        )
    try:
        config = artifacts.read_json(path)
        r, alpha, modules = (config[key] for key in ("r", "lora_alpha", "target_modules"))
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"{path}: not a LoRA config of peft ({error!r}); {_retrain(folder)}"
        ) from error
    is_plain = isinstance(r, int) and r > 0 and isinstance(alpha, (int, float)) and modules
    varied = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform")
    extra = [key for key in varied if config.get(key)]
    if config.get("peft_type", "LORA") != "LORA" or not is_plain or extra:
        raise AdapterError(
            f"{path}: only plain LoRA adapters are understood, this one has "
            f"{', '.join(extra) or 'another type, rank or alpha'}; merge it into its base model "
            "and name the result as base_model"
        )
    return config


def _any_probe(model: "PreTrainedModel") -> list[dict[str, Any]]:
    """Return one row of fixed ids for an adapter that brings no receipt: any text will do."""
    ids = [1 + i * 7 % (model.config.vocab_size - 1) for i in range(32)]
    return [{"id": "probe", "input_ids": ids, "labels": ids}]


def _retrain(folder: str | Path) -> str:
    target = Path(folder) / WEIGHTS
    return f"train it again: snakemake --cores 1 --resources gpu=1 --forcerun {target} {target}"
