"""A person's questions are read whole and unchanged, or refused with file, row and remedy."""

import codecs
import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import questions, task_units
from posttrain.errors import QuestionError

SUFFIXES = tuple(questions.READERS)
INF, NAN = float("inf"), float("nan")
NO_DECIMALS = ["5 kg", "1,000", "1_000", "\u0665", "\uff15", "nan", "0x10", ".5", "1e1000", "--1"]
GOOD = [[f"How many gram are there per {n} kg?", 1000.0 * n] for n in range(1, 21)]


def as_bytes(suffix: str, rows: list[Any], columns: tuple[str, ...] = ("question", "answer")):
    """Write rows (lists in the order of `columns`) in the format that `suffix` names."""
    objects = [dict(zip(columns, row, strict=False)) for row in rows]
    if suffix == ".json":
        return json.dumps(rows if len(columns) == 2 else objects).encode()
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in objects).encode()
    if suffix == ".csv":
        file = io.StringIO()
        csv.writer(file).writerows([columns, *rows])
        return file.getvalue().encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(objects, pa_schema(objects, columns)), buffer)
    return buffer.getvalue()


def pa_schema(objects: list[dict[str, Any]], columns: tuple[str, ...]):
    """Infer a column's type from its own values: `from_pylist` takes it from the first row."""
    import pyarrow as pa

    return pa.schema([(c, pa.array([row.get(c) for row in objects]).type) for c in columns])


@pytest.fixture
def read(tmp_path, monkeypatch) -> Callable[[str, bytes | str], questions.Reading]:
    """Write bytes under a name in the current folder and read them as questions."""
    monkeypatch.chdir(tmp_path)

    def write_and_read(name: str, data: bytes | str) -> questions.Reading:
        Path(name).write_bytes(data.encode() if isinstance(data, str) else data)
        return questions.read(name, "train", task_units.COLUMNS)

    return write_and_read


@pytest.fixture
def refusal(read) -> Callable[[str, bytes | str], str]:
    """Return the one line with which a file is refused."""

    def refuse(name: str, data: bytes | str) -> str:
        with pytest.raises(QuestionError) as caught:
            read(name, data)
        message = str(caught.value)
        assert message.startswith(name), message
        assert len(message.splitlines()) == 1, message
        assert len(message) < 400, message
        assert message.isprintable(), message
        return message

    return refuse


# Reading what is well-formed


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_have_the_numbers_of_the_file_and_every_key(read, suffix):
    columns = ("question", "answer", "category")
    rows = [["Was wiegt 1 Brötchen, „ungefähr“?", 0.05, "mass"], ["\u0663 + 1?\u200f", -4, None]]
    reading = read(f"my{suffix}", as_bytes(suffix, rows, columns))
    assert reading.rows == [
        {"id": "train-0001", "question": rows[0][0], "answer": 0.05, "category": "mass"},
        {"id": "train-0002", "question": rows[1][0], "answer": -4.0, "category": None},
    ]
    assert all(type(row["answer"]) is float for row in reading.rows)
    assert reading.duplicates == 0


def test_the_real_questions_are_the_same_through_all_four_formats(read, test_data):
    unit_questions = test_data / "data" / "unit_questions.json"
    real = questions.read(unit_questions, "train")
    written = json.loads(unit_questions.read_text(encoding="utf-8"))
    # Nine questions stand there twice letter by letter, one more with KB in place of kB.
    assert (len(written), len(real.rows), real.duplicates) == (1000, 990, 10)
    numbers = [int(row["id"].removeprefix("train-")) for row in real.rows]
    assert [[row["question"], row["answer"]] for row in real.rows] == [
        written[number - 1] for number in numbers
    ]
    assert numbers[-1] == 1000
    for suffix in SUFFIXES:
        assert read(f"real{suffix}", as_bytes(suffix, written)) == real


