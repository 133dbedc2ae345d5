"""LoRA adapters: made fresh for training, and proven whenever one is loaded.

A fresh adapter has lora_B = 0 and is exactly the base model, and peft fills in what a file lacks
with fresh weights. So nothing here is loaded on trust: the file's bytes and names are held against
the receipt, and the loaded model's log-probabilities of a few fixed rows, the probes, against those
that the receipt states.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import artifacts, devices, lineage, models, rounding, weights
from posttrain.errors import AdapterError
from posttrain.likelihood import mean_logprobs
from posttrain.masking import IGNORE

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

WEIGHTS, CONFIG, RECEIPT = weights.WEIGHTS, "adapter_config.json", "receipt.json"
PROBES = 8
# Nats per supervised token by which a loaded model may differ from its receipt. Float32 differs in
# the order of sums alone; bfloat16 keeps 8 bits of each weight, activation and merge.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# Keys of adapter_config.json that may differ from peft's defaults: those that are used here, and
# those that change nothing in a merged model. All others make another kind of adapter.
USED = {"r", "lora_alpha", "target_modules", "use_rslora"}
IDLE = {"base_model_name_or_path", "revision", "task_type", "inference_mode", "lora_dropout"}
IDLE |= {"fan_in_fan_out", "peft_version"}  # peft sees by itself how a layer's weight lies
HARMLESS_STARTS = ("gaussian", "orthogonal")  # init_lora_weights that leave the base as it is
LARGEST_ALPHA = 1e6  # an adapter's weights times this are still finite


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


@dataclass(frozen=True)
class Trained:
    """What a training gives: the adapter, the curve, and the figures that vouch for both."""

    tensors: dict[str, "Tensor"]
    config: dict[str, Any]
    history: list[dict[str, float]]
    probes: list[dict[str, Any]]
    base_logprobs: list[float]
    adapter_logprobs: list[float]
    canary: dict[str, float]
    trainable_parameters: int


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
) -> Loaded:
    """Return the base model with the adapter in `folder` merged into it, in float32, proven.

    With a receipt: same bytes, same base model, the training rows of the run that it lies in, and
    the probes as the receipt states them. Without one what can be checked is: names and shapes
    against its config and the base, every value finite, no lora_B zero. In both cases the adapter
    must make a difference to the base model.

    Args: manifest_path, of the base model.
    Raises: AdapterError, one line, naming the fault and the command that trains again.
    """
    folder = Path(folder)
    with _remedied(folder):
        weights.refuse_pickles(folder, folder.name)
        receipt = read_receipt(folder)
        if receipt:
            _refuse_other_run(folder, receipt)
        # Taken before the file is read, which is then held against it.
        sha256 = receipt["adapter"]["sha256"] if receipt else _sha256(folder)
        return Loaded(_merged(manifest_path, folder, sha256, receipt), folder, sha256, receipt)


def load_any(manifest_path: str | Path, files: Sequence[str]) -> Loaded:
    """Return the base model with the adapter whose `files` are given, or as it is without any."""
    if files:
        return load(manifest_path, Path(files[0]).parent)
    return Loaded(models.load_model(models.verified(manifest_path), torch.float32))


def ready(loaded: Loaded) -> "PreTrainedModel":
    """Return the model on the device and in the dtype it is to generate in, proven again there."""
    if loaded.folder and devices.compute_dtype(devices.pick_device()) == torch.bfloat16:
        rounding.spread(loaded.model)
    model = devices.ready(loaded.model)
    if loaded.receipt:
        found = mean_logprobs(model, loaded.receipt["probes"]["rows"])
        with _remedied(loaded.folder):
            prove(loaded.receipt, found, model.dtype, loaded.folder)
            _refuse_base(loaded.receipt, found, model.dtype, loaded.folder)
    return model


def refuse_changed(loaded: Loaded) -> None:
    """Raise AdapterError if the adapter's file is not the one that was loaded: reading is all."""
    if loaded.folder and _sha256(loaded.folder) != loaded.sha256:
        with _remedied(loaded.folder):
            raise AdapterError(
                f"{loaded.folder / WEIGHTS} was changed while it was in use; only a training may "
                "write it"
            )


