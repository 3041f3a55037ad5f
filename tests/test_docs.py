"""The README and the docs do what they say: their commands are run as they are written."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import app
from app.errors import ERRORS
from app.http.dialects import DIALECTS
from app.predict.command import Status, make_parser
from app.settings import Settings
from app.tasks import TASKS
from model_export.checkpoint.families import FAMILIES
from tests.dialects import routes_by_dialect
from tests.support import ROOT

SERVED_WITHIN_S = 240.0
URL = "http://localhost:8000"
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *(ROOT / name for name in ("benchmarks/README.md", "deploy/ray/README.md", "tests/fixtures/README.md")),
]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
PACKAGES = "app|model_export|training|tests|benchmarks|monitoring|deploy"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def table_rows(page: str) -> list[tuple[str, ...]]:
    lines = (line for line in (ROOT / page).read_text().splitlines() if line.startswith("| "))
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


@dataclass(frozen=True)
class Checkout:
    """A copy of the files that git tracks or will, and the environment variables of a user's shell in it."""

    folder: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("checkout")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    # `make serve` has nothing to install: this environment is the one that it would make.
    venv = folder / ".venv-export"
    venv.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "installed":
            (venv / entry.name).symlink_to(entry)
    (venv / "installed").touch()
    # Without the variables of the `make` that runs the tests, such as ARGS.
    ours = ("BERT_", "MAKE", "MFLAGS", "ARGS", "EXPORT_VENV")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return Checkout(folder, environment | {"BERT_PORT": "0", "BERT_LOG_FORMAT": "text", "BERT_TUNING_CACHE": "false"})


@contextmanager
def serving(command: str, checkout: Checkout) -> Iterator[str]:
    """Run a command that serves, until it is ready; yield its URL; stop it."""
    with tempfile.NamedTemporaryFile() as log:
        log_path = Path(log.name)
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=checkout.folder,
            env=checkout.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
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


@pytest.fixture(scope="module")
def served(checkout: Checkout) -> Iterator[str]:
    with serving(blocks("README.md", "bash")[0].strip(), checkout) as url:
        yield url


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
    assert len(commands) == len(shown) == 3
    for command, answer in zip(commands, shown, strict=True):
        assert same(json.loads(answer), run(command, served))


def test_the_readme_shows_good_answers() -> None:
    sentiment, masked, pair = (json.loads(block) for block in blocks("README.md", "json"))
    assert [prediction[0]["label"] for prediction in sentiment["predictions"]] == ["POSITIVE", "NEGATIVE"]
    assert {candidate["token_str"] for candidate in masked["predictions"][0][0]} <= {"beer", "tea", "drink", "wine"}
    assert pair["predictions"][0]["is_next"]


def test_the_examples_of_the_http_page_are_answered(served: str) -> None:
    commands = blocks("docs/http.md", "bash")
    assert len(commands) == 2
    for command in commands:
        assert "predictions" in run(command, served)


def test_the_page_of_explanations_shows_what_its_command_answers(served: str) -> None:
    [command, timed], [shown] = blocks("docs/explain.md", "bash"), blocks("docs/explain.md", "json")
    assert same(json.loads(shown), run(command, served))
    inputs = json.loads(timed.split("-d '")[1].rstrip().removesuffix("'"))["inputs"]
    assert len(re.findall(r"\w+", inputs)) == 20
    replies = [httpx.post(f"{served}/v1/explain", json={"model": "sentiment", "inputs": inputs}) for _ in range(3)]
    assert min(reply.elapsed.total_seconds() for reply in replies) < 1.0  # it takes 65 ms on two cores
    [explanation] = replies[0].json()["predictions"]
    rows = [row for row in table_rows("docs/explain.md") if row[:2] == ("21", "`occlusion`")]
    assert [(row[2], explanation["stopped"]) for row in rows] == [(str(explanation["runs"]), "complete")]


def test_the_page_of_explanations_shows_how_masks_and_removal_differ(served: str) -> None:
    page = (ROOT / "docs/explain.md").read_text()
    shown = re.findall(r"^  \| (\S+) \| ([+-][\d.]+) \| ([+-][\d.]+) \|$", page, re.MULTILINE)
    both = [
        httpx.post(
            f"{served}/v1/explain",
            json={
                "model": "sentiment",
                "inputs": "It isn't bad.",
                "parameters": {"method": "shapley", "perturbation": one},
            },
        ).json()["predictions"][0]
        for one in ("mask", "remove")
    ]
    words = zip(*(one["contributions"] for one in both), strict=True)
    assert shown == [
        (mask["word"], f"{mask['contribution']:+.3f}", f"{less['contribution']:+.3f}") for mask, less in words
    ]
    assert [f"{one['baseline_score']:.3f}" for one in both] == ["0.912", "0.636"]
    assert "masks alone score 0.912 and nothing at all scores 0.636" in page
    assert all(f"{one['score']:.3f}" == "0.996" for one in both)


