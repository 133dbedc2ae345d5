"""The report: one HTML file of a run, for people; nothing in it is loaded from elsewhere or runs.

Tables show the text that stands in the run's CSV files, digit for digit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain import ancestry, comparison, masking, mistakes, plots, spans
from posttrain.chain import Chain
from posttrain.diagram import Step, drawn
from posttrain.scoring import VERDICTS
from posttrain.spans import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from posttrain.tasks import Task

MOST_SAMPLES = 12  # questions that are shown with what each model said
MOST_ROWS = 2  # of a tokenized file
MOST_MISTAKES = 12  # wrong answers of a model that are shown
MOST_KINDS = 12  # values of a group that are drawn; one with more is a table

Row = Mapping[str, Any]
Table = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Round:
    """What a round of sampling brought: the rows of its CSV files."""

    name: str
    yields: Table
    ledger: Table
    never_solved: Table
    marginal: Table

    def measure(self, name: str) -> dict[str, float]:
        """Return key -> value of one measure of the ledger."""
        return {r["key"]: float(r["value"]) for r in self.ledger if r["measure"] == name}


@dataclass(frozen=True)
class Evidence:
    """All that a report is written from.

    summary, verdicts, comparisons, breakdown, leaks: rows of the CSV files of those names. choice:
    of the table by which a round was chosen; none where there was one.
    predictions: model -> a line a question. questions: those of validation. histories: training ->
    its steps. rounds: of sampling. rows: tokenized file -> row id -> its spans. chain: the
    receipts, step by step. lineage: the tree of the summary. unread: lines on receipts that lie
    about, of no step of this run, and cannot be read. task: what was asked.
    """

    summary: Table
    verdicts: Table
    comparisons: Table
    breakdown: Table
    leaks: Table
    choice: Table
    predictions: Mapping[str, Sequence[Row]]
    questions: Sequence[Row]
    histories: Mapping[str, Table]
    rounds: Sequence[Round]
    rows: Mapping[str, Mapping[str, Sequence[Span]]]
    chain: Chain
    lineage: ancestry.Node
    unread: Sequence[str]
    task: "Task"


def page(evidence: Evidence, template: str, style: str) -> str:
    """Return the report as HTML: the same text for the same evidence.

    Args: template, Jinja2's, and style, the CSS.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        style=style,
        plots=_plots(evidence),
        one=evidence,
        told=[
            comparison.told({**row, "p_value": float(row["p_value"])})
            for row in evidence.comparisons
        ],
        failed=[row for row in evidence.verdicts if row["passed"] != "yes"],
        faults=faults(evidence),
        by_kind=_by_kind(evidence.breakdown),
        verdicts=list(VERDICTS),
        counts=_verdicts(evidence.predictions),
        mistakes={
            model: mistakes.counted(lines, evidence.questions, evidence.task)
            for model, lines in evidence.predictions.items()
        },
        wrong={
            model: mistakes.named(lines, evidence.questions, evidence.task)[:MOST_MISTAKES]
            for model, lines in evidence.predictions.items()
        },
        samples=samples(evidence.predictions),
        steps=evidence.chain.table(),
        libraries=evidence.chain.versions(),
        machines=evidence.chain.machines(),
        settings=list(evidence.chain.settings()),
        files=list(evidence.chain.files()),
        tree="\n".join(ancestry.drawn(evidence.lineage, coloured=False)),
    )


def faults(evidence: Evidence) -> list[str]:
    """Return `path: CHANGED` and the like for all that is not as receipts state."""
    written = [fault for name in evidence.chain.stages for fault in evidence.chain.faults(name)]
    return list(dict.fromkeys([*written, *ancestry.faults(evidence.lineage), *evidence.unread]))


def first_rows(tokenizer: "PreTrainedTokenizerFast", rows: Sequence[Row]) -> dict[str, list[Span]]:
    """Return id -> spans of the first tokenized rows, and of the longest."""
    longest = max(rows, key=lambda row: len(row["input_ids"]))
    return {
        row["id"]: spans.cut(tokenizer, masking.Row(row["input_ids"], row["labels"]))
        for row in [*rows[:MOST_ROWS], longest]
    }


def samples(predictions: Mapping[str, Sequence[Row]]) -> list[dict[str, Row]]:
    """Return some questions, each as model -> its prediction: of all that can happen, first ones.

    What happens to a question is which verdict each model gets on it. In the order of the
    questions, the first of each such outcome, then the second of each, and so on.
    """
    met: dict[tuple[str, ...], int] = {}
    found = []
    for lines in zip(*predictions.values(), strict=True):
        outcome = tuple(line["verdict"] for line in lines)
        met[outcome] = met.get(outcome, 0) + 1
        found.append((met[outcome], lines))
    found.sort(key=lambda pair: pair[0])  # stable: within a turn, in the order of the questions
    return [dict(zip(predictions, lines, strict=True)) for _, lines in found[:MOST_SAMPLES]]


