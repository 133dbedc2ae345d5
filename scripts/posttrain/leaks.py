"""Validation questions that a model has met before: in training, or in the text it was taught."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.errors import QuestionError
from posttrain.logs import log
from posttrain.questions import normalised

COLUMNS = ("id", "where", "how")
MOST_SHOWN = 5
AROUND_WORDS = "\"'`\u2018\u2019\u201c\u201d«»()[]{}<>.,;:?!"


def found(
    valid: Iterable[Mapping[str, Any]],
    *,
    questions: Mapping[str, Iterable[str]],
    texts: Mapping[str, Iterable[str]],
) -> list[dict[str, str]]:
    """Find the validation questions that a model has met before.

    Args: valid, question rows; questions, by name, each compared as a whole (a longer question
        is another question); texts, by name, in which a question leaks wherever its words stand
        in a row, whatever punctuation is around each of them.
    Returns: one `{"id", "where", "how"}` for each row and name, in their order; `how` is "exact"
        if the question stands there letter by letter, else "normalised".

    One pass over each text: windows of words are looked up only where a question's first word
    stands and only in the lengths of the questions that begin so.
    """
    valid = list(valid)
    how: dict[tuple[str, str], str] = {}
    for where, asked in questions.items():
        exact = set(asked)
        near = {normalised(question) for question in exact}
        for row in valid:
            if normalised(row["question"]) in near:
                is_exact = row["question"] in exact
                how[row["id"], where] = "exact" if is_exact else "normalised"

    windows: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    lengths: dict[str, set[int]] = defaultdict(set)
    for row in valid:
        if window := tuple(_words(row["question"])):
            windows[window].append(row)
            lengths[window[0]].add(len(window))
    for where, documents in texts.items():
        for document in documents:
            words = _words(document)
            met = {
                window
                for start, word in enumerate(words)
                for length in lengths.get(word, ())
                if (window := tuple(words[start : start + length])) in windows
            }
            for row in (row for window in met for row in windows[window]):
                is_exact = row["question"] in document
                if is_exact or (row["id"], where) not in how:
                    how[row["id"], where] = "exact" if is_exact else "normalised"

    return [
        {"id": row["id"], "where": where, "how": how[row["id"], where]}
        for row in valid
        for where in (*questions, *texts)
        if (row["id"], where) in how
    ]


def report(leaks: Sequence[Mapping[str, str]], on_leaks: str) -> None:
    """Log the leaks. Raises: QuestionError if there are some and `on_leaks` is refuse."""
    if not leaks:
        return
    for leak in leaks[:MOST_SHOWN]:
        log.warning("leak: %(id)s stands in %(where)s too (%(how)s)", leak)
    count = len({leak["id"] for leak in leaks})
    if on_leaks == "refuse":
        listed = ", ".join(leak["id"] for leak in leaks[:MOST_SHOWN])
        raise QuestionError(
            f"{count} validation questions also stand in training or pretraining, as {listed}; "
            "take them out of data.valid, or write data: {leaks: report}"
        )
    log.warning("%d validation questions were met before (see results/questions/leaks.csv)", count)


def _words(text: str) -> list[str]:
    """Return the normalised words of `text`, bare of the punctuation around each."""
    return [bare for word in normalised(text).split(" ") if (bare := word.strip(AROUND_WORDS))]