def test_the_page_of_predict_shows_what_its_command_writes(served: str, checkout: Checkout) -> None:
    [command], [shown] = blocks("docs/predict.md", "bash"), blocks("docs/predict.md", "json")
    assert command.replace("python", ".venv-export/bin/python", 1) in blocks("README.md", "bash")
    folder = checkout.folder
    (folder / "reviews.csv").write_text("id,text\n0,I love this product\n")
    arguments = [".venv-export/bin/python", *command.split()[1:]]
    subprocess.run(arguments, cwd=folder, env=checkout.environment, check=True, timeout=60)
    [line] = (folder / "scored.jsonl").read_text().splitlines()
    assert same(json.loads(shown), json.loads(line))
    assert sorted(path.name for path in folder.glob("scored*")) == ["scored.jsonl"]


def test_the_page_of_predict_names_options_and_statuses_that_there_are() -> None:
    page = (ROOT / "docs/predict.md").read_text()
    options = {option for action in make_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - {"--rm", "--no-deps", "--parts", "--rounds"} <= options
    statuses = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)
    assert [int(status) for status in ", ".join(statuses).split(", ")] == [*Status, 130, 143]


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


def test_the_docs_name_every_route(served: str) -> None:
    pages = (ROOT / "docs/http.md").read_text() + (ROOT / "docs/clients.md").read_text()
    for path in httpx.get(f"{served}/openapi.json").json()["paths"]:
        assert path in pages


