"""A bundle has the same bytes each time, and one that is not to be trusted is never unpacked."""

import hashlib
import json
import os
import random
import re
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from posttrain import artifacts, bundle
from posttrain.bundle import MANIFEST
from posttrain.errors import BundleError

ROOT = Path(__file__).parent.parent
LIMIT = 1  # megabytes, packed and unpacked
CONTENT = {
    "results/sft/adapter_model.safetensors": bytes(range(256)) * 64,
    "results/summary.csv": b"model,accuracy\nsft,0.5\n",
    "scripts/posttrain/__init__.py": b"",
}
TEXTS = {"config.yaml": "seed: 0\n"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a run, by the names that they have in a bundle; the folder is the run's."""
    monkeypatch.chdir(tmp_path)
    for name, data in CONTENT.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    return {name: name for name in CONTENT}


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Made


def test_what_is_unpacked_is_what_went_in(files):
    bundle.make("bundle.zip", files, TEXTS, LIMIT)
    names = bundle.unpack("bundle.zip", "received", LIMIT)
    found = written(Path("received"))
    assert sorted(found) == names == sorted([*CONTENT, *TEXTS, MANIFEST])
    stated = json.loads(found.pop(MANIFEST))["files"]
    assert found == CONTENT | {name: text.encode() for name, text in TEXTS.items()}
    assert stated == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in found.items()
    }
    assert stat.S_IMODE(Path("received").stat().st_mode) == 0o755


def test_the_bytes_hang_on_nothing_but_names_and_content(files):
    bundle.make("one.zip", files, TEXTS, LIMIT)
    for name in reversed(files):
        os.utime(name, (1e9, 1e9))
        Path(name).chmod(0o700)
    turned = dict(reversed(files.items()))
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from posttrain import bundle; "
        "bundle.make('two.zip', *json.loads(sys.argv[2]), 1)"
    )
    arguments = (str(ROOT / "scripts"), json.dumps([turned, TEXTS]))
    environment = os.environ | {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True)
    assert Path("one.zip").read_bytes() == Path("two.zip").read_bytes()


def test_entries_are_sorted_dated_alike_and_plain_files(files):
    bundle.make("bundle.zip", files, TEXTS, LIMIT)
    with zipfile.ZipFile("bundle.zip") as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == [*sorted([*CONTENT, *TEXTS]), MANIFEST]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {stat.S_IFREG | 0o644}


def test_a_bundle_above_the_limit_is_refused_with_its_largest_entries(files):
    for number, size in enumerate((300_000, 900_000, 100_000)):
        Path(f"noise{number}").write_bytes(random.Random(number).randbytes(size))
        files[f"noise{number}"] = f"noise{number}"
    with pytest.raises(BundleError) as caught:
        bundle.make("bundle.zip", files, TEXTS, LIMIT)
    message = str(caught.value)
    assert re.match(
        r"bundle\.zip would have 1\.30 MB, more than bundle\.largest_megabytes", message
    )
    assert "noise1 0.90, noise0 0.30, noise2 0.10, " in message
    assert "\n" not in message
    assert not Path("bundle.zip").exists()
    assert not list(Path().glob(".bundle*"))
    bundle.make("bundle.zip", files, TEXTS, 1.4)


@pytest.mark.parametrize(
    "name", ["../mine", "/etc/passwd", "über.yaml", "a b", "Results/SUMMARY.csv"]
)
def test_a_name_that_could_not_be_unpacked_is_not_packed(files, name):
    files[name] = "results/summary.csv"
    with pytest.raises(BundleError, match=r"the name|one name on some disks"):
        bundle.make("bundle.zip", files, {"results/summary.CSV": ""}, LIMIT)
    assert not Path("bundle.zip").exists()


def test_a_figure_edited_since_its_receipt_is_refused(files):
    path = "results/summary.csv"
    receipts = [{"outputs": {path: artifacts.sha256_file(path), "results/gone.csv": "0"}}]
    bundle.refuse_changed(files, receipts)
    Path(path).write_text("model,accuracy\nsft,0.9\n")
    with pytest.raises(BundleError, match=rf"{path} was changed since it was written"):
        bundle.refuse_changed(files, receipts)


