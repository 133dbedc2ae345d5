"""Base models: ordinary Hugging Face folders, loaded offline, as safetensors, without remote code.

A base model is known by its manifest, the sha256 of each of its files, which is written last; what
is loaded is first held against it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import artifacts
from posttrain.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "manifest.json"
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
OPTIONAL = (
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


def model_files(folder: str | Path) -> list[Path]:
    """Return the files of a local model folder that make the model, sorted: weights and tokenizer.

    Raises: ModelError naming what is missing: config, fast tokenizer, or weights in safetensors.
    """
    folder = Path(folder)
    weights = sorted(folder.glob("model*.safetensors"))
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if not weights:
        missing.append("model.safetensors (or its shards)")
    if missing:
        raise ModelError(
            f"base_model: {folder} is no usable model folder, it lacks {', '.join(missing)}; "
            "save one with save_pretrained() of a causal model and of its fast tokenizer"
        )
    present = [folder / name for name in OPTIONAL if (folder / name).is_file()]
    return sorted([*(folder / name for name in NEEDED), *present, *weights])


def manifest(folder: str | Path, origin: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of the model in `folder`: its files' sha256, and what made it."""
    files = {path.name: artifacts.sha256_file(path) for path in model_files(folder)}
    return {"files": files, "origin": origin}


def verified(manifest_path: str | Path) -> Path:
    """Return the folder of the manifest once every file in it has the sha256 it states.

    Raises: ModelError naming the first file that is missing or has changed.
    """
    folder = Path(manifest_path).parent
    for name, stated in artifacts.read_json(manifest_path)["files"].items():
        path = folder / name
        if not path.is_file():
            raise ModelError(
                f"{path} is missing though {MANIFEST} lists it; {_again(manifest_path)}"
            )
        if artifacts.sha256_file(path) != stated:
            raise ModelError(
                f"{path} has changed since {MANIFEST} was made; {_again(manifest_path)}"
            )
    return folder


def _again(manifest_path: str | Path) -> str:
    return f"make it again: snakemake --forcerun {manifest_path} {manifest_path}"


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Return the folder's fast tokenizer. Raises ModelError if it has no stop token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: the tokenizer does not load: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{folder}: the tokenizer names no eos_token, so no answer could ever stop"
        )
    return tokenizer


def load_model(folder: str | Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Return the folder's causal model on the CPU, in eval mode, its weights in `dtype`.

    Raises: ModelError if weights are missing, do not fit, or are not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for each file read says nothing
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{folder}: the model does not load: {_first_line(error)}") from error
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"{folder}: its weights do not fit its config.json at {len(wrong)} places, "
            f"such as {wrong[0]}; copy the folder again, whole"
        )
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(f"{folder}: weight {name} is not finite; copy the folder again, whole")
    return model.eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def save(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: str | Path
) -> None:
    """Save both as an ordinary Hugging Face folder, weights last."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
