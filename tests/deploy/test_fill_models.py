"""How the models folder of a deployment is filled: real exports of small checkpoints."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from app.bundle.files import find_bundles
from deploy.fill_models import DEMO_CHECKPOINT, Model, alone, fill, models_to_fill, serve_version
from tests.support import change_manifest, eventually

ROOT = Path(__file__).parents[2]
SINGLE = Model(
    "sentiment",
    "auto",
    version="1",
    checkpoint="tests/fixtures/checkpoints/bert-single-label",
    revision="",
    variants="cpu-fp32",
)


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def first_fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        fill(models, SINGLE)
    return models


@pytest.fixture
def filled(first_fill: Path, tmp_path: Path) -> Path:
    """A folder of its own in which version 1 is served."""
    return Path(shutil.copytree(first_fill, tmp_path / "models", symlinks=True))


def served(models: Path) -> dict[str, str]:
    """Return the version of each model that a server would find."""
    return {bundle.name: bundle.folder.resolve().parent.name for bundle in find_bundles(models)}


def test_links_move_on_nfs(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: TextIO | int, operation: int) -> None:
        """As flock(2) says of NFS: an exclusive lock asks for a file that is open to be written."""
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(file, operation)

    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    serve_version(filled, "again", filled / ".versions" / "1" / "sentiment")
    assert served(filled) == {"again": "1", "sentiment": "1"}


def test_a_version_is_made_once_and_kept_for_the_way_back(filled: Path) -> None:
    assert served(filled) == {"sentiment": "1"}
    made = (filled / "sentiment" / "manifest.json").stat()
    fill(filled, replace(SINGLE, variants=" cpu-fp32, "))
    assert (filled / "sentiment" / "manifest.json").stat().st_ino == made.st_ino

    fill(filled, replace(SINGLE, version="2", checkpoint="tests/fixtures/checkpoints/bert-multi-label"))
    assert served(filled) == {"sentiment": "2"}

    fill(filled, SINGLE)
    assert served(filled) == {"sentiment": "1"}
    assert (filled / "sentiment" / "manifest.json").stat().st_ino == made.st_ino


def test_a_bundle_that_lacks_a_variant_or_is_damaged_is_made_again(filled: Path) -> None:
    fill(filled, replace(SINGLE, variants="cpu-fp32,cuda-fp32"))
    (bundle,) = find_bundles(filled)
    assert {variant.name for variant in bundle.manifest.variants} == {"cpu-fp32", "cuda-fp32"}

    manifest = filled / "sentiment" / "manifest.json"
    manifest.write_text('{"schema_version": 0}')
    fill(filled, SINGLE)
    assert served(filled) == {"sentiment": "1"}


def test_a_version_is_never_another_model(filled: Path, tmp_path: Path) -> None:
    """The demo's name with a checkpoint of one's own must not be answered by the demo."""
    fill(filled, replace(SINGLE, version="2", checkpoint="tests/fixtures/checkpoints/bert-multi-label"))
    before = (filled / "sentiment" / "manifest.json").read_bytes()
    retrained = shutil.copytree(SINGLE.checkpoint, tmp_path / "retrained")
    weights = retrained / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    for asked, problem in {
        replace(SINGLE, version="2"): "other weights than those of tests/fixtures/checkpoints/bert-single-label",
        replace(SINGLE, checkpoint=str(retrained)): "other weights",
        replace(SINGLE, checkpoint=str(retrained), variants="cpu-fp32,cuda-fp32"): "other weights",
        replace(SINGLE, task="fill-mask"): "its task is classify, not fill-mask",
        replace(SINGLE, checkpoint="someone/mood"): f"made of {SINGLE.checkpoint}, not of someone/mood",
    }.items():
        with pytest.raises(SystemExit, match=problem) as refused:
            fill(filled, asked)
        assert "Set MODEL_VERSION=3 " in str(refused.value)
    with pytest.raises(SystemExit, match="has no weights"):
        fill(filled, replace(SINGLE, checkpoint=str(tmp_path)))
    assert served(filled) == {"sentiment": "2"}
    assert (filled / "sentiment" / "manifest.json").read_bytes() == before


def test_a_version_is_one_revision_of_the_hub(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    manifest = json.loads((filled / "sentiment" / "manifest.json").read_bytes())
    change_manifest(
        filled / "sentiment", source=manifest["source"] | {"checkpoint": "someone/mood", "revision": commit}
    )
    cache = tmp_path / "models--someone--mood"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "v1").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "snapshots" / commit / "config.json").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    for revision in ("", commit, "v1"):
        fill(filled, replace(SINGLE, checkpoint="someone/mood", revision=revision))
    for revision in ("v2", commit[::-1]):
        with pytest.raises(SystemExit, match=f"made of revision {commit}, not of {revision}. Set MODEL_VERSION=2 "):
            fill(filled, replace(SINGLE, checkpoint="someone/mood", revision=revision))
    with pytest.raises(SystemExit, match="made of someone/mood, not of someone/else"):
        fill(filled, replace(SINGLE, checkpoint="someone/else"))


def test_an_export_that_fails_changes_nothing(filled: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        fill(filled, replace(SINGLE, version="2", checkpoint=str(filled / "nowhere")))
    assert served(filled) == {"sentiment": "1"}


def test_a_name_that_is_no_longer_asked_for_is_served_until_it_is_withdrawn(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(filled, replace(SINGLE, name="reviews"))
    assert served(filled) == {"reviews": "1", "sentiment": "1"}
    assert "withdraw sentiment\n" in capsys.readouterr().out


def test_models_are_served_once_all_of_them_are_made(filled: Path) -> None:
    new = replace(SINGLE, version="2", checkpoint="tests/fixtures/checkpoints/bert-multi-label")
    with pytest.raises(subprocess.CalledProcessError):
        fill(filled, new, replace(SINGLE, name="other", checkpoint=str(filled / "nowhere")))
    assert served(filled) == {"sentiment": "1"}


def test_a_second_export_waits_for_the_first(filled: Path) -> None:
    wanted = {"BERT_MODELS": str(filled), "MODEL_NAME": "sentiment", "CHECKPOINT": SINGLE.checkpoint}
    command = [sys.executable, "-m", "deploy.fill_models"]
    environment = os.environ | wanted | {"MODEL_VARIANTS": "cpu-fp32"}
    with alone(filled / ".export.lock"):
        second = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert second.stdout.readline() == "another export into this folder is waited for\n"
    told, _ = second.communicate(timeout=60)
    assert (second.returncode, told.splitlines()[-1]) == (0, "sentiment: version 1 is served")


def test_without_a_name_the_demo_models_are_served() -> None:
    models = models_to_fill({"MODEL_NAME": "", "MODEL_VERSION": "", "CHECKPOINT": ""})
    assert {model.name: model.task for model in models} == {
        "sentiment": "classify",
        "masked-token": "fill-mask",
        "next-sentence": "next-sentence",
    }
    assert {(model.version, model.checkpoint) for model in models} == {("1", DEMO_CHECKPOINT)}
    assert (ROOT / DEMO_CHECKPOINT).is_dir()


def test_a_model_is_what_the_environment_says() -> None:
    environment = {
        "MODEL_NAME": "topics",
        "MODEL_TASK": "classify",
        "MODEL_VERSION": "7",
        "MODEL_VARIANTS": "cpu-fp32",
        "CHECKPOINT": "organization/model",
        "CHECKPOINT_REVISION": "abc",
    }
    assert models_to_fill(environment) == [
        Model("topics", "classify", version="7", checkpoint="organization/model", revision="abc", variants="cpu-fp32")
    ]


@pytest.mark.parametrize("variable", ["MODEL_NAME", "MODEL_VERSION"])
@pytest.mark.parametrize("value", ["organization/model", "..", ".versions", "a b"])
def test_what_is_no_folder_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(SystemExit, match=variable):
        models_to_fill({variable: value})


def test_a_stop_ends_the_export_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    wanted = {"BERT_MODELS": str(tmp_path), "MODEL_NAME": "mood", "CHECKPOINT": SINGLE.checkpoint}
    with subprocess.Popen([sys.executable, "-m", "deploy.fill_models"], env=os.environ | wanted) as process:
        unfinished = tmp_path / ".versions" / "1"
        eventually(lambda: list(unfinished.glob(".mood.*/mood")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(unfinished.iterdir())


def fill_models(models: Path, checkpoint: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the service as compose does, but as a user who may read what is his own only: root, say, may read everything."""
    described = {
        "MODEL_NAME": "reviews",
        "CHECKPOINT": str(checkpoint),
        "BERT_MODELS": str(models),
        "MODEL_VARIANTS": "cpu-fp32",
    }
    confined = [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]
    return subprocess.run(
        [*(confined if os.getuid() == 0 else []), sys.executable, "-m", "deploy.fill_models"],
        cwd=ROOT,
        env={**os.environ, **described, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "."])
def test_a_checkpoint_that_may_not_be_read_names_the_command_that_changes_it(tmp_path: Path, name: str) -> None:
    """`save_pretrained` writes weights that their owner alone may read, and the export is another user."""
    checkpoint = shutil.copytree(SINGLE.checkpoint, tmp_path / "checkpoint")
    (checkpoint / name).chmod(0)
    done = fill_models(tmp_path / "models", checkpoint, CHECKPOINT_DIR="/data/my checkpoint")
    (checkpoint / name).chmod(0o700)
    assert done.returncode == 1
    assert f"may not read {checkpoint / name}. On the host, run: chmod -R a+rX '/data/my checkpoint'\n" in done.stderr
    assert "Traceback" not in done.stderr