def prove_saved(manifest_path: str | Path, folder: Path, trained: Trained) -> dict[str, Any]:
    """Return what a receipt says of the adapter just written to `folder`, read back from there.

    The probes' log-probabilities are those of the model as anybody will load it, and must be those
    of the model that was trained.
    Raises: AdapterError where the file gives another model than the one in memory.
    """
    tensors = weights.read(folder / WEIGHTS)
    sha256 = _sha256(folder)
    stated = {
        "base_model": models.stated_files(manifest_path),
        "adapter": {
            "sha256": sha256,
            "config_sha256": artifacts.sha256_file(folder / CONFIG),
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
    model = _merged(manifest_path, folder, sha256, stated)
    found = mean_logprobs(model, trained.probes)
    return stated | {"probes": stated["probes"] | {"adapter_logprobs": found}}


def _refuse_base(
    receipt: Mapping[str, Any], found: Sequence[float], dtype: torch.dtype, place: Path
) -> None:
    """Raise AdapterError if the probes are nearer to the base model's than to the adapter's.

    Where the two lie as near as rounding brings any two, neither can be told from the other.
    """
    adapter, base = (receipt["probes"][f"{of}_logprobs"] for of in ("adapter", "base"))
    if _largest_gap(adapter, base) > TOLERANCE[dtype] and not (
        _largest_gap(found, adapter) < _largest_gap(found, base)
    ):
        raise AdapterError(f"{place}: the model that is to generate is the base model's double")


def read_receipt(folder: Path) -> dict[str, Any] | None:
    """Return the adapter's receipt, None if it has none. Raises AdapterError if it is damaged."""
    path = folder / RECEIPT
    if not path.is_file():
        return None
    try:
        receipt = artifacts.read_json(path)
        hashes = [receipt["adapter"][key] for key in ("sha256", "config_sha256")]
        hashes += [*receipt["base_model"].values(), *receipt.get("inputs", {}).values()]
        rows = receipt["probes"]["rows"]
        stated = [receipt["probes"][f"{of}_logprobs"] for of in ("adapter", "base")]
        if not all(isinstance(sha256, str) for sha256 in hashes):
            raise ValueError("a sha256 is no text")
        if receipt.get("seal", seal := lineage.seal(receipt)) != seal:
            raise ValueError("it was edited by hand")
        if not (rows and all(map(_is_probe, rows)) and all(len(s) == len(rows) for s in stated)):
            raise ValueError("its probes are no labelled rows with a log-probability each")
        if not all(type(value) is float and math.isfinite(value) for s in stated for value in s):
            raise ValueError("a log-probability is not finite")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path} is no receipt of an adapter ({_what(error)})") from error
    return receipt


def _refuse_other_run(folder: Path, receipt: Mapping[str, Any]) -> None:
    """Raise AdapterError if the rows of this run are not those that the adapter was trained on.

    Another run's adapter, copied over this run's with its receipt, is sound in all else. Rows that
    were deleted refuse nothing.
    """
    of_stage = folder.parent / "tokenized" / f"{folder.name}.jsonl"
    of_round = folder.parent.parent / "tokenized" / f"{folder.parent.name}_{folder.name}.jsonl"
    stated = receipt.get("inputs", {}).values()
    for rows in (of_stage, of_round):
        if (
            folder.parts[0] == "results"
            and rows.is_file()
            and artifacts.sha256_file(rows) not in stated
        ):
            raise AdapterError(
                f"{folder}: this adapter was not trained on {rows}: it is another run's, or the "
                "rows have changed since"
            )


def _is_probe(row: Mapping[str, Any]) -> bool:
    """Tell whether `row` is ids with labels of which one at least is learnt from the ids before."""
    ids, labels = row["input_ids"], row["labels"]
    pairs = list(zip(ids, labels, strict=True))
    are_ids = all(type(i) is int and i >= 0 and label in (IGNORE, i) for i, label in pairs)
    return are_ids and any(label != IGNORE for _, label in pairs[1:])


def _merged(
    manifest_path: str | Path, folder: Path, sha256: str, receipt: Mapping[str, Any] | None
) -> "PreTrainedModel":
    """Load base and adapter from disk, merge them in float32, and prove the result."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    config = _plain_lora(folder, receipt)
    if receipt and receipt["base_model"] != models.stated_files(manifest_path):
        raise AdapterError(
            f"{folder}: this adapter was trained on another base model than the one in "
            f"{Path(manifest_path).parent}"
        )
    model = models.load_model(models.verified(manifest_path), torch.float32)
    try:
        expected = weights.expected_adapter(_shapes(model), config["target_modules"], config["r"])
    except AdapterError as error:
        raise AdapterError(f"{folder / CONFIG}: {error}") from error
    tensors = weights.read(folder / WEIGHTS, expected, sha256)
    if zero := weights.lora_b_is_zero(tensors):
        raise AdapterError(
            f"{folder / WEIGHTS}: {len(zero)} of {len(tensors) // 2} lora_B tensors are all zero, "
            f"such as {zero[0]}: the adapter is untrained there"
        )
    probes = probes_for(receipt, model)
    if max(max(row["input_ids"]) for row in probes) >= _vocabulary(model):
        raise AdapterError(f"{folder / RECEIPT}: its probes hold tokens that the base model lacks")
    before = mean_logprobs(model, probes)
    used = {key: config[key] for key in sorted(USED & config.keys())}
    wrapped = get_peft_model(model, LoraConfig(**used, task_type="CAUSAL_LM"))
    set_peft_model_state_dict(wrapped, tensors)
    try:
        merged = wrapped.merge_and_unload(safe_merge=True).eval()
    except ValueError as error:
        raise AdapterError(f"{folder}: does not merge: {_what(error)}") from error
    after = mean_logprobs(merged, probes)
    if receipt:
        prove(receipt, after, torch.float32, folder)
    gap = _largest_gap(after, before)
    if not gap > TOLERANCE[torch.float32]:
        raise AdapterError(
            f"{folder}: with this adapter the base model answers as it does without "
            f"(largest difference {gap:.2g} nats a token)"
        )
    return merged


def prove(
    receipt: Mapping[str, Any], found: Sequence[float], dtype: torch.dtype, place: str | Path
) -> None:
    """Hold the probes' log-probabilities against the receipt's.

    Raises: AdapterError where one differs by more than `TOLERANCE` of its dtype.
    """
    worst = _largest_gap(found, receipt["probes"]["adapter_logprobs"])
    if not worst <= TOLERANCE[dtype]:
        raise AdapterError(
            f"{place}: the loaded model's log-probabilities are up to {worst:.3g} nats a token off "
            f"its receipt's (at most {TOLERANCE[dtype]} in {str(dtype).removeprefix('torch.')}): "
            "this is not the model that was trained"
        )


def _largest_gap(found: Sequence[float], stated: Sequence[float]) -> float:
    """Return the largest difference, NaN where one is not a number: max() would pass over it."""
    gaps = [abs(a - b) for a, b in zip(found, stated, strict=True)]
    return math.nan if any(map(math.isnan, gaps)) else max(gaps)


def _plain_lora(folder: Path, receipt: Mapping[str, Any] | None) -> dict[str, Any]:
    """Read adapter_config.json. Raises AdapterError where it is not as stated or no plain LoRA."""
    from peft import LoraConfig

    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{path} is missing beside the weights: the folder was not copied whole")
    if receipt and artifacts.sha256_file(path) != receipt["adapter"]["config_sha256"]:
        raise AdapterError(f"{path} was changed since the training that wrote it")
    try:
        config = artifacts.read_json(path)
        r, alpha, modules = (config[key] for key in ("r", "lora_alpha", "target_modules"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{path}: not a LoRA config of peft ({_what(error)})") from error
    is_plain = (
        config.get("peft_type", "LORA") == "LORA"
        and type(r) is int
        and r > 0
        and type(alpha) in (int, float)
        and 0 < alpha <= LARGEST_ALPHA
        and (isinstance(modules, str) or _is_names(modules))
        and type(config.get("use_rslora", False)) is bool
    )
    usual = LoraConfig().to_dict()
    extra = sorted(
        key
        for key, value in config.items()
        if value and key not in USED | IDLE and value not in (usual.get(key), *HARMLESS_STARTS)
    )
    if extra or not is_plain:
        raise AdapterError(
            f"{path}: only plain LoRA adapters are understood, this one has "
            f"{', '.join(extra)[:200] or 'another type, rank, alpha or modules'}; merge it into "
            "its base model where it was made, and name the result as base_model"
        )
    return config


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _shapes(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    """Return each weight's shape by name, matrices as (out, in)."""
    from transformers.pytorch_utils import Conv1D

    turned = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, Conv1D)}
    return {
        name: tuple(weight.T.shape if name in turned else weight.shape)
        for name, weight in model.named_parameters()
    }