def test_identical_rows_are_dropped_and_counted_and_no_id_moves(read):
    rows = [["What is 2 m in cm?", 200], ["what is  2 m in CM?", 200.0], ["And 3 m?", 300]]
    reading = read("my.json", json.dumps(rows))
    assert [row["id"] for row in reading.rows] == ["train-0001", "train-0003"]
    assert reading.rows[0]["question"] == "What is 2 m in cm?"
    assert reading.duplicates == 1


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_questions(read, suffix):
    plain = as_bytes(suffix, GOOD)
    assert read(f"a{suffix}", codecs.BOM_UTF8 + plain) == read(f"b{suffix}", plain)


def test_the_workflow_reads_its_own_rows_again(read):
    rows = read("my.json", json.dumps(GOOD)).rows
    again = read("own.jsonl", "".join(json.dumps({**row, "quantity": 3}) + "\n" for row in rows))
    assert again.rows == rows


def test_csv_takes_nothing_for_a_missing_value_that_is_written(read):
    rows = read("my.csv", "question,answer,category\nNA,1,nan\nnull, +2.50e-3 ,\n").rows
    assert [(row["question"], row["answer"], row["category"]) for row in rows] == [
        ("NA", 1.0, "nan"),
        ("null", 0.0025, None),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_counts_rows_and_lines_as_an_editor_does(read, refusal, end):
    lines = ["question,answer", '"What is', '2 m in cm?",200', "", "What is 3 m in cm?,300", "x,y"]
    assert read("my.csv", end.join(lines[:-1])).rows[1]["id"] == "train-0002"
    assert refusal("my.csv", end.join(lines)).startswith("my.csv row 3 (line 6) has the answer")


def test_jsonl_ends_lines_at_line_feeds_alone(read):
    text = '{"question": "a\u2028b\u0085c", "answer": 1}\r\n\n{"question": "d", "answer": 2}'
    assert [row["question"] for row in read("my.jsonl", text).rows] == ["a\u2028b\u0085c", "d"]


def test_a_question_may_be_long(read):
    long = "How many gram are " + "very " * 200_000 + "heavy things?"
    assert read("my.json", json.dumps([[long, 1]])).rows[0]["question"] == long


def test_parquet_from_pandas_with_categories_whole_numbers_and_decimals(read):
    pd = pytest.importorskip("pandas")
    from decimal import Decimal

    frame = pd.DataFrame({"question": ["a", "b"], "answer": [1, 2], "category": ["x", None]})
    frame["category"] = frame["category"].astype("category")
    frame.to_parquet("whole.parquet", index=False)
    frame.assign(answer=[Decimal("1.5"), Decimal("2.5")]).to_parquet("tenth.parquet", index=False)
    whole = read("whole.parquet", Path("whole.parquet").read_bytes()).rows
    tenth = read("tenth.parquet", Path("tenth.parquet").read_bytes()).rows
    assert [(row["answer"], row["category"]) for row in whole] == [(1.0, "x"), (2.0, None)]
    assert [row["answer"] for row in tenth] == [1.5, 2.5]


# Refusing what is not

REFUSED = {
    # file name, text: the whole message
    (
        "my.csv",
        "question,answer\nWhat is 2 m in cm?,200\n\nWhat is 3 m in cm?,\n",
    ): "my.csv row 2 (line 4) has no answer; write digits alone, without quotes, as in 6000, "
    "-2.5 or 1.2e-7",
    (
        "my.json",
        '[["What is 2 m in cm?", "200"]]',
    ): "my.json row 1 has the answer the text '200', not a number; write digits alone, without "
    "quotes, as in 6000, -2.5 or 1.2e-7",
    (
        "my.json",
        '[["a?", 1e400]]',
    ): "my.json row 1 has the answer inf, not a finite number; write digits alone, without "
    "quotes, as in 6000, -2.5 or 1.2e-7",
    (
        "my.json",
        '[["a?", 1],\n ["b?", 2]\n ["c?", 3]]',
    ): "my.json line 3, column 2 is not JSON (Expecting ',' delimiter); write "
    '[["What is 2 + 3?", 5], ...]; objects, one a line, go into a '
    ".jsonl file",
    (
        "my.jsonl",
        '{"question": "a?", "answer": 1}\n\n{"question": " ", "answer": 1}\n',
    ): "my.jsonl row 2 (line 3) has no question; write one, as in What is 2 + 3?",
    (
        "my.jsonl",
        '{"question": "a?", "answer": 1, "unit": "kg"}\n',
    ): "my.jsonl row 1 (line 1) has the unknown name 'unit'; write question, answer and, if "
    "wanted, category",
    (
        "my.jsonl",
        '{"question": "a?", "answer": 1, "answer": 2}\n',
    ): "my.jsonl row 1 (line 1) has answer twice; keep one of the two",
    (
        "my.csv",
        "question,answer\nHow many gram, roughly, are 6 kg?,6000\n",
    ): "my.csv row 1 (line 2) has 4 cells where the header has 2; put a text with commas in "
    'double quotes: "What, in all, is 2 + 3?",5',
    (
        "my.csv",
        'question,answer\na?,1\n"b?,2\nc?,3\n',
    ): "my.csv row 2 (line 3) is not CSV (unexpected end of data); put a text with quotes in "
    'double quotes and double those inside: "What is ""2 + 3""?",5',
    (
        "my.csv",
        "question;answer\na?;1\n",
    ): "my.csv line 1, the header, has the unknown name 'question;answer'; write question, "
    "answer and, if wanted, category",
    (
        "my.csv",
        b"question,answer\nHow many cm\xb2 are 1 m\xb2?,10000\n",
    ): "my.csv line 2 is not UTF-8: byte 0xB2 at offset 27; save the file as UTF-8",
    (
        "my.json",
        '[["What is 2 m in cm?", 200], ["a?", 1], ["what is 2 m  in cm?", 20]]',
    ): "my.json row 3 asks, case and spacing aside, what row 1 asks, but has the answer 20.0, "
    "not 200.0; keep one",
    (
        "my.json",
        r'[["a\ud800?", 1]]',
    ): "my.json row 1 has the question the text 'a\\ud800?' with the unprintable U+D800 as "
    "character 2; leave it out",
    ("my.jsonl", "\n"): "my.jsonl holds no questions; write at least one",
    (
        "my.xlsx",
        b"",
    ): "my.xlsx: questions end in .json, .jsonl, .csv, .parquet; save them as one",
}


@pytest.mark.parametrize(("name", "data"), REFUSED)
def test_the_whole_message(refusal, name, data):
    assert refusal(name, data) == REFUSED[name, data]


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("my.json", b"", "line 1, column 1 is not JSON"),
        ("my.json", "[]", "holds no questions"),
        ("my.json", "null", "is none, not a list"),
        ("my.json", '{"question": "a?", "answer": 1}', "is an object, not a list"),
        ("my.json", "[" * 200_000, "nested too deeply"),
        ("my.json", "[[]]", "row 1 is a list of 0"),
        ("my.json", '[["a?", 1, "mass"]]', "row 1 is a list of 3"),
        ("my.json", '["a?", 1]', "row 1 is the text 'a?'"),
        ("my.json", "[null]", "row 1 is none"),
        ("my.json", '[["a?", 1], {}]', "row 2 has no question"),
        ("my.json", '[{"question": "a?"}]', "row 1 has no answer"),
        ("my.json", "[[7, 1]]", "row 1 has the question 7.0, not a text"),
        ("my.json", '[[["a?"], 1]]', "row 1 has the question a list, not a text"),
        ("my.json", "[[null, 1]]", "row 1 has no question"),
        ("my.json", '[["\u200f\u00a0", 1]]', "row 1 has no question"),
        ("my.json", r'[["a\u0000", 1]]', "U+0000 as character 2"),
        ("my.json", r'[["a\u001b[31m", 1]]', "U+001B as character 2"),
        ("my.json", '[["a?", null]]', "row 1 has no answer"),
        ("my.json", '[["a?", true]]', "row 1 has the answer true, not a number"),
        ("my.json", '[["a?", NaN]]', "row 1 has the answer nan, not a finite number"),
        ("my.json", '[["a?", -Infinity]]', "row 1 has the answer -inf, not a finite number"),
        ("my.json", '[["a?", %s]]' % ("9" * 400), "row 1 has the answer inf, not a finite"),
        ("my.json", '[["a?", %s]]' % ("9" * 5000), "row 1 has the answer inf, not a finite"),
        ("my.json", '[["a?", {"value": 1}]]', "row 1 has the answer an object, not a number"),
        ("my.json", '[["a?", "%s"]]' % ("x" * 9999), "not a number"),
        ("my.json", '[{"question": "a?", "answer": 1, "category": 5}]', "the category 5.0, not"),
        (
            "my.json",
            '[{"question": "a?", "answer": 1, "category": "x"}, ["a?", 1]]',
            "what row 1 asks, but has the category none, not the text 'x'",
        ),
        ("my.json", '[["a?", 1]]'.encode("utf-16"), "line 1 is not UTF-8: byte 0xFF at offset 0"),
        ("my.json", '[["a?", 1]]'.encode("utf-16-le"), "is not UTF-8: byte 0x00 at offset 1"),
        ("my.json", codecs.BOM_UTF8 + b"\xe9", "is not UTF-8: byte 0xE9 at offset 3"),
        ("my.jsonl", '["a?", 1]\n["b?", 2', "row 2 (line 2), column 9 is not JSON"),
        ("my.jsonl", "5", "row 1 (line 1) is 5.0"),
        ("my.csv", "", "holds no questions"),
        ("my.csv", "question,answer\n", "holds no questions"),
        ("my.csv", "a?,1\nb?,2\n", "line 1, the header, has the unknown name 'a?'"),
        ("my.csv", "question\na?\n", "line 1, the header, has no answer"),
        ("my.csv", "question,answer,answer\na?,1,2\n", "line 1, the header, has answer twice"),
        ("my.csv", ",question,answer\n0,a?,1\n", "'' (pandas leaves its index out with index="),
        ("my.csv", "question,answer\na?\n", "row 1 (line 2) has 1 cells"),
        ("my.csv", 'question,answer\n"a"?,1\n', "row 1 (line 2) is not CSV"),
        ("my.csv", "question,answer\na\0?,1\n", "line 2 is not UTF-8: byte 0x00 at offset 17"),
        ("my.csv", f"question,answer\n{'a' * 200_000},1\n", "row 1 (line 2) is not CSV (field l"),
        *(
            ("my.csv", f'question,answer\na?,"{text}"\n', "row 1 (line 2) has the answer the text")
            for text in [*NO_DECIMALS, "5.", "inf", "1/2", "True"]
        ),
        ("my.csv", "question,answer\na?,1e400\n", "row 1 (line 2) has the answer inf, not a"),
        ("my.parquet", b"", "is not Parquet"),
        ("my.parquet", as_bytes(".parquet", GOOD)[:-9], "is not Parquet"),
        ("my.parquet", as_bytes(".parquet", []), "holds no questions"),
        ("my.parquet", as_bytes(".parquet", [["a?", "1"]]), "row 1 has the answer the text '1'"),
        ("my.parquet", as_bytes(".parquet", [["a?", 1], ["b?", None]]), "row 2 has no answer"),
        (
            "my.parquet",
            as_bytes(".parquet", [["a?", 1.0], ["b?", NAN]]),
            "row 2 has the answer nan",
        ),
        ("my.parquet", as_bytes(".parquet", [["a?", True]]), "row 1 has the answer true"),
        ("my.parquet", as_bytes(".parquet", [["a?", [1]]]), "row 1 has the answer a list"),
        ("my.parquet", as_bytes(".parquet", [[b"a?", 1]]), "row 1 has the question b'a?'"),
        ("my.parquet", as_bytes(".parquet", [["a?"]], ("question",)), "has no answer"),
        (
            "my.parquet",
            as_bytes(".parquet", [["a?", 1, 0]], ("question", "answer", "__index_level_0__")),
            "index=False",
        ),
    ],
)
def test_malformed(refusal, name, data, fault):
    assert fault in refusal(name, data)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(QuestionError, match=r"none\.csv cannot be read: No such file"):
        questions.read(tmp_path / "none.csv", "train")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(QuestionError, match=r"folder\.csv cannot be read: Is a directory"):
        questions.read(tmp_path / "folder.csv", "train")


