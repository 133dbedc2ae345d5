"""Every way in which a weights file can be wrong ends in one line, and none is loaded."""

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain import artifacts, weights
from posttrain.errors import AdapterError, ModelError

RANK = 4


def tiny_adapter(folder: Path, target_modules: str | list[str], layers: int = 2) -> dict:
    """Save a real PEFT adapter with non-zero lora_B; return the base model's linear shapes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    base = LlamaForCausalLM(config)
    shapes = {name: tuple(weight.shape) for name, weight in base.named_parameters()}
    lora = LoraConfig(r=RANK, target_modules=target_modules, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    model.save_pretrained(folder, save_embedding_layers=False)
    return shapes


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    shapes = tiny_adapter(folder, "all-linear")
    (folder / "shapes.json").write_text(json.dumps(shapes))
    return folder


@pytest.fixture(scope="module")
def expected(adapter: Path) -> dict[str, tuple[int, ...]]:
    shapes = json.loads((adapter / "shapes.json").read_text())
    modules = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    return weights.expected_adapter(shapes, modules, RANK)


@pytest.fixture(scope="module")
def original(adapter: Path) -> bytes:
    return (adapter / weights.WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def tensors(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / weights.WEIGHTS)


def unpacked(file: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(file[:8], "little")
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def packed(header: dict | str | bytes, data: bytes) -> bytes:
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + data


def put(path: Path, file: bytes) -> None:
    """Write a new file; to cut an old one short first costs ext4 a flush of 3 ms."""
    path.unlink(missing_ok=True)
    path.write_bytes(file)


def refusal(call: Callable[[], object], kind: type[Exception] = AdapterError) -> str:
    """Return the one line that `call` ends in."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is sound passes


def test_peft_file_is_read_as_the_library_reads_it(adapter, expected, original, tensors):
    path = adapter / weights.WEIGHTS
    found = weights.read(path, expected, artifacts.sha256_file(path))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    specs = weights.header(path)
    assert {name: spec.shape for name, spec in specs.items()} == expected
    _, data = unpacked(original)
    for name, spec in specs.items():
        assert data[spec.start : spec.end] == tensors[name].numpy().tobytes()


@pytest.mark.parametrize(
    ("target_modules", "layers"),
    [
        ("all-linear", 2),  # saved as full names
        ("all-linear", 4),  # 20 modules and more are saved as their shortest endings
        (["q_proj", "v_proj"], 2),
        (r".*\.0\.mlp\.(up|down)_proj", 2),  # saved as the regular expression
    ],
)
def test_expected_adapter_is_what_peft_saves(tmp_path, target_modules, layers):
    shapes = tiny_adapter(tmp_path, target_modules, layers)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    expected = weights.expected_adapter(shapes, saved, RANK)
    specs = weights.header(tmp_path / weights.WEIGHTS)
    assert {name: spec.shape for name, spec in specs.items()} == expected


def test_expected_adapter_refuses_modules_of_another_model(expected):
    base = {"transformer.h.0.attn.c_attn.weight": (96, 32)}
    message = refusal(lambda: weights.expected_adapter(base, ["q_proj"], RANK))
    assert "['q_proj'] names no matrix of the base model" in message
    assert "regular expression" in refusal(lambda: weights.expected_adapter(base, "(", RANK))


def test_every_dtype_of_the_table_loads(tmp_path):
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8"
    saved = {n: torch.ones(2, 3, dtype=getattr(torch, n)) for n in [*names.split(), "bool"]}
    save_file(saved | {"scalar": torch.tensor(1.0)}, tmp_path / "w.safetensors")
    assert weights.read(tmp_path / "w.safetensors").keys() == {*saved, "scalar"}
    used = {spec.dtype for spec in weights.header(tmp_path / "w.safetensors").values()}
    assert used == set(weights.BYTES)


def test_norms_are_the_float64_norms_and_the_same_on_any_threads(tensors):
    big = {"big": torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()}
    for some in (tensors, big):
        for name, norm in weights.norms(some).items():
            assert norm == pytest.approx(some[name].double().norm().item(), rel=1e-12)
    assert list(weights.norms(tensors)) == sorted(tensors)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(weights.norms(big))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


# Known failures of the contents


