"""What the checks cost: their time on a finished run, as a share of that run's time.

    python bench/guards.py            # in the folder of a finished run; prints a table

Each check is run again as the rules run it, three times, and its median multiplied by how often a
run does it. The run's own time is the sum of Snakemake's benchmark files.
"""

import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from posttrain import (  # noqa: E402
    adapters,
    artifacts,
    devices,
    frozen,
    leaks,
    masking,
    models,
    prompts,
    scoring,
    settings,
    task_units,
    tasks,
    training,
)

if TYPE_CHECKING:
    from peft import PeftModel

BASE = "resources/base_model/manifest.json"
REPEATS = 3


def median_seconds(
    check: Callable[[], object], prepare: Callable[[], object] = lambda: None
) -> float:
    """Return the median time of `check` in seconds; `prepare` runs before each, off the clock."""
    found = []
    for _ in range(REPEATS):
        prepare()
        start = time.perf_counter()
        check()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def run_seconds() -> float:
    """Return the time that the jobs of the run took, by their benchmark files."""
    rows = [
        row
        for path in Path("benchmarks").glob("*.tsv")
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    ]
    return sum(float(row["s"]) for row in rows)


def fresh(stage: str, config: dict) -> "PeftModel":
    """Return the base model with a stage's fresh adapter, as a training begins with it."""
    model = models.load_model(models.verified(BASE), devices.FULL)
    model.config.use_cache = False
    model.set_attn_implementation("eager")
    return adapters.attach(model, config[stage]["lora"], config["seed"])


def canary(stage: str, config: dict) -> float:
    """Return the time of the trial steps before a stage's training."""
    rows = artifacts.read_jsonl(f"results/tokenized/{stage}.jsonl")
    model = fresh(stage, config)
    frozen.hasten(model, devices.compute_dtype(devices.pick_device()))
    rate = config[stage]["learning_rate"]
    return median_seconds(lambda: training.sing(model, rows, rate, False))


def quick_passes(config: dict) -> float:
    """Return the time of setting up a training's passes, their proof with it."""
    model = fresh("sft", config)
    dtype = devices.compute_dtype(devices.pick_device())
    return median_seconds(lambda: frozen.hasten(model, dtype)())


def main() -> None:
    """Measure every check and print a table: check, seconds a time, times a run, share."""
    schema = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = settings.filled(given, schema)
    tokenizer = models.load_tokenizer(models.verified(BASE))
    train, valid = (
        artifacts.read_jsonl(f"results/questions/{s}.jsonl") for s in ("train", "valid")
    )
    recipe = {
        "task": "units",
        "prompts": config["prompts"],
        "answer_digits": config["sft"]["answer_digits"],
    }
    pairs = [(row["id"], *prompts.training_pair(tokenizer, row, "answer", recipe)) for row in train]
    texts = [prompt + completion for _, prompt, completion in pairs]
    length = config["sft"]["max_length"]
    loading = median_seconds(lambda: models.load_model(Path(BASE).parent, devices.FULL))
    loaded = adapters.load(BASE, "results/sft")
    plain = median_seconds(lambda: tokenizer(texts))
    encoding = median_seconds(lambda: masking.encode_all(tokenizer, pairs, length, True, "refuse"))
    rows = len(train) + len(artifacts.read_jsonl("results/rft_data/round1.jsonl"))
    text_read = {
        "data": config["data"],
        "text_seed": config["embedded"]["seed"],
        **config["embedded"],
    }
    checks = {
        "mask contract": ((encoding - plain) / len(train), rows),
        "leak gate": (
            median_seconds(
                lambda: leaks.found(
                    valid,
                    questions={"training": [row["question"] for row in train]},
                    texts={"pretraining": tasks.text_read(task_units, text_read)},
                )
            ),
            1,
        ),
        "canary, sft": (canary("sft", config), 1),
        "canary, rft": (canary("rft", config), 1),
        "a training's passes against the model's": (quick_passes(config), 2),
        "load proof": (median_seconds(lambda: adapters.load(BASE, "results/sft")) - loading, 3),
        "proof of what was saved": (median_seconds(lambda: adapters.load(BASE, "results/sft")), 2),
        "probe in the computing dtype": (median_seconds(lambda: adapters.ready(loaded)), 3),
        "base model against its manifest": (median_seconds(lambda: models.verified(BASE)), 12),
        "verifier's self-test": (
            median_seconds(
                lambda: scoring.self_test(
                    [row["answer"] for row in valid], 4, config["evaluate"], task_units
                )
            ),
            5,
        ),
    }
    total = run_seconds()
    for name, (seconds, times) in checks.items():
        print(f"{name:40} {seconds:9.4f} s x {times:5d}  {seconds * times / total:7.2%}")
    spent = sum(seconds * times for seconds, times in checks.values())
    print(f"{'all checks':40} {spent:9.1f} s of {total:.0f} s  {spent / total:6.2%}")


if __name__ == "__main__":
    main()
