"""Draw throughput and latency as SVG, which scales and whose changes can be read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from benchmarks.report import ENOUGH, closed, medians

OURS: Final = "#0b6e4f"
PEER: Final = "#9aa5b1"
mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
mpl.rcParams["font.size"] = 9


def write_plots(results: Mapping[str, Any], folder: Path) -> None:
    """Write what was measured: `throughput-<model>.svg`, `latency.svg`."""
    for model in ("base", "tiny"):
        rows = closed(results.get(model, {}).get("rows", ()), "reviews")
        if rows:
            _throughput(rows, model, folder / f"throughput-{model}.svg")
    points = [row for row in results.get("base", {}).get("rows", ()) if row.get("kind") == "open"]
    if points:
        _latency(points, folder / "latency.svg")


def _throughput(rows: Sequence[Mapping[str, Any]], model: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(rows) + 1))
    names = [f"{row['system']}, {row['setting']}" for row in rows]
    colors = [OURS if row["system"] == "this server" else PEER for row in rows]
    bars = axes.barh(names, [row["rate_per_s"] for row in rows], color=colors)
    axes.bar_label(bars, fmt="%.4g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("requests/s, 32 connections, review sentences")
    axes.set_title({"base": "BERT-base", "tiny": "BERT with 2 layers, 128 wide"}[model])
    _save(figure, axes, path)


def _latency(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    share = "p99" if all(point.get("requests", 0) >= ENOUGH for point in points) else "p50"
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in medians(points, "system", "setting", "offered_per_s"):
        curves.setdefault((point["system"], point["setting"]), []).append(point)
    for (system, setting), curve in curves.items():
        curve.sort(key=lambda point: point["offered_per_s"])
        is_ours = system == "this server"
        axes.plot(
            [point["offered_per_s"] for point in curve],
            [point[f"{share}_ms"] for point in curve],
            marker="o",
            linewidth=2.5 if is_ours else 1,
            label=f"{system}, {setting}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("offered requests/s (independent callers)")
    axes.set_ylabel(f"{share} latency from the scheduled time, ms")
    axes.set_title("BERT-base, review sentences")
    axes.legend(fontsize=7)
    _save(figure, axes, path)


def _save(figure: Any, axes: Any, path: Path) -> None:  # noqa: ANN401
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
