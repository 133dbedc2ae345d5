"""Measured from outside: the start of each rule's script, the no-op run, the whole chain."""

import ast
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import table
from cases import BASE

ROOT = Path(__file__).parent.parent
REPEATS = 5
CHAIN_BUDGET = 360.0  # seconds

# What each rule's script loads before its work, beside its imports; and how often a run starts it.
TOKENIZER = "from posttrain import models; models.load_tokenizer({base!r})"
MODEL = TOKENIZER + "; import torch; models.load_model({base!r}, torch.float32); import peft"
STARTS = {
    "pretrain_base.py": ("", 1),
    "make_questions.py": ("", 1),
    "tokenize_rows.py": (TOKENIZER, 2),
    "train_adapter.py": (MODEL, 2),
    "generate_rft_data.py": (MODEL, 1),
    "gather_rollouts.py": ("", 1),
    "select_rft_data.py": ("", 1),
    "keep_ledger.py": ("", 1),
    "select_round.py": ("", 1),
    "evaluate_model.py": (MODEL, 4),
    "break_down.py": ("", 1),
    "compare_models.py": ("", 1),
    "summarise.py": ("", 1),
    "give_verdicts.py": ("", 1),
    "check_gate.py": ("", 1),
}
# The origin has a process for each of two trainings, one sampling and four evaluations.
ORIGIN_STARTS = 7
ORIGIN_START = """
import torch, transformers, peft
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
AutoTokenizer.from_pretrained({base!r})
AutoModelForCausalLM.from_pretrained({base!r}, dtype=torch.float32)
"""


def imports_of(script: Path) -> str:
    """Return the import statements of a rule's script, in their order."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(node) for node in sorted(nodes, key=lambda node: node.lineno))


def seconds_of(command: Sequence[str]) -> float:
    """Return how long a command takes. Raises: CalledProcessError if it fails."""
    start = time.perf_counter()
    path = {"PYTHONPATH": str(ROOT / "scripts")}
    subprocess.run(command, check=True, capture_output=True, env=os.environ | path)
    return time.perf_counter() - start


def startup_rows() -> list[table.Row]:
    """Compare the start of every job of a run with the origin's, which import all at once."""

    def start_of(code: str) -> Callable[[], float]:
        command = [sys.executable, "-c", code.format(base=str(BASE))]
        return lambda: seconds_of(command)

    sides = {
        name: start_of(imports_of(ROOT / "scripts" / name) + "\n" + loads)
        for name, (loads, _) in STARTS.items()
    }
    found = table.interleaved(sides | {"origin": start_of(ORIGIN_START)}, REPEATS)
    ours = [
        sum(found[name][turn] * times for name, (_, times) in STARTS.items())
        for turn in range(REPEATS)
    ]
    theirs = [seconds * ORIGIN_STARTS for seconds in found["origin"]]
    jobs = sum(times for _, times in STARTS.values())
    each = ", ".join(f"{name[:-3]} {statistics.median(found[name]):.2f}" for name in STARTS)
    note = (
        f"python, imports, base model where it is needed: {jobs} jobs of a run against "
        f"{ORIGIN_STARTS}, which do not pretrain, tokenize, select or gather; s each: {each}"
    )
    return [table.row(("startup", "embedded", "origin"), "s", ours, theirs, note)]


def noop_rows() -> list[table.Row]:
    """Compare a finished run's `snakemake` with `snakemake --version`."""
    key = ("noop", "embedded", "limit")
    plan = subprocess.run(["snakemake", "-n"], capture_output=True, text=True, check=False)
    if "Nothing to be done" not in plan.stdout + plan.stderr:
        return [table.row(key, "s", note="the run in this folder is not up to date: make run")]
    sides = {
        "ours": lambda: seconds_of(["snakemake"]),
        "version": lambda: seconds_of(["snakemake", "--version"]),
    }
    found = table.interleaved(sides, REPEATS)
    note = "a finished run's snakemake against snakemake --version"
    return [table.row(key, "s", found["ours"], found["version"], note)]


def chain_rows(is_asked: bool) -> list[table.Row]:
    """Time the whole default chain, once, in an empty folder, against its budget."""
    key = ("chain", "embedded", "limit")
    if not is_asked:
        return [table.row(key, "s", note="not run; make bench ARGS=--chain")]
    with tempfile.TemporaryDirectory() as folder:
        made = ("results", "resources", "logs", "benchmarks", "checkpoints", "models")
        left_out = shutil.ignore_patterns(".*", *made)
        fresh = Path(folder) / "fresh"
        shutil.copytree(ROOT, fresh, ignore=left_out)
        seconds = seconds_of(
            ["snakemake", "--directory", str(fresh), "--snakefile", str(fresh / "Snakefile")]
        )
    return [table.row(key, "s", [seconds], [CHAIN_BUDGET], "once, fresh to the gate; its budget")]
