"""Labels are drawn whatever their script is."""

import warnings
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.torch

NAMES = ["中文", "$x", "naïve", "日本語", "a$b$"]


def test_a_label_without_a_font_is_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.font_manager import fontManager

    from training import figures

    monkeypatch.setattr(fontManager, "ttflist", [one for one in fontManager.ttflist if "DejaVu" in one.name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.draw_confusion(np.eye(5, dtype=int), NAMES, tmp_path / "confusion.png")
    assert figures._drawn(NAMES)[0] == ["(1)", "$x", "naïve", "(4)", "a$b$"]


def test_a_font_that_the_machine_has_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.font_manager import fontManager

    from training import figures

    letters = figures._letters
    others = [one for one in fontManager.ttflist if one.name == "DejaVu Serif"][:1]
    monkeypatch.setattr(fontManager, "ttflist", others)
    monkeypatch.setattr(
        figures, "_letters", lambda font: set("中文日本語") if font == others[0].fname else letters(font)
    )
    assert figures._drawn(NAMES) == (NAMES, ["DejaVu Sans", "DejaVu Serif"])
