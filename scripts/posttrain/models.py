"""Base models: ordinary Hugging Face folders, loaded offline, as safetensors, without remote code.

A base model is known by its manifest, the sha256 of each of its files, which is written last; what
is loaded is first held against it.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import artifacts, weights
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
ADAPTER = "adapter_config.json"


def model_files(folder: str | Path, key: str = "base_model") -> list[Path]:
    """Return the files of a local model folder that make the model, sorted: weights and tokenizer.

    Args: key, of the config, which messages name.
    Raises: ModelError naming what is missing (config, fast tokenizer, or weights in safetensors),
        or an adapter in the same folder.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("model*.safetensors"))
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if not shards:
        missing.append("model.safetensors (or its shards)")
    if missing:
        raise ModelError(
            f"{key}: {folder} is no usable model folder, it lacks {', '.join(missing)}; "
            "save one with save_pretrained() of a causal model and of its fast tokenizer"
        )
    if (folder / ADAPTER).is_file():  # transformers would load that too, without a word
        raise ModelError(
            f"{key}: {folder} holds an adapter beside the model ({ADAPTER}); move it into a "
            "folder of its own and name that under evaluate.adapters"
        )
    present = [folder / name for name in OPTIONAL if (folder / name).is_file()]
    return sorted([*(folder / name for name in NEEDED), *present, *shards])


def manifest(folder: str | Path, origin: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of the model in `folder`: its files' sha256, and what made it."""
    files = {path.name: artifacts.sha256_file(path) for path in model_files(folder)}
    return {"files": files, "origin": origin}


def stated_files(manifest_path: str | Path) -> dict[str, str]:
    """Return the sha256 that the manifest states of each file, by name.

    Raises: ModelError if there is no manifest at that path, or it is damaged.
    """
    try:
        files = artifacts.read_json(manifest_path)["files"]
        if not all(isinstance(sha256, str) for sha256 in files.values()):
            raise ValueError("a sha256 is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{manifest_path} is no manifest of a base model ({_first_line(error)}); "
            f"{_again(manifest_path)}"
        ) from error
    return files


def verified(manifest_path: str | Path) -> Path:
    """Return the manifest's folder once it holds the files stated, byte by byte, and no other.

    Raises: ModelError naming the first file that is missing, has changed or was added.
    """
    folder = Path(manifest_path).parent
    stated = stated_files(manifest_path)
    for name, sha256 in stated.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(
                f"{path} is missing though {MANIFEST} lists it; {_again(manifest_path)}"
            )
        if artifacts.sha256_file(path) != sha256:
            raise ModelError(
                f"{path} has changed since {MANIFEST} was made; {_again(manifest_path)}"
            )
    # Beside shards a single file of weights would be loaded in their place.
    if added := [path for path in model_files(folder) if path.name not in stated]:
        raise ModelError(
            f"{added[0]} was added since {MANIFEST} was made; move it away, or "
            f"{_again(manifest_path)}"
        )
    return folder


def _again(manifest_path: str | Path) -> str:
    return f"make it again: snakemake --force {manifest_path}"


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Return the folder's fast tokenizer. Raises ModelError if it has no stop token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers stumbles over, the folder is at fault
        raise ModelError(f"{folder}: the tokenizer does not load: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{folder}: the tokenizer names no eos_token, so no answer could ever stop"
        )
    return tokenizer


def load_model(folder: str | Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Return the folder's causal model on the CPU, in eval mode, its weights in `dtype`.

    Raises: ModelError if weights are cut off or damaged, are missing, do not fit, or are not
        finite.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for each file read says nothing
    for path in sorted(Path(folder).glob("model*.safetensors")):
        weights.header(path, ModelError)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # as above
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
    """Save both as an ordinary Hugging Face folder, weights last; no other model's file stays."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    clear(folder)
    with artifacts.files_into(folder) as beside:
        tokenizer.save_pretrained(beside)
        model.save_pretrained(beside)


def link(source: str | Path, folder: str | Path, key: str = "base_model") -> None:
    """Make `folder` hold links to the files of the model in `source`, and no other model's file.

    Raises: ModelError if `source` is no usable model folder, or is `folder` itself.
    """
    files = model_files(source, key)
    if Path(source).resolve() == Path(folder).resolve():
        raise ModelError(
            f"{key}: {source} is where the workflow keeps its own copy; name the folder that "
            "the model came from"
        )
    clear(folder)
    artifacts.link_all(files, Path(folder))


def clear(folder: str | Path, keep: Collection[str] = ()) -> None:
    """Remove the files of a model that stood in `folder` before, but for those named in `keep`.

    Writing through a link would change a person's own model, and a shard that stayed would count
    as part of the new one.
    """
    folder = Path(folder)
    found = [*(folder / name for name in (*NEEDED, *OPTIONAL)), *folder.glob("model*.safetensors")]
    artifacts.remove(path for path in found if path.name not in keep)
