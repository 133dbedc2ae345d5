"""Files: whole or not at all, readable for everyone, in plain formats without NaN."""

import errno
import hashlib
import json
import math
import os
import stat

import pytest
import torch
from safetensors import safe_open

from posttrain import artifacts

WRITERS = {
    "text": lambda path: artifacts.write_text(path, "new\n"),
    "json": lambda path: artifacts.write_json(path, {"b": 1, "a": [1.5, None, "é"]}),
    "jsonl": lambda path: artifacts.write_jsonl(path, [{"b": 1, "a": "é"}, {"b": 2, "a": "x"}]),
    "csv": lambda path: artifacts.write_csv(path, [{"b": 1, "a": "é"}], ("a", "b")),
    "tensors": lambda path: artifacts.write_tensors(path, {"w": torch.zeros(2)}),
    "copy": lambda path: artifacts.copy(__file__, path),
}


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_is_written_whole_into_folders_that_are_made_for_it(kind, tmp_path):
    path = tmp_path / "results" / "sft" / "file"
    WRITERS[kind](path)
    first = path.read_bytes()
    assert first
    WRITERS[kind](path)
    assert path.read_bytes() == first
    assert left_in(path.parent) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(kind, fault, step, tmp_path, monkeypatch):
    """A full disk, or Ctrl-C, once everything is written but the name not yet taken."""
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    def failing(*args):
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(os, step, failing)
        with pytest.raises(type(fault)):
            WRITERS[kind](path)
    assert path.read_text(encoding="utf-8") == "old"
    assert left_in(tmp_path) == ["file"]


def test_a_failure_half_way_through_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")

    def write_half():
        with artifacts.replacing(path) as temporary:
            temporary.write_text("ne", encoding="utf-8")
            assert path.read_text(encoding="utf-8") == "old"
            assert temporary.parent == path.parent, "a rename across disks would copy"
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert left_in(tmp_path) == ["file"]

    def rows():
        yield {"a": 1}
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        artifacts.write_jsonl(path, rows())
    assert path.read_text(encoding="utf-8") == "old"
    assert left_in(tmp_path) == ["file"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path):
    path = tmp_path / "file"
    artifacts.write_text(path, "old")
    with path.open(encoding="utf-8") as reader:
        artifacts.write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_in_every_plain_format(value, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ValueError, match=r"Out of range|not JSON compliant"):
        artifacts.write_json(path, {"loss": [value]})
    with pytest.raises(ValueError, match=r"Out of range|not JSON compliant"):
        artifacts.write_jsonl(path, [{"loss": 1.0}, {"loss": value}])
    with pytest.raises(ValueError, match=r"file: the column loss holds -?(nan|inf)"):
        artifacts.write_csv(path, [{"loss": 1.0}, {"loss": value}], ("loss",))
    with pytest.raises(ValueError, match=r"Out of range|not JSON compliant"):
        artifacts.sha256_json({"loss": value})
    assert left_in(tmp_path) == []


def test_csv_holds_the_columns_asked_for_and_gives_values_back(tmp_path):
    path = tmp_path / "file.csv"
    rows = [
        {"n": 1, "loss": 0.1, "said": 'a "b", c\nd\re', "none": None, "more": 1},
        {"n": None, "loss": 1e-9, "said": "", "none": None, "more": 2},
        {"n": 10**15, "loss": 2.0, "said": " é½", "none": None, "more": 3},
    ]
    artifacts.write_csv(path, rows, ("loss", "n", "said", "none"))
    assert path.read_bytes().startswith(b"loss,n,said,none\n0.1,1,")
    assert artifacts.read_csv(path) == [
        {"loss": "0.1", "n": "1", "said": 'a "b", c\nd\re', "none": ""},
        {"loss": "1e-09", "n": "", "said": "", "none": ""},
        {"loss": "2.0", "n": "1000000000000000", "said": " é½", "none": ""},
    ]
    with pytest.raises(KeyError, match="accuracy"):
        artifacts.write_csv(path, rows, ("loss", "accuracy"))
    artifacts.write_csv(path, [], ("loss", "n"))
    assert path.read_bytes() == b"loss,n\n"


