"""What a script is made of: the project's modules and the libraries it imports, read off its code.

Snakemake reruns a rule when its script changes, but not when a module does that the script imports,
nor when a library is upgraded; rules therefore name both, found here and not kept by hand.
"""

import ast
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    distributions,
    packages_distributions,
)
from pathlib import Path

PACKAGE = "posttrain"
# Present in every script by name, and no business of what it computes.
NOT_COUNTED = {"snakemake"}
TYPING_ONLY = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
# The parts of a statement that hold statements, or handlers and cases that hold some.
NESTED = ("body", "orelse", "finalbody", "handlers", "cases")


@cache
def _imported(path: Path) -> frozenset[str]:
    """Return the dotted names that the file imports anywhere, also inside functions.

    Those under `if TYPE_CHECKING` never run and are left out.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import can only be one inside the package, which has no folders.
            module = ".".join(filter(None, (PACKAGE if node.level else "", node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test) in TYPING_ONLY:
            waiting += node.orelse
        else:  # what holds no statements, as an expression, is not gone into
            waiting += [inner for part in NESTED for inner in getattr(node, part, ())]
    return frozenset(found)


@cache
def _module_file(scripts: Path, name: str) -> Path | None:
    """Return the project file that the dotted name `posttrain.x` or `posttrain.x.y` stands for."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    candidate = scripts / PACKAGE / f"{parts[1]}.py" if len(parts) > 1 else None
    return candidate if candidate and candidate.is_file() else scripts / PACKAGE / "__init__.py"


def code_files(script: Path, loaded: Mapping[str, str] | None = None) -> list[Path]:
    """Return `script` and every project module it imports, directly or through others, sorted.

    Args: loaded, module -> another that it loads by a name from the config, as `posttrain.tasks`
        does: where the one is imported, the other counts as imported too.
    """
    scripts = script.parent
    also = {_module_file(scripts, one): {other} for one, other in (loaded or {}).items()}
    found = {script}
    waiting = [script]
    while waiting:
        file = waiting.pop()
        for name in _imported(file) | also.get(file, set()):
            module = _module_file(scripts, name)
            if module and module not in found:
                found |= {module, scripts / PACKAGE / "__init__.py"}
                waiting.append(module)
    return sorted(found)


@cache
def _versions_of(module: str) -> dict[str, str]:
    """Return distribution -> version of what installs a module, the cheapest look first.

    That is the distribution of its name, then those that declare it; last the files of all are
    read, as every `snakemake` would have to.
    """
    try:
        found = [distribution(module)]
    except PackageNotFoundError:
        found = [
            one
            for one in distributions()
            if module in (one.read_text("top_level.txt") or "").split()
        ] or [distribution(name) for name in packages_distributions().get(module, [])]
    stated = [one.metadata for one in found]  # read anew each time that it is asked for
    return {one["Name"]: one["Version"] for one in stated}


def library_versions(files: list[Path]) -> dict[str, str]:
    """Return distribution -> installed version of the libraries that `files` import, and Python's.

    A name that is not installed is left out: the import itself says so where it is needed.
    """
    roots = {name.split(".")[0] for path in files for name in _imported(path)}
    wanted = roots - set(sys.stdlib_module_names) - {PACKAGE} - NOT_COUNTED
    found = {name: known for root in wanted for name, known in _versions_of(root).items()}
    return {"python": ".".join(map(str, sys.version_info[:3])), **dict(sorted(found.items()))}
