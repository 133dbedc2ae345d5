"""The config against its schema: all its faults at once, in people's words, a line each.

`jsonschema` finds where a value breaks the schema; what is said about it is read off the schema.
"""

import difflib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml
from jsonschema import Draft202012Validator, validators

from posttrain.hub import is_name
from posttrain.questions import READERS

MODELS = ("base", "cot", "sft", "rft")
# Names of files in results/, and of the model that engine.models knows as rollouts.model.
RESERVED = (*MODELS, "summary", "verdicts", "comparisons", "breakdown", "bundle", "sampler")
ADAPTER_NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
MOST_SAMPLES = 1024  # of a question: what k of more bring is beyond floating point
DEEPEST = 6  # levels of a config that are looked at; the schema has four
LONGEST = 60  # characters of a person's text that a message repeats

Keys = tuple[Any, ...]
Node = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Said:
    """What stands in for a value or key that is no plain JSON: the words or YAML to print."""

    text: str


class Fault(NamedTuple):
    """One fault: the paths it is about, and its line."""

    about: tuple[Keys, ...]
    line: str


def _is_integer(checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: object, value: object) -> bool:
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


# JSON Schema takes 3.0 for an integer and NaN for a number within any range.
Checker = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def faults(config: Any, schema: Node) -> list[str]:
    """Return every fault of `config` as one line: the place, the value, the rule, what to write.

    Looks at the disk only to ask whether the named files and folders are there, and which are
    near. Never raises, whatever `config` holds.
    """
    config = _plain(config)
    found = list(_broken(config, schema))
    broken = {path for fault in found for path in fault.about}
    if () not in broken:
        sound, defaults = filled(_without(config, broken), schema), filled({}, schema)
        others = [*_crossed(sound, defaults), *_missing(sound)]
        found += [fault for fault in others if not _touches(fault.about, broken)]
    return list(dict.fromkeys(fault.line for fault in found))


def filled(config: Mapping[str, Any], schema: Node) -> dict[str, Any]:
    """Return a copy of `config` with the schema's defaults where it is silent.

    Snakemake's own `validate` fills the same ones, in place; a test holds the two equal.
    """
    return _filled(config, schema, schema)


def canonical(value: Any) -> Any:
    """Return a plain value in one form only: keys sorted, and a whole number as an integer.

    So that neither the order of keys nor `1` for `1.0` looks like a change.
    """
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _filled(value: Any, node: Node, root: Node) -> Any:
    if not isinstance(value, Mapping):
        return deepcopy(value)
    known = _resolved(node, root).get("properties", {})
    defaults = {key: deepcopy(sub["default"]) for key, sub in known.items() if "default" in sub}
    return {
        key: _filled(entry, inner, root) if (inner := _inside(node, key, root)) else entry
        for key, entry in {**defaults, **value}.items()
    }