def changed(tensors: dict, **changes: torch.Tensor | None) -> dict:
    """Return the tensors with the first changed, renamed or dropped."""
    first = min(tensors)
    rest = {name: tensor for name, tensor in tensors.items() if name != first}
    return rest | {(first if name == "first" else name): t for name, t in changes.items()}


def test_untrained_lora_b_is_found(tensors):
    assert weights.lora_b_is_zero(tensors) == []
    one = next(name for name in tensors if "lora_B" in name)
    assert weights.lora_b_is_zero(tensors | {one: torch.zeros(32, RANK)}) == [one]
    fresh = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in tensors.items()}
    assert weights.lora_b_is_zero(fresh) == sorted(n for n in tensors if "lora_B" in n)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: changed(t), "of 28 tensors due, 1 missing ('base_model.model"),
        (lambda t: changed(t, other=t[min(t)]), "1 unexpected ('other')"),
        (lambda t: t | {"lora_C": torch.ones(1)}, "1 unexpected ('lora_C')"),
        (lambda t: changed(t, first=t[min(t)].int()), "1 not floating-point"),
        (
            lambda t: {n: x.repeat((2, 1) if "lora_A" in n else (1, 2)) for n, x in t.items()},
            "is (8, 48), not (4, 48)'",
        ),
        (
            lambda t: changed(t, first=t[min(t)].clone().fill_(float("nan"))),
            "192 of 192 values that are NaN or infinite",
        ),
        (lambda t: changed(t, first=t[min(t)].clone().fill_(float("inf"))), "NaN or infinite"),
    ],
    ids=["missing", "renamed", "unexpected", "integers", "rank 8", "NaN", "infinite"],
)
def test_wrong_contents_are_refused(tmp_path, tensors, expected, change, says):
    path = tmp_path / weights.WEIGHTS
    save_file(change(dict(tensors)), path)
    assert says in refusal(lambda: weights.read(path, expected))


def test_changed_number_is_seen_by_the_receipts_sha256_alone(tmp_path, adapter, original, expected):
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(original[:-4] + bytes([original[-4] ^ 1]) + original[-3:])
    weights.read(path, expected)  # a sound file with another number in it
    receipt = artifacts.sha256_file(adapter / weights.WEIGHTS)
    message = refusal(lambda: weights.read(path, expected, receipt))
    assert f"its receipt says {receipt}" in message


# Known failures of the file

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 17\n"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "has 0 bytes"),
        (b"\x01\x02", "has 2 bytes"),
        (LFS, "a git-lfs pointer, not a safetensors file; fetch the real file with `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>not found</html>", "an HTML page"),
        (b'{"architectures": ["LlamaForCausalLM"]}', "a JSON text"),
        (pickle.dumps({"weights": list(range(99))}), "a renamed pickle"),
        ((1 << 60).to_bytes(8, "little") + b"{}", f"a header of {1 << 60} bytes"),
        ((99).to_bytes(8, "little") + b"{}", "has 10 bytes, its header alone 99: the file was"),
        (packed("[]", b""), "does not begin with '{'"),
        (packed('{"a":', b""), "is not JSON"),
        (packed(b'{"\xff":1}', b""), "is not JSON"),
        (packed('{"a":' * 9999 + "}" * 9999, b""), "is not JSON"),
        (packed('{"a":' + "9" * 9999 + "}", b""), "is not JSON"),
        (packed({}, b""), "holds no tensors"),
        (packed({"a": F32 | {"dtype": "F31"}}, b"0" * 8), "dtype 'F31', none of"),
        (packed({"a": F32 | {"dtype": ["F32"]}}, b"0" * 8), "dtype ['F32'], none of"),
        (packed({"a": F32 | {"shape": [-2]}}, b"0" * 8), "shape [-2]"),
        (packed({"a": F32 | {"shape": [True, 2]}}, b"0" * 8), "shape [True, 2]"),
        (packed({"a": F32 | {"shape": [2.0]}}, b"0" * 8), "shape [2.0]"),
        (packed({"a": F32 | {"shape": [0, 1 << 40]}}, b"0" * 8), "shape [0, "),
        (packed({"a": F32 | {"shape": [1 << 64]}}, b"0" * 8), "shape [1844"),
        (packed({"a": F32 | {"shape": [1] * 999 + [2]}}, b"0" * 8), "at most 8 whole"),
        (packed({"a": F32 | {"shape": [3]}}, b"0" * 8), "takes 12 bytes as F32 (3,)"),
        (packed({"a": F32 | {"data_offsets": [8]}}, b"0" * 8), "data_offsets [8]"),
        (packed({"a": F32 | {"data_offsets": [8, 0]}}, b"0" * 8), "its offsets span -8"),
        (packed({"a": F32 | {"more": 1}}, b"0" * 8), "not exactly dtype, shape"),
        (packed({"a": None}, b"0" * 8), "described by None"),
        (packed({"__metadata__": {"format": 1}, "a": F32}, b"0" * 8), "its __metadata__ is"),
        (packed({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, b"0" * 12), "overlaps"),
        (packed({"a": F32, "b": F32}, b"0" * 8), "overlaps"),
        (packed({"a": F32, "b": F32 | {"data_offsets": [9, 17]}}, b"0" * 17), "leaves a gap"),
        (packed({"a": F32 | {"data_offsets": [1, 9]}}, b"0" * 9), "leaves a gap"),
        (packed({"a": F32}, b"0" * 7), "the file was cut off"),
        (packed({"a": F32}, b"0" * 9), "something was added"),
        (packed({"\n" * 999: F32}, b"0" * 7), "the file was cut off"),
    ],
)
def test_broken_file_is_refused_in_one_line(tmp_path, file, says):
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(file)
    for check in (weights.header, weights.read):
        message = refusal(lambda check=check: check(path))
        assert message.startswith(f"{path}: ")
        assert says in message
        assert len(message) < 500 + len(str(path))


