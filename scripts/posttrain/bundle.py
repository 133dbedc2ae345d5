"""Bundles: files of a run as one zip, the same bytes each time, and read back without trust.

A zip is a program of sorts: its names say where to write and its sizes how much. So nothing is
unpacked but plain files under plain names, each as long as the zip's directory says and of the
sha256 that its manifest says, into a folder that was not there before.
"""

import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain import artifacts, lineage
from posttrain.errors import BundleError

MANIFEST = "manifest.json"
# No part ends in a dot, so none is . or .. and no system takes two names for one.
NAME = re.compile(r"[\w.-]*[\w-](?:/[\w.-]*[\w-])*", re.ASCII)
WRITTEN = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: when is no property of a bundle
MODE = stat.S_IFREG | 0o644
MEGABYTE = 10**6
SHOWN = 5
LONGEST_MANIFEST = 10 * MEGABYTE
MOST_ENTRIES = 10_000
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def make(
    path: str | Path,
    files: Mapping[str, str | Path],
    texts: Mapping[str, str],
    largest_megabytes: float,
) -> None:
    """Write a zip of `files` and `texts`, by the names they have in it, and a manifest of both.

    Entries are sorted, dated alike, plain files; the manifest, their sizes and sha256, comes last.
    Raises: BundleError, and leaves no zip, if a name is none that `unpack` takes or the zip has
        more than `largest_megabytes` (10^6 bytes), with the largest entries.
    """
    names = sorted([*files, *texts])
    _refuse_names(names)
    stated = {}
    with artifacts.replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in names:
                data = texts[name].encode() if name in texts else artifacts.read_bytes(files[name])
                _add(archive, name, data)
                stated[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            _add(archive, MANIFEST, json.dumps({"files": stated}, indent=2).encode() + b"\n")
            entries = archive.infolist()
        size = temporary.stat().st_size
        if size > largest_megabytes * MEGABYTE:
            entries.sort(key=lambda entry: -entry.compress_size)
            largest = ", ".join(
                f"{entry.filename} {entry.compress_size / MEGABYTE:.2f}"
                for entry in entries[:SHOWN]
            )
            raise BundleError(
                f"{path} would have {size / MEGABYTE:.2f} MB, more than bundle.largest_megabytes "
                f"({largest_megabytes}); the largest in it, in MB: {largest}; train smaller "
                "adapters (lora.r), evaluate fewer, or allow more"
            )


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, WRITTEN)
    entry.create_system = 3  # Unix, wherever it is made: whose permissions these are
    entry.external_attr = MODE << 16
    archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=9)


def refuse_changed(paths: Iterable[str], receipts: Iterable[Mapping[str, Any]]) -> None:
    """Raise BundleError if one of `paths` is not, on the disk, what one of `receipts` states."""
    stated = {path: sha256 for one in receipts for path, sha256 in one["outputs"].items()}
    for path in paths:
        if path in stated and artifacts.sha256_file(path) != stated[path]:
            raise BundleError(
                f"{path} was changed since it was written; {lineage.made_again(path)}"
            )


def refuse_unscored(
    summary: str | Path, rows: Iterable[Mapping[str, str]], weights: Mapping[str, str | Path]
) -> None:
    """Raise BundleError if an adapter is not the one whose figures stand in the summary.

    Args: summary, its path, beside which the evaluations lie; rows, its own; weights, model -> the
        file of its adapter.
    """
    scored = {row["model"]: row["adapter_sha256"].removeprefix("unproven:") for row in rows}
    for model, path in weights.items():
        if artifacts.sha256_file(path) != scored[model]:
            raise BundleError(
                f"{path} is not the adapter whose figures {summary} holds as {model}; to score it, "
                f"{lineage.made_again(Path(summary).with_name(f'{model}_eval.csv'))}"
            )


