"""The only module that touches files: whole files or none, hashed, in plain formats.

Every write goes to a temporary name beside the target, is flushed to the disk, and then takes the
target's name in one step, so a reader never meets half a file and a crash leaves the old one.
"""

import csv
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 20


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it onto `path`.

    Raises: OSError as the disk gives it (full, read-only); the temporary file is gone then and
        whatever stood at `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; outputs are for everyone to read
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


@contextmanager
def growing(path: str | Path, size: int) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a file to append to, and how much of its `size` bytes an earlier writer left in it.

    What is appended stays, however the block ends; a file that is too long is begun anew.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size > size:
        path.unlink()
    with path.open("ab") as file:
        yield file, file.tell()
        file.flush()
        os.fsync(file.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with line feeds, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, keys in the rows' own order. Raises ValueError on NaN."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV with exactly `columns`; None is an empty cell.

    Raises: KeyError where a row lacks a column, ValueError on NaN or infinity.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = [row[column] for column in columns]
        for column, cell in zip(columns, cells, strict=True):
            if isinstance(cell, float) and not math.isfinite(cell):
                raise ValueError(f"{path}: the column {column} holds {cell}")
        writer.writerow(cells)
    write_text(path, text.getvalue())


def write_tensors(path: str | Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Write tensors as safetensors, keys sorted, with the `format: pt` mark that peft looks for."""
    from safetensors.torch import save_file

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with replacing(path) as temporary:
        save_file(ordered, temporary, metadata={"format": "pt"})


def read_bytes(path: str | Path, count: int = -1) -> bytes:
    """Read a file's first `count` bytes, fewer where it is shorter; by default the whole file."""
    with Path(path).open("rb") as file:
        return file.read(count)


def read_json(path: str | Path) -> Any:
    """Read one JSON value."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read one JSON object a line."""
    with Path(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def sha256_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def git_blob_id(path: str | Path) -> str:
    """Return the id that git gives a file's bytes: the sha1, in hex, of their number and them."""
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256_json(value: Any) -> str:
    """Return the sha256 of a plain value in its canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV's rows, every value as the text that stands there."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def copy(source: str | Path, target: str | Path) -> None:
    """Copy a file's bytes, whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def remove(files: Iterable[Path]) -> None:
    """Remove those of the files that are there; of a link the link, never what it leads to."""
    for file in list(files):
        file.unlink(missing_ok=True)


def link_all(files: Iterable[Path], folder: Path) -> None:
    """Make `folder` hold a link to each of `files`, in place of what it held by that name."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).symlink_to(file.resolve())
