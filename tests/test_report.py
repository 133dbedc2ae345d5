"""The report: it says what the tables say, nothing in it is loaded or runs, and it is the same."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_ledger import KEPT, LEFT_OUT, ROLLOUTS
from test_ledger import QUESTIONS as TRAINED
from tokenizers_for_tests import build

from posttrain import (
    ancestry,
    artifacts,
    chain,
    comparison,
    ledger,
    masking,
    report,
    scoring,
    spans,
    task_units,
)
from posttrain import diagnosis as bars

ROOT = Path(__file__).parent.parent
EVIL = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
PAIRS = (("kilogram", "gram"), ("foot", "inch"), ("hour", "minute"))
MODELS = ("base", "cot", "sft", "rft", "mine")
LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"}


def question(number: int, pair: tuple[str, str] = PAIRS[0], quantity: int = 2) -> dict[str, Any]:
    return {
        "id": f"valid-{number:04d}",
        "question": f"How many {pair[1]} are {quantity} {pair[0]}? {number}",
        "answer": 2000.0 + number,
        "category": "mass" if pair is PAIRS[0] else "other",
        "quantity": quantity,
        "from_unit": pair[0],
        "to_unit": pair[1],
    }


ASKED = [question(n, PAIRS[n % 3], n % 4 + 1) for n in range(12)]


def predictions(model: str, right: int, last: str = "unparseable") -> list[dict[str, Any]]:
    verdicts = ["correct"] * right + ["wrong"] * (11 - right) + [last]
    return [
        {
            "id": row["id"],
            "question": row["question"],
            "prompt": f"Question: {row['question']}\nAnswer:",
            "completion": f"{model} & <b>{verdict}</b> {EVIL}",
            "parsed": {"correct": row["answer"], "wrong": row["answer"] * 10}.get(verdict),
            "gold": row["answer"],
            "verdict": verdict,
        }
        for row, verdict in zip(ASKED, verdicts, strict=True)
    ]


SAID = {model: predictions(model, n) for n, model in enumerate(MODELS, 3)}


def as_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Any]:
    artifacts.write_csv(path, rows, columns)
    return artifacts.read_csv(path)


def stage(name: str, read: Sequence[str], wrote: Sequence[str]) -> ancestry.Stage:
    """A stage whose files are named by their sha256."""
    receipt = {
        "stage": name,
        "inputs": {path: path for path in read},
        "outputs": {path: path for path in wrote},
        "code": {},
        "settings": {"prompt": EVIL},
        "libraries": {"torch": "2.13.0"},
        "computed": {"device": "cpu"},
    }
    return ancestry.Stage((f"results/{name}_receipt.json",), f"receipt of {name}", receipt)


STAGES = {
    "questions": [stage("questions", [], ["q"])],
    "sft_train": [stage("sft_train", ["q"], ["sft"])],
    "evaluate": [stage("evaluate", ["q", "sft"], ["p"]), stage("evaluate2", ["q"], ["p2"])],
    "verdicts": [stage("verdicts", ["p", "p2"], ["v"])],
}


def made_in(tmp_path: Path) -> report.Evidence:
    """Return what five models and two rounds leave, made by the functions that make it in a run."""
    path = tmp_path / "table.csv"
    verdicts = {model: [line["verdict"] for line in lines] for model, lines in SAID.items()}
    summary = [scoring.summarised(model, "none", verdicts[model]) for model in MODELS]
    summary = as_csv(path, summary, scoring.COLUMNS)
    receipts = [{"settings": {"style": "answer"}, "asked_as_trained": None, "adapter": "none"}] * 5
    required = {"rft": {"accuracy": 0.9}}
    failed = bars.verdicts(
        "results/summary.csv", summary, list(SAID.values()), receipts, list(SAID), required
    )
    rounds = [
        report.Round(
            name,
            as_csv(path, [{"questions": 4, "solved": 2}], ("questions", "solved")),
            as_csv(path, ledger.measures(name, ROLLOUTS, KEPT, LEFT_OUT, TRAINED), ledger.COLUMNS),
            as_csv(path, ledger.never_solved(name, ROLLOUTS, TRAINED), ledger.UNSOLVED_COLUMNS),
            as_csv(path, ledger.marginal(name, ROLLOUTS), ledger.MARGINAL_COLUMNS),
        )
        for name in ("round1", "round2")
    ]
    kinds = [("category", "mass"), ("category", "other"), ("pair_in_training", "no")]
    kinds += [("steps", str(n)) for n in range(3)] + [("unit_pair", str(n)) for n in range(13)]
    broken_down = [
        dict(zip(comparison.BREAKDOWN_COLUMNS, (model, *kind, 8, n, n / 8, 0.0, 1.0), strict=True))
        for n, model in enumerate(MODELS)
        for kind in kinds
    ]
    history = [{"step": str(n), "loss": str(1 / n), "grad_norm": str(2 / n)} for n in range(1, 20)]
    tokenizer = build("byte_level").tokenizer
    row = masking.encode(tokenizer, f"Question: {EVIL}", " <answer>6</answer>", max_length=400)
    check = {"sft": ancestry.CHANGED}
    return report.Evidence(
        summary=summary,
        verdicts=as_csv(path, failed, bars.COLUMNS),
        comparisons=as_csv(path, comparison.comparisons(SAID), comparison.COLUMNS),
        breakdown=as_csv(path, broken_down, comparison.BREAKDOWN_COLUMNS),
        leaks=[],
        choice=[{"round": "round1", "accuracy": "0.75"}, {"round": "round2", "accuracy": "0.5"}],
        predictions=SAID,
        questions=ASKED,
        histories={"sft": history, "rft, round1": history[:1]},
        rounds=rounds,
        rows={"results/tokenized/sft.jsonl": {"train-0001": spans.cut(tokenizer, row)}},
        chain=chain.Chain(
            STAGES,
            {"questions": 1.25, "sft_train": 725.0, "evaluate": None, "verdicts": None},
            lambda path, stated: check.get(path, ancestry.OK),
        ),
        lineage=ancestry.Node(ancestry.Line("", "0" * 64, "summary", EVIL)),
        unread=["results/old_receipt.json is no receipt: it is cut off; make it again"],
        task=task_units,
    )


@pytest.fixture
def evidence(tmp_path: Path) -> report.Evidence:
    return made_in(tmp_path)


def written(evidence: report.Evidence) -> str:
    parts = (ROOT / "report" / name for name in ("report.html.j2", "style.css"))
    return report.page(evidence, *(path.read_text("utf-8") for path in parts))


class Page(HTMLParser):
    """The rows of all tables of a page as text, its text, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in LOADING]
        self.loads += [value for name, value in attrs if value and "url(" in value]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and self.rows[-1] and self.lasttag in ("td", "th", "code"):
            self.rows[-1][-1] += data.strip("\n")


