"""Ancestry: receipts read back, to tell what made a file and whether the disk still agrees.

A stage is found by the sha256 of what it wrote, so a copy has the ancestry of its original. Apart
from `lineage`, which every stage imports: how a tree is printed must not make anything run again.
"""

import json
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from posttrain import artifacts, lineage, selection
from posttrain.errors import PosttrainError

WRITTEN = ("results/", "resources/")  # here stages write, and what lies here has a receipt
OK, CHANGED, MISSING, NO_RECEIPT = "ok", "CHANGED", "missing", "no receipt"
GREEN, RED, PLAIN = "\033[32m", "\033[31m", "\033[0m"
WIDTH = 160  # characters of a config that are shown; its receipt has it whole

Check = Callable[[str, str], str]
Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """A receipt, its own sha256, and where it lies: copies of an adapter bring copies of it."""

    paths: tuple[str, ...]
    sha256: str
    receipt: Mapping[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """Return path -> sha256 of what the stage wrote, its receipt included."""
        return self.receipt["outputs"] | dict.fromkeys(self.paths, self.sha256)


@dataclass(frozen=True)
class Line:
    """A line of a tree: how the disk agrees, if it is about a file; the sha256; a path or words."""

    mark: str
    sha256: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Node:
    """A stage of a tree: what it wrote, was set to and was run by, and the stages it read from."""

    head: Line
    lines: list[Line] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)


def read_stages(schema: Mapping[str, Any]) -> tuple[list[Stage], dict[str, str]]:
    """Return a stage for each receipt in the current folder's results/ and resources/.

    And path -> a line on what is wrong and what to do, for each that cannot be relied on: it may be
    one that nothing else hangs on. Args: schema, of receipts.
    """
    found = [*Path("results").rglob("*receipt.json"), *Path("resources").rglob("manifest.json")]
    paths, receipts, unread = defaultdict(list), {}, {}
    for path in sorted(found):
        try:
            receipt = _read(path, schema)
        except PosttrainError as error:
            unread[str(path)] = str(error)
            continue
        key = (artifacts.sha256_file(path), *receipt["outputs"])
        paths[key].append(str(path))
        receipts[key] = receipt
    stages = [Stage(tuple(paths[key]), key[0], receipt) for key, receipt in receipts.items()]
    return stages, unread