@pytest.mark.parametrize("mark", ["", "unproven:"])
def test_an_adapter_that_is_not_the_one_scored_is_refused(files, mark):
    path = "results/sft/adapter_model.safetensors"
    rows = [
        {"model": "base", "adapter_sha256": "none"},
        {"model": "sft", "adapter_sha256": mark + artifacts.sha256_file(path)},
    ]
    bundle.refuse_unscored("results/summary.csv", rows, {"sft": path})
    Path(path).write_bytes(b"trained again")
    for run, again in (
        ("results", "make it again: snakemake --force results/sft_eval.csv"),
        ("results/sweeps/a", "remove results/sweeps/a/sft_eval.csv and run the sweep again, with"),
    ):
        with pytest.raises(BundleError) as caught:
            bundle.refuse_unscored(f"{run}/summary.csv", rows, {"sft": path})
        assert str(caught.value).startswith(
            f"{path} is not the adapter whose figures {run}/summary.csv holds as sft; to score it, "
            f"{again}"
        )


# Hostile


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo("placeholder")
    found.filename = found.orig_filename = name  # ZipInfo itself would mend some names
    found.external_attr = mode << 16
    found.compress_type = zipfile.ZIP_DEFLATED
    return found


def hostile(entries: Iterable[tuple[zipfile.ZipInfo | str, bytes]], stated: Any = None) -> None:
    """Write a zip of `entries` as they are; the manifest states them rightly unless `stated`."""
    given = [
        (one if isinstance(one, zipfile.ZipInfo) else entry(one), data) for one, data in entries
    ]
    if stated is None:
        stated = {
            one.filename: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for one, data in given
        }
    with zipfile.ZipFile("bundle.zip", "w") as archive:
        for one, data in given:
            archive.writestr(one, data)
        archive.writestr(entry(MANIFEST), json.dumps({"files": stated}))


def refusal(limit: float = LIMIT) -> str:
    """Return the line that unpacking ends in; nothing may be left of it."""
    before = {str(path) for path in Path().rglob("*")}
    with pytest.raises(BundleError) as caught:
        bundle.unpack("bundle.zip", "received", limit)
    assert {str(path) for path in Path().rglob("*")} == before
    message = str(caught.value)
    assert message.startswith("bundle.zip")
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_what_the_hostile_zips_are_made_by_makes_a_sound_one_too(files):
    hostile([("a/b.txt", b"x"), ("a/c.txt", b"")])
    assert bundle.unpack("bundle.zip", "received", LIMIT) == ["a/b.txt", "a/c.txt", MANIFEST]


@pytest.mark.parametrize(
    "name",
    [
        "/etc/cron.d/mine",
        "../mine.txt",
        "a/../../mine.txt",
        "a/..",
        "..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "",
        "..\\mine.txt",
        "C:/mine.txt",
        "C:mine.txt",
        "\\\\server\\share",
        "~/.bashrc",
        "a\nb",
        "a\x1b[2J",
        "a b",
        "a.",
        "\uff45vil",
        "\u202egpj.exe",
        "con:",
        "x" * 300 + "/\0",
    ],
    ids=ascii,
)
def test_a_name_that_leads_elsewhere_is_refused(files, name):
    hostile([("a.txt", b"a"), (name, b"evil")])
    assert re.search("the name .* is not of plain parts|is a link, a folder", refusal())
    assert not Path("mine.txt").exists()


def test_a_name_that_the_library_cuts_at_a_zero_byte_is_refused(files):
    hostile([("a.txt", b"a"), ("b.txtX/../evil", b"evil")])
    data = Path("bundle.zip").read_bytes()
    Path("bundle.zip").write_bytes(data.replace(b"b.txtX/../evil", b"b.txt\0/../evil"))
    assert zipfile.ZipFile("bundle.zip").namelist()[1] == "b.txt", "the library cuts no more"
    assert "the name 'b.txt\\x00/../evil'" in refusal()


