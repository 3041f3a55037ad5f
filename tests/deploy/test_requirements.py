"""The pinned requirements: whole, without addresses, and those of pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
EXTRAS = {
    "cpu": ("cpu", "otel"),
    "gpu": ("gpu", "otel"),
    "export": ("cpu", "export"),
    "audit": ("cpu", "export", "audit"),
    "train": ("cpu", "export", "train"),
    "dev": ("cpu", "otel", "export", "audit", "test", "check", "lock"),
    "cuda-test": ("cuda-test", "otel", "export", "test"),
}
CUDA = re.compile(r"nvidia|cuda|torch|triton|onnxruntime-gpu", re.IGNORECASE)
EACH = pytest.mark.parametrize("name", EXTRAS)


def text_of(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def pins(name: str) -> dict[str, Requirement]:
    """Return what a file pins, by name."""
    found = [Requirement(line.rstrip(" \\")) for line in text_of(name).splitlines() if re.match(r"[a-zA-Z0-9]", line)]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def version_of(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


def test_there_is_a_test_for_every_file() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} == EXTRAS.keys()


@EACH
def test_every_release_has_hashes(name: str) -> None:
    entries = re.split(r"\n(?=[a-zA-Z0-9])", text_of(name))[1:]
    assert len(entries) == len(pins(name))
    assert [entry.splitlines()[0] for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


@EACH
def test_no_file_names_a_place(name: str) -> None:
    """An index, a link or a path of the machine that made it would be read on every other machine."""
    pin_or_hash = re.compile(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==\S+( ; [^:/]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    lines = [line for line in text_of(name).splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in lines if not pin_or_hash.fullmatch(line)] == []
    comments = [line for line in text_of(name).splitlines() if line.lstrip().startswith("#")]
    assert [line for line in comments if "//" in line or " /" in line] == []


@EACH
def test_cuda_is_for_gpu_hosts_only(name: str) -> None:
    assert any(map(CUDA.search, pins(name))) == (name in ("gpu", "cuda-test"))


@EACH
def test_pins_are_what_pyproject_allows(name: str) -> None:
    """Else pyproject.toml changed and requirements/lock.sh was not run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in EXTRAS[name] for text in project["optional-dependencies"][extra]),
    ]
    pinned = pins(name)
    for requirement in map(Requirement, wanted):
        if requirement.name == "torch":
            continue  # its builds differ by machine
        pin = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version_of(pin)), f"run requirements/lock.sh: {requirement}"


@EACH
def test_what_is_deployed_is_what_is_tested(name: str) -> None:
    tested = pins("dev")
    assert {
        package: version_of(pin)
        for package, pin in pins(name).items()
        if package in tested and version_of(pin) != version_of(tested[package])
    } == {}


def test_one_bundle_is_for_both_runtimes() -> None:
    """The export checks its graphs with the CPU's, which is at most one release ahead of the GPU's: both must know their operators."""
    (major, minor), (other_major, other_minor) = (
        Version(version_of(pins(name)[package])).release[:2]
        for name, package in (("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu"))
    )
    assert (major, minor - 1) <= (other_major, other_minor) <= (major, minor)
    assert pins("cuda-test")["onnxruntime-gpu"].specifier == pins("gpu")["onnxruntime-gpu"].specifier