def test_duplicate_key_is_refused_where_python_alone_takes_the_last(tmp_path):
    path, text = tmp_path / weights.WEIGHTS, json.dumps(F32)
    header = f'{{"a":{text},"a":{text}}}'
    assert json.loads(header) == {"a": F32}, "this test no longer sees the fault"
    path.write_bytes(packed(header, b"0" * 8))
    assert "has the key 'a' twice" in refusal(lambda: weights.header(path))
    path.write_bytes(packed(f'{{"a":{text[:-1]},"shape":[2]}}}}', b"0" * 8))
    assert "has the key 'shape' twice" in refusal(lambda: weights.header(path))


def test_what_only_the_library_refuses_ends_in_the_same_way(tmp_path):
    path = tmp_path / weights.WEIGHTS
    path.write_bytes(packed({"\ud800": F32}, b"0" * 8))  # half a surrogate pair is no text
    weights.header(path)
    assert "the safetensors library refuses it" in refusal(lambda: weights.read(path))


def test_missing_file_and_folder_are_named(tmp_path):
    assert "No such file" in refusal(lambda: weights.read(tmp_path / "none"))
    assert "Is a directory" in refusal(lambda: weights.header(tmp_path))
    assert "No such file" in refusal(lambda: weights.refuse_pickles(tmp_path / "none"))


