"""`python -m model_export audit`, as a person calls it."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model_export.__main__ import main
from tests.conftest import BundleOf
from tests.model_export.support import ROOT

TEMPLATES = """
[work]
about = "Who works *where*"
frames = ["The {word} is late.", "A {word} drank wine.", "The {word} is in Paris.", "Hello {word}", "Good morning, {word}",
    "The {word} is {mask}.", "A {mask} {word}."]
targets = ["late", "good", "no such word"]
groups = { "teachers | doctors" = ["teacher", "doctor"], "☃" = ["mouse", "学生"] }
"""
FILES = ["audit.md", "audit.png", "gaps.csv", "sentences.csv"]


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TEMPLATES, encoding="utf-8")
    return path


@pytest.fixture
def mood(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-single-label")


def audit(*arguments: str | Path) -> int:
    return main(["audit", *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the error of a call that must fail, before its first step."""
    assert audit(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("error: ")
    return line


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_a_report_is_written_and_its_table_is_printed(mood: Path, templates: Path, tmp_path: Path) -> None:
    """In the folder where the command runs, under the name of the model."""
    done = subprocess.run(
        [sys.executable, "-m", "model_export", "audit", str(mood), "--templates", str(templates)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "audit-bert-single-label"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG\r\n")
    report = (folder / "audit.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ☃ \| .*$", report, re.MULTILINE)
    assert len(table) == 3
    assert all(line in done.stdout for line in table)
    assert "3 comparisons; " in report
    assert "3 comparisons; " in done.stdout
    assert "No gap here is no proof that there is none" in report
    assert "Who works \\*where\\*." in report
    assert done.stdout.endswith("The report is audit-bert-single-label/audit.md.\n")


def test_the_files_have_every_gap_and_every_sentence(mood: Path, templates: Path, tmp_path: Path) -> None:
    assert audit(mood, "--templates", templates, "--output", tmp_path / "out") == 0
    sentences, gaps = rows(tmp_path / "out" / "sentences.csv"), rows(tmp_path / "out" / "gaps.csv")
    assert len(sentences) == 2 * 5 * 2
    assert {one["sentence"] for one in sentences} >= {"The teacher is late.", "Hello 学生"}
    labels = [gap["label"] for gap in gaps]
    assert labels == ["négatif", "neutral", "positive"]
    for gap in gaps:
        means = [
            sum(scores) / len(scores)
            for group in ("teachers | doctors", "☃")
            for scores in [[float(one[f"score:{gap['label']}"]) for one in sentences if one["group"] == group]]
        ]
        assert float(gap["gap"]) == pytest.approx(means[1] - means[0], abs=1e-7)
        assert float(gap["low"]) <= float(gap["gap"]) <= float(gap["high"])


def test_two_runs_write_the_same_bytes(mood: Path, templates: Path, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):  # the second one in place of the first
        assert audit(mood, "--templates", templates, "--output", tmp_path / "out") == 0
        contents.append({name: (tmp_path / "out" / name).read_bytes() for name in FILES})
    assert contents[0] == contents[1]


def test_masked_tokens_have_words_and_those_left_out_are_named(
    bundle_of: BundleOf, templates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(bundle_of("bert-fill-mask"), "--templates", templates, "--output", tmp_path / "out") == 0
    assert [gap["label"] for gap in rows(tmp_path / "out" / "gaps.csv")] == ["late", "good"]
    report = (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")
    assert "Left out, as they are not one token of the vocabulary in each frame: no such word." in report
    assert "| too few |" in report  # two frames and two words
    assert "Without an interval, for which it takes 5 frames or 5 words a group: 2." in capsys.readouterr().out


def test_of_many_labels_the_largest_gaps_are_shown(
    bundle_of: BundleOf, templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.audit.report._MOST_LABELS", 2)
    assert audit(bundle_of("xlm-roberta-multi-label"), "--templates", templates, "--output", tmp_path / "out") == 0
    gaps = rows(tmp_path / "out" / "gaps.csv")
    assert len(gaps) > 2
    shown = re.findall(r"^\| ☃ \| (\S+)", (tmp_path / "out" / "audit.md").read_text(encoding="utf-8"), re.MULTILINE)
    largest = sorted(gaps, key=lambda gap: -abs(float(gap["gap"])))
    assert shown == [gap["label"].replace("_", r"\_") for gap in largest[:2]]
    report = (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")
    assert f"Smaller gaps, in gaps.csv only: {len(gaps) - 2}." in report


@pytest.mark.parametrize(("limit", "status"), [("1e-9", 1), ("1.5", 0)])
def test_a_gap_above_the_limit_ends_with_status_1_and_a_report(
    mood: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str, status: int
) -> None:
    """A sentence and a quite different one, five times."""
    path = tmp_path / "mine.toml"
    frames = ", ".join(f'"{{word}}{dots}"' for dots in (".", "!", "?", ",", ":"))
    path.write_text(f'[a]\nframes = [{frames}]\ngroups = {{ x = ["The teacher is late"], y = ["Good wine"] }}\n')
    assert audit(mood, "--templates", path, "--output", tmp_path / "out", "--fail-above", limit) == status
    assert (tmp_path / "out" / "audit.md").is_file()
    err = capsys.readouterr().err
    assert bool(re.search(r"^error: \d of 3 gaps are beyond 1e-09 .*: a, y, ", err, re.MULTILINE)) == bool(status)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "count"), [("classify", 10), ("fill-mask", 10)])
def test_the_page_shows_gaps_of_the_demo_as_they_are(
    bundle_of: BundleOf, tmp_path: Path, task: str, count: int
) -> None:
    """Another CPU may round the last digit otherwise."""
    assert audit(bundle_of(f"demo-{task}"), "--output", tmp_path / "out") == 0
    gaps = {(one["dimension"], one["group"], one["label"]): one for one in rows(tmp_path / "out" / "gaps.csv")}
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    line = r"^\| (\w+) \| [^|]+ \| ([^|,]+)(?:, \S+)? \| (?:(\w+) \| )?([+-]\S+) \| (\S+) to (\S+) \|$"
    shown = [row for row in re.findall(line, page, re.MULTILINE) if bool(row[2]) == (task == "fill-mask")]
    assert len(shown) == count
    for dimension, group, word, *figures in shown:
        gap = gaps[dimension, group, word or "POSITIVE"]
        assert [float(gap[key]) for key in ("gap", "low", "high")] == pytest.approx([*map(float, figures)], abs=0.002)


# --- refusals


def test_a_folder_in_the_bundle_is_refused(mood: Path, templates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(mood.iterdir())
    for output in (mood / "audit", mood):
        line = refusal(capsys, mood, "--templates", templates, "--output", output)
        assert line.endswith("is in the bundle, whose files stay as they are. Choose another folder.")
    assert sorted(mood.iterdir()) == before


def test_a_folder_with_something_else_is_left_as_it_is(
    mood: Path, templates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("audit.md", "mine.md"):
        (tmp_path / "docs" / name).write_text("mine")
    line = refusal(capsys, mood, "--templates", templates, "--output", tmp_path / "docs")
    assert line.endswith("docs is not empty and is not an audit. Choose another name, or empty the folder.")
    assert len(list((tmp_path / "docs").iterdir())) == 2


def test_an_output_that_cannot_be_written_is_told_before_any_work(
    mood: Path, templates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = refusal(capsys, mood, "--templates", templates, "--output", tmp_path / "file" / "out")
    assert "cannot be written: " in line
    assert "file: Not a directory. Let the user that runs this command write there, or choose another folder." in line


def test_no_bundle_and_no_templates_are_told_in_a_sentence(
    mood: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a bundle: it has no readable manifest.json" in refusal(capsys, tmp_path)
    line = refusal(capsys, mood, "--templates", tmp_path / "none.toml", "--output", tmp_path / "out")
    assert line == f"error: {tmp_path / 'none.toml'} cannot be read or written: No such file or directory."
    assert not (tmp_path / "out").exists()


def test_a_failed_audit_leaves_no_folder_and_the_old_report(
    mood: Path, templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audit(mood, "--templates", templates, "--output", tmp_path / "out") == 0

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("model_export.audit.command.draw", full)
    assert audit(mood, "--templates", templates, "--output", tmp_path / "out") == 1
    assert audit(mood, "--templates", templates, "--output", tmp_path / "other") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml", "out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_a_python_without_matplotlib_is_told_what_to_install(
    mood: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ("model_export.audit.command", "model_export.audit.figure")
    for name in [name for name in sys.modules if name in ours or name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refusal(capsys, mood, "--output", tmp_path / "out")
    assert line == (
        f"error: {sys.executable} has no package matplotlib: run this with .venv-audit/bin/python, which "
        "`make audit NAME=bert-single-label` installs, or install requirements/audit.txt."
    )


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "x"])
def test_a_limit_that_is_no_number_above_zero_is_wrong_use(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        audit("models/none", "--fail-above", limit)
    assert ended.value.code == 2
    assert f"argument --fail-above: '{limit}' is not a number above 0" in capsys.readouterr().err


def test_make_asks_for_a_name(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "audit", "-o", ".venv-audit/installed"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Say which of models/ to audit: make audit NAME=sentiment" in done.stderr
