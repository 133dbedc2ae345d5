"""Model cards: what an adapter is, how good, made of what, by its receipts; for people and a hub.

The head is the metadata that the Hugging Face hub reads, the rest plain Markdown.
Source: https://huggingface.co/docs/hub/model-cards
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain import artifacts

ABOUT = {
    "sft": "supervised fine-tuning on bare answers",
    "rft": "rejection-sampling fine-tuning (arXiv 2308.01825) on {reasoning} whose answer "
    "and every equation a program found right{gold}",
}
SHOWN = 12  # digits of a sha256 that a table of figures has room for

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """All that a card of `model` is written from.

    adapter_files and data: paths. stages: receipts by their path, in the order of the chain, the
    training last; none for somebody else's adapter. manifest: the base model's. sampler: that of
    the model that the first round's rollouts were sampled from, None where the config names none.
    evaluation: the receipt of the model's evaluation. summary: its rows. comparisons: lines about
    `model`. example: one of its predictions. yields: what sampling brought, by round; empty where
    nothing was sampled.
    """

    model: str
    adapter_files: Sequence[str]
    data: Sequence[str]
    stages: Mapping[str, Row]
    manifest: Row
    sampler: Row | None
    evaluation: Row
    summary: Sequence[Mapping[str, str]]
    comparisons: Sequence[str]
    example: Row
    yields: Sequence[Mapping[str, str]]


def leading_to_last(stages: Mapping[str, Row]) -> dict[str, Row]:
    """Return those of `stages`, receipts by their path, that the last was made by, in their order.

    Rounds that were not chosen fall away, and so do copies of a receipt.
    """
    found: dict[str, Row] = {}
    needed: set[str] = set()
    for path, receipt in reversed(stages.items()):
        is_copy = receipt in found.values()
        if not found or (needed & set(receipt["outputs"].values()) and not is_copy):
            found[path] = receipt
            needed |= set(receipt["inputs"].values())
    return dict(reversed(found.items()))


def text(evidence: Evidence) -> str:
    """Return the card: the same text for the same evidence."""
    paragraphs = [
        f"---\n{_metadata(evidence)}---",
        f"# {evidence.model}",
        _what(evidence),
        "## Figures",
        *_figures(evidence),
        "## Use",
        *_use(evidence),
        "## Data",
        _table(("file", "rows", "sha256"), map(_rows_of, evidence.data)),
        *_yields(evidence),
        "## Recipe",
        *_recipe(evidence),
        "## Lineage",
        "Each stage left a receipt with the sha256 of all that went in and came out; `code` is the "
        "sha256 of those of its code files.",
        _table(("what", "sha256"), _lineage(evidence)),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _row(evidence: Evidence) -> Mapping[str, str]:
    return next(row for row in evidence.summary if row["model"] == evidence.model)


def _metadata(evidence: Evidence) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    row = _row(evidence)
    interval = {"accuracy_low": float(row["accuracy_low"])}
    interval |= {"accuracy_high": float(row["accuracy_high"]), "questions": int(row["questions"])}
    valid = next(path for path in evidence.data if path.endswith("valid.jsonl"))
    figures = [
        EvalResult(
            task_type="text-generation",
            dataset_type="questions",
            dataset_name=valid,
            dataset_revision=artifacts.sha256_file(valid),
            metric_type=metric,
            metric_value=float(row[metric]),
            metric_args=interval if metric == "accuracy" else None,
        )
        for metric in ("accuracy", "answer_rate")
    ]
    data = ModelCardData(
        model_name=evidence.model,
        base_model=evidence.manifest["origin"].get("model"),  # none where it is not a hub's
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", *([evidence.model] if evidence.model in ABOUT else [])],
        eval_results=figures,
    )
    return data.to_yaml() + "\n"


def _what(evidence: Evidence) -> str:
    made = ABOUT.get(evidence.model, "").format(
        reasoning=_reasoning(evidence), gold=_gold(evidence)
    )
    how = f"made by {made}" if made else "of somebody else's making, scored beside the others"
    unknown = "" if evidence.stages else " It has no receipt: what made it is not known."
    told = f"A LoRA adapter, {how}.{unknown}\n\nBase model: {_named(evidence.manifest)}."
    if sampler := _other_sampler(evidence):
        told += f"\n\nModel that round 1 sampled from: {_named(sampler)}."
    return told


def _reasoning(evidence: Evidence) -> str:
    """Return where the reasoning came from that the rows of rft were taken from."""
    # In a sweep the names of a run's rules begin with the run's.
    stages = [receipt["stage"] for receipt in evidence.stages.values()]
    if not any(stage.endswith("import_rollouts") for stage in stages):
        return "sampled reasoning"
    if any(stage.endswith("generate_rft_data") for stage in stages):
        return "reasoning from a given file and, in later rounds, sampled here,"
    return "reasoning from a given file, none of it sampled here,"


def _gold(evidence: Evidence) -> str:
    """Return what is to be said of rows without reasoning, as counted for the chosen round."""
    if not evidence.yields or evidence.yields[-1]["gold_rows"] == "0":
        return ""
    return ", and on the bare true answers to some questions of which no reasoning was kept"


def _other_sampler(evidence: Evidence) -> Row | None:
    """Return the sampler's manifest if it is another model than the base model, by its bytes."""
    sampler = evidence.sampler
    return sampler if sampler and sampler["files"] != evidence.manifest["files"] else None


