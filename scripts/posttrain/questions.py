"""A person's own questions: read, and checked row by row.

Read are JSON (`[[question, answer], ...]` or a list of objects), JSONL (the same, one a line), CSV
and Parquet with the columns question, answer and, if wanted, category. Nothing is guessed: a row
that cannot be used as it stands ends the reading with its file, its row and what to write instead.

Rows are counted from 1 as a person counts them: a CSV's header and blank lines are no rows.
"""

import codecs
import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain import artifacts
from posttrain.answers import NUMBER
from posttrain.errors import QuestionError
from posttrain.logs import log

if TYPE_CHECKING:
    from posttrain.tasks import Task

COLUMNS = ("question", "answer", "category")
INDEX_NAMES = ("", "index", "Unnamed: 0", "__index_level_0__")

UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

EXAMPLE = "What is 2 + 3?"  # of no task: it shows where a question stands
PAIR = f'["{EXAMPLE}", 5]'
OBJECT = f'{{"question": "{EXAMPLE}", "answer": 5}}'
NUMBERS = "digits alone, without quotes, as in 6000, -2.5 or 1.2e-7"

Fields = Sequence[tuple[str, Any]]
Placed = Iterator[tuple[str, Fields]]


@dataclass(frozen=True)
class Reading:
    """The questions of one file.

    `rows` have the keys id, question, answer (float) and category (text or None). `duplicates` rows
    said the same as an earlier one and are left out; ids keep the numbers of the file, so none
    shifts.
    """

    rows: list[dict[str, Any]]
    duplicates: int


def read(path: str | Path, split: str, made_anew: Sequence[str] = ()) -> Reading:
    """Read the questions in `path`; the row with number 7 gets the id `<split>-0007`.

    White space around a question or category is dropped, all else stays as written. The workflow's
    own rows may be read again: their id, and what a task added under the names `made_anew`, are
    passed over.

    Raises: QuestionError at the first fault, with file, row and what to write instead; so too if
        two rows with the same question, but for case and spacing, differ in answer or category.
    """
    reader = READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise QuestionError(f"{path}: questions end in {', '.join(READERS)}; save them as one")
    try:
        data = artifacts.read_bytes(path)
    except OSError as error:
        raise QuestionError(f"{path} cannot be read: {error.strerror}") from error

    kept: dict[str, tuple[str, dict[str, Any]]] = {}
    number = 0
    for number, (place, fields) in enumerate(reader(path, data, ("id", *made_anew)), start=1):
        row = {"id": f"{split}-{number:04d}", **_row(place, fields)}
        earlier, first = kept.setdefault(normalised(row["question"]), (place, row))
        for key in ("answer", "category"):
            if row[key] != first[key]:
                there = earlier.removeprefix(f"{path} ")
                raise QuestionError(
                    f"{place} asks, case and spacing aside, what {there} asks, but has the {key} "
                    f"{_show(row[key])}, not {_show(first[key])}; keep one"
                )
    if not number:
        raise QuestionError(f"{path} holds no questions; write at least one")
    return Reading([row for _, row in kept.values()], duplicates=number - len(kept))


def splits(
    given: Mapping[str, str | None],
    generate: Callable[[], Mapping[str, list[dict[str, Any]]]],
    task: "Task",
) -> dict[str, Reading]:
    """Return the questions of each split: a person's file where one is given, else generated ones.

    Args: given, split -> path or None; generate makes split -> rows where one is None;
        task, which can tell something of a question by its text and answer. A category that the
        file states goes before the task's.
    Raises: QuestionError as `read` does, and for an answer that the task cannot have.
    """
    generated = generate() if None in given.values() else {}
    found = {}
    for split, path in given.items():
        if path is None:
            found[split] = Reading(generated[split], duplicates=0)
            continue
        reading = read(path, split, task.COLUMNS)
        rows = []
        for row in reading.rows:
            try:
                told = task.about(row["question"], row["answer"])
            except QuestionError as error:
                number = int(row["id"].rpartition("-")[2])
                raise QuestionError(f"{path} row {number}: {error}") from error
            rows.append({**row, **told, "category": row["category"] or told["category"]})
        found[split] = Reading(rows, reading.duplicates)
    return found