def test_the_http_page_has_every_error() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`.*?`) \|", (ROOT / "docs/http.md").read_text(), re.MULTILINE)
    shown = [(int(status), name) for status, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert shown == [(error.status, error.error_type) for error in ERRORS]


def test_the_page_of_clients_names_every_dialect_and_its_routes() -> None:
    page = (ROOT / "docs/clients.md").read_text()
    named = set(re.findall(r"^\| .*? \| .*? \| `([a-z-]+)` \| .*? \| .*? \|$", page, re.MULTILINE))
    assert named == set(DIALECTS)
    for name, routes in routes_by_dialect().items():
        section = page.partition(f"(`{name}`)\n")[2].partition("\n## ")[0]
        for route in routes:
            assert f"`{route.path}`" in section, f"{route.path} is not in the section of {name}"


def test_the_page_of_clients_has_the_releases_that_are_tested() -> None:
    rows = re.findall(
        r"^\| (\S+) \| (\d\S+) \| .*? \| .*? \| `(\S+)` \|$", (ROOT / "docs/clients.md").read_text(), re.MULTILINE
    )
    folder = ROOT / "tests/clients"
    pins = "\n".join(path.read_text() for path in sorted((folder / "requirements").glob("*.txt")))
    node = json.loads((folder / "node/package.json").read_text())["dependencies"]
    for client, release, test in rows:
        assert node.get(client) == release or f"\n{client}=={release} " in pins, client
        assert (ROOT / test).is_file(), test
    tested = {test for _, _, test in rows}
    assert tested == {str(path.relative_to(ROOT)) for path in folder.glob("test_*.py")}


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


def test_the_readme_exports_and_serves_a_model_beside_the_demo(served: str, checkout: Checkout) -> None:
    [block] = [block for block in blocks("README.md", "bash") if block.startswith("make export")]
    export, serve, ask = block.splitlines()
    checkpoint = ROOT / "tests" / "fixtures" / "checkpoints" / "bert-single-label"
    exported = subprocess.run(
        export.replace("DIR_OR_HUB_ID", str(checkpoint)),
        shell=True,
        cwd=checkout.folder,
        env=checkout.environment,
        check=True,
        timeout=SERVED_WITHIN_S,
        capture_output=True,
        text=True,
    )
    assert exported.stdout.endswith("\n  .venv-export/bin/python -m app --models models\n")
    assert "--port 8001" in serve
    with serving(serve.replace("--port 8001", "--port 0"), checkout) as url:
        answer = run(ask.replace("http://localhost:8001", URL), url)
    assert answer["model"] == "my-model"
    assert httpx.get(f"{served}/readyz").status_code == 200


@pytest.mark.parametrize(
    "command", ["make export NAME=my-model", "make export CHECKPOINT=model_export/demo_checkpoint"]
)
def test_an_export_without_a_checkpoint_or_a_name_says_what_it_needs(checkout: Checkout, command: str) -> None:
    done = subprocess.run(
        command, shell=True, cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "make export CHECKPOINT=folder-or-hub-id NAME=my-model" in done.stderr


def test_the_readme_names_every_task_and_family() -> None:
    page = (ROOT / "README.md").read_text().lower()
    assert all(f"`/v1/{task}`" in page for task in TASKS)
    assert all(re.search(rf"(?<![\w-]){family}(?![\w-])", page) for family in FAMILIES)


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    measured = [set(row) for row in table_rows("benchmarks/results/results.md")]
    shown = [set(row) for row in table_rows("README.md") if len(row) > 3 and row[0] != "server"]
    assert shown
    assert all(any(row <= of for of in measured) for row in shown)


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EACH_PAGE
def test_links_lead_to_a_page_and_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if not target.startswith("http"):
            path = page.parent / target if target else page
            assert path.exists(), target
            assert not anchor or anchor in slugs(path), f"{target}#{anchor}"


@EACH_PAGE
def test_paths_and_modules_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text().partition("\n## Sources\n")[0]  # those of other projects
    # NAME and <card> stand for something, {a,b} and * for several.
    paths = re.findall(rf"(?<![\w./-])((?:{PACKAGES}|docs|requirements)/[\w./-]*)(?![\w./<*{{-])", text)
    modules = re.findall(rf"(?<![\w./-])((?:{PACKAGES})(?:\.(?!md\b)[a-z_]\w*)+)(?![\w/]|\.\w)", text)
    files = [path.rstrip(".-") for path in paths if "NAME" not in path]
    missing = [path for path in files if not (ROOT / path).exists()]
    for module in modules:
        path = ROOT / module.replace(".", "/")
        missing += [] if path.is_dir() or path.with_suffix(".py").is_file() else [module]
    assert not missing


def messages() -> str:
    """Return every text in the code of the server, a line each, with %s for what is put into it."""
    texts = []
    for file in sorted((ROOT / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_the_lines_of_the_log_that_the_runbook_quotes_are_written() -> None:
    page = re.sub(r"\s+", " ", (ROOT / "docs/operations.md").read_text().partition("## Traces")[0])
    quoted = re.findall(r"`((?!docker|kill|kubectl|severity)[a-z][a-z:-]*(?: [A-Za-z:-]+)+)`", page)
    assert "the device is stuck" in quoted
    written = messages()
    for line in quoted:
        words = line.split()
        forms = [line, *(" ".join([*words[:at], "%s", *words[at + 1 :]]) for at in range(len(words)))]
        assert any(form in written for form in forms), line


@EACH_PAGE
def test_make_targets_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text()
    code = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(
        r"^ {4}.*$", text, re.MULTILINE
    )
    named = {*re.findall(r"`make\s+([\w-]+)", text), *re.findall(r"^\s*make ([\w-]+)", "\n".join(code), re.MULTILINE)}
    assert named <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("package", ["app", "model_export"])
def test_the_architecture_page_has_the_layers_that_are_enforced(package: str) -> None:
    [page] = [block for block in blocks("docs/architecture.md", "text") if block.startswith(f"{package}\n")]
    shown = [set(line.strip().partition("  ")[0].split(" | ")) for line in page.splitlines()[1:]]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == [package]]
    assert shown == [set(layer.split(" | ")) for layer in layers]


def test_only_the_command_line_and_the_processes_read_the_settings() -> None:
    readers = {
        path.relative_to(ROOT / "app").parts[0]
        for path in (ROOT / "app").rglob("*.py")
        if re.search(
            r"^\s*(?:from app\.settings |import app\.settings|from app import .*\bsettings\b)",
            path.read_text(),
            re.MULTILINE,
        )
    }
    assert readers == {"__main__.py", "flags.py", "predict", "processes"}
    assert "Only `app/predict/`, `app/processes/` and the command line (`app/flags.py`) read" in " ".join(
        (ROOT / "docs/architecture.md").read_text().split()
    )


def test_every_decision_has_its_parts_and_is_listed() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]}: ")
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Measured", "Decided"], page.name
        assert re.search(r"^\d{4}-\d\d-\d\d", text, re.MULTILINE), page.name
        assert f"[{page.name[:4]}]({page.name})" in index


@pytest.mark.parametrize("page", ["docs/reliability.md", "docs/privacy.md"])
def test_every_promise_names_a_test_that_holds_it(page: str) -> None:
    promises = [row for row in table_rows(page) if row[-1] != "test"]
    assert promises
    for promise, *_, held_by in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", held_by)
        assert named, promise
        for path, test in named:
            assert f"def {test or 'test_'}" in (ROOT / path).read_text(), held_by


def test_the_changelog_has_what_is_to_come_and_this_version() -> None:
    sections = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[:2] == ["Unreleased", app.__version__]
