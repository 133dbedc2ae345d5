"""The only module that touches files: whole files or none, hashed, in plain formats.

Every write goes to a temporary name beside the target, is flushed to the disk, and then takes the
target's name in one step, so a reader never meets half a file and a crash leaves the old one.
"""

import csv
import fcntl
import glob
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

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
    for litter in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        litter.unlink(missing_ok=True)  # of a writer that was killed
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _take_name(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def files_into(folder: str | Path) -> Iterator[Path]:
    """Yield a folder beside `folder`; on success its files move there, each whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        yield Path(name)
        for file in sorted(Path(name).iterdir()):
            _take_name(file, folder / file.name)


def _take_name(temporary: Path, path: Path) -> None:
    temporary.chmod(0o644)  # made private; outputs are for everyone to read
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, which takes its name on success and is gone otherwise.

    Raises: FileExistsError, at once, if `folder` is there and is not an empty folder.
    """
    folder = Path(folder)
    if folder.is_symlink() or (
        folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise FileExistsError(f"{folder} is there already, and not an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise


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


def write_tensors(
    path: str | Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, keys sorted, with the `format: pt` mark that peft looks for."""
    from safetensors.torch import save

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = save(ordered, {"format": "pt", **(metadata or {})})
    with replacing(path) as temporary:
        # Not by save_file: its own error would hide that the disk is full.
        temporary.write_bytes(content)


def read_tensors(path: str | Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Read a safetensors file's tensors and its metadata.

    Raises: SafetensorError where it is none.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


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


def sha256_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the sha256 of tensors as safetensors holds them, keys sorted."""
    from safetensors.torch import save

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return hashlib.sha256(save(ordered)).hexdigest()


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


def remove_folders(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are there, with all they hold."""
    for folder in list(folders):
        if folder.is_dir():
            shutil.rmtree(folder)


def link_all(files: Iterable[Path], folder: Path) -> None:
    """Make `folder` hold a link to each of `files`, in place of what it held by that name."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).symlink_to(file.resolve())


@contextmanager
def locked(path: str | Path, patience: float = math.inf) -> Iterator[bool | None]:
    """Hold the lock file at `path`, which ends with this process however that ends.

    Args: patience, seconds to wait for another process that holds it.
    Yields: whether it is held; None on a file system without locks.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        yield _flock(file, time.monotonic() + patience)


def _flock(file: TextIO, until: float) -> bool | None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)
        except OSError:
            return None
        else:
            return True