def test_json_is_the_same_bytes_whatever_the_order_of_keys(tmp_path):
    one, other = {"b": 1, "a": {"d": 2.5, "c": "é"}}, {"a": {"c": "é", "d": 2.5}, "b": 1}
    artifacts.write_json(tmp_path / "one", one)
    artifacts.write_json(tmp_path / "other", other)
    assert artifacts.sha256_file(tmp_path / "one") == artifacts.sha256_file(tmp_path / "other")
    assert artifacts.sha256_json(one) == artifacts.sha256_json(other)
    assert artifacts.sha256_json(one) != artifacts.sha256_json(one | {"b": 1.5})
    assert artifacts.read_json(tmp_path / "one") == one


def test_jsonl_gives_rows_back_with_line_ends_of_every_kind_inside(tmp_path):
    rows = [{"b": "a\nb\r\u2028\u0085c", "a": 0.1}, {"b": "", "a": 1e300}]
    artifacts.write_jsonl(tmp_path / "rows", rows)
    assert artifacts.read_jsonl(tmp_path / "rows") == rows
    assert list(artifacts.read_jsonl(tmp_path / "rows")[0]) == ["b", "a"]
    assert len((tmp_path / "rows").read_bytes().split(b"\n")) == 3


def test_tensors_are_the_same_bytes_whatever_their_order_and_layout(tmp_path):
    square = torch.arange(9.0).reshape(3, 3)
    artifacts.write_tensors(tmp_path / "one", {"b": square.T, "a": torch.ones(2)})
    artifacts.write_tensors(tmp_path / "two", {"a": torch.ones(2), "b": square.T.contiguous()})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("b"), square.T)


def test_hashes_are_sha256_of_all_bytes(tmp_path):
    path = tmp_path / "file"
    data = os.urandom(artifacts.CHUNK * 2 + 17)
    path.write_bytes(data)
    assert artifacts.sha256_file(path) == hashlib.sha256(data).hexdigest()
    canonical = json.dumps({"a": 1, "b": [2, 3]}, separators=(",", ":")).encode()
    assert artifacts.sha256_json({"b": [2, 3], "a": 1}) == hashlib.sha256(canonical).hexdigest()
    assert artifacts.read_bytes(path, 5) == data[:5]
    assert artifacts.read_bytes(path) == data


def test_links_take_the_place_of_what_was_there_and_never_touch_what_they_lead_to(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for name in ("config.json", "model.safetensors"):
        artifacts.write_text(theirs / name, f"their {name}")
    artifacts.write_text(ours / "config.json", "ours")
    for _ in range(2):  # again over its own links
        artifacts.link_all([theirs / "config.json", theirs / "model.safetensors"], ours)
        assert left_in(ours) == ["config.json", "model.safetensors"]
        assert all(path.is_symlink() for path in ours.iterdir())
        assert (ours / "config.json").read_text(encoding="utf-8") == "their config.json"

    # As in a hub cache: names there are links to files named by their hash.
    (theirs / "blob").write_text("blob", encoding="utf-8")
    (theirs / "tokenizer.json").symlink_to("blob")
    artifacts.link_all([theirs / "tokenizer.json"], ours)
    assert (ours / "tokenizer.json").resolve() == theirs / "blob"

    artifacts.write_text(ours / "config.json", "ours again")
    artifacts.remove([ours / "model.safetensors", ours / "not there"])
    assert (theirs / "config.json").read_text(encoding="utf-8") == "their config.json"
    assert (theirs / "model.safetensors").read_text(encoding="utf-8") == "their model.safetensors"
    assert not (ours / "model.safetensors").is_symlink()
