"""The steps of a run, as their receipts state them: what each took, wrote, and was set to."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain import artifacts
from posttrain.ancestry import OK, Check, Stage
from posttrain.diagram import Step


@dataclass(frozen=True)
class Chain:
    """Of each step its stages, one a job, and what its jobs took in s; None where one is untimed.

    check tells of a path and its stated sha256 how the disk agrees.
    """

    stages: Mapping[str, Sequence[Stage]]
    seconds: Mapping[str, float | None]
    check: Check

    def steps(self) -> list[Step]:
        """Return what a diagram draws of each step: its time, and whether its files are intact."""
        return [
            Step(
                name,
                not list(self.faults(name)),
                _time(self.seconds[name]),
                frozenset(sha for stage in stages for sha in stage.receipt["inputs"].values()),
                frozenset(sha for stage in stages for sha in stage.files.values()),
            )
            for name, stages in self.stages.items()
        ]

    def faults(self, name: str) -> Iterator[str]:
        """Yield `path: CHANGED` and the like for each file of a step that is not as stated."""
        for stage in self.stages[name]:
            for path, stated in stage.receipt["outputs"].items():
                if (mark := self.check(path, stated)) != OK:
                    yield f"{path}: {mark}"

    def table(self) -> list[dict[str, Any]]:
        """Return a row a step: name, time, state, number of files, receipts, sha256 of its code."""
        return [
            {
                "name": step.name,
                "time": step.said,
                "state": "as stated" if step.is_well else "changed or missing",
                "files": sum(len(stage.receipt["outputs"]) for stage in self.stages[step.name]),
                "receipts": [path for stage in self.stages[step.name] for path in stage.paths],
                "code": [
                    artifacts.sha256_json(stage.receipt["code"]) for stage in self.stages[step.name]
                ],
            }
            for step in self.steps()
        ]

    def versions(self) -> dict[str, str]:
        """Return library -> its version in the run; several where a step ran with another."""
        found: dict[str, set[str]] = {}
        for _, stage in self._jobs():
            for library, version in stage.receipt["libraries"].items():
                found.setdefault(library, set()).add(version)
        return {library: ", ".join(sorted(found[library])) for library in sorted(found)}

    def machines(self) -> dict[str, list[str]]:
        """Return on what it was computed -> the steps that were."""
        found: dict[str, dict[str, None]] = {}
        for name, stage in self._jobs():
            if computed := stage.receipt["computed"]:
                words = (
                    f"{key} {value if isinstance(value, str) else json.dumps(value)}"
                    for key, value in sorted(computed.items())
                )
                said = ", ".join(words)
                found.setdefault(said, {})[name] = None
        return {said: list(names) for said, names in found.items()}

    def settings(self) -> Iterator[tuple[str, str]]:
        """Yield each step and what its jobs read of the config, as JSON, each reading once."""
        for name, stages in self.stages.items():
            said = (json.dumps(one.receipt["settings"], ensure_ascii=False) for one in stages)
            yield from ((name, settings) for settings in dict.fromkeys(said) if settings != "{}")

    def files(self) -> Iterator[tuple[str, str, str]]:
        """Yield step, path and sha256 of each file that a step wrote."""
        for name, stage in self._jobs():
            yield from ((name, path, sha) for path, sha in stage.receipt["outputs"].items())

    def _jobs(self) -> Iterator[tuple[str, Stage]]:
        return ((name, stage) for name, stages in self.stages.items() for stage in stages)


def of_run(
    stages: Sequence[Stage], steps: Mapping[str, Mapping[str, Sequence[str]]], check: Check
) -> Chain:
    """Return the chain of a run.

    Args: stages, all there are; steps, name -> paths of its `receipts`, and `times`, the files that
        Snakemake's benchmarks leave.
    """
    by_path = {path: stage for stage in stages for path in stage.paths}
    return Chain(
        {name: [by_path[path] for path in made["receipts"]] for name, made in steps.items()},
        {name: _seconds(made["times"]) for name, made in steps.items()},
        check,
    )


def _seconds(times: Sequence[str]) -> float | None:
    """Return the sum of what the jobs took; None where one was not timed."""
    if not times or not all(Path(path).is_file() for path in times):
        return None
    rows = (artifacts.read_bytes(path).decode().splitlines()[1] for path in times)
    return sum(float(row.split("\t")[0]) for row in rows)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