def unpack(path: str | Path, folder: str | Path, largest_megabytes: float) -> list[str]:
    """Unpack a bundle into `folder`, which must not be there or be empty; return the names.

    Raises: FileExistsError if `folder` is there and not empty; BundleError, one line, leaving
        nothing behind, if anything of the zip is not as it should be: more unpacked than
        `largest_megabytes` (10^6 bytes), a name that is not plain or there twice, case aside,
        anything but plain files, or a file that the manifest lacks, misses, or states another
        size or sha256 of.
    """
    with artifacts.new_folder(folder) as temporary, _opened(path) as archive:
        entries = {entry.filename: entry for entry in _checked(archive, largest_megabytes)}
        stated = _stated(archive, entries)
        for name, entry in entries.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with target.open("xb") as file:
                for block in _read(archive, entry):
                    digest.update(block)
                    file.write(block)
            found = {"bytes": target.stat().st_size, "sha256": digest.hexdigest()}
            if name != MANIFEST and found != stated[name]:
                raise BundleError(f"{name} is not what the manifest states: {found}")
    return sorted(entries)


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; every fault in it is one of the zip at `path`."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such file; name the bundle that is to be opened") from error
    except Exception as error:  # whatever zipfile stumbles over, the file is at fault
        raise BundleError(f"{path} is no sound zip ({error}); copy it again") from error
    with archive:
        try:
            yield archive
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error


def _checked(archive: zipfile.ZipFile, largest_megabytes: float) -> list[zipfile.ZipInfo]:
    """Return the entries once what the zip's directory says of them is harmless."""
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise BundleError(f"{len(entries)} entries, more than {MOST_ENTRIES}")
    _refuse_names([entry.orig_filename for entry in entries])
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.external_attr & 0x10:  # 0x10: a folder, on DOS
            raise BundleError(f"{entry.filename} is a link, a folder or a device, not a file")
        if entry.flag_bits & 0x1 or entry.compress_type not in COMPRESSIONS:
            raise BundleError(f"{entry.filename} is encrypted or packed in an unusual way")
    size = sum(entry.file_size for entry in entries)
    if size > largest_megabytes * MEGABYTE:
        raise BundleError(
            f"{size / MEGABYTE:.2f} MB unpacked, more than {largest_megabytes}; allow more with "
            "--largest-megabytes if you trust its maker"
        )
    return entries


def _refuse_names(names: Iterable[str]) -> None:
    """Raise BundleError for a name that could write elsewhere, or over another, on any system."""
    seen: dict[str, str] = {}
    for name in names:
        if not NAME.fullmatch(name):
            raise BundleError(
                f"the name {name[:200]!r} is not of plain parts (letters, digits, _ . -) below the "
                "folder"
            )
        if other := seen.get(name.lower()):
            raise BundleError(f"{other} and {name} are two files, but one name on some disks")
        seen[name.lower()] = name
    for name in seen:
        if over := next((str(p) for p in Path(name).parents if str(p) in seen), None):
            raise BundleError(f"{seen[over]} is a file and, for {seen[name]}, a folder")


def _stated(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """Return what the manifest states of each file, once it is about these files and no other."""
    if MANIFEST not in entries or entries[MANIFEST].file_size > LONGEST_MANIFEST:
        raise BundleError(f"no {MANIFEST}, or one of more than {LONGEST_MANIFEST} bytes: no bundle")
    try:
        stated = json.loads(b"".join(_read(archive, entries[MANIFEST])))["files"]
        named = stated.keys()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is none ({type(error).__name__})") from error
    if odd := sorted(named ^ (entries.keys() - {MANIFEST})):
        where = "in the zip" if odd[0] in entries else "in the manifest"
        raise BundleError(f"{odd[0][:200]!r} stands {where} alone, of {len(odd)} such names")
    return stated


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield an entry in blocks, never more than the zip's directory says it has."""
    try:
        with archive.open(entry) as file:
            while block := file.read(artifacts.CHUNK):
                yield block
    except Exception as error:  # whatever zipfile stumbles over, the file is at fault
        raise BundleError(f"{entry.filename} cannot be unpacked ({error}): damaged") from error
