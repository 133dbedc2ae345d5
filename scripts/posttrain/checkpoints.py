"""Checkpoints: how far a stopped job had come, for the next one to go on from.

They lie under a fingerprint of all that the job's bytes hang on, so a job never goes on from the
work of another config, input, code or machine; each states its own sha256, so never from a damaged
one either. Every checkpoint is a whole file or none.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import artifacts
from posttrain.logs import log

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FOLDER = Path("checkpoints")
# Saving takes at most this share of a job's time, and no more than once in so many seconds.
SHARE_OF_TIME = 0.01
SHORTEST = 1.0


class Checkpoints:
    """The checkpoints of one job of a stage. Those of its other fingerprints are removed.

    Args: stage, the rule's name; origin, all that the bytes hang on, as `lineage.origin` gives it.
    """

    def __init__(self, stage: str, origin: Mapping[str, Any], folder: Path = FOLDER) -> None:
        fingerprint = artifacts.sha256_json(origin)[:16]
        self.folder = folder / stage / fingerprint
        artifacts.remove_folders(f for f in (folder / stage).glob("*") if f != self.folder)
        self._saved, self._took = time.monotonic(), 0.0

    def load(self, name: str) -> tuple[dict[str, "Tensor"], Any] | None:
        """Return the tensors and the state saved as `name`, or None if there is no sound one."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            tensors, metadata = artifacts.read_tensors(path)
            state, stated = metadata["state"], metadata["sha256"]
        except Exception as error:  # whatever a damaged file makes its reader say
            log.info("%s is damaged (%s) and not used", path, error)
            return None
        if stated != _digest(tensors, state):
            log.info("%s is not what it says it is, and not used", path)
            return None
        return tensors, json.loads(state)

    def save(self, name: str, tensors: Mapping[str, "Tensor"], state: Any) -> None:
        """Save tensors and a plain state as `name`, in place of what was saved so before."""
        began = time.monotonic()
        text = json.dumps(state)
        metadata = {"state": text, "sha256": _digest(tensors, text)}
        artifacts.write_tensors(self._path(name), tensors, metadata)
        self._saved = time.monotonic()
        self._took = self._saved - began

    def save_in_time(
        self, name: str, content: Callable[[], tuple[Mapping[str, "Tensor"], Any]]
    ) -> None:
        """Save what `content` returns, if the last time is long enough ago for what it costs."""
        if time.monotonic() - self._saved >= max(SHORTEST, self._took / SHARE_OF_TIME):
            self.save(name, *content())

    def clear(self) -> None:
        """Remove them all: the job's outputs are written."""
        artifacts.remove_folders([self.folder])

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def optimiser_state(optimiser: "torch.optim.Optimizer", name: str) -> dict[str, "Tensor"]:
    """Return what an optimiser remembers of its parameters, as `<name>.<number>.<what>`."""
    states = optimiser.state_dict()["state"]
    return {f"{name}.{i}.{what}": value for i, one in states.items() for what, value in one.items()}


def restore_optimiser(
    optimiser: "torch.optim.Optimizer", name: str, tensors: Mapping[str, "Tensor"]
) -> None:
    """Give an optimiser of the same parameters back what `optimiser_state` returned."""
    whole = optimiser.state_dict()
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            number, what = key.removeprefix(f"{name}.").split(".", 1)
            whole["state"].setdefault(int(number), {})[what] = value.clone()
    optimiser.load_state_dict(whole)


def random_state() -> dict[str, "Tensor"]:
    """Return the state of torch's random streams, (bytes,) uint8 each."""
    import torch

    cuda = {"random.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"random.cpu": torch.get_rng_state(), **cuda}


def restore_random(tensors: Mapping[str, "Tensor"]) -> None:
    """Put torch's random streams back to what `random_state` returned."""
    import torch

    torch.set_rng_state(tensors["random.cpu"].clone())
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"].clone())


def _digest(tensors: Mapping[str, "Tensor"], state: str) -> str:
    return artifacts.sha256_json([state, artifacts.sha256_tensors(tensors)])
