"""The config's own check: every fault in one line with its place, and the defaults in step."""

import math
import random
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from snakemake.utils import validate

from posttrain import settings

ROOT = Path(__file__).parents[1]
SCHEMA_FILE = ROOT / "schemas" / "config.schema.yaml"
SCHEMA = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def faults_of(text: str) -> list[str]:
    return settings.faults(yaml.safe_load(text), SCHEMA)


def nodes(node: dict, path: tuple = ()) -> list[tuple[tuple, dict]]:
    """Return (path, node) of every key that the schema names, $refs followed."""
    found = []
    for key, inner in node.get("properties", {}).items():
        ref = inner.get("$ref", "").rpartition("/")[2]
        inner = {**SCHEMA["$defs"].get(ref, {}), **inner}
        found += [((*path, key), inner), *nodes(inner, (*path, key))]
    return found


def put(config: dict, path: tuple, value: object) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value


def types_of(node: dict) -> list[str]:
    return [node["type"]] if isinstance(node["type"], str) else node["type"]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_shipped_config_has_no_faults():
    assert settings.faults(SHIPPED, SCHEMA) == []


def test_the_defaults_of_schema_config_and_snakemake_are_one():
    filled_by_snakemake: dict = {}
    validate(filled_by_snakemake, str(SCHEMA_FILE))
    assert filled_by_snakemake == settings.filled({}, SCHEMA) == SHIPPED
    # One object in two sections would let a later change of sft change rft.
    assert filled_by_snakemake["sft"]["lora"] is not filled_by_snakemake["rft"]["lora"]


def test_a_partial_config_is_filled_as_snakemake_fills_it():
    partial = {
        "sft": {"lora": {"r": 8}},
        "evaluate": {"adapters": {"a": "x", "b": {"folder": "y"}}, "require": {"cot": {}}},
    }
    filled = settings.filled(partial, SCHEMA)
    assert filled["evaluate"]["adapters"]["b"] == {"folder": "y", "prompt": "answer"}
    assert filled["evaluate"]["require"] == {"cot": {"accuracy": 0.0, "answer_rate": 0.0}}
    assert filled["sft"]["lora"] == {"r": 8, "alpha": 32, "dropout": 0.0}
    validate(partial, str(SCHEMA_FILE))
    assert partial == filled


def test_every_key_is_described_bounded_and_closed():
    comments = (ROOT / "config.yaml").read_text(encoding="utf-8")
    for path, node in nodes(SCHEMA):
        assert "description" in node, path
        assert "default" in node, path
        assert re.search(rf"^ *{path[-1]}:", comments, re.MULTILINE), f"{path} not in config.yaml"
        if {"integer", "number"} & set(types_of(node)):
            assert {"minimum", "exclusiveMinimum"} & node.keys(), path
            assert {"maximum", "exclusiveMaximum"} & node.keys(), path
        if "properties" in node:
            keywords = list(node)
            assert keywords.index("type") < keywords.index("properties"), path
            assert node["additionalProperties"] is False, path
            assert node["default"] == {}, path


def test_numbers_that_json_schema_itself_lets_pass_are_faults():
    for odd in ({"epochs": 3.0}, {"learning_rate": math.nan}):
        assert Draft202012Validator(SCHEMA).is_valid({"sft": odd}), "this test sees no fault"
        assert len(settings.faults({"sft": odd}, SCHEMA)) == 1


def test_properties_before_type_would_crash_on_an_empty_section(tmp_path):
    """Snakemake's `validate` fills defaults into whatever stands there, even nothing."""
    turned = {
        "$schema": SCHEMA["$schema"],
        "properties": {"sft": {"properties": {"epochs": {"default": 1}}, "type": "object"}},
    }
    schema = tmp_path / "turned.yaml"
    schema.write_text(yaml.safe_dump(turned, sort_keys=False))
    with pytest.raises(AttributeError):  # else this test no longer sees the trap
        validate({"sft": None}, str(schema))
    with pytest.raises(Exception, match="Error validating") as caught:
        validate({"sft": None}, str(SCHEMA_FILE))
    assert not isinstance(caught.value, AttributeError)


