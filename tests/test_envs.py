"""The pins stand in four places, for pip and for conda: they must not drift apart."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
ENVS = sorted((ROOT / "envs").glob("*.yaml"))
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)")

Pins = dict[str, str]


def pins_of(lines: list[str], where: str) -> Pins:
    """Return name -> version. Raises ValueError on a line that is not a plain, exact pin."""
    pins = {}
    for line in lines:
        match = PIN.fullmatch(line)
        if not match:
            raise ValueError(f"{where}: {line!r} must be name==version and no more")
        pins[canonicalize_name(match[1])] = match[2]
    return pins


def requirements(name: str) -> Pins:
    text = (ROOT / name).read_text(encoding="utf-8")
    stripped = [line.strip() for line in text.splitlines()]
    return pins_of([line for line in stripped if line and not line.startswith("#")], name)


def conda_pins(path: Path) -> Pins:
    env = yaml.safe_load(path.read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in env["dependencies"] if isinstance(entry, dict))
    return pins_of(pip, path.name)


def differences(wanted: Pins, found: Pins, where: str) -> list[str]:
    """Return a line for each pin of `wanted` that `found`, the pins of file `where`, has not."""
    return [
        f"{where}: {name}=={found.get(name, '(missing)')}, wanted {name}=={version}"
        for name, version in wanted.items()
        if found.get(name) != version
    ]


def test_the_lock_holds_every_direct_pin():
    direct = requirements("requirements.in") | requirements("requirements-dev.in")
    drift = differences(direct, requirements("requirements.txt"), "requirements.txt")
    assert not drift, "\n".join([*drift, "run: make lock"])


def test_the_lock_leaves_the_build_of_torch_open():
    of_cuda = [
        name for name in requirements("requirements.txt") if re.match("nvidia|cuda|triton", name)
    ]
    assert not of_cuda, f"requirements.txt: {of_cuda} belong to one build of torch; run: make lock"


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.name)
def test_a_conda_env_holds_the_pins_of_requirements(path: Path):
    direct, found = requirements("requirements.in"), conda_pins(path)
    del direct["snakemake"]  # it starts the rules, and runs in none of their environments
    wanted = direct if path.name == "train.yaml" else {p: direct.get(p, "(none)") for p in found}
    drift = differences(wanted, found, f"envs/{path.name}") + differences(
        found, direct, "requirements.in"
    )
    assert not drift, "\n".join([*drift, "edit the one that is behind; then: make lock"])


def test_drift_is_seen():
    pins = pins_of(["torch==2.13.0", "Pint==0.25.3"], "requirements.in")
    assert differences(pins, pins, "envs/train.yaml") == []
    assert differences(pins, {"torch": "2.12.0"}, "envs/train.yaml") == [
        "envs/train.yaml: torch==2.12.0, wanted torch==2.13.0",
        "envs/train.yaml: pint==(missing), wanted pint==0.25.3",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.13.0+cpu",
        "torch>=2.13.0",
        "torch",
        "--extra-index-url https://example.org/simple",
        "torch @ file:///tmp/torch.whl",
        "torch==2.13.0 --hash=sha256:00",
        "torch==2.13.*",
    ],
)
def test_a_line_that_suits_one_machine_only_is_refused(line: str):
    with pytest.raises(ValueError, match=re.escape(repr(line))):
        pins_of([line], "requirements.txt")