def _read(path: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read a receipt; a base model's manifest becomes that of the stage that made the model.

    Raises: PosttrainError, one line, where it is none, or was edited.
    """
    again = f"{lineage.made_again(path)} (or remove it, if no rule makes it any more)"
    try:
        receipt = artifacts.read_json(path)
        if path.name == "manifest.json":
            receipt = _of_manifest(path.parent, receipt["files"], receipt["origin"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PosttrainError(f"{path} is no receipt: {error!r}; {again}") from error
    if fault := best_match(Draft202012Validator(schema).iter_errors(receipt)):
        place = ".".join(map(str, fault.absolute_path)) or "its top level"
        said = textwrap.shorten(fault.message, 200, placeholder=" ...")
        raise PosttrainError(f"{path} is no receipt: {place}: {said}; {again}")
    if receipt["seal"] != lineage.seal(receipt):
        raise PosttrainError(f"{path} is no receipt: it was edited by hand; {again}")
    return receipt


def _of_manifest(folder: Path, files: dict[str, str], origin: dict[str, Any]) -> dict[str, Any]:
    parts = {part: {} for part in ("inputs", "code", "outputs", "libraries", "computed")}
    # The model of a local folder or of a hub was made elsewhere: its origin is no receipt.
    parts |= origin if "stage" in origin else {"stage": folder.name, "settings": origin}
    written = {str(folder / name): sha256 for name, sha256 in files.items()}
    parts |= {"outputs": parts["outputs"] | written}
    return parts | {"seal": lineage.seal(parts)}  # every stage that reads a manifest states it


def checker() -> Check:
    """Return what tells of a path and its stated sha256: ok, CHANGED or missing.

    It reads each file once.
    """
    sha256_of = cache(artifacts.sha256_file)

    def check(path: str, stated: str) -> str:
        if not Path(path).is_file():
            return MISSING
        return OK if sha256_of(path) == stated else CHANGED

    return check


def made(stages: Sequence[Stage], path: str, sha256: str) -> Stage | None:
    """Return the stage that wrote these bytes, if one did: to `path`, else to another."""
    exact = (stage for stage in stages if stage.files.get(path) == sha256)
    alike = (stage for stage in stages if sha256 in stage.files.values())
    return next(exact, None) or next(alike, None)


def stated(stages: Sequence[Stage], path: str) -> str:
    """Return the sha256 of `path` by its maker's receipt, else by a reader's, else by the disk.

    Raises: PosttrainError if there is neither receipt nor file.
    """
    for files in [stage.files for stage in stages] + [stage.receipt["inputs"] for stage in stages]:
        if path in files:
            return files[path]
    if not Path(path).is_file():
        raise PosttrainError(
            f"{path}: no such file, and no receipt names it; name it as the workflow does, "
            "from the folder in which the workflow ran"
        )
    return artifacts.sha256_file(path)


def tree(stages: Sequence[Stage], path: str, check: Check) -> Node:
    """Return all that made `path`, every file held against the receipts that state it.

    Raises: PosttrainError if no stage made it.
    """
    sha256 = stated(stages, path)
    stage = made(stages, path, sha256)
    if stage is None:
        raise PosttrainError(
            f"{path}: no receipt under {' or '.join(WRITTEN)} states what made it: "
            "it is no output of a stage, or it has changed, or its receipt is gone"
        )
    root = _node(stages, stage, check, set())
    if path not in stage.files:
        root.lines.insert(0, _line(check, path, sha256, "a copy"))
    return root


def _node(stages: Sequence[Stage], stage: Stage, check: Check, above: set[Stage]) -> Node:
    if stage in above:
        return Node(_head(stages, stage, "see above"))
    above.add(stage)
    receipt = stage.receipt
    lines = [_line(check, path, sha256) for path, sha256 in receipt["outputs"].items()]
    parents = {}  # as a set that keeps its order
    others = [other for other in stages if other is not stage]
    for path, sha256 in receipt["inputs"].items():
        parent = made(others, path, sha256)
        if parent:
            parents[parent] = None
        if not parent or path not in parent.files:  # else it stands there
            lines.append(_input(check, path, sha256, parent))
    for name, part in (("config", "settings"), ("versions", "libraries"), ("machine", "computed")):
        if values := receipt[part]:
            lines.append(Line("", artifacts.sha256_json(values), f"{name}: {_words(values)}"))
    lines += _code(check, receipt["code"])
    children = [_node(stages, parent, check, above) for parent in parents]
    return Node(_head(stages, stage, " and ".join(stage.paths)), lines, children)


def _head(stages: Sequence[Stage], stage: Stage, note: str) -> Line:
    """Return a stage's first line; its receipt is ok where a later one states its sha256."""
    is_stated = any(stage.sha256 in other.receipt["inputs"].values() for other in stages)
    return Line(OK if is_stated else "", stage.sha256, stage.receipt["stage"], note)


def _line(check: Check, path: str, sha256: str, note: str = "") -> Line:
    mark = check(path, sha256)
    if mark == OK and path.endswith(".jsonl"):
        rows = artifacts.read_bytes(path).count(b"\n")
        note = f"{rows} rows, {note}".removesuffix(", ")
    return Line(mark, sha256, path, note)


def _input(check: Check, path: str, sha256: str, parent: Stage | None) -> Line:
    """Return the line of an input that stands under no stage: a copy, given, or of unknown make."""
    if parent:
        return _line(check, path, sha256, f"a copy, made by {parent.receipt['stage']}")
    if check(path, sha256) == OK and path.startswith(WRITTEN):
        return Line(NO_RECEIPT, sha256, path)
    return _line(check, path, sha256, "given")


def _words(values: Mapping[str, Any]) -> str:
    words = (f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())
    return textwrap.shorten(", ".join(words), WIDTH, placeholder=" ...")


def _code(check: Check, code: Mapping[str, str]) -> list[Line]:
    """Return a line for all code together, and one for each file of it that is not as it was."""
    lines = [Line(check(path, sha256), sha256, path) for path, sha256 in code.items()]
    wrong = [line for line in lines if line.mark != OK]
    whole = Line("" if wrong else OK, artifacts.sha256_json(code), f"code: {len(code)} files")
    return [whole, *wrong] if code else []


def row_tree(stages: Sequence[Stage], path: str, row_id: str, check: Check) -> Node:
    """Return the files that a row stands in, from the first on, and below them what it trained.

    A question goes on in the rollouts that name it, a rollout in the training row of its id.
    Raises: PosttrainError if `path` is no .jsonl file, or is intact and has no such row.
    """
    sha256 = stated(stages, path)
    line, rows = _standing(check, path, sha256, lambda row: _id(row) == row_id)
    if line is None:
        raise PosttrainError(
            f"{path} has no row {row_id}; rows are those of .jsonl files, by their `id`, such as "
            "train-0007, or train-0007-03 for sample 3 of that question"
        )
    before = {found.text: found for found in _before(stages, path, sha256, rows, check)}
    after, trainings = {}, {}
    for found in _after(stages, sha256, rows, check):
        if isinstance(found, Stage):
            trainings[found] = _training(stages, found, check)
        else:
            after[found.text] = found
    lines = [*reversed(before.values()), line, *after.values()]
    return Node(Line("", "", row_id), lines, list(trainings.values()))


def _before(
    stages: Sequence[Stage], path: str, sha256: str, rows: Sequence[Row], check: Check
) -> Iterator[Line]:
    """Yield the files that the rows came from, the latest first.

    A row without reasoning of its own came of all the rollouts of its question, which failed.
    """
    names = {name for row in rows for name in (_id(row), row.get("question_id"))}
    failed = {row["question_id"] for row in rows if row.get("reasoning", "") is None}
    maker = made(stages, path, sha256)
    for source in maker.receipt["inputs"].items() if maker and rows else ():
        line, found = _standing(
            check, *source, lambda row: _id(row) in names or row.get("question_id") in failed
        )
        if line:
            yield line
            yield from _before(stages, *source, found, check)


def _after(
    stages: Sequence[Stage], sha256: str, rows: Sequence[Row], check: Check
) -> Iterator[Line | Stage]:
    """Yield the files that the rows went into, the earliest first, and trainings on them."""
    names = {_id(row) for row in rows}
    for reader in stages if rows else ():
        if sha256 not in reader.receipt["inputs"].values():
            continue
        if _is_training(reader):
            yield reader
        for path, written in reader.receipt["outputs"].items():
            line, found = _standing(
                check, path, written, lambda row: bool(names & {_id(row), row.get("question_id")})
            )
            if line:
                yield line
                if written != sha256:  # of a copy, the readers are all asked already
                    yield from _after(stages, written, found, check)


def _standing(
    check: Check, path: str, sha256: str, is_wanted: Callable[[Row], bool]
) -> tuple[Line | None, list[Row]]:
    """Return the line of a .jsonl file and its wanted rows; no line if it is intact without any."""
    if not (path.startswith(WRITTEN) and path.endswith(".jsonl")):  # a person's rows are not ours
        return None, []
    if (mark := check(path, sha256)) != OK:
        return Line(mark, sha256, path), []
    rows = enumerate(artifacts.read_jsonl(path), 1)
    found = {number: row for number, row in rows if is_wanted(row)}
    numbers = ", ".join(map(str, found))
    return Line(mark, sha256, path, f"line {numbers}") if found else None, list(found.values())


def _id(row: Row) -> str | None:
    return selection.rollout_id(row) if "sample" in row else row.get("id")


def _is_training(stage: Stage) -> bool:
    return isinstance(stage.receipt.get("adapter"), Mapping)


def _training(stages: Sequence[Stage], stage: Stage, check: Check) -> Node:
    """Return the node of a training with its adapter, at all paths that receipts know it by."""
    sha256 = stage.receipt["adapter"]["sha256"]
    parts = [known.receipt[part] for known in stages for part in ("outputs", "inputs")]
    paths = {path for files in parts for path, known in files.items() if known == sha256}
    lines = [_line(check, path, sha256, "adapter") for path in sorted(paths)]
    return Node(_head(stages, stage, " and ".join(stage.paths)), lines)


def faults(node: Node) -> list[str]:
    """Return `path is missing` and the like for every file that is not as receipts state."""
    lines = [line for line in node.lines if line.mark not in (OK, "")]
    own = [f"{line.text}: {line.mark}" for line in lines]
    below = [fault for child in node.children for fault in faults(child)]
    return list(dict.fromkeys(own + below))


def drawn(node: Node, coloured: bool) -> list[str]:
    """Return a tree's lines of text: mark, the first 12 digits of the sha256, path, remark."""

    def walk(node: Node, before: str, below: str) -> Iterator[str]:
        yield _drawn(node.head, before, coloured)
        for line in node.lines:
            yield _drawn(line, below + ("│  " if node.children else "   "), coloured)
        for child in node.children:
            is_last = child is node.children[-1]
            yield from walk(
                child, below + ("└─ " if is_last else "├─ "), below + ("   " if is_last else "│  ")
            )

    return list(walk(node, "", ""))


def _drawn(line: Line, before: str, coloured: bool) -> str:
    mark = f"{line.mark:<10}"
    if coloured and line.mark:
        mark = f"{GREEN if line.mark == OK else RED}{mark}{PLAIN}"
    note = f"  ({line.note})" if line.note else ""
    return f"{mark}  {line.sha256[:12]:<12}  {before}{line.text}{note}"
