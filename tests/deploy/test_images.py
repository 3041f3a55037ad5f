"""The Dockerfile: builds from what is there, runs as nobody, keeps no tools."""

import re
from pathlib import Path

import pytest

import app

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = {
    match[2]: match[0]
    for match in re.finditer(r"^FROM (\S+) AS (\S+)\n(?:(?!^FROM ).*\n)*", DOCKERFILE, flags=re.MULTILINE)
}
IMAGES = ("cpu", "gpu", "export")
EACH = pytest.mark.parametrize("image", IMAGES)


def lineage(stage: str) -> str:
    """Return the text of a stage after that of the stages it starts from."""
    text = STAGES[stage]
    parent = text.split()[1]
    return lineage(parent) + text if parent in STAGES else text


def test_the_stages_are_read_as_they_are_written() -> None:
    assert "".join(STAGES.values()) == DOCKERFILE[DOCKERFILE.index("FROM ") :]
    assert set(IMAGES) <= STAGES.keys()


def test_nothing_is_fetched_to_read_the_file() -> None:
    assert not re.search(r"^# *syntax *=", DOCKERFILE, flags=re.MULTILINE)


def test_the_base_is_pinned_and_can_be_replaced() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-\w+$", DOCKERFILE, flags=re.MULTILINE)
    assert {text.split()[1] for text in STAGES.values()} - STAGES.keys() == {"${PYTHON_IMAGE}"}


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    mounted = re.findall(r"--mount=type=bind,source=([^,]+)", DOCKERFILE)
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert ignored == "*"
    patterns = [line.removeprefix("!") for line in kept if line.startswith("!")]
    for name in [*copied, *mounted]:
        assert (ROOT / name).exists()
        assert any(Path(name).match(pattern) for pattern in patterns), f"let {name} into .dockerignore"


@EACH
def test_an_image_runs_as_nobody_and_says_what_it_is(image: str) -> None:
    text = lineage(image)
    assert re.findall(r"^USER (\S+)$", text, flags=re.MULTILINE)[-1] == "10001:10001"
    assert re.findall(r"^ENTRYPOINT (.*)$", text, flags=re.MULTILINE)
    assert {"title", "description", "version", "revision"} == set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", text)
    )
    assert "ORT_DISABLE_TELEMETRY=1" in text


def test_the_images_have_the_version_of_the_project() -> None:
    assert re.findall(r"^ARG VERSION=(\S+)", DOCKERFILE, flags=re.MULTILINE) == [app.__version__]
    assert len(re.findall(r"^ARG VERSION REVISION$", DOCKERFILE, flags=re.MULTILINE)) == len(IMAGES)


@EACH
def test_an_image_installs_wheels_of_its_lock_and_nothing_else(image: str) -> None:
    (packages,) = re.findall(r"COPY --from=(\S+) /opt/venv", lineage(image))
    installing = lineage(packages)
    assert f"source=requirements/{image}.txt" in installing
    assert "--require-hashes" in installing
    assert "--only-binary :all:" in installing
    assert not re.search(r"apt|pip install", lineage(image))


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_a_server_tells_its_health(image: str) -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*CMD \[(.*)\]$", lineage(image), flags=re.MULTILINE)
    assert (ROOT / command.rsplit('"', 2)[1]).exists()