@pytest.mark.parametrize(
    ("mode", "data"),
    [
        (stat.S_IFLNK | 0o777, b"/etc"),
        (stat.S_IFIFO | 0o644, b""),
        (stat.S_IFCHR | 0o644, b""),
        (stat.S_IFSOCK | 0o644, b""),
        (stat.S_IFDIR | 0o755, b""),
    ],
    ids=["link", "pipe", "device", "socket", "folder"],
)
def test_what_is_no_plain_file_is_refused(files, mode, data):
    hostile([(entry("a", mode), data)])
    assert "a is a link, a folder or a device" in refusal()


def test_a_file_through_a_link_of_the_same_zip_is_refused(files):
    hostile([(entry("a", stat.S_IFLNK | 0o777), b"/tmp"), ("a/evil", b"evil")])
    assert "is a file and, for a/evil, a folder" in refusal()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("one", "two"),
    [("a.txt", "a.txt"), ("a.txt", "A.TXT"), ("a/b", "A/b"), (MANIFEST, "Manifest.json")],
)
def test_two_files_of_one_name_are_refused(files, one, two):
    hostile([(one, b"good"), (two, b"evil")], stated={})
    assert "are two files, but one name on some disks" in refusal()


@pytest.mark.parametrize(("one", "two"), [("a", "a/b"), ("a/b", "A"), ("a/b/c", "a/B")])
def test_a_file_that_is_also_a_folder_is_refused(files, one, two):
    hostile([(one, b"x"), (two, b"y")])
    assert re.search("is a file and, for .*, a folder", refusal())


def test_a_file_that_the_manifest_lacks_is_refused(files):
    good = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    hostile([("a", b"x"), ("run_me.py", b"evil")], stated={"a": good})
    assert "'run_me.py' stands in the zip alone" in refusal()


def test_a_file_that_the_zip_lacks_is_refused(files):
    good = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    hostile([("a", b"x")], stated={"a": good, "b": good})
    assert "'b' stands in the manifest alone" in refusal()


@pytest.mark.parametrize(
    "stated",
    [
        {"a": {"bytes": 1, "sha256": "0" * 64}},
        {"a": {"bytes": 2, "sha256": hashlib.sha256(b"x").hexdigest()}},
        {"a": {"sha256": hashlib.sha256(b"x").hexdigest()}},
        {"a": None},
        ["a"],
    ],
    ids=["sha256", "size", "no size", "nothing", "list"],
)
def test_a_file_that_is_not_what_the_manifest_states_is_refused(files, stated):
    hostile([("a", b"x")], stated=stated)
    assert re.search("a is not what the manifest states|manifest.json is none", refusal())


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"null", b'{"files": 7}', b"[" * 100_000, b"\xff", b'{"files": [[1]]}'],
    ids=ascii,
)
def test_a_manifest_that_is_none_is_refused(files, manifest):
    with zipfile.ZipFile("bundle.zip", "w") as archive:
        archive.writestr(entry(MANIFEST), manifest)
    assert "manifest.json is none" in refusal()


def test_a_zip_without_a_manifest_is_refused(files):
    with zipfile.ZipFile("bundle.zip", "w") as archive:
        archive.writestr(entry("a"), b"x")
    assert "no manifest.json" in refusal()


# Bombs


def test_what_would_unpack_to_more_than_the_limit_is_refused_unread(files):
    hostile([(f"zeros{n}", bytes(600_000)) for n in range(2)])
    assert Path("bundle.zip").stat().st_size < 10_000
    assert "1.20 MB unpacked, more than 1" in refusal()
    assert len(bundle.unpack("bundle.zip", "received", 1.3)) == 3


def lie(name: bytes, change: Callable[[int], int], at: int, where: bytes = b"PK\1\2") -> None:
    """Change a 4-byte number of an entry in the zip's directory, `at` bytes behind its mark."""
    data = bytearray(Path("bundle.zip").read_bytes())
    [mark] = [
        found.start()
        for found in re.finditer(re.escape(where), data)
        if data[found.start() + 46 :].startswith(name)
    ]
    [number] = struct.unpack_from("<I", data, mark + at)
    struct.pack_into("<I", data, mark + at, change(number))
    Path("bundle.zip").write_bytes(data)


