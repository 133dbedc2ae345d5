"""Trace a file: all that made it as a tree of sha256, and whether the disk still agrees.

    python scripts/show_lineage.py results/rft_eval.csv                  # of a figure
    python scripts/show_lineage.py results/rft/adapter_model.safetensors # of an adapter
    python scripts/show_lineage.py results/rft_data/round1.jsonl train-0007-03  # one row

Run it in the folder of the run. It ends with status 1 if a file is missing or not as its receipt
states, or if a receipt cannot be read, and names it.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import yaml

from posttrain import ancestry
from posttrain.errors import PosttrainError

SCHEMA = Path(__file__).parent.parent / "schemas" / "receipt.schema.yaml"


def main() -> None:
    """Print the tree of a file or of a row, coloured where it is a terminal that reads it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="an output of the workflow, such as results/rft_eval.csv")
    parser.add_argument("row", nargs="?", help="the id of a row, if the file is a .jsonl")
    asked = parser.parse_args()
    path = os.path.relpath(asked.file)
    stages, unread = ancestry.read_stages(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    check = ancestry.checker()
    try:
        if asked.row:
            tree = ancestry.row_tree(stages, path, asked.row, check)
        else:
            tree = ancestry.tree(stages, path, check)
    except PosttrainError as error:
        sys.exit(said([*unread.values(), str(error)]))
    print("\n".join(ancestry.drawn(tree, sys.stdout.isatty())))
    faults = list(unread.values())
    if found := ancestry.faults(tree):
        faults.append("not as the receipts state: " + ", ".join(found))
    if faults:
        sys.exit(said(faults))
    print("every file is as the receipts state")
    if asked.row and not tree.children:
        print(f"no adapter was trained on {asked.row}")


def said(faults: list[str]) -> str:
    """Return a line of text for each fault."""
    return "\n".join(f"error: {fault}" for fault in faults)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
    main()