def _named(manifest: Row) -> str:
    files = manifest["files"]
    weights = ", ".join(f"`{n}` {files[n]}" for n in sorted(files) if n.endswith(".safetensors"))
    return f"{_origin(manifest)}; sha256: {weights}"


def _origin(manifest: Row) -> str:
    match manifest["origin"]:
        case {"model": name, "commit": commit}:
            return f"{name}@{commit}"
        case {"folder": folder}:
            return folder
    return "pretrained from scratch by this workflow"


def _figures(evidence: Evidence) -> Iterable[str]:
    yield (
        f"{_row(evidence)['questions']} validation questions, each asked once, greedily. Intervals "
        "are Wilson's at 95 %."
    )
    columns = ("model", "accuracy", "interval", "correct", "answer rate", "adapter")
    yield _table(
        columns,
        (
            (
                row["model"],
                row["accuracy"],
                f"{row['accuracy_low']} to {row['accuracy_high']}",
                f"{row['correct']} of {row['questions']}",
                row["answer_rate"],
                _short(row["adapter_sha256"]),
            )
            for row in evidence.summary
        ),
    )
    yield "On the same questions (exact McNemar test):"
    yield "\n".join(f"- {line}" for line in evidence.comparisons)


def _short(label: str) -> str:
    before, mark, sha256 = label.rpartition(":")
    return before + mark + sha256[:SHOWN]


def _use(evidence: Evidence) -> Iterable[str]:
    folder = Path(evidence.adapter_files[0]).parent
    yield (
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'base = "resources/base_model"  # the folder of the base model\n'
        "tokenizer = AutoTokenizer.from_pretrained(base)\n"
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "{folder}")'
        "\n```"
    )
    yield "A prompt that it was asked in the evaluation, and what it wrote:"
    for key in ("prompt", "completion"):
        yield "\n".join(f"    {line}".rstrip() for line in evidence.example[key].split("\n"))


def _yields(evidence: Evidence) -> Iterable[str]:
    if evidence.yields:
        yield "What came of the rollouts:"
        yield _table(tuple(evidence.yields[0]), [tuple(row.values()) for row in evidence.yields])


def _recipe(evidence: Evidence) -> Iterable[str]:
    stages = [*evidence.stages.values(), evidence.evaluation]
    settings = ((one["stage"], *pair) for one in stages for pair in _flat(one["settings"]))
    yield _table(("stage", "setting", "value"), settings)
    if evidence.stages:
        *_, training = evidence.stages.values()
        yield "Trained with:"
        made_by = [*training["libraries"].items(), *_flat(training["computed"])]
        yield _table(("with", "version or value"), made_by)


def _flat(settings: Row, before: str = "") -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", json.dumps(value, ensure_ascii=False)


def _rows_of(path: str) -> tuple[str, int, str]:
    return path, artifacts.read_bytes(path).count(b"\n"), artifacts.sha256_file(path)


def _lineage(evidence: Evidence) -> Iterable[tuple[str, str]]:
    for path in evidence.adapter_files:
        yield path, artifacts.sha256_file(path)
    for role, manifest in (
        ("base model", evidence.manifest),
        ("sampled from", _other_sampler(evidence)),
    ):
        for name, sha256 in sorted(manifest["files"].items() if manifest else ()):
            yield f"{role}: {name}", sha256
    for path, receipt in evidence.stages.items():
        yield f"{receipt['stage']}: receipt {path}", artifacts.sha256_file(path)
        yield f"{receipt['stage']}: code", artifacts.sha256_json(receipt["code"])


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of Markdown; what a cell may not hold is written otherwise."""

    def line(cells: Sequence[Any]) -> str:
        plain = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(plain)} |"

    return "\n".join([line(columns), line(["---"] * len(columns)), *map(line, rows)])
