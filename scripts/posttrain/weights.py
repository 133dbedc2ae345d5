"""Weights files, checked byte by byte before a library loads them.

A fault says what it most likely means and what to do, in one line. Pickles are refused; only
`convert_bin` opens one, without ever running what it asks for. Not seen here: a number that was
changed into another number. Only a sha256 sees that: hand the receipt's to `read`.
"""

import hashlib
import io
import json
import math
import pickle
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain import artifacts
from posttrain.errors import AdapterError, PosttrainError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pickle", ".pkl"}

MAX_HEADER = 100_000_000  # bytes; the bound of the safetensors library itself
MAX_DIMENSIONS = 8
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
BYTES = FLOATS | {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}
BYTES |= {"BOOL": 1}

AGAIN = "copy it again from its source, or delete it and rerun the rule that made it"
FOREIGN = {  # how a file begins that took the name of another, in lower case
    b"version https://git-lfs": ("a git-lfs pointer", "fetch the real file with `git lfs pull`"),
    b"<!doctype": ("an HTML page", "download the file itself, not the page about it"),
    b"<html": ("an HTML page", "download the file itself, not the page about it"),
    b"pk\x03\x04": ("a zip, most likely a renamed pickle of torch.save", "name it *.bin again"),
    b"\x80": ("a renamed pickle", "name it *.bin again"),
    b"gguf": ("a GGUF file", "get the weights as safetensors"),
    b"{": ("a JSON text", "put the weights themselves in its place"),
}

_shown = reprlib.Repr()
_shown.maxstring = 200
_show = _shown.repr  # of what a file says: escaped and short, so that a message stays one line


class TensorSpec(NamedTuple):
    """What a header says of one tensor; `start` and `end` are bytes from the data's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class _Broken(Exception):
    """What is wrong with a file and what to do; `_named` makes the public error of it."""

    def __init__(self, what: str, remedy: str = AGAIN) -> None:
        super().__init__(f"{what}; {remedy}")


@contextmanager
def _named(path: str | Path, fault: type[PosttrainError]) -> Iterator[None]:
    try:
        yield
    except _Broken as error:
        raise fault(f"{path}: {error}") from error
    except OSError as error:
        raise fault(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error


def header(path: str | Path, fault: type[PosttrainError] = AdapterError) -> dict[str, TensorSpec]:
    """Read and check the header of a safetensors file against itself and the file's size.

    Returns: each tensor's name with its dtype, shape and place, in the header's order.
    Raises: `fault` (AdapterError, or ModelError for a base model), one line, on a length, key,
        dtype, shape or offset that does not fit; the data itself is not read.
    Source: https://huggingface.co/docs/safetensors/index, section Format. Stricter: no tensor
        without elements, none of more than 8 dimensions, 8-bit floats or complex numbers.
    """
    with _named(path, fault):
        size = Path(path).stat().st_size
        head = artifacts.read_bytes(path, 64)
        if 64 < (count := 8 + _length(head)) <= min(size, MAX_HEADER + 8):
            head = artifacts.read_bytes(path, count)
        return _parse(head, size)


def read(
    path: str | Path,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    sha256: str | None = None,
    fault: type[PosttrainError] = AdapterError,
) -> dict[str, "Tensor"]:
    """Check a safetensors file and load it; what is checked is what is loaded, read once.

    Args: expected, the exact names and shapes, all of a floating-point dtype; sha256, the hex
        digest that the receipt holds. None leaves that check out.
    Returns: the tensors, on the CPU, in the file's dtypes.
    Raises: `fault`, one line: all that `header` raises, tensors missing, unexpected, of another
        shape or not floating-point, other bytes than the receipt's, values not finite.
    """
    with _named(path, fault):
        return _load(artifacts.read_bytes(path), expected, sha256)


def convert_bin(
    source: str | Path, expected: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, "Tensor"]:
    """Read a pickled adapter (`adapter_model.bin`) as tensors, running nothing that it asks for.

    The one place that opens a pickle. The tensors then pass the checks of `read`.

    Returns: the tensors, on the CPU, in the file's dtypes, each with memory of its own.
    Raises: AdapterError, one line, where the file is anything but a flat dict of names and dense
        floating-point tensors, or where a check of `read` fails.
    """
    import torch
    from safetensors.torch import save

    with _named(source, AdapterError):
        data = artifacts.read_bytes(source)
        try:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch stumbles over, the file is at fault
            raise _unloadable(error) from error
        if not isinstance(content, dict):
            raise _Broken(f"holds a {type(content).__name__}, not a dict of tensors")
        for name, value in content.items():
            if not isinstance(name, str) or not _is_plain(value):
                kind = f"{_show(name)}: {getattr(value, 'dtype', type(value).__name__)}"
                raise _Broken(f"holds more than names and dense float tensors ({kind})")
        # A view can claim terabytes of one stored number; a copy of it would fill the memory.
        if (claimed := sum(value.nbytes for value in content.values())) > len(data):
            raise _Broken(f"claims {claimed} bytes of tensors in a file of {len(data)}")
        own = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in content.items()
        }
        return _load(save(own), expected, None)


def refuse_pickles(folder: str | Path, name: str = "mine") -> None:
    """Refuse an adapter folder that holds a pickle, or no safetensors weights.

    Args: name, what the adapter is called in the config; the converted one keeps it.
    Raises: AdapterError, one line, naming the file and the command or move that mends it.
    """
    with _named(folder, AdapterError):
        names = sorted(entry.name for entry in Path(folder).iterdir())
        pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
        if PICKLED_WEIGHTS in pickles:
            converted = f"results/converted/{name}"
            command = (
                f"convert it: snakemake {converted}/{WEIGHTS} "
                f"--config 'convert={{{name}: {folder}}}', then write "
                f"evaluate: {{adapters: {{{name}: {converted}}}}}"
            )
            if WEIGHTS in names:
                command = f"move it away if {WEIGHTS} is the adapter, else {command}"
            raise _Broken(f"holds {PICKLED_WEIGHTS}, a pickle, which is never loaded", command)
        if pickles:
            what = f"holds {_few(pickles)}: pickles, which can run code when loaded"
            raise _Broken(what, "move them out of the adapter's folder")
        if not (Path(folder) / WEIGHTS).is_file():
            there = f"the folder holds {_few(names)}" if names else "the folder is empty"
            remedy = "copy the weights there too, or train the adapter again"
            raise _Broken(f"weights missing: no {WEIGHTS}, {there}", remedy)


def lora_b_is_zero(tensors: Mapping[str, "Tensor"]) -> list[str]:
    """Return the names of lora_B tensors that are all zero: such a layer is the base model's."""
    return [name for name in sorted(tensors) if ".lora_B." in name and not tensors[name].any()]


