"""Receipts: each output's sha256 beside the sha256 of all that made it.

Every stage writes one. Since a stage's inputs are outputs of another, receipts form a tree that
leads from any figure down to the base model, the questions and the code.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain import artifacts
from posttrain.errors import ScoringError
from posttrain.imports import library_versions

# What a sweep wrote has rules in a snakefile of the sweep's own, not known here: no command can be
# told that makes it again. But what is not there is made again.
SWEEP_AGAIN = "run the sweep again, with the command that it was run with"


def hashes(named: Mapping[str, str | Iterable[str]]) -> dict[str, str]:
    """Return path -> sha256 for the values of a mapping of names to one or several paths."""
    groups = ([value] if isinstance(value, str) else list(value) for value in named.values())
    return {path: artifacts.sha256_file(path) for path in sorted({p for g in groups for p in g})}


def origin(
    stage: str,
    inputs: Mapping[str, str | Iterable[str]],
    settings: Mapping[str, Any],
    libraries: Mapping[str, str],
    computed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that the bytes of a stage's outputs hang on: its receipt, but for the outputs.

    Args: inputs, by name as the rule declares them, the code under `code`; settings, what the
        stage read of the config; computed, on what it ran, where that changes bytes.
    """
    return {
        "stage": stage,
        "inputs": hashes({name: paths for name, paths in inputs.items() if name != "code"}),
        "code": hashes({"code": inputs["code"]}),
        "settings": dict(settings),
        "libraries": dict(libraries),
        "computed": dict(computed or {}),
    }


def seal(receipt: Mapping[str, Any]) -> str:
    """Return the sha256 of all else that a receipt states: an edit by hand breaks it.

    It is against slips alone. Who recomputes it is seen only where a later stage read the receipt.
    """
    return artifacts.sha256_json({part: receipt[part] for part in receipt if part != "seal"})


def read_receipt(path: str | Path) -> dict[str, Any]:
    """Read a receipt. Raises ScoringError where its seal is broken."""
    found = artifacts.read_json(path)
    if found.get("seal") != seal(found):
        raise ScoringError(f"{path} was edited by hand; {made_again(path)}")
    return found


def is_of_sweep(path: str | Path) -> bool:
    """Return whether `path`, from the folder of the runs, is among what a sweep writes."""
    return Path(path).parts[:2] == ("results", "sweeps")


def made_again(path: str | Path) -> str:
    """Return how a person has an output made again."""
    if is_of_sweep(path):
        return f"remove {path} and {SWEEP_AGAIN}"
    return f"make it again: snakemake --force {path}"


def origin_of_rule(
    job: Any, settings: Mapping[str, Any], computed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the origin of a running rule; `job` has what Snakemake gives its scripts.

    The libraries are asked of the Python that runs: with conda it is not Snakemake's own.
    """
    libraries = library_versions([Path(path) for path in job.input.code])
    return origin(job.rule, dict(job.input.items()), settings, libraries, computed)


def receipt(
    origin: Mapping[str, Any],
    outputs: Mapping[str, str | Iterable[str]],
    found: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the receipt of a stage whose outputs, but for the receipt, are all written.

    Args: found, what else it states, such as the proof of an adapter.
    Raises: ScoringError if an input, or the code, was changed since its origin was taken.
    """
    for path, stated in {**origin["inputs"], **origin["code"]}.items():
        if artifacts.sha256_file(path) != stated:
            raise ScoringError(
                f"{path} was changed while {origin['stage']} ran, whose results are of the bytes "
                "before; run it again"
            )
    written = {name: paths for name, paths in outputs.items() if name != "receipt"}
    stated = {**origin, "outputs": hashes(written), **(found or {})}
    return stated | {"seal": seal(stated)}


def receipt_of_rule(
    job: Any, settings: Mapping[str, Any], computed: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the receipt of a running rule, as `origin_of_rule` and `receipt` make it."""
    return receipt(origin_of_rule(job, settings, computed), dict(job.output.items()))


def refuse_changed(receipt_paths: Iterable[str]) -> None:
    """Raise ScoringError if an output that a receipt states is not, on the disk, what it states.

    So it does for a receipt whose seal is broken.
    """
    for receipt_path in receipt_paths:
        for path, stated in read_receipt(receipt_path)["outputs"].items():
            if artifacts.sha256_file(path) != stated:
                raise ScoringError(
                    f"{path} was changed since it was written, by {receipt_path}; "
                    f"{made_again(path)}"
                )