def report(splits: Mapping[str, Reading]) -> None:
    """Log what each split holds."""
    for split, reading in splits.items():
        log.info(
            "%s: %d questions, %d duplicates dropped", split, len(reading.rows), reading.duplicates
        )


def normalised(question: str) -> str:
    """Return `question` without what case, spacing and Unicode's compatible forms add to it."""
    folded = unicodedata.normalize("NFKC", question).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _row(place: str, fields: Fields) -> dict[str, Any]:
    """Check one row's values and return it as a question row without its id."""
    values = dict(fields)
    question = _text(place, "question", values.get("question"))
    if question is None:
        raise QuestionError(f"{place} has no question; write one, as in {EXAMPLE}")
    return {
        "question": question,
        "answer": _number(place, values.get("answer")),
        "category": _text(place, "category", values.get("category")),
    }


def _text(place: str, key: str, value: Any) -> str | None:
    """Return the text stripped, or None where nothing in it can be seen."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise QuestionError(
            f"{place} has the {key} {_show(value)}, not a text; write it in double quotes"
        )
    if unfit := UNFIT.search(value):
        raise QuestionError(
            f"{place} has the {key} {_show(value)} with the unprintable U+{ord(unfit[0]):04X} as "
            f"character {unfit.start() + 1}; leave it out"
        )
    is_seen = any(mark.isprintable() and not mark.isspace() for mark in value)
    return value.strip() if is_seen else None


def _number(place: str, value: Any) -> float:
    """Return the answer as a finite float; a decimal of Parquet is a number too, a text is not."""
    if value is None:
        raise QuestionError(f"{place} has no answer; write {NUMBERS}")
    if isinstance(value, bool) or not isinstance(value, Number):
        raise QuestionError(f"{place} has the answer {_show(value)}, not a number; write {NUMBERS}")
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise QuestionError(
            f"{place} has the answer {number}, not a finite number; write {NUMBERS}"
        )
    return number


def _check_names(place: str, names: Sequence[str], made_anew: Sequence[str]) -> None:
    """Refuse the names of a row's keys or a table's columns unless each is known and there once."""
    known = f"{', '.join(COLUMNS[:-1])} and, if wanted, {COLUMNS[-1]}"
    for name in names:
        if name not in (*COLUMNS, *made_anew):
            hint = " (pandas leaves its index out with index=False)" if name in INDEX_NAMES else ""
            raise QuestionError(f"{place} has the unknown name {name[:60]!r}{hint}; write {known}")
        if names.count(name) > 1:
            raise QuestionError(f"{place} has {name} twice; keep one of the two")
    for name in COLUMNS[:-1]:
        if name not in names:
            raise QuestionError(f"{place} has no {name}; write {known}")


def _show(value: Any) -> str:
    """Name a value as a person would find it in the file, in at most a line."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value[:60]!r}{'...' if len(value) > 60 else ''}"
        case list():
            return "a list"
        case tuple() | dict():
            return "an object"
        case _:
            return repr(value)[:60]


def _decode(path: str | Path, data: bytes) -> str:
    """Decode UTF-8, with or without its byte order mark; a zero byte is no text either."""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    body = data.removeprefix(mark)
    at = body.find(b"\0")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        line = body.count(b"\n", 0, at) + 1
        raise QuestionError(
            f"{path} line {line} is not UTF-8: byte 0x{body[at]:02X} at offset {at + len(mark)}; "
            "save the file as UTF-8"
        )
    return text


def _load(text: str, place: Callable[[int], str], example: str) -> Any:
    """Parse JSON: objects become tuples of pairs, so that a key given twice is not lost.

    `place` turns the line of a fault in `text` into the words that name it.
    """
    try:
        # Whole numbers as floats: an int of more than 4300 digits is refused by Python itself.
        return json.loads(text, object_pairs_hook=tuple, parse_int=float)
    except json.JSONDecodeError as error:
        where = f"{place(error.lineno)}, column {error.colno}"
        raise QuestionError(f"{where} is not JSON ({error.msg}); write {example}") from error
    except RecursionError as error:
        raise QuestionError(f"{place(1)} is nested too deeply; write {example}") from error


