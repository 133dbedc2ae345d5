"""An adapter merged into its base model: an ordinary model folder, proven by reading it back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import adapters, artifacts, models
from posttrain.errors import AdapterError
from posttrain.likelihood import mean_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Every other file of the base model's folder belongs to its tokenizer and is copied as it is.
OF_THE_MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")


def merge(manifest_path: str | Path, adapter: str | Path, folder: str | Path) -> dict[str, Any]:
    """Write the base model with the adapter merged into it to `folder`, in float32; prove it.

    The model in memory is proven by `adapters.load`. The folder is read back: each weight must be
    the one in memory, bit by bit, and the log-probabilities of the probes those of the receipt.

    Args: manifest_path, of the base model; adapter, the folder of the adapter.
    Returns: what a receipt says of it: `adapter`, as figures are labelled, and `logprobs`, of the
        probes, by the folder read back.
    Raises: AdapterError, one line, before anything is written if the adapter is not to be used.
    """
    loaded = adapters.load(manifest_path, adapter)
    folder = Path(folder)
    models.clear(folder)
    # One file however large: whoever waits for it knows its name.
    with artifacts.files_into(folder) as beside:
        loaded.model.save_pretrained(beside, max_shard_size="100TB")
    base = models.verified(manifest_path)
    for name in models.stated_files(manifest_path):
        if name not in OF_THE_MODEL and not name.endswith(".safetensors"):
            artifacts.copy(base / name, folder / name)
    adapters.refuse_changed(loaded)
    merged = models.load_model(folder, torch.float32)
    _refuse_other_weights(merged, loaded.model, folder)
    found = mean_logprobs(merged, adapters.probes_for(loaded.receipt, merged))
    if loaded.receipt:
        adapters.prove(loaded.receipt, found, torch.float32, folder)
    return {"adapter": loaded.label, "logprobs": found}


def _refuse_other_weights(found: "PreTrainedModel", meant: "PreTrainedModel", folder: Path) -> None:
    weights = meant.state_dict()
    wrong = [
        name for name, one in found.state_dict().items() if not torch.equal(one, weights[name])
    ]
    if wrong:
        raise AdapterError(
            f"{folder}: read back, {len(wrong)} of {len(weights)} weights are not those that were "
            f"merged, such as {wrong[0]}: the folder is of no use"
        )


def computed(threads: int) -> dict[str, Any]:
    """Return what the merged bytes hang on besides the inputs: a merge is made on the CPU."""
    device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return {"device": device, "dtype": "float32", "threads": threads}


def files_of(folder: str | Path) -> dict[str, list[str]]:
    """Return the files of the model in `folder`, for its receipt."""
    return {"files": [str(path) for path in models.model_files(folder)]}