def _plots(evidence: Evidence) -> dict[str, str]:
    models = [row["model"] for row in evidence.summary]
    found = {
        "chain": drawn([*evidence.chain.steps(), _gate(evidence)], "The steps of the run"),
        "accuracy": plots.intervals(
            {"": [plots.Point(r["model"], *_figures(r, "accuracy_")) for r in evidence.summary]},
            models,
            f"Accuracy with intervals: {_said(evidence.summary)}",
            "share of the validation questions answered rightly",
        ),
        "verdicts": plots.stacked(
            _verdicts(evidence.predictions),
            "What became of each model's answers; the table below has the counts",
            "validation questions",
        ),
    }
    for group, rows in _by_kind(evidence.breakdown).items():
        kinds = _kinds(rows, evidence.task.WORDS)
        if len(kinds) <= MOST_KINDS:
            found[f"by {group}"] = plots.intervals(
                kinds,
                models,
                f"Accuracy by {group.replace('_', ' ')}; the table below has the figures",
                "share answered rightly",
            )
    for name, rows in evidence.histories.items():
        found[f"history {name}"] = plots.curves(
            {
                column: [(float(row["step"]), float(row[column])) for row in rows]
                for column in ("loss", "grad_norm")
                if column in rows[0]
            },
            f"Training of {name}: {len(rows)} steps, last loss {rows[-1]['loss']}",
            "optimiser step",
        )
    for one in evidence.rounds:
        found |= {f"{one.name} {name}": svg for name, svg in ledger_plots(one).items()}
    return found


def ledger_plots(one: Round) -> dict[str, str]:
    """Return the plots of a round of sampling, by name."""
    found = {}
    for measure, axis in (
        ("questions_by_sound_rate", "share of a question's samples that may be trained on"),
        ("questions_by_paths", "distinct paths found for a question"),
        ("questions_by_kept", "samples kept of a question"),
    ):
        counts = {key: int(value) for key, value in one.measure(measure).items()}
        said = ", ".join(f"{key}: {count}" for key, count in counts.items())
        found[measure] = plots.bars(counts, f"Questions of {one.name} by {axis}: {said}", axis)
    found["share_solved"] = plots.shares(
        one.measure("share_solved"),
        f"Share of the questions of {one.name} that were solved",
        "share of the training questions",
    )
    found["marginal"] = plots.curves(
        {
            title: [(float(row["k"]), float(row[column])) for row in one.marginal]
            for column, title in (
                ("solved", "questions solved"),
                ("distinct_paths", "distinct paths found"),
            )
        },
        f"What k samples a question bring in {one.name}; the table below has the figures",
        "samples a question, at most",
    )
    return found


def _gate(evidence: Evidence) -> Step:
    failed = [row["model"] for row in evidence.verdicts if row["passed"] != "yes"]
    said = f"under the bar: {', '.join(failed)}" if failed else "all pass"
    read = frozenset(s for stage in evidence.chain.stages["verdicts"] for s in stage.files.values())
    return Step("gate", not failed, said, read, frozenset())


def _figures(row: Mapping[str, str], before: str = "") -> tuple[float, float, float]:
    return float(row["accuracy"]), float(row[f"{before}low"]), float(row[f"{before}high"])


def _said(summary: Table) -> str:
    return ", ".join(f"{row['model']} {row['accuracy']}" for row in summary)


def _kinds(rows: Table, words: Mapping[str, Mapping[str, str]]) -> dict[str, list[plots.Point]]:
    """Return value, in words -> a point a model, from rows of one group of the breakdown."""
    found: dict[str, list[plots.Point]] = {}
    for row in rows:
        told = row["value"] if row["group"] == "category" else f"{row['group']}: {row['value']}"
        said = words.get(row["group"], {}).get(row["value"], told.replace("_", " "))
        label = f"{said} ({row['questions']})"
        found.setdefault(label, []).append(plots.Point(row["model"], *_figures(row)))
    return found


def _by_kind(breakdown: Table) -> dict[str, list[Mapping[str, str]]]:
    """Return group -> its rows, those of one value together; without that of all questions."""
    groups = dict.fromkeys(row["group"] for row in breakdown if row["group"] != "all")
    return {
        group: sorted((r for r in breakdown if r["group"] == group), key=lambda r: r["value"])
        for group in groups
    }


def _verdicts(predictions: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, int]]:
    return {
        model: {verdict: sum(line["verdict"] == verdict for line in lines) for verdict in VERDICTS}
        for model, lines in predictions.items()
    }
