"""Our stages against their peers and the machine's limit: bench/results.csv and bench/results.svg.

bench/results.json states what was measured: the run, the code, the libraries, the machine.

    make bench                     # in the folder of a finished run
    make bench ARGS=--chain        # the whole default chain, too: some minutes more

All sides of a comparison take turns in one run, on the same model and data; the medians of five
repeats stand in the table. That they do the same work is checked in that run: a loss curve, greedy
completions or a share of right samples that differ end it.
"""

import argparse
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
# Before transformers, tokenizers and tqdm are imported, which read them once.
os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
# A side has a process of its own in real life, and keeps the products prepared for its shapes; here
# those of one would drive out another's. To prepare them, in the first repeat, is in no median:
# 0.4 s or so of a whole training of ours, which has as many shapes as lines have lengths.
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16384"

import commands  # noqa: E402
import stages  # noqa: E402
import table  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from cases import BASE, embedded, smollm2  # noqa: E402

from posttrain import artifacts, devices, lineage, models, settings  # noqa: E402

# benchmark -> what measures it, given the config
MEASURED = {
    "noop": [lambda config: commands.noop_rows()],
    "startup": [lambda config: commands.startup_rows()],
    "pretrain": [stages.pretrain_rows],
    "train": [
        lambda config: stages.train_rows(embedded(config), config),
        lambda config: stages.train_rows(embedded(config), config, "rft"),
        lambda config: stages.train_rows(smollm2(config), config),
    ],
    "sample": [
        lambda config: stages.sample_rows(embedded(config), config),
        lambda config: stages.sample_rows(smollm2(config), config),
    ],
}


def measured() -> dict[str, Any]:
    """Return what the figures hang on, as a receipt states it."""
    code = [*ROOT.glob("bench/*.py"), *ROOT.glob("scripts/posttrain/*.py")]
    inputs = {
        "run": [str(BASE / models.MANIFEST), "results/passed.csv"],
        "code": [os.path.relpath(path) for path in code],
    }
    names = ("torch", "transformers", "peft", "trl", "snakemake")
    libraries = {name: metadata.version(name) for name in names}
    return lineage.origin("bench", inputs, {}, libraries, devices.describe(torch.get_num_threads()))


def main() -> None:
    """Measure all, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chain", action="store_true", help="time the whole default chain, too")
    parser.add_argument("--only", nargs="+", default=MEASURED, choices=MEASURED, help="a part")
    given = parser.parse_args()
    if not Path("results/passed.csv").is_file():
        sys.exit("there is no finished run in this folder to measure with: make run")
    schema = yaml.safe_load((ROOT / "schemas/config.schema.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = settings.filled(config, schema)
    made = artifacts.read_json(BASE / models.MANIFEST)["origin"]
    if any(
        made.get("settings", {}).get(key) != settings.canonical(config[key])
        for key in ("task", "embedded")
    ):
        sys.exit("the run in this folder is not one of config.yaml as it is: make run")
    parts = [measure for name in given.only for measure in MEASURED[name]]
    artifacts.write_json(ROOT / "bench/results.json", measured())
    rows = []
    for measure in [*parts, lambda config: commands.chain_rows(given.chain)]:
        found = measure(config)
        for row in found:
            print(*row.values(), sep="  ", flush=True)
        rows += found
        # After each part, so that one that fails later does not take the others along.
        table.write(ROOT / "bench/results.csv", rows)
        table.plot(ROOT / "bench/results.svg", rows)


if __name__ == "__main__":
    main()