LINES = {
    "sft: {learning_rate: 1e-3}": "sft.learning_rate is the text '1e-3' (YAML wants a point: "
    "1.0e-3), not a number above 0 and at most 0.1; write sft: {learning_rate: 1.0e-3}",
    "sft: {learning_rte: 0.01}": "sft.learning_rte is no key; the nearest is sft.learning_rate; "
    "write sft: {learning_rate: 0.01}",
    "max_lenght: 64": "max_lenght is no key; the nearest is sft.max_length or rft.max_length; "
    "write sft: {max_length: 64}",
    "1: x": "1 is no key; leave it out or use one of: seed, task, base_model, data, embedded, "
    "prompts, sft, rft, rollouts, convert, evaluate, engine, bundle",
    "sft:": "sft is empty (null), not a mapping of keys; write sft: {lora: {r: 32}}",
    "rft: [1]": "rft is a list, not a mapping of keys; write rft: {lora: {r: 16}}",
    "sft: {lora: {r: 0}}": "sft.lora.r is 0, not an integer of at least 1 and at most 1024; "
    "write sft: {lora: {r: 32}}",
    "sft: {epochs: 3.0}": "sft.epochs is 3.0, not an integer of at least 1 and at most 1000; "
    "write sft: {epochs: 3}",
    "sft: {epochs: true}": "sft.epochs is true, not an integer of at least 1 and at most 1000; "
    "write sft: {epochs: 5}",
    "rft: {learning_rate: .nan}": "rft.learning_rate is .nan, not a number above 0 and at most "
    "0.1; write rft: {learning_rate: 0.003}",
    "sft: {bad_rows: ignore}": "sft.bad_rows is the text 'ignore', not refuse or drop; "
    "write sft: {bad_rows: refuse}",
    "data: {train: nowhere.csv, valid: config.yaml}": [
        "data.train is the text 'nowhere.csv', and there is no such file where snakemake runs; "
        "write data: {train: my_train.csv}",
        "data.valid is the text 'config.yaml', whose name does not end in .json, .jsonl, .csv, "
        ".parquet; write data: {valid: my_valid.csv}",
    ],
    "data: {train: mine.csv}": [
        "data.valid is empty (null) while data.train is the text 'mine.csv': validation needs "
        "yours too; write data: {valid: my_valid.csv}",
        "data.train is the text 'mine.csv', and there is no such file where snakemake runs; "
        "write data: {train: my_train.csv}",
    ],
    "rollouts: {file: nowhere.json}": "rollouts.file is the text 'nowhere.json', and there is no "
    "such .json file where snakemake runs; write rollouts: {file: my_rollouts.json}",
    "rollouts: {file: config.yaml}": "rollouts.file is the text 'config.yaml', and there is no "
    "such .json file where snakemake runs; write rollouts: {file: my_rollouts.json}",
    "bundle: {largest_megabytes: 0}": "bundle.largest_megabytes is 0, not a number above 0 and at "
    "most 1000000; write bundle: {largest_megabytes: 50}",
    "base_model: gpt2": "base_model is the text 'gpt2', neither embedded, nor a folder that "
    "exists, nor a hub's <org>/<name>@<commit>; write base_model: path/to/model",
    "rollouts: {model: embedded}": "rollouts.model is the text 'embedded', neither null, nor a "
    "folder that exists, nor a hub's <org>/<name>@<commit>; write rollouts: {model: null}",
    "prompts: {answer: 'Q:'}": "prompts.answer is the text 'Q:', in which {question} stands 0 "
    'times, not once; write prompts: {answer: "Question: {question}\\nAnswer:"}',
    "prompts: {examples: [{question: q, reasoning: r}]}": "prompts.examples[0] lacks answer; "
    'write prompts: {examples: [{question: "How many gram are there per 6 kg?", '
    'reasoning: "1 kg = 1000 gram. 6 * 1000 = 6000.", answer: 6000}]}',
    "embedded: {heads: 5}": "embedded.heads is 5, which does not cut embedded.hidden_size (192) "
    "into heads of even width; write embedded: {heads: 4}",
    "rollouts: {keep_per_question: 20}": "rollouts.keep_per_question is 20, above "
    "rollouts.samples_per_question (16); write rollouts: {keep_per_question: 16}",
    "rollouts: {extra_samples: 1009}": "rollouts.extra_samples is 1009: with "
    "rollouts.samples_per_question (16) above 1024; write rollouts: {extra_samples: 1008}",
    "rollouts: {keep_tolerance: 0.1}": "rollouts.keep_tolerance is 0.1, above "
    "evaluate.relative_tolerance (0.05), which all kept ones pass; write "
    "rollouts: {keep_tolerance: 0.05}",
    "rollouts: {farthest_apart: true, distinct_paths: false}": "rollouts.farthest_apart is true, "
    "but rollouts.distinct_paths is not: samples of one path are not apart; write "
    "rollouts: {farthest_apart: false}",
    "rollouts: {samples_when_sft_is_right: 20}": "rollouts.samples_when_sft_is_right is 20, above "
    "rollouts.samples_per_question (16); write rollouts: {samples_when_sft_is_right: 16}",
    "evaluate: {adapters: {sft: x}}": "evaluate.adapters.sft has a name of the workflow's own "
    "(base, cot, sft, rft, summary, verdicts, comparisons, breakdown, bundle, sampler); "
    "write evaluate: {adapters: {my_sft: x}}",
    "evaluate: {adapters: {../x: y}}": "evaluate.adapters.'../x' is no name for files (small "
    "letters, digits, _ and -, no sign first, up to 64); write evaluate: {adapters: {x: y}}",
    "evaluate: {adapters: {mine: {folder: nowhere}}}": "evaluate.adapters.mine.folder is the text "
    "'nowhere', and there is no such folder where snakemake runs; "
    "write evaluate: {adapters: {mine: {folder: path/to/adapter}}}",
    "engine: {url: 'http://me:secret@node7:8000/v1', models: {sft: x}}": "engine.url is no plain "
    "http:// or https:// address, without user, password or query; "
    'write engine: {url: "http://localhost:8000/v1", models: {sft: sft}}',
    "engine: {url: 'http://localhost:8000/v1'}": "engine.models is empty while engine.url is set: "
    "nothing would be asked of that server; write engine: {models: {sft: sft}}",
    "engine: {url: 'http://localhost:8000/v1', models: {rtf: x}}": "engine.models.rtf names no "
    "model that can be served: there are base, sft, rft; write engine: {models: {rft: x}}",
    "engine: {models: {sft: x, sampler: y}}": [
        "engine.url is empty (null) while engine.models is set: no server would be asked (where "
        'none is to be, leave that out); write engine: {url: "http://localhost:8000/v1"}',
        "engine.models.sampler names no model that can be served: there are base, sft, rft; "
        "write engine: {models: {base: y}}",
    ],
    "evaluate: {require: {stf: {accuracy: 0.5}}}": "evaluate.require.stf names no model: there "
    "are base, cot, sft, rft; "
    "write evaluate: {require: {sft: {accuracy: 0.5, answer_rate: 0.0}}}",
}


