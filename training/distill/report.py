"""What was measured, as a table and a picture, in the README of the student."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from training.card import write_card
from training.distill.arguments import Options
from training.distill.choice import TEACHER
from training.distill.measure import Measured
from training.figures import draw_trade_off
from training.markdown import table


def write_report(
    folder: Path, options: Options, measured: Sequence[Measured], chosen: Measured, *, evaluated: int
) -> str:
    """Write `README.md`, `evaluation.json` and `trade_off.png` into the folder of the checkpoint, and return the table."""
    [teacher] = [one for one in measured if one.model == TEACHER and one.precision == "fp32"]
    unit = "share that is right" if options.eval_data else "share answered as by the teacher"
    rows = [
        [
            f"**{one.name}**" if one is chosen else one.name,
            f"{one.parameters / 1e6:.3g} M",
            f"{one.size_bytes / 1e6:.3g} MB",
            f"{one.rows_per_s:,.0f}",
            one.quality,
            f"{one.quality - teacher.quality:+.3f}",
        ]
        for one in measured
    ]
    compared = table(["model", "parameters", "size", "texts/s", unit, "to the teacher"], rows)
    labelled = f"the labels of {options.eval_data.name}" if options.eval_data else "its teacher's own answers"
    asked = (
        "the best student" if options.max_loss is None else f"the smallest that loses at most {options.max_loss:.1%}"
    )
    made_of = (
        f"{chosen.name}: {asked}, of those that were distilled from {Path(options.teacher).name}. Evaluated on {evaluated:,} texts "
        f"by {labelled}, in the bundles that are served; texts a second are those of `python -m app predict` on this machine's "
        "CPU. For entities and several labels, the share is the F1; for numbers, the correlation."
    )
    front = ModelCardData(library_name="transformers", model_name=options.output.name)
    sections = [made_of, compared, "![Speed and quality of each model](trade_off.png)"]
    write_card(folder, front, sections, [dataclasses.asdict(one) for one in measured])
    points = [(one.name, one.rows_per_s, one.quality, one.size_bytes) for one in measured]
    draw_trade_off(points, unit, folder / "trade_off.png")
    return compared
