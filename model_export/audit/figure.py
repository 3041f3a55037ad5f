"""The picture of gaps with their intervals, as a PNG file."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font

from model_export.audit.gaps import Gap

MOST_ROWS: Final = 120
"""Gaps that are drawn: a taller picture is no help."""

_DPI: Final = 120
_ROW: Final = 0.26
"""Height of a gap in inches."""
_LONGEST: Final = 44
"""Characters of a row's name."""
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Those of Okabe and Ito, which colour-blind people tell apart."""
_BOXES: Final = "Last Resort High-Efficiency"
"""A font of matplotlib that has a box for every letter."""


def draw(gaps: Sequence[Gap], unit: str, title: str, path: Path) -> None:
    """Draw the first gaps, a panel for each dimension and a colour for each group.

    Args:
        gaps: In the order of the dimensions.
        unit: What the gaps are differences of.
        title: Of the picture.
        path: The file.
    """
    labels = list(dict.fromkeys(gap.label for gap in gaps))
    names = {gap: _short(gap.group if len(labels) == 1 else f"{gap.group}, {gap.label}") for gap in gaps}
    unit = f"{unit}, {_short(labels[0])}" if len(labels) == 1 else unit
    panels = [list(rows) for _, rows in groupby(gaps[:MOST_ROWS], key=lambda gap: gap.dimension)]
    heights = [_ROW * len(rows) + 0.55 for rows in panels]
    figure = Figure(figsize=(8, sum(heights) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    style = {
        "fontfamily": _fonts("".join([title, unit, *(names[gap] + gap.dimension + gap.reference for gap in gaps)]))
    }
    # A dollar sign begins no formula.
    figure.suptitle(title, parse_math=False, **style)
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, rows in zip(all_axes, panels, strict=True):
        groups = list(dict.fromkeys(gap.group for gap in rows))
        axes.axvline(0, color="black", linewidth=0.8)
        for at, gap in enumerate(rows):
            color = _COLORS[groups.index(gap.group) % len(_COLORS)]
            if gap.has_interval:
                axes.plot([gap.low, gap.high], [at, at], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot(gap.gap, at, marker="o", color=color, markersize=6)
        axes.set_yticks(range(len(rows)), [names[gap] for gap in rows], parse_math=False, **style)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color="0.88")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        heading = f"{rows[0].dimension}: difference from {rows[0].reference}"
        axes.set_title(heading, loc="left", fontsize=11, parse_math=False, **style)
    all_axes[-1].set_xlabel(f"gap: {unit}", parse_math=False, **style)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _fonts(text: str) -> list[str]:
    """Return the fonts of this machine that have the letters of a text, and one that draws the others as boxes."""
    fonts = ["DejaVu Sans"]
    missing = set(text) - _letters(fontManager.findfont(fonts[0]))
    for font in sorted(fontManager.ttflist, key=lambda font: font.name) if missing else []:
        found = missing & _letters(font.fname)
        if found and font.name != _BOXES:
            fonts.append(font.name)
            missing -= found
    return [*fonts, _BOXES] if missing else fonts


def _letters(font: str) -> set[str]:
    return {chr(code) for code in get_font(font).get_charmap()}
