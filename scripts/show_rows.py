"""Show tokenized rows: what is masked, what is learnt, what stops.

python scripts/show_rows.py results/tokenized/sft.jsonl --rows 3
"""

import argparse
import signal
import sys
from pathlib import Path

from posttrain import artifacts, masking, models, spans
from posttrain.errors import PosttrainError


def main() -> None:
    """Print the first rows of a tokenized file, coloured where it is a terminal that reads it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="results/tokenized/sft.jsonl or rft.jsonl")
    parser.add_argument("--rows", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--base", type=Path, default=Path("resources/base_model/manifest.json"))
    asked = parser.parse_args()
    try:
        tokenizer = models.load_tokenizer(models.verified(asked.base))
        rows = artifacts.read_jsonl(asked.file)[: asked.rows]
        shown = [(row["id"], masking.Row(row["input_ids"], row["labels"])) for row in rows]
    except (PosttrainError, OSError) as error:
        sys.exit(f"error: {error}")
    except (ValueError, KeyError, TypeError):
        sys.exit(f"error: {asked.file} holds no tokenized rows; give results/tokenized/sft.jsonl")
    for row_id, row in shown:
        print(f"{row_id}:")
        print(spans.view(tokenizer, row, sys.stdout.isatty()))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
    main()