def test_base_models_fault_is_a_model_error(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(LFS)
    refusal(lambda: weights.header(path, ModelError), ModelError)
    refusal(lambda: weights.read(path, fault=ModelError), ModelError)


# Pickles


class Payload:
    """What a pickle can do to whoever loads it: here it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def by_pickle(content: dict, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, by_pickle])
def test_planted_payload_does_not_run(tmp_path, tensors, save):
    trace, path = tmp_path / "trace", tmp_path / weights.PICKLED_WEIGHTS
    save({**tensors, "more": Payload(trace)}, path)
    assert "nothing of it was loaded" in refusal(lambda: weights.convert_bin(path))
    as_safetensors = tmp_path / weights.WEIGHTS
    as_safetensors.write_bytes(path.read_bytes())
    assert "renamed pickle" in refusal(lambda: weights.read(as_safetensors))
    assert not trace.exists()
    if save is torch.save:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert trace.exists(), "this payload no longer does anything"


def test_conversion_keeps_every_bit(tmp_path, tensors, expected):
    path = tmp_path / weights.PICKLED_WEIGHTS
    shared = torch.cat([tensors[name].flatten() for name in tensors])
    views, at = {}, 0
    for name, tensor in tensors.items():  # all of them views of one storage, as torch may save
        views[name] = torch.nn.Parameter(shared[at : at + tensor.numel()].view(tensor.shape))
        at += tensor.numel()
    for content in (tensors, views):
        torch.save(content, path)
        found = weights.convert_bin(path, expected)
        assert all(torch.equal(found[name], tensors[name]) for name in expected)
        artifacts.write_tensors(tmp_path / weights.WEIGHTS, found)
        assert weights.read(tmp_path / weights.WEIGHTS, expected).keys() == found.keys()
    torch.save({"a": torch.ones(1)}, path)
    assert "28 missing" in refusal(lambda: weights.convert_bin(path, expected))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "holds a list, not a dict"),
        ({"model": {"a": torch.ones(1)}}, "'model': dict"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch': int"),
        ({1: torch.ones(1)}, "1: torch.float32"),
        ({"a": torch.ones(1).int()}, "'a': torch.int32"),
        ({"a": torch.ones(2, 2).to_sparse()}, "'a': torch.float32"),
        ({"a": torch.ones(2, device="meta")}, "'a': torch.float32"),
        ({"a": torch.ones(1).expand(1 << 40)}, "claims 4398046511104 bytes"),
        ({"a": torch.tensor([float("nan")])}, "NaN or infinite"),
        ({"a": torch.ones(0)}, "shape [0]"),
        ({}, "holds no tensors"),
    ],
)
def test_pickle_of_anything_but_an_adapter_is_refused(tmp_path, content, says):
    path = tmp_path / weights.PICKLED_WEIGHTS
    torch.save(content, path)
    assert says in refusal(lambda: weights.convert_bin(path))


def test_damaged_pickle_ends_in_one_line(tmp_path, tensors):
    path = tmp_path / weights.PICKLED_WEIGHTS
    torch.save(tensors, path)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(100):
        put(path, whole[: rng.randrange(len(whole))])
        refusal(lambda: weights.convert_bin(path))
        put(path, rng.randbytes(rng.randrange(200)))
        refusal(lambda: weights.convert_bin(path))


def test_folder_with_pickle_or_without_weights_is_refused(tmp_path, original):
    (tmp_path / "adapter_config.json").write_text("{}")
    message = refusal(lambda: weights.refuse_pickles(tmp_path))
    assert "weights missing" in message
    assert "'adapter_config.json'" in message
    bin_file, safe_file = tmp_path / weights.PICKLED_WEIGHTS, tmp_path / weights.WEIGHTS
    bin_file.touch()
    message = refusal(lambda: weights.refuse_pickles(tmp_path, "theirs"))
    assert "snakemake results/converted/theirs/adapter_model.safetensors --config" in message
    assert f"'convert={{theirs: {tmp_path}}}'" in message
    assert "move it away" not in message
    safe_file.write_bytes(original)
    assert "move it away" in refusal(lambda: weights.refuse_pickles(tmp_path))
    bin_file.unlink()
    weights.refuse_pickles(tmp_path)
    (tmp_path / "optimizer.PT").touch()
    assert "holds 'optimizer.PT': pickles" in refusal(lambda: weights.refuse_pickles(tmp_path))


# Fuzz

RENAMED = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"


def edit_header(rng: random.Random, file: bytes) -> bytes:
    """Change what the header says of one tensor, and keep header and length in step."""
    header, data = unpacked(file)
    names = sorted(name for name in header if name != "__metadata__")
    name = rng.choice(names)
    spec = header[name]
    which = rng.randrange(8)
    if which == 0:
        spec["dtype"] = rng.choice(["F64", "F16", "I32", "U32", "f32", "", None])
    elif which == 1:
        spec["shape"][rng.randrange(2)] += rng.choice([-1, 1, -1000, 1 << 62])
    elif which == 2:
        spec["shape"] = rng.choice([spec["shape"][::-1], [*spec["shape"], 1], []])
    elif which == 3:
        spec["data_offsets"][rng.randrange(2)] += rng.choice([-4, 4, 1, -(1 << 40)])
    elif which == 4:
        header[RENAMED] = header.pop(name)
    elif which == 5:
        del header[name]
    elif which == 6:
        header["more"] = spec
    else:
        other = rng.choice([n for n in names if header[n]["shape"] != spec["shape"]])
        header[name], header[other] = header[other], spec
    return packed(header, data)


def swap_tensors(rng: random.Random, file: bytes) -> bytes:
    """Swap two tensors of one shape: a sound file that belongs to another model."""
    header, data = unpacked(file)
    name = rng.choice(sorted(header.keys() - {"__metadata__"}))
    alike = [n for n in header if n != name and header[n].get("shape") == header[name]["shape"]]
    other = rng.choice(alike)
    header[name], header[other] = header[other], header[name]
    return packed(header, data)


def flip_bit(rng: random.Random, file: bytes) -> bytes:
    at = rng.randrange(len(file))
    return file[:at] + bytes([file[at] ^ 1 << rng.randrange(8)]) + file[at + 1 :]


def flip_header_bit(rng: random.Random, file: bytes) -> bytes:
    length = 8 + int.from_bytes(file[:8], "little")
    return flip_bit(rng, file[:length]) + file[length:]


def cut(rng: random.Random, file: bytes) -> bytes:
    return file[: rng.randrange(len(file))]


def insert(rng: random.Random, file: bytes) -> bytes:
    at = rng.randrange(len(file) + 1)
    return file[:at] + rng.randbytes(rng.randint(1, 16)) + file[at:]


# Those that `read` must see without a receipt, and those that it can only see in part.
STRUCTURAL = [edit_header, cut, insert]
PARTLY_SEEN = [flip_bit, flip_header_bit, swap_tensors]


def test_thousand_mutations_are_all_detected(tmp_path, original, expected):
    path, rng = tmp_path / weights.WEIGHTS, random.Random(20240607)
    path.write_bytes(original)
    receipt = artifacts.sha256_file(path)
    tried, seen = dict.fromkeys(STRUCTURAL + PARTLY_SEEN, 0), {}
    for _ in range(1000):
        mutate = rng.choice(STRUCTURAL + PARTLY_SEEN)
        put(path, mutate(rng, original))
        refusal(lambda: weights.read(path, expected, receipt))
        tried[mutate] += 1
        try:
            weights.read(path, expected)
        except AdapterError:
            seen[mutate] = seen.get(mutate, 0) + 1
    for mutate, count in tried.items():
        print(f"{mutate.__name__}: {seen.get(mutate, 0)} of {count} seen without a receipt")
    print(f"in all: {sum(seen.values())} of 1000 without a receipt, 1000 of 1000 with it")
    assert all(seen[mutate] == tried[mutate] > 100 for mutate in STRUCTURAL)
    assert seen[flip_header_bit] > 0.9 * tried[flip_header_bit]
    assert seen.get(swap_tensors, 0) == 0, "swapped tensors need no receipt any more: say so"


def random_file(rng: random.Random) -> bytes:
    """Return plain noise, noise behind a fitting length, or pieces of real headers at random."""
    noise = rng.randbytes(rng.randrange(120))
    which = rng.randrange(3)
    if which == 0:
        return noise
    if which == 1:
        return packed(b"{" + noise, rng.randbytes(rng.randrange(20)))
    values = [0, 1, 2, 8, -1, 1.5, None, True, "F32", "\n", [], [2], [0, 8], [8, 16], {}, 1 << 70]
    keys = ["dtype", "shape", "data_offsets", "__metadata__", "a"]
    tensors = {
        rng.choice(["a", "b", "\ud800", "__metadata__"]): {
            key: rng.choice(values) for key in rng.sample(keys, rng.randint(2, 4))
        }
        for _ in range(rng.randint(0, 3))
    }
    tensors["c"] = F32 | {rng.choice(keys): rng.choice([v for v in values if v != [2]])}
    return packed(tensors, rng.randbytes(rng.choice([0, 8, 9, 16])))


def test_random_bytes_raise_adapter_errors_alone(tmp_path):
    """A few of the pieces fit together: those the library reads too."""
    path, rng, sound = tmp_path / weights.WEIGHTS, random.Random(0), 0
    for _ in range(5000):
        put(path, random_file(rng))
        try:
            weights.header(path)
            found = weights.read(path)
        except AdapterError:
            continue
        sound += 1
        assert load_file(path).keys() == found.keys()
    print(f"{sound} of 5000 were sound after all")
    assert 0 < sound < 200