def test_a_bomb_that_states_a_small_size_unpacks_to_no_more_than_that(files, monkeypatch):
    hostile([("zeros", bytes(50_000_000))])
    lie(b"zeros", lambda size: 1000, at=24)  # the unpacked size
    written: list[int] = []
    read = bundle._read
    monkeypatch.setattr(
        bundle, "_read", lambda *one: (written.append(len(b)) or b for b in read(*one))
    )
    assert "zeros cannot be unpacked" in refusal() or "zeros is not what" in refusal()
    assert sum(written) < 10_000


def test_entries_that_share_their_bytes_are_refused(files):
    """As in a zip of 42 kB that holds gigabytes: every entry is the same one."""
    hostile([("aaaa", bytes(100)), ("bbbb", bytes(100))])
    lie(b"bbbb", lambda offset: 0, at=42)  # where its bytes begin
    assert "cannot be unpacked" in refusal()


def test_too_many_entries_are_refused(files, monkeypatch):
    monkeypatch.setattr(bundle, "MOST_ENTRIES", 3)
    hostile([(f"a{n}", b"") for n in range(3)])
    assert "4 entries, more than 3" in refusal()


@pytest.mark.parametrize("packed", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_an_unusual_packing_is_refused(files, packed):
    odd = entry("a")
    odd.compress_type = packed
    hostile([(odd, b"x")])
    assert "packed in an unusual way" in refusal()


def test_an_encrypted_entry_is_refused(files):
    hostile([("aaaa", b"x")])
    lie(b"aaaa", lambda flags: flags | 1, at=8)
    assert "aaaa is encrypted" in refusal()


# Damaged


@pytest.mark.parametrize(
    "data", [b"", b"PK\5\6", b"no zip at all", b"PK\3\4" + bytes(100)], ids=ascii
)
def test_what_is_no_zip_is_refused(files, data):
    Path("bundle.zip").write_bytes(data)
    assert "is no sound zip" in refusal()


def test_a_file_that_is_not_there_is_named(files):
    assert refusal() == "bundle.zip: no such file; name the bundle that is to be opened"


def test_no_damaged_bundle_is_unpacked_to_other_files(files):
    """Flipped bits and cuts anywhere: refused in one line, or harmless and unpacked as it was."""
    bundle.make("bundle.zip", files, TEXTS, LIMIT)
    sound = Path("bundle.zip").read_bytes()
    bundle.unpack("bundle.zip", "received", LIMIT)
    good = written(Path("received"))
    rng = random.Random(0)
    refused = 0
    for number in range(400):
        place = rng.randrange(len(sound))
        flipped = sound[:place] + bytes([sound[place] ^ 1 << rng.randrange(8)]) + sound[place + 1 :]
        Path("bundle.zip").write_bytes(flipped if number % 4 else sound[:place])
        folder = Path(f"received{number}")
        try:
            bundle.unpack("bundle.zip", folder, LIMIT)
        except BundleError:
            assert not folder.exists()
            refused += 1
        else:
            assert written(folder) == good
    assert refused > 300


# Where to


def test_a_folder_that_holds_something_is_left_alone(files):
    bundle.make("bundle.zip", files, TEXTS, LIMIT)
    Path("received").mkdir()
    Path("received/config.yaml").write_text("mine")
    with pytest.raises(FileExistsError, match="received is there already"):
        bundle.unpack("bundle.zip", "received", LIMIT)
    assert written(Path("received")) == {"config.yaml": b"mine"}
    Path("elsewhere").mkdir()
    Path("link").symlink_to("elsewhere")
    with pytest.raises(FileExistsError, match="link is there already"):
        bundle.unpack("bundle.zip", "link", LIMIT)


def test_the_script_unpacks_or_ends_in_one_line(files):
    bundle.make("bundle.zip", files, TEXTS, LIMIT)
    Path("empty").mkdir()
    command = [sys.executable, str(ROOT / "scripts/open_bundle.py"), "bundle.zip"]
    done = subprocess.run([*command, "empty"], capture_output=True, text=True, check=True)
    assert done.stdout == "5 files in empty, each as the manifest states\n"
    for arguments in (["empty"], ["other", "--largest-megabytes", "0.001"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert not Path("other").exists()
