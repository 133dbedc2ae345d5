"""What a script is made of: found in its code, so that a change in any of it reruns the rule."""

import ast
import importlib
import re
import shutil
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path
from unittest.mock import patch

import peft  # noqa: F401 - with torch it loads once a process, and must not be dropped again
import pytest

from posttrain import imports, tasks

SCRIPTS = Path(__file__).parent.parent / "scripts"
RULE_SCRIPTS = sorted(SCRIPTS.glob("*.py"))


@pytest.fixture
def project(tmp_path):
    """Return a function that writes the files of a project and returns its script's parts."""

    def write(**sources):
        package = tmp_path / "posttrain"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        for name, source in sources.items():
            folder = tmp_path if name == "script" else package
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        forget()
        return [path.stem for path in imports.code_files(tmp_path / "script.py")]

    yield write
    forget()


def forget():
    """Forget what was found in files, as a new process has."""
    imports._imported.cache_clear()
    imports._module_file.cache_clear()


def test_modules_are_found_through_others_and_in_a_circle(project):
    found = project(
        script="from posttrain import a",
        a="from posttrain.b import thing",
        b="import posttrain.c",
        c="from posttrain import a",
        unused="from posttrain import a",
    )
    assert found == ["__init__", "a", "b", "c", "script"]


@pytest.mark.parametrize(
    "source",
    [
        "def run():\n    from posttrain import a",
        "with open('x') as file:\n    from posttrain import a",
        "class Thing:\n    def run(self):\n        import posttrain.a as b",
        "try:\n    import numpy\nexcept ImportError:\n    from posttrain.a import thing",
        "if True:\n    pass\nelse:\n    from posttrain import b, a",
        "try:\n    pass\nfinally:\n    from posttrain import a",
        "while False:\n    pass\nelse:\n    async def run():\n        from posttrain import a",
        "match 1:\n    case 1:\n        from posttrain import a",
        "from posttrain.a import *",
    ],
)
def test_modules_are_found_wherever_they_are_imported(project, source):
    assert "a" in project(script=source, a="", b="")


@pytest.mark.parametrize("source", ["from . import a", "from .a import thing", "from .a import *"])
def test_modules_are_found_where_the_package_imports_itself_relatively(project, source):
    assert "a" in project(script="from posttrain import b", a="", b=source)


def test_imports_for_type_checkers_alone_never_run_and_do_not_count(project):
    assert "a" not in project(script="if TYPE_CHECKING:\n    from posttrain import a", a="")
    assert "a" not in project(script="if typing.TYPE_CHECKING:\n    from posttrain import a")
    assert "a" in project(script="if TYPE_CHECKING:\n    pass\nelse:\n    from posttrain import a")
    assert "a" in project(script="if not TYPE_CHECKING:\n    from posttrain import a")


def test_libraries_are_named_with_their_versions(project, tmp_path):
    project(
        script="import json\nfrom posttrain import a\ndef run():\n    import yaml, nowhere_at_all",
        a="import torch.nn\nif TYPE_CHECKING:\n    import pandas",
    )
    found = imports.library_versions(imports.code_files(tmp_path / "script.py"))
    assert found == {
        "python": ".".join(map(str, sys.version_info[:3])),
        "PyYAML": version("PyYAML"),
        "torch": version("torch"),
    }


def test_libraries_are_those_that_hold_the_modules():
    """They are looked for by name first: none of another name may hold a module that we import."""
    holders = packages_distributions()
    modules = {
        name.split(".")[0] for file in SCRIPTS.rglob("*.py") for name in imports._imported(file)
    }
    known = modules & holders.keys() - {"posttrain", "snakemake"}
    assert known >= {"torch", "transformers", "peft", "yaml"}
    for module in known:
        assert imports._versions_of(module).keys() == set(holders[module]), module


def imported_by(script):
    """Run the imports of a script, and nothing else of it; return the modules that came of them."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "posttrain":
            found += [f"posttrain.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("posttrain."):
            found.append(node.module)
    kept = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] != "posttrain"
    }
    with patch.dict(sys.modules, kept, clear=True):
        for name in found:
            importlib.import_module(name)
        ours = [name for name in sys.modules if name.startswith("posttrain.")]
        return {Path(sys.modules[name].__file__) for name in ours}


@pytest.mark.parametrize("script", RULE_SCRIPTS, ids=lambda path: path.stem)
def test_what_a_rules_script_really_loads_is_in_its_list(script):
    listed = imports.code_files(script)
    loaded = imported_by(script)
    assert loaded
    assert loaded <= set(listed)
    assert script in listed
    assert SCRIPTS / "posttrain" / "__init__.py" in listed
    assert all(path.is_file() for path in listed)


def test_every_library_that_the_package_imports_is_pinned():
    def normal(name):
        return re.sub("[-_.]+", "-", name.casefold())

    pins = (SCRIPTS.parent / "requirements.txt").read_text(encoding="utf-8")
    pinned = {normal(name) for name in re.findall("^([^=\n]+)==", pins, re.MULTILINE)}
    files = [*RULE_SCRIPTS, *(SCRIPTS / "posttrain").glob("*.py")]
    found = {normal(name) for name in imports.library_versions(files)} - {"python"}
    assert {"torch", "transformers", "peft", "safetensors", "pint", "scipy"} <= found
    assert found <= pinned


def test_a_change_in_a_module_is_seen_by_those_that_use_it_alone(tmp_path):
    """Sampling is behind evaluation, three imports away; the making of questions has none of it."""
    copied = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, copied, ignore=shutil.ignore_patterns("__pycache__"))

    def code(script):
        return {path: path.read_bytes() for path in imports.code_files(copied / script)}

    scripts = ("evaluate_model.py", "generate_rft_data.py", "make_questions.py", "summarise.py")
    before = {script: code(script) for script in scripts}
    module = copied / "posttrain" / "sampling.py"
    module.write_bytes(module.read_bytes() + b"\n")
    changed = {script for script in scripts if code(script) != before[script]}
    assert changed == {"evaluate_model.py", "generate_rft_data.py"}


def test_a_task_is_code_of_those_that_load_one_and_no_other_task_is(tmp_path):
    """The module is found by its name in the config, where no import shows it."""

    def code(script, name):
        loaded = {tasks.__name__: tasks.module_of(name)}
        return {path.stem for path in imports.code_files(SCRIPTS / script, loaded)}

    for script in RULE_SCRIPTS:
        loads = "tasks" in code(script.name, "units")
        found = code(script.name, "units")
        assert ({"task_units", "units", "corpus"} <= found) is loads, script
    assert "units" not in code("train_adapter.py", "units"), "training knows rows alone"