def spoil(rng: random.Random, suffix: str) -> tuple[bytes, str]:
    """Return a file with one fault put into a good one, and the place a person must be told."""
    rows: list[Any] = [list(row) for row in rng.sample(GOOD, rng.randint(2, len(GOOD)))]
    at, other = rng.sample(range(len(rows)), 2)
    answers: list[Any] = [None, NAN, INF, -INF]
    asked: list[Any] = ["", "  ", "\t", "\u200b"]
    if suffix == ".csv":
        answers += NO_DECIMALS
        shapes: list[Any] = [["a?"], ["a?", 1, 2], ["a?", "", ""]]
    elif suffix == ".parquet":
        asked += [None, "a\0"]
        shapes = [("question", "result"), ("Question", "answer"), ("a", "b")]
    else:
        answers += [*NO_DECIMALS, "5", True, False, [5], [], {}, {"value": 5}, 10**400]
        asked += [None, 5, True, ["a?"], {}, "a\0", "\ud800?", "a\x1b[31m"]
        shapes = ["5", "null", '"a?"', "[]", '["a?"]', '["a?", 1, 2]', "{}", '{"question": "a?"}']
        shapes += ['{"answer": 1}', '{"question": "a?", "answer": 1, "answer": 2}']
        shapes += ["a?,1", '["a?", 1', '["a?", 1,]', "['a?', 1]"] * (suffix == ".jsonl")

    kind = rng.choice(["answer", "question", "contradiction", "shape", "bytes"])
    told = max(at, other) if kind == "contradiction" else at
    line = {".jsonl": f" (line {told + 1})", ".csv": f" (line {told + 2})"}.get(suffix, "")
    place = f"my{suffix} row {told + 1}{line}"
    if kind == "answer":
        rows[at][1] = rng.choice(answers)
    elif kind == "question":
        rows[at][0] = rng.choice(asked)
    elif kind == "contradiction":
        rows[at] = [rng.choice([str.upper, str.lower, " {} ".format])(rows[other][0]), -1.5]
    elif kind == "shape":
        shape = rng.choice(shapes)
        if suffix == ".parquet":
            return as_bytes(suffix, rows, shape), "unknown name"
        if suffix != ".csv":
            lines = [json.dumps(row) for row in rows]
            lines[at] = shape
            text = "\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]"
            return text.encode(), place
        rows[at] = shape
    elif suffix == ".parquet":
        data = as_bytes(suffix, rows)
        return data[: rng.randrange(len(data))], "my.parquet is not Parquet"
    else:
        data = as_bytes(suffix, rows)
        cut = data.index(rows[at][0].encode()) + rng.randrange(8)
        fault = rng.choice([b"\xff", b"\xc3(", b"\0", b"\xed\xa0\x80", b"\x80"])
        line = f"my{suffix} line {1 if suffix == '.json' else told + 1 + (suffix == '.csv')}"
        return data[:cut] + fault + data[cut:], f"{line} is not UTF-8"
    return as_bytes(suffix, rows), place


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_250_seeded_faults_are_each_told_in_one_line_with_their_place(refusal, suffix):
    rng = random.Random(f"spoil {suffix}")
    for _ in range(250):
        data, place = spoil(rng, suffix)
        assert place in refusal(f"my{suffix}", data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_damage_to_bytes_raises_anything_else(read, suffix):
    rng = random.Random(f"damage {suffix}")
    whole = as_bytes(suffix, GOOD)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read(f"my{suffix}", bytes(data))
        except QuestionError:
            refused += 1
    assert refused > 100


# Leaks


def test_normalised_keeps_what_is_asked_and_drops_how_it_is_set():
    assert questions.normalised("  How\u00a0MANY cm² \n in \uff15 m?\t") == "how many cm2 in 5 m?"
    assert questions.normalised("Straße") == questions.normalised("STRASSE")
    assert questions.normalised("e\u0301") == questions.normalised("É")
    assert questions.normalised("2 m in cm?") != questions.normalised("2 mm in cm?")
    folded = [questions.normalised(f"a{chr(code)}b") for code in range(0x3000)]
    assert [questions.normalised(text) for text in folded] == folded