@pytest.mark.parametrize("text", LINES)
def test_a_fault_is_said_in_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = [LINES[text]] if isinstance(LINES[text], str) else LINES[text]
    assert faults_of(text) == [f"config: {line}" for line in expected]


# What a line says to write may be half of a pair, whose other half the config has.
PAIRS = ("data.valid is empty", "engine.url is empty", "engine.models is empty")


def test_what_a_line_says_to_write_is_yaml_that_mends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my_train.csv", "my_valid.csv", "my_rollouts.json"):
        (tmp_path / name).touch()
    for folder in ("path/to/adapter", "path/to/model", "x", "y"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for text, lines in LINES.items():
        for line in [lines] if isinstance(lines, str) else lines:
            _, is_there, instead = line.rpartition("; write ")
            if is_there and "<40 hex" not in instead:
                left = [one for one in faults_of(instead) if not any(map(one.count, PAIRS))]
                assert left == [], text


def test_all_faults_come_at_once():
    lines = faults_of("{seed: x, sft: {epochs: 0, lora: }, rft: {epoch: 1}, base_model: nowhere}")
    places = [line.split()[1] for line in lines]
    assert sorted(places) == ["base_model", "rft.epoch", "seed", "sft.epochs", "sft.lora"]


def test_a_fault_is_not_blamed_on_its_neighbours():
    lines = faults_of("{rollouts: {samples_per_question: many, keep_per_question: 20}}")
    assert len(lines) == 1
    assert lines[0].startswith("config: rollouts.samples_per_question is the text 'many'")


def test_what_exists_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.PARQUET"):
        (tmp_path / name).touch()
    (tmp_path / "model").mkdir()
    for model in ("model", "embedded", "org/name", f"org/name@{'0' * 40}"):
        assert (
            faults_of(f"{{base_model: {model}, data: {{train: a.jsonl, valid: b.PARQUET}}}}") == []
        )
    assert faults_of("data: {valid: a.jsonl}") == []
    assert faults_of("evaluate: {adapters: {m: model}, require: {m: {accuracy: 1}}}") == []


def test_a_misspelt_model_is_told_what_lies_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their/models/smollm2").mkdir(parents=True)
    for key, model, near in (
        ("base_model: {}", "their/models/smolm2", "their/models/smollm2"),
        ("rollouts: {{model: {}}}", "their/models/smolm2", "their/models/smollm2"),
        ("rollouts: {{model: {}}}", "thier", "their"),
        ("base_model: {}", "embeded", "embedded"),
    ):
        [line] = faults_of(key.format(model))
        assert line.endswith(f"; write {key.format(near)}")


@pytest.mark.parametrize("config", [None, [], "text", 3, float("nan"), [{}]])
def test_a_config_that_is_no_mapping_is_a_fault(config):
    (line,) = settings.faults(config, SCHEMA)
    assert line.startswith("config is ")
    assert line.endswith(", not a mapping of keys; write seed: 0")


def test_neither_depth_nor_size_nor_a_loop_raises():
    loop: dict = {}
    loop["sft"] = loop
    huge = 1 << 50_000  # Python itself refuses to print it
    for config in ({"seed": nested(5000)}, {"seed": huge}, {huge: 1}, {"k" * 100_000: 1}, loop):
        lines = settings.faults(config, SCHEMA)
        assert lines
        assert all(len(line) < 500 and line.isprintable() for line in lines)


# A key as YAML may give it, and as a message has to show it.
KEYS = {
    **{key: repr(key) for key in ("ключ", "a b", "a\nb", "a.b", "", "\u2028", "\ud800", "x: y")},
    **{key: repr(key) for key in ("..", "../x", "{question}", "-x", "Ü", "\0", "'", "🙂")},
    **{7: "7", 2.5: "2.5", False: "false", None: "empty (null)", (1, 2): "a tuple"},
}
VALUES = {
    "string": "abc",
    "boolean": True,
    "array": [1, 2],
    "object": {"zz": 1},
    "null": None,
    "number": 2.5,
    "nan": math.nan,
    "infinity": -math.inf,
    "set": {1, 2},
    "bytes": b"x",
}


KINDS = ("key", "name", "type", "range", "section", "depth", "choice", "file")


def malformed(kind: str, rng: random.Random) -> tuple[dict, str]:
    """Return (the shipped config, broken in one place, that place): broken by construction."""
    every = nodes(SCHEMA)
    sections = [path for path, node in every if "properties" in node]
    leaves = [(path, node) for path, node in every if "properties" not in node]
    match kind:
        case "key":
            key = rng.choice([*KEYS, *("".join(rng.choices("abcefrst_", k=5)) + "q" for _ in KEYS)])
            path = (*rng.choice([(), *sections]), key)
            assert path not in [known for known, _ in every]
            value = rng.choice(list(VALUES.values()))
        case "name":
            path = ("evaluate", rng.choice(["adapters", "require"]), rng.choice(list(KEYS)))
            value = "x" if path[1] == "adapters" else {}
        case "type":
            path, node = rng.choice(leaves)
            value = VALUES[rng.choice([kind for kind in VALUES if kind not in types_of(node)])]
        case "range":
            path, node = rng.choice([(path, node) for path, node in leaves if "maximum" in node])
            low, high = node.get("minimum", 0), node["maximum"]
            value = rng.choice([low - 1, high + 1, -(10**30), 10**6000, math.inf, math.nan])
            assert not low <= value <= high
        case "section":
            path = rng.choice(sections)
            value = rng.choice([None, [], [1], "text", 3, True, math.nan])
        case "depth":
            path = rng.choice([path for path, node in every if "array" not in types_of(node)])
            value = nested(rng.randint(1, 3000))
        case "choice":
            path, node = rng.choice([(path, node) for path, node in leaves if "enum" in node])
            value = rng.choice(["Refuse", "reprot", "", "no\nthing", "\ud800"])
            assert value not in node["enum"]
        case "file":  # the folder it is looked for in is empty
            path = rng.choice(
                [("data", "train"), ("data", "valid"), ("base_model",), ("rollouts", "file")]
            )
            value = rng.choice(
                ["no/such/where.csv", "\0.csv", "x" * 5000 + ".csv", "\ud800.csv", "a\nb"]
            )
    config = deepcopy(SHIPPED)
    put(config, path, value)
    return config, ".".join(KEYS.get(key, key) for key in path)


@pytest.mark.parametrize("seed", range(200))
def test_a_malformed_config_names_its_place_in_one_line(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, place = malformed(KINDS[seed % len(KINDS)], random.Random(f"malformed {seed}"))
    lines = settings.faults(config, SCHEMA)
    assert any(line.startswith(f"config: {place} ") for line in lines), (place, lines)
    assert all(line.isprintable() and len(line) < 700 for line in lines), lines


def test_every_rule_that_runs_a_model_has_room_for_one_on_a_cluster():
    """Those that `use rule` makes ask for what the rule asks for that they are made of."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    asked = re.findall(r"^ *gpu=1,((?:\n +\w+=.*,)*)$", text, re.MULTILINE)
    assert len(asked) == text.count("gpu=1")
    for others in asked:
        assert re.findall(r"(\w+)=per_attempt", others) == ["mem_mb", "runtime"]