def _fields(place: str, value: Any, made_anew: Sequence[str]) -> Fields:
    """Return the fields of a JSON row, written as a pair or as an object."""
    match value:
        case [question, answer] if isinstance(value, list):
            return (("question", question), ("answer", answer))
        case tuple():
            _check_names(place, [name for name, _ in value], made_anew)
            return value
        case _:
            what = f"a list of {len(value)}" if isinstance(value, list) else _show(value)
            raise QuestionError(f"{place} is {what}; write {PAIR} or {OBJECT}")


def _read_json(path: str | Path, data: bytes, made_anew: Sequence[str]) -> Placed:
    example = f"[{PAIR}, ...]; objects, one a line, go into a .jsonl file"
    rows = _load(_decode(path, data), lambda line: f"{path} line {line}", example)
    if not isinstance(rows, list):
        raise QuestionError(f"{path} is {_show(rows)}, not a list; write {example}")
    for number, value in enumerate(rows, start=1):
        place = f"{path} row {number}"
        yield place, _fields(place, value, made_anew)


def _read_jsonl(path: str | Path, data: bytes, made_anew: Sequence[str]) -> Placed:
    # Not splitlines: a text may hold U+2028 and others that it takes for ends of lines.
    lines = enumerate(_decode(path, data).split("\n"), start=1)
    filled = ((line, text) for line, text in lines if text.strip())
    for number, (line, text) in enumerate(filled, start=1):
        place = f"{path} row {number} (line {line})"
        row = _load(text, lambda _, place=place: place, OBJECT)
        yield place, _fields(place, row, made_anew)


def _read_csv(path: str | Path, data: bytes, made_anew: Sequence[str]) -> Placed:
    rows = _csv_rows(path, _decode(path, data))
    for place, names in rows:
        _check_names(place, names, made_anew)
        break
    for place, cells in rows:
        if len(cells) != len(names):
            raise QuestionError(
                f"{place} has {len(cells)} cells where the header has {len(names)}; put a text "
                'with commas in double quotes: "What, in all, is 2 + 3?",5'
            )
        yield place, [(name, _cell(name, cell)) for name, cell in zip(names, cells, strict=True)]


def _csv_rows(path: str | Path, text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each row's place and cells, the header first, which is row 0, and no blank line."""
    # Not pandas: it takes "NA" for nothing, guesses types by column and forgets line numbers.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number, line = 0, 1

    def place() -> str:
        row = f"row {number} (line {line})" if number else f"line {line}, the header,"
        return f"{path} {row}"

    try:
        for cells in reader:
            if cells:
                yield place(), cells
                number += 1
            line = reader.line_num + 1
    except csv.Error as error:
        raise QuestionError(
            f"{place()} is not CSV ({error}); put a text with quotes in double quotes and double "
            'those inside: "What is ""2 + 3""?",5'
        ) from error


def _cell(name: str, cell: str) -> str | float | None:
    """Return a CSV cell's value: only an answer can be a number, and as strictly as a model's."""
    text = cell.strip()
    is_number = name == "answer" and NUMBER.fullmatch(text)
    return float(text) if is_number else cell if text else None


def _read_parquet(path: str | Path, data: bytes, made_anew: Sequence[str]) -> Placed:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_names(str(path), file.schema_arrow.names, made_anew)
        table = file.read(columns=[c for c in COLUMNS if c in file.schema_arrow.names])
        columns = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, ArithmeticError, MemoryError, OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise QuestionError(
            f"{path} is not Parquet ({why}); write it again, with pandas: "
            f'frame.to_parquet("{Path(path).name}", index=False)'
        ) from error
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield f"{path} row {number}", tuple(zip(table.column_names, values, strict=True))


READERS: dict[str, Callable[[str | Path, bytes, Sequence[str]], Placed]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
