"""A copy of the workflow in a folder of its own, and the snakemake that people type, run there."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = (
    "Snakefile",
    "config.yaml",
    "rules",
    "schemas",
    "scripts",
    "envs",
    "profiles",
    "presets",
    "report",
)
TINY = "tests/tiny.yaml"
ONE_CORE = ("--cores", "1", "--resources", "gpu=1")
# The jobs that gather evaluations, and the end of a run
GATHER = dict.fromkeys(("summary", "verdicts", "comparisons", "breakdown", "gate", "all"), 1)
# Columns of a row of figures
EVALUATION = [
    "model",
    "adapter_sha256",
    "questions",
    "answered",
    "correct",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "answer_rate",
    "unparseable",
    "truncated",
]
LONGEST = 900  # seconds that a run may take before it counts as stuck


@dataclass(frozen=True)
class Said:
    """How a run ended, and what it wrote to either stream."""

    status: int
    text: str

    @property
    def error(self) -> str:
        """The one line in which a rule's script says what was wrong, without its time."""
        found = re.findall(r"^[\d-]+ [\d:,]+ error: (.*)$", self.text, re.MULTILINE)
        assert len(found) == 1, self.text
        return found[0]

    @property
    def jobs(self) -> dict[str, int]:
        """Rule -> number of jobs planned; {} where there is nothing to be done."""
        if "Nothing to be done" in self.text:
            return {}
        _, table = self.text.split("Job stats:\n", 1)
        found = re.findall(r"^(\w+) +(\d+)$", table.split("\ntotal", 1)[0], re.MULTILINE)
        return {rule: int(count) for rule, count in found}


@dataclass(frozen=True)
class Chain:
    """A folder that holds the workflow as a fresh clone would."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    def snakemake(self, *arguments: str) -> Said:
        """Run snakemake in the folder, without a way to the network."""
        binaries = Path(sys.executable).parent
        env = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "tests" / "offline"),
            "CONNECTIONS_TRIED": str(self / "connections_tried"),
            "TQDM_DISABLE": "1",
            **self.environ,
        }
        done = subprocess.run(
            [binaries / "snakemake", *arguments],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        return Said(done.returncode, done.stdout)

    def plan(self, *arguments: str) -> Said:
        """Ask by a dry run what would be done."""
        said = self.snakemake("--dry-run", *arguments)
        assert said.status == 0, said.text
        return said

    def overlay(self, settings: Mapping[str, Any], name: str = "overlay.yaml") -> str:
        """Write a config to lay over config.yaml; return its name."""
        (self / name).write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
        return name

    def rows(self, path: str) -> list[dict[str, Any]]:
        """Read one JSON object a line."""
        return [json.loads(line) for line in (self / path).read_text("utf-8").splitlines()]

    @contextmanager
    def without(self, path: str) -> Iterator[None]:
        """Take a file away, and put it back as it was."""
        aside = (self / path).rename(self / "aside")
        try:
            yield
        finally:
            aside.rename(self / path)

    @contextmanager
    def with_line(self, path: str, line: str) -> Iterator[None]:
        """Add a line to a file, and put it back as it was, its date included."""
        file = self / path
        before, dates = file.read_bytes(), file.stat()
        file.write_bytes(before + line.encode() + b"\n")
        try:
            yield
        finally:
            file.write_bytes(before)
            os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))


def fresh_clone(folder: Path) -> Chain:
    """Copy the workflow, without anything that a run has made, into a new folder."""
    folder.mkdir()
    for name in (*WORKFLOW, TINY):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(source, target)
    return Chain(folder)


def finished_run(folder: Path) -> Chain:
    """Make one complete run of tests/tiny.yaml in `folder`, whose output is kept as said.txt."""
    chain = fresh_clone(folder)
    said = chain.snakemake(*ONE_CORE, "--configfile", TINY)
    assert said.status == 0, said.text
    (chain / "said.txt").write_text(said.text, encoding="utf-8")
    return chain


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV: its columns, and its rows as text."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