def norms(tensors: Mapping[str, "Tensor"]) -> dict[str, float]:
    """Return each tensor's L2 norm by name, sorted.

    The sum of float64 squares is exact before it is rounded, so threads do not change a bit.
    """
    return {
        name: math.sqrt(math.fsum(tensors[name].double().square().flatten().tolist()))
        for name in sorted(tensors)
    }


def expected_adapter(
    base_shapes: Mapping[str, tuple[int, ...]], target_modules: str | Sequence[str], r: int
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that PEFT saves for LoRA of rank `r` on a base model.

    Args: base_shapes, the base model's weights under the names of the loaded model; those that
        are not a matrix `<module>.weight` of shape (out, in) are passed over (GPT-2's Conv1D
        holds (in, out): turn it first). target_modules, as `adapter_config.json` holds it: names
        or their dotted endings, or one regular expression.
    Returns: `base_model.model.<module>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r).
    Raises: AdapterError if no module fits: most likely the adapter of another base model.
    Source: peft's save_pretrained; a test holds the two equal. Not covered: configs that add
        tensors or vary the rank (bias, use_dora, modules_to_save, rank_pattern, ...).
    """
    pattern = target_modules
    if not isinstance(pattern, str):
        pattern = rf"(?:.*\.)?(?:{'|'.join(re.escape(name) for name in target_modules)})"
    try:
        is_target = re.compile(pattern).fullmatch
    except re.error as error:
        message = f"target_modules {_show(target_modules)} is no regular expression ({error})"
        raise AdapterError(message) from error
    expected = {}
    for weight, shape in base_shapes.items():
        module = weight.removesuffix(".weight")
        if module != weight and len(shape) == 2 and is_target(module):
            expected[f"base_model.model.{module}.lora_A.weight"] = (r, shape[1])
            expected[f"base_model.model.{module}.lora_B.weight"] = (shape[0], r)
    if not expected:
        raise AdapterError(
            f"target_modules {_show(target_modules)} names no matrix of the base model; "
            "use the adapter with the base model that it was trained on"
        )
    return expected


def _length(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _parse(head: bytes, size: int) -> dict[str, TensorSpec]:
    """Check a header; `head` is the file's beginning, at least as far as the header goes."""
    length = _length(head)
    if length > min(MAX_HEADER, size - 8) or head[8:9] != b"{":
        raise _not_safetensors(head, length, size)
    try:
        text = head[8 : 8 + length].decode("utf-8")
        entries = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"its header is not JSON ({error}): edited or damaged") from error
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Broken(f"its __metadata__ is {_show(metadata)}, not texts by name: edited")
    specs = {name: _spec(name, entry) for name, entry in entries.items()}
    if not specs:
        raise _Broken("holds no tensors: saved from nothing, or edited")
    due = 0
    for name, spec in sorted(specs.items(), key=lambda item: item[1].start):
        if spec.start != due:
            what = "overlaps the tensor before it" if spec.start < due else "leaves a gap"
            at = f"{_show(name)} starts at byte {spec.start}, not at {due}"
            raise _Broken(f"{at}: it {what}; the header was edited or damaged")
        due = spec.end
    if size != (due := due + 8 + length):
        what = "the file was cut off" if size < due else "something was added to it"
        raise _Broken(f"has {size} bytes where its header says {due}: {what}")
    return specs


def _not_safetensors(head: bytes, length: int, size: int) -> _Broken:
    if size < 10:
        return _Broken(f"has {size} bytes, too few for a safetensors file: it was cut off")
    if length > MAX_HEADER:
        start = head[:64].lstrip().lower()
        for mark, (what, remedy) in FOREIGN.items():
            if start.startswith(mark):
                return _Broken(f"is {what}, not a safetensors file", remedy)
        what = f"announces a header of {length} bytes, more than {MAX_HEADER}"
        return _Broken(f"{what}: not a safetensors file, or damaged")
    if length > size - 8:
        return _Broken(f"has {size} bytes, its header alone {length}: the file was cut off")
    return _Broken("its header does not begin with '{': not a safetensors file, or damaged")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that comes twice: readers differ in which one counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Broken(f"its header has the key {_show(key)} twice: edited")
        found[key] = value
    return found


def _spec(name: str, entry: Any) -> TensorSpec:
    """Check what the header says of one tensor, by itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        keys = "not exactly dtype, shape and data_offsets"
        raise _Broken(f"{_show(name)} is described by {_show(entry)}, {keys}: edited")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise _Broken(f"{_show(name)} has dtype {_show(dtype)}, none of {', '.join(BYTES)}")
    if not _is_sizes(shape) or 0 in shape or len(shape) > MAX_DIMENSIONS:
        what = f"not at most {MAX_DIMENSIONS} whole numbers above 0"
        raise _Broken(f"{_show(name)} has shape {_show(shape)}, {what}: edited or damaged")
    if not _is_sizes(offsets) or len(offsets) != 2:
        what = "not two whole numbers from 0"
        raise _Broken(f"{_show(name)} has data_offsets {_show(offsets)}, {what}: edited")
    start, end = offsets
    if (due := math.prod(shape) * BYTES[dtype]) != end - start:
        what = f"takes {due} bytes as {dtype} {tuple(shape)} but its offsets span {end - start}"
        raise _Broken(f"{_show(name)} {what}: the header was edited or damaged")
    return TensorSpec(dtype, tuple(shape), start, end)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _load(
    data: bytes, expected: Mapping[str, tuple[int, ...]] | None, sha256: str | None
) -> dict[str, "Tensor"]:
    """Check a whole file's bytes and load them."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    specs = _parse(data, len(data))
    if expected is not None:
        _match(specs, expected)
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise _Broken(f"its sha256 is {found}, its receipt says {sha256}: changed since then")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _Broken(f"the safetensors library refuses it ({error})") from error
    for name, tensor in tensors.items():
        if bad := (~tensor.isfinite()).sum().item():
            what = f"{_show(name)} has {bad} of {tensor.numel()} values that are NaN or infinite"
            raise _Broken(f"{what}: damaged, or saved after training had diverged")
    return tensors


def _match(specs: Mapping[str, TensorSpec], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise where names or shapes differ from `expected`, or a dtype is not floating-point."""
    found = {name: spec for name, spec in specs.items() if name in expected}
    faults = {
        "missing": [name for name in expected if name not in specs],
        "unexpected": [name for name in specs if name not in expected],
        "of another shape": [
            f"{name} is {spec.shape}, not {tuple(expected[name])}"
            for name, spec in found.items()
            if spec.shape != tuple(expected[name])
        ],
        "not floating-point": [name for name, spec in found.items() if spec.dtype not in FLOATS],
    }
    if wrong := [f"{len(names)} {what} ({_few(names)})" for what, names in faults.items() if names]:
        raise _Broken(
            f"of {len(expected)} tensors due, {', '.join(wrong)}: made for another base model, "
            "rank or set of modules, or edited",
            "use it with the config and base model that it was trained with",
        )


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a dense floating-point tensor with its numbers in memory."""
    import torch

    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in dtypes
    )


def _unloadable(error: Exception) -> _Broken:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked:
        what = f"is a pickle that asks for {_show(asked[1])}, which is more than tensors"
        remedy = "it could run code: get the adapter as safetensors from its author"
        return _Broken(f"{what}; nothing of it was loaded", remedy)
    kind = type(error).__name__
    return _Broken(f"is not an intact file of torch.save ({kind}): cut off or damaged")


def _few(names: Sequence[str]) -> str:
    """Quote the first three names."""
    more = ", ..." if len(names) > 3 else ""
    return ", ".join(_show(name) for name in names[:3]) + more
