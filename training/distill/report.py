"""What was measured, as a table and a picture, in the README of the student."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from training.card import how_to_serve, write_card
from training.distill.arguments import Options
from training.distill.choice import TEACHER
from training.distill.evaluation import MEASURES
from training.distill.measure import Measured
from training.distill.teacher import Teacher
from training.figures import draw_trade_off
from training.markdown import table


def read_report(folder: Path) -> tuple[list[Measured], Measured]:
    """Return what the report in a folder says was measured, and which of it was taken."""
    rows = json.loads((folder / "evaluation.json").read_text())
    taken = [row.pop("is_taken") for row in rows]
    measured = [Measured(**row) for row in rows]
    return measured, measured[taken.index(True)]


def compared(options: Options, teacher: Teacher, measured: Sequence[Measured], chosen: Measured) -> str:
    """Return the table of what was measured."""
    [reference] = [one for one in measured if one.model == TEACHER and one.precision == "fp32"]
    rows = [
        [
            f"**{one.name}**" if one == chosen else one.name,
            f"{one.parameters / 1e6:.3g} M",
            f"{one.size_bytes / 1e6:.3g} MB",
            f"{one.rows_per_s:,.0f}",
            one.quality,
            f"{one.quality - reference.quality:+z.3f}",
        ]
        for one in measured
    ]
    return table(["model", "parameters", "size", "texts/s", _unit(options, teacher), "to the teacher"], rows)


def _unit(options: Options, teacher: Teacher) -> str:
    measure = MEASURES[teacher.form]
    return measure if options.eval_data else f"{measure} with the teacher"


def write_report(
    folder: Path, options: Options, teacher: Teacher, measured: Sequence[Measured], chosen: Measured, *, evaluated: int
) -> None:
    """Write `README.md`, `evaluation.json` and `trade_off.png` into the folder of the checkpoint."""
    measure = MEASURES[teacher.form]
    labelled = f"the labels of {options.eval_data.name}" if options.eval_data else "its teacher's own answers"
    asked = (
        "the best student"
        if options.max_loss is None
        else f"the smallest whose {measure} is at most {options.max_loss:g} below the teacher's in fp32"
    )
    made_of = (
        f"{chosen.name}: {asked}, of those that were distilled from {Path(options.teacher).name}. Evaluated on {evaluated:,} texts "
        f"by {labelled}, in the bundles that are served; of the {measure}, more is better. Texts a second are those of "
        "`python -m app predict` on this machine's CPU."
    )
    variant = f"--variants cpu-{chosen.precision} --keep-inaccurate"
    front = ModelCardData(library_name="transformers", model_name=options.output.name)
    sections = [
        made_of,
        compared(options, teacher, measured, chosen),
        "![Speed and quality of each model](trade_off.png)",
        how_to_serve(options.output, teacher.task, variant),
    ]
    write_card(folder, front, sections, [dataclasses.asdict(one) | {"is_taken": one == chosen} for one in measured])
    points = [(one.name, one.rows_per_s, one.quality, one.size_bytes) for one in measured]
    draw_trade_off(points, _unit(options, teacher), folder / "trade_off.png")
