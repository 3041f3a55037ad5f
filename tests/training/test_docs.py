"""docs/training.md does what it says: its commands are run as they are written, on rows and a network that are small."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import ROOT, serving
from tests.training import toy

pytestmark = pytest.mark.torch

PAGE = (ROOT / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = ".venv-train/bin/python"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder but for the project and the texts of the page; the demo checkpoint is the small one."""
    folder = tmp_path_factory.mktemp("checkout")
    small = toy.make_checkpoint(tmp_path_factory.mktemp("demo") / "checkpoint", num_hidden_layers=4)
    for name in ("app", "training"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "model_export").mkdir()
    for path in (ROOT / "model_export").iterdir():
        (folder / "model_export" / path.name).symlink_to(
            small if path.name == "demo_checkpoint" else path, target_is_directory=path.is_dir()
        )
    toy.write_csv(folder / "reviews.csv", toy.reviews(300))
    documents = [[row["text"] for row in toy.reviews(12, seed=seed)] for seed in range(40)]
    (folder / "texts.txt").write_text("\n\n".join("\n".join(lines) for lines in documents))
    return folder


def run(command: str, folder: Path) -> str:
    """Run a command of the page by the Python that runs now."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == PYTHON
    done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_page_is_followed_from_rows_to_models_that_are_served(folder: Path) -> None:
    training = [block for block in BLOCKS if "-m training" in block]
    demo = training.pop()  # of packages that are downloaded; its own test has small ones
    assert [shlex.split(block)[3] for block in (*training, demo)] == [
        "finetune",
        "distill",
        "prune-vocabulary",
        "pretrain",
        "demo",
    ]
    told = [run(block, folder) for block in training]
    assert "trained/reviews has the checkpoint" in told[0]
    named = re.findall(r"`(\w+\.(?:md|png|json))`", PAGE)
    made = {path.name for path in (folder / "trained").glob("*/*")}
    assert set(named) <= made
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["reviews", "reviews-small"]
    [serve] = [block for block in BLOCKS if "-m app" in block]
    assert serve.strip() == f"{PYTHON} -m app --models models"
    [ask] = [block for block in BLOCKS if "curl" in block]
    found = re.search(r"(/v1/\w+) -d '(.*)'", ask)
    assert found is not None
    with serving(
        folder / "models", "--threads", "1", "--batch-tokens", "1024", "--default-models", "reviews"
    ) as server:
        answer: Any = httpx.post(server.url + found[1], content=found[2]).json()
    assert {one["label"] for one in answer["predictions"][0]} == {"positive", "negative"}


def test_every_command_has_its_row() -> None:
    from training.__main__ import COMMANDS

    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.partition("## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_every_option_of_the_page_is_one() -> None:
    from training.__main__ import COMMANDS

    helps = []
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "training", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        helps.append(done.stdout)
    known = set(re.findall(r"--[a-z][a-z0-9-]*", "\n".join(helps))) | {"--models"}
    assert set(re.findall(r"--[a-z][a-z0-9-]*", PAGE)) - known == set()