def _resolved(node: Node, root: Node) -> dict[str, Any]:
    """Return `node` with what its $ref and its `then` hold; its own keywords go first."""
    shared = root["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else {}
    own = {keyword: rule for keyword, rule in node.items() if keyword != "$ref"}
    return {**shared, **node.get("then", {}), **own}


def _inside(node: Node, step: Any, root: Node) -> dict[str, Any] | None:
    """Return what the schema says of one key, or entry of a list, of `node`; None if nothing."""
    node = _resolved(node, root)
    if isinstance(step, int):
        inner = node["items"]
    else:
        inner = node.get("properties", {}).get(step, node.get("additionalProperties"))
    return _resolved(inner, root) if inner else None


def _at(path: Keys, root: Node) -> dict[str, Any]:
    """Return what the schema says at `path`."""
    node: Node = root
    for step in path:
        node = _inside(node, step, root) or {}
    return dict(node)


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a copy of plain JSON types; what is none, too deep or too long becomes `Said`."""
    if isinstance(value, Mapping | list) and depth == DEEPEST:
        return Said(_shown(value))
    if isinstance(value, Mapping):
        keys = [key if isinstance(key, str) else Said(_shown(_plain(key))) for key in value]
        entries = [_plain(entry, depth + 1) for entry in value.values()]
        return dict(zip(keys, entries, strict=True))
    if isinstance(value, list):
        return [_plain(entry, depth + 1) for entry in value]
    if isinstance(value, int) and value.bit_length() > 64:
        return Said(f"an integer of {value.bit_length()} bits")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return Said(f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    """Return `value` for the middle of a sentence, on one line."""
    if isinstance(value, Said):
        return value.text
    if value is None:
        return "empty (null)"
    if isinstance(value, str):
        return f"the text {_quoted(value)}"
    if isinstance(value, Mapping | list):
        kind = "list" if isinstance(value, list) else "mapping"
        return f"a {kind}" if value else f"an empty {kind}"
    return _flow(value)


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}..."


def _text(key: str | Said) -> str:
    return key.text if isinstance(key, Said) else key


def _place(path: Keys) -> str:
    """Return where `path` leads: `config: prompts.examples[0].answer`."""
    place = ""
    for step in path:
        if isinstance(step, int):
            place += f"[{step}]"
        else:
            is_word = isinstance(step, Said) or re.fullmatch(r"[A-Za-z_][\w-]{0,59}", step, re.A)
            place += ("." if place else "") + (_text(step) if is_word else _quoted(step))
    return f"config: {place}" if place else "config"


def _flow(value: Any) -> str:
    """Return `value` as YAML on one line."""
    if isinstance(value, Mapping):
        entries = (f"{_flow(key)}: {_flow(entry)}" for key, entry in value.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, Said):
        return value.text
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", value, re.ASCII):
        return json.dumps(value)
    return yaml.safe_dump(value, width=math.inf).split("\n")[0]


def _fault(
    path: Keys, what: str, instead: Any, there: Keys | None = None, also: tuple[Keys, ...] = ()
) -> Fault:
    """Return the fault of the value at `path`, with the YAML that puts `instead` `there`.

    `also` are the other paths that it is about.
    """
    for step in reversed(path if there is None else there):
        instead = {step: instead}
    return Fault((path, *also), f"{_place(path)} {what}; write {_flow(instead)[1:-1]}")


def _rule(node: Node) -> str:
    """Return in words what `node` allows."""
    if "enum" in node:
        return " or ".join(map(_flow, node["enum"]))
    bounds = [f"{word} {_flow(node[key])}" for key, word in BOUNDS.items() if key in node]
    within = f" {' and '.join(bounds)}" if bounds else ""
    words = {
        "integer": f"an integer{within}",
        "number": f"a number{within}",
        "array": f"a list of at most {node.get('maxItems')} entries",
        "object": "a mapping of keys",
        "boolean": "true or false",
        "string": "text",
        "null": "null",
    }
    kinds = [node["type"]] if isinstance(node["type"], str) else node["type"]
    return ", or ".join(words[kind] for kind in kinds)


def _sample(node: Node, root: Node) -> Any:
    """Return a value that `node` allows and a person can start from."""
    if node.get("examples"):
        return node["examples"][0]
    if node.get("default") or "properties" not in node:
        return node.get("default")
    key, inner = next(iter(node["properties"].items()))
    return {key: _sample(_resolved(inner, root), root)}


def _mended(value: Any) -> tuple[Any, Any, str]:
    """Return (the number that `value` seems to mean, it in YAML, a hint); itself if none."""
    if isinstance(value, float) and value.is_integer():
        return int(value), int(value), ""
    number = r"([+-]?\d{1,20})(\.\d{0,20})?(?:[eE]([+-]?)(\d{1,3}))?"
    if not isinstance(value, str) or not (parts := re.fullmatch(number, value, re.ASCII)):
        return value, value, ""
    whole, fraction, sign, exponent = parts.groups()
    meant = float(value)
    if exponent is None or meant.is_integer():
        meant = int(meant) if meant.is_integer() else meant
        return meant, meant, ""
    spelled = f"{whole}{fraction or '.0'}e{sign or '+'}{exponent}"
    return meant, Said(spelled), "" if fraction else f" (YAML wants a point: {spelled})"


def _broken(config: Any, schema: Node) -> Iterator[Fault]:
    """Yield the faults that the schema itself sees."""
    checker = Checker(schema)
    errors = [(tuple(error.absolute_path), error) for error in checker.iter_errors(config)]
    for path, error in sorted(errors, key=lambda pair: _place(pair[0])):
        value, node = error.instance, _at(path, schema)
        if error.validator == "additionalProperties":
            extras = [key for key in value if key not in node["properties"]]
            yield from (_unknown((*path, key), value[key], checker) for key in extras)
            continue
        meant, instead, hint = _mended(value)
        if not checker.evolve(schema=node).is_valid(meant):
            instead, hint = _sample(node, schema), ""
        what = f"is {_shown(value)}{hint}, not {_rule(node)}"
        if error.validator == "required":
            what = f"lacks {', '.join(key for key in node['required'] if key not in value)}"
        # An entry of a list is mended with its list: YAML has no way to write one alone.
        there = tuple(itertools.takewhile(lambda step: not isinstance(step, int), path))
        if there != path:
            instead = _sample(_at(there, schema), schema)
        yield _fault(path, what, instead, there)


def _unknown(path: Keys, value: Any, checker: Any) -> Fault:
    """Return the fault of a key that the schema does not know, with the nearest that it does."""
    schema, (*section, key) = checker.schema, path
    siblings = _at(tuple(section), schema)["properties"]
    name = _text(key)[:LONGEST].lower()
    near = [(*section, one) for one in difflib.get_close_matches(name, siblings, 1)]
    if not near:  # perhaps it belongs to another section
        paths = list(_paths(schema, schema))
        last = difflib.get_close_matches(name, [one[-1] for one in paths], 1, 0.8)
        near = [one for one in paths if one[-1] in last]
    if not near:
        choice = ", ".join(siblings)
        return Fault((path,), f"{_place(path)} is no key; leave it out or use one of: {choice}")
    node = _at(near[0], schema)
    fits = checker.evolve(schema=node).is_valid(value) and len(_flow(value)) <= LONGEST
    nearest = " or ".join(_place(one).removeprefix("config: ") for one in near)
    what = f"is no key; the nearest is {nearest}"
    return _fault(path, what, value if fits else _sample(node, schema), near[0])


def _paths(node: Node, root: Node) -> Iterator[Keys]:
    """Yield the path of every key that the schema names."""
    for key, inner in _resolved(node, root).get("properties", {}).items():
        yield (key,)
        yield from ((key, *path) for path in _paths(inner, root))


def _without(config: dict[Any, Any], broken: Iterable[Keys]) -> dict[Any, Any]:
    """Return a copy of `config` in which nothing stands at the paths in `broken`."""
    return {
        key: _without(value, [path[1:] for path in broken if path[0] == key])
        if isinstance(value, dict)
        else value
        for key, value in config.items()
        if (key,) not in broken
    }


def _touches(about: Iterable[Keys], broken: Iterable[Keys]) -> bool:
    """Return whether a path of `about` leads to, or through, one of `broken`."""
    return any(one[: len(other)] == other[: len(one)] for one in about for other in broken)


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(ADAPTER_NAME, name))


def _crossed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults that the schema cannot see: of keys together, of names, of prompts.

    `config` fits the schema and is filled.
    """
    for key in ("answer", "reasoning"):
        text = config["prompts"][key]
        if (count := text.count("{question}")) != 1:
            what = f"is {_shown(text)}, in which {{question}} stands {count} times, not once"
            yield _fault(("prompts", key), what, defaults["prompts"][key])

    train = config["data"]["train"]
    if train is not None and config["data"]["valid"] is None:
        what = f"is empty (null) while data.train is {_shown(train)}: validation needs yours too"
        yield _fault(("data", "valid"), what, "my_valid.csv", also=(("data", "train"),))

    shape = config["embedded"]
    for key, of, least, parts in (
        ("heads", "hidden_size", 2, "heads of even width"),
        ("kv_heads", "heads", 1, "equal groups"),
    ):
        if shape[of] % (shape[key] * least):
            what = f"is {shape[key]}, which does not cut embedded.{of} ({shape[of]}) into {parts}"
            fitting = [n for n in range(1, shape[key]) if shape[of] % (n * least) == 0]
            yield _fault(("embedded", key), what, fitting[-1], also=(("embedded", of),))
            break  # what is said of kv_heads rests on heads

    most = config["rollouts"]["samples_per_question"]
    for key in ("samples_when_sft_is_right", "keep_per_question"):
        if (count := config["rollouts"][key]) > most:
            what = f"is {count}, above rollouts.samples_per_question ({most})"
            about = (("rollouts", "samples_per_question"),)
            yield _fault(("rollouts", key), what, most, also=about)

    if (extra := config["rollouts"]["extra_samples"]) > (room := MOST_SAMPLES - most):
        what = f"is {extra}: with rollouts.samples_per_question ({most}) above {MOST_SAMPLES}"
        about = (("rollouts", "samples_per_question"),)
        yield _fault(("rollouts", "extra_samples"), what, room, also=about)

    kept, counted = config["rollouts"]["keep_tolerance"], config["evaluate"]["relative_tolerance"]
    if kept is not None and kept > counted:
        what = f"is {kept}, above evaluate.relative_tolerance ({counted}), which all kept ones pass"
        about = (("evaluate", "relative_tolerance"),)
        yield _fault(("rollouts", "keep_tolerance"), what, counted, also=about)

    if config["rollouts"]["farthest_apart"] and not config["rollouts"]["distinct_paths"]:
        what = "is true, but rollouts.distinct_paths is not: samples of one path are not apart"
        about = (("rollouts", "distinct_paths"),)
        yield _fault(("rollouts", "farthest_apart"), what, False, also=about)

    adapters = config["evaluate"]["adapters"]
    named = [(("evaluate", "adapters"), *one) for one in adapters.items()]
    named += [(("convert",), *one) for one in config["convert"].items()]
    for path, name, entry in named:
        better = re.sub(r"[^a-z0-9]+", "_", _text(name)[:LONGEST].lower()).strip("_") or "mine"
        better = f"my_{better}" if better in RESERVED else better
        if name in RESERVED:
            what = f"has a name of the workflow's own ({', '.join(RESERVED)})"
        elif not _is_file_name(name):
            what = "is no name for files (small letters, digits, _ and -, no sign first, up to 64)"
        else:
            continue
        yield _fault((*path, name), what, entry, there=(*path, better))

    models = [*MODELS, *(name for name in adapters if isinstance(name, str))]
    for name, bar in config["evaluate"]["require"].items():
        if name not in models:
            path, about = ("evaluate", "require"), (("evaluate", "adapters"),)
            near = difflib.get_close_matches(_text(name)[:LONGEST], models, 1) or ["sft"]
            what = f"names no model: there are {', '.join(models)}"
            yield _fault((*path, name), what, bar, there=(*path, near[0]), also=about)

    yield from _engine(config["engine"], models, config["rollouts"]["model"])


def _engine(engine: Mapping[str, Any], models: list[str], sampler: str | None) -> Iterator[Fault]:
    """Yield the faults of how models are served: `models` are all that are scored."""
    url, served = engine["url"], engine["models"]
    if url is not None and not re.fullmatch(r"https?://[\w.:[\]-]+(/[\w./~-]*)?", url, re.ASCII):
        # Not shown: a key may stand in it.
        what = "is no plain http:// or https:// address, without user, password or query"
        whole = {"url": "http://localhost:8000/v1", "models": {"sft": "sft"}}
        yield _fault(("engine", "url"), what, whole, there=("engine",))
    if url is not None and not served:
        what = "is empty while engine.url is set: nothing would be asked of that server"
        yield _fault(("engine", "models"), what, {"sft": "sft"}, also=(("engine", "url"),))
    if url is None and served:
        what = (
            "is empty (null) while engine.models is set: no server would be asked (where none is "
            "to be, leave that out)"
        )
        address = "http://localhost:8000/v1"
        yield _fault(("engine", "url"), what, address, also=(("engine", "models"),))
    known = [name for name in models if name != "cot"] + (["sampler"] if sampler else [])
    for name, there in served.items():
        if name not in known:
            path, near = ("engine", "models"), difflib.get_close_matches(_text(name), known, 1)
            what = f"names no model that can be served: there are {', '.join(known)}"
            yield _fault((*path, name), what, there, there=(*path, (near or ["base"])[0]))


def _folders_beside(path: str) -> list[str]:
    """Return the folders that lie where `path` would, as it would name them; none if none can."""
    parent = os.path.dirname(path)
    try:
        with os.scandir(parent or ".") as entries:
            return [os.path.join(parent, entry.name) for entry in entries if entry.is_dir()]
    except (OSError, ValueError):  # no such parent; a text that is no path
        return []


def _missing(
    config: Mapping[str, Any],
    is_file: Callable[[str], bool] = os.path.isfile,  # unlike pathlib's, False for any text
    is_folder: Callable[[str], bool] = os.path.isdir,
    beside: Callable[[str], list[str]] = _folders_beside,
) -> Iterator[Fault]:
    """Yield the faults of the files and folders that a filled, well-shaped `config` names."""
    for path, known, other in (
        (("base_model",), "embedded", "path/to/model"),
        (("rollouts", "model"), None, None),
    ):
        model = config[path[0]] if len(path) == 1 else config[path[0]][path[1]]
        if not (model == known or is_folder(model) or is_name(model)):
            what = (
                f"is {_shown(model)}, neither {_flow(known)}, nor a folder that exists, nor a "
                "hub's <org>/<name>@<commit>"
            )
            near = difflib.get_close_matches(model, [*filter(None, [known]), *beside(model)], 1)
            yield _fault(path, what, (near or [other])[0])

    for key in ("train", "valid"):
        path = config["data"][key]
        if path is not None and os.path.splitext(path.lower())[1] not in READERS:
            what = f"is {_shown(path)}, whose name does not end in {', '.join(READERS)}"
            yield _fault(("data", key), what, f"my_{key}.csv")
        elif path is not None and not is_file(path):
            what = f"is {_shown(path)}, and there is no such file where snakemake runs"
            yield _fault(("data", key), what, f"my_{key}.csv")

    path = config["rollouts"]["file"]
    if path is not None and not (path.lower().endswith(".json") and is_file(path)):
        what = f"is {_shown(path)}, and there is no such .json file where snakemake runs"
        yield _fault(("rollouts", "file"), what, "my_rollouts.json")

    for name, entry in config["evaluate"]["adapters"].items():
        inner = () if isinstance(entry, str) else ("folder",)
        folder = entry if isinstance(entry, str) else entry["folder"]
        is_sound = _is_file_name(name) and name not in RESERVED and name not in config["convert"]
        if is_sound and not is_folder(folder):
            what = f"is {_shown(folder)}, and there is no such folder where snakemake runs"
            path = ("evaluate", "adapters", name, *inner)
            yield _fault(path, what, "path/to/adapter")

    for name, folder in config["convert"].items():
        if _is_file_name(name) and not is_folder(folder):
            what = f"is {_shown(folder)}, and there is no such folder where snakemake runs"
            yield _fault(("convert", name), what, "path/to/adapter")