def missing(page: Page, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[Any]:
    """Return the rows of a CSV file that no table of the page shows, cell for cell."""
    shown = {tuple(row) for row in page.rows}
    wanted = [tuple(row[column] for column in columns) for row in rows]
    assert wanted
    return [row for row in wanted if row not in shown]


def missing_figures(page: Page, one: report.Evidence) -> list[Any]:
    """Return the rows of the run's tables that the page lacks."""
    of_kind = ("value", "model", "questions", "correct", "accuracy", "low", "high")
    kinds = [row for row in one.breakdown if row["group"] != "all"]
    found = missing(page, one.summary, [c for c in scoring.COLUMNS if c != "adapter_sha256"])
    found += missing(page, one.comparisons, comparison.COLUMNS)
    found += missing(page, kinds, of_kind)
    for sampled in one.rounds:
        found += missing(page, sampled.yields, list(sampled.yields[0]))
        found += missing(page, sampled.ledger, ledger.COLUMNS)
        found += missing(page, sampled.never_solved, ledger.UNSOLVED_COLUMNS)
        found += missing(page, sampled.marginal, ledger.MARGINAL_COLUMNS)
    for row in one.summary:
        drawn = f"{row['model']} {float(row['accuracy']):.3f}"
        found += [] if drawn in page.text else [drawn]
    return found


def test_it_holds_every_figure_of_the_tables(evidence):
    page = Page(written(evidence))
    assert missing_figures(page, evidence) == []
    assert missing(page, evidence.choice, ("round", "accuracy")) == []
    other = [row | {"correct": "1"} for row in evidence.summary]
    assert missing_figures(page, replace(evidence, summary=other)), "a wrong figure goes unseen"


def test_groups_of_a_few_kinds_are_drawn(evidence):
    text = Page(written(evidence)).text
    drawn = ("mass (8)", "unit pair never in training (8)", "steps: 2 (8)")
    assert [label for label in drawn if label not in text] == []
    assert "unit pair: 12 (8)" not in text


def test_it_is_the_same_text_each_time(evidence):
    assert written(evidence) == written(evidence)


def test_it_loads_nothing(evidence):
    text = written(evidence)
    page = Page(text)
    assert [load for load in page.loads if not re.match(r"#|url\(#", load)] == []
    assert {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags) == set()
    assert "@import" not in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "default-src 'none'" in text


def test_ids_stand_once(evidence):
    ids = re.findall(r'\sid="([^"]+)"', written(evidence))
    assert len(ids) > len(MODELS)
    assert len(ids) == len(set(ids))


def test_what_models_and_people_write_is_text(evidence):
    text = written(evidence)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "rft &amp; &lt;b&gt;wrong&lt;/b&gt;" in text


def test_a_model_under_its_bar_and_a_changed_file_stand_at_the_top(evidence):
    text = Page(written(evidence)).text
    assert "rft does not pass: accuracy 0.5 (bar 0.9)" in text
    assert "Not as the receipts state: sft: CHANGED" in text
    assert text.index("sft: CHANGED") < text.index("On the same questions")
    assert "Not as the receipts state: results/old_receipt.json is no receipt" in text
    assert "under the bar: rft" in text
    well = replace(evidence, verdicts=[row | {"passed": "yes"} for row in evidence.verdicts])
    assert "Every model passes its bar." in Page(written(well)).text


def test_times_are_those_of_the_jobs(tmp_path, evidence):
    text = Page(written(evidence)).text
    assert "1.2 s" in text
    assert "12.1 min" in text
    assert [step["time"] for step in evidence.chain.table()] == ["1.2 s", "12.1 min", "", ""]
    assert text.count("where none stands, no benchmark was kept") == 1
    for name, seconds in (("a", "1.5"), ("b", "2.25")):
        (tmp_path / name).write_text(f"s\th:m:s\n{seconds}\t0:00:01\n", "utf-8")
    made = {"receipts": ["results/questions_receipt.json"]}
    times = [str(tmp_path / name) for name in ("a", "b", "none")]
    steps = {
        "both": made | {"times": times[:2]},
        "one is missing": made | {"times": times},
        "untimed": made | {"times": []},
    }
    found = chain.of_run(STAGES["questions"], steps, lambda path, stated: ancestry.OK)
    assert found.seconds == {"both": 3.75, "one is missing": None, "untimed": None}


def test_samples_are_of_each_outcome_in_turn():
    said = {
        "one": [{"id": n, "verdict": v} for n, v in enumerate("aaabac")],
        "two": [{"id": n, "verdict": v} for n, v in enumerate("aaabac")],
    }
    found = [sample["one"]["id"] for sample in report.samples(said)]
    assert found == [0, 3, 5, 1, 2, 4]


@pytest.fixture
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if not found:
        pytest.skip("no chromium here: apt-get install chromium")
    return found


def dom(chromium: str, path: Path) -> str:
    """Return a page as a browser has it after loading, with the scripts that ran."""
    quiet = ("--disable-quic", "--no-first-run", "--disable-background-networking")
    quiet += ("--disable-component-update", "--disable-sync", "--disable-gpu", "--no-sandbox")
    done = subprocess.run(
        [
            *(chromium, "--headless", *quiet),
            *(f"--user-data-dir={path.parent / 'browser'}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


def test_in_a_browser_nothing_runs(chromium, evidence, tmp_path):
    page = tmp_path / "report.html"
    artifacts.write_text(page, written(evidence))
    assert "<title>Post-training: report of a run</title>" in dom(chromium, page)
    artifacts.write_text(page, f"<title>naive</title>{EVIL}")
    assert "<title>owned</title>" in dom(chromium, page), "this test no longer sees the old fault"
