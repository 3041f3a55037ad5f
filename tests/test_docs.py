"""The README and the docs do what they say: their commands are run as they are written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from app.tasks import TASKS
from tests.support import ROOT

SERVED_WITHIN_S = 240.0
URL = "http://localhost:8000"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`make serve` in a copy of what git tracks or will, on a free port, in the environment the tests run in."""
    checkout = tmp_path_factory.mktemp("checkout")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    # Nor what was given to the `make` that runs the tests, such as ARGS.
    ours = ("BERT_", "MAKE", "MFLAGS", "ARGS")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    # What `make serve` would install into is there already: this test is about everything after that.
    venv = checkout / "venv"
    venv.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "installed":
            (venv / entry.name).symlink_to(entry)
    (venv / "installed").touch()
    environment |= {"EXPORT_VENV": str(venv), "BERT_PORT": "0", "BERT_LOG_FORMAT": "text"}
    command = blocks("README.md", "bash")[0].strip()
    log_path = checkout / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, shell=True, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SERVED_WITHIN_S
        while not re.search(r"ready in", log_path.read_text()):
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.05)
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", log_path.read_text())
        assert found is not None
        yield f"http://localhost:{found[1]}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(40)


def run(command: str, served: str) -> Any:
    """Run a curl of the docs against the server, and read its answer."""
    done = subprocess.run(
        ["bash", "-c", command.replace(URL, served).replace("curl ", "curl --silent --show-error ")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def same(shown: Any, real: Any) -> bool:
    """Whether two answers are one: scores to five digits, as another CPU may round the rest otherwise."""
    if isinstance(shown, dict):
        return shown.keys() == real.keys() and all(same(shown[key], real[key]) for key in shown)
    if isinstance(shown, list):
        return len(shown) == len(real) and all(same(one, other) for one, other in zip(shown, real, strict=True))
    return bool(shown == (pytest.approx(real, abs=1e-5) if isinstance(shown, float) else real))


def test_the_readme_shows_what_its_commands_answer(served: str) -> None:
    commands = [block for block in blocks("README.md", "bash") if block.startswith("curl")]
    shown = blocks("README.md", "json")
    assert len(commands) == len(shown) == 2
    for command, answer in zip(commands, shown, strict=True):
        assert same(json.loads(answer), run(command, served))


def test_the_readme_shows_good_answers() -> None:
    sentiment, masked = (json.loads(block) for block in blocks("README.md", "json"))
    assert [prediction[0]["label"] for prediction in sentiment["predictions"]] == ["POSITIVE", "NEGATIVE"]
    assert {candidate["token_str"] for candidate in masked["predictions"][0][0]} <= {"beer", "tea", "drink", "wine"}


def test_the_examples_of_the_http_page_are_answered(served: str) -> None:
    commands = blocks("docs/http.md", "bash")
    assert len(commands) == 2
    for command in commands:
        assert "predictions" in run(command, served)


@pytest.mark.parametrize("task", TASKS)
def test_the_http_page_has_a_request_and_every_parameter_of_every_task(task: str) -> None:
    request = TASKS[task].request
    [section] = re.findall(
        rf"^## POST /v1/{task}\n(.*?)^## ", (ROOT / "docs/http.md").read_text(), re.MULTILINE | re.DOTALL
    )
    bodies = re.findall(r"-d '(.*?)'$|^```json\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    [body] = (curl or plain for curl, plain in bodies)
    request.model_validate_json(body)
    parameters: Any = request.model_fields["parameters"].annotation
    assert {f"parameters.{name}" for name in parameters.model_fields} == set(
        re.findall(r"`(parameters\.\w+)`", section)
    )


def test_the_http_page_names_every_route(served: str) -> None:
    page = (ROOT / "docs/http.md").read_text()
    for path in httpx.get(f"{served}/openapi.json").json()["paths"]:
        assert path in page


def test_the_settings_page_is_the_settings() -> None:
    rows = re.findall(
        r"^\| `--(\S+)` \| `(\S+)` \| (.*?) \| (.*?) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE
    )
    words = {True: "on", False: "off", None: ""}
    expected = [
        (
            name.replace("_", "-"),
            f"BERT_{name.upper()}",
            words[field.default] if isinstance(field.default, bool | None) else str(field.default),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]
    assert rows == expected


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_files_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
    for name in re.findall(r"`((?:app|model_export|tests|docs|monitoring|deploy|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