def probes_for(receipt: Mapping[str, Any] | None, model: "PreTrainedModel") -> list[dict[str, Any]]:
    """Return the receipt's probes, or one row of fixed ids without a receipt: any text will do."""
    if receipt:
        return receipt["probes"]["rows"]
    ids = [1 + i * 7 % (_vocabulary(model) - 1) for i in range(32)]
    return [{"id": "probe", "input_ids": ids, "labels": ids}]


def _vocabulary(model: "PreTrainedModel") -> int:
    return model.get_input_embeddings().weight.shape[0]


def _sha256(folder: Path) -> str:
    path = folder / WEIGHTS
    return artifacts.sha256_file(path) if path.is_file() else "missing"


def _what(error: Exception) -> str:
    first = (str(error).strip() or "no details").splitlines()[0]
    return f"{type(error).__name__}: {first[:200]}"


@contextmanager
def _remedied(folder: Path) -> Iterator[None]:
    """Add to a refusal how to get a sound adapter; only a training of this workflow has a receipt.

    Somebody else's cannot be trained again here.
    """
    try:
        yield
    except AdapterError as error:
        is_ours = (folder / RECEIPT).is_file()
        if is_ours and lineage.is_of_sweep(folder):
            copied = f" and {folder}/round*/{WEIGHTS}" if folder.name == "rft" else ""
            remedy = (
                f"to train it again: remove {folder / WEIGHTS}{copied} and {lineage.SWEEP_AGAIN}"
            )
        elif is_ours and folder.parts[0] == "results":
            # Of rounds the training makes the first: what stands above them is a copy.
            stage = f"{folder.name if folder.parent.name != 'rft' else 'rft'}_train"
            remedy = f"to train it again: snakemake {folder / WEIGHTS} --forcerun {stage}"
        elif is_ours:
            remedy = "copy it again, or train it again in the run that made it"
        else:
            remedy = "it has no receipt: get it again from its author"
        raise AdapterError(f"{error}; {remedy}") from error
