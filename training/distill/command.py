"""Train students, measure them as they will be served, and keep the one that was asked for."""

import dataclasses
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import datasets
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from training.bundle import check_export, export
from training.checkpoint import Checkpoint, check_language, open_checkpoint, reading_weights
from training.distill.arguments import Options
from training.distill.choice import TEACHER, choose
from training.distill.evaluation import MEASURES, Evaluation, Row
from training.distill.lesson import Lesson
from training.distill.measure import measure
from training.distill.report import compared, read_report, write_report
from training.distill.student import Shape, check_shape, make_student
from training.distill.teacher import Teacher, open_teacher
from training.distill.texts import evaluation_rows, read_unlabelled
from training.errors import TrainingError, tell
from training.finetune.cut import encode
from training.rows import source_files
from training.running import LengthGroupedTrainer, begin, train, training_arguments
from training.work_folder import WorkFolder, check_apart, fingerprint

_WATCHED: Final = 0.05
"""Share of the texts that are not learnt from, but tell which step is the best."""
_IRRELEVANT: Final = (
    *("output", "overwrite", "export", "max_loss", "num_hidden_layers", "hidden_size"),
    *("label_column", "label_delimiter"),
)
"""Options that do not make a student what it is."""


def run(options: Options) -> None:
    """Distill.

    Raises:
        TrainingError: the texts, the teacher or the options do not do.
    """
    _check_paths(options)
    checkpoint = open_checkpoint(options.teacher)
    if options.export is not None:
        check_export(options.export, checkpoint.config, checkpoint.tokenizer)
    with reading_weights(checkpoint.name):
        teacher = open_teacher(checkpoint)
    shapes = _shapes(options, teacher.network)
    evaluation, rows = evaluation_rows(options, teacher, read_unlabelled(options, teacher.task))
    check_language(checkpoint.tokenizer, [" ".join(row.values()) for row in rows])
    what = "texts" if len(rows[0]) == 1 else "pairs of texts"
    tell(f"{len(rows):,} {what} to learn from, {len(evaluation.rows):,} to evaluate on.")
    with WorkFolder(options.output, _identity(options), overwrite=options.overwrite) as folder:
        if not folder.is_finished:
            _distill(options, checkpoint, teacher, shapes, rows=rows, evaluation=evaluation, folder=folder)
        measured, chosen = read_report(options.output)
        if {one.model for one in measured} != {TEACHER, *map(str, shapes)} or chosen != choose(
            measured, options.max_loss
        ):
            raise TrainingError(f"{options.output} is of other students: name another --output, or --overwrite it.")
        print(f"{compared(options, teacher, measured, chosen)}\n")
        print(f"{options.output} has {chosen.name}; its README.md has this table.", flush=True)
        if chosen.model == TEACHER:
            print(
                f"No student holds: the {MEASURES[teacher.form]} of each is more than {options.max_loss:g} below the teacher's. "
                f"{options.output} has the teacher itself.",
                flush=True,
            )
        if options.export is not None:
            variant = ["--variants", f"cpu-{chosen.precision}", "--keep-inaccurate"]
            export(options.output, options.export, teacher.task, variant)


def _check_paths(options: Options) -> None:
    """Check that nothing that is read is written over.

    Raises:
        TrainingError: it would be.
    """
    data = [*options.texts, *([] if options.eval_data is None else [options.eval_data]), Path(options.teacher)]
    check_apart("--output", options.output, data)
    if options.export is not None:
        check_apart("--export", options.export, [*data, options.output])


def _distill(
    options: Options,
    checkpoint: Checkpoint,
    teacher: Teacher,
    shapes: Sequence[Shape],
    *,
    rows: Sequence[Row],
    evaluation: Evaluation,
    folder: WorkFolder,
) -> None:
    ask = functools.partial(
        measure, task=teacher.task, form=teacher.form, evaluation=evaluation, scratch=folder.scratch
    )
    models = {TEACHER: _saved(folder.scratch / TEACHER, teacher.network, checkpoint.tokenizer)}
    # The teacher first: what cannot be served or asked is told before a student is taught.
    measured = ask(models)
    students = {str(shape): _taught(options, checkpoint, teacher, shape, rows=rows, folder=folder) for shape in shapes}
    measured += ask(students)
    chosen = choose(measured, options.max_loss)
    shutil.copytree((models | students)[chosen.model], folder.result)
    write_report(folder.result, options, teacher, measured, chosen, evaluated=len(evaluation.rows))
    folder.finish()


def _shapes(options: Options, teacher: PreTrainedModel) -> list[Shape]:
    config = teacher.config
    layers = options.num_hidden_layers or [max(1, config.num_hidden_layers // 2)]
    shapes = [Shape(number, width) for number in layers for width in options.hidden_size or [config.hidden_size]]
    for shape in shapes:
        check_shape(shape, teacher)
    return list(dict.fromkeys(shapes))


def _taught(
    options: Options,
    checkpoint: Checkpoint,
    teacher: Teacher,
    shape: Shape,
    *,
    rows: Sequence[Row],
    folder: WorkFolder,
) -> Path:
    """Return the folder of a student; one that a run before has taught is not taught again."""
    kept = folder.scratch / str(shape)
    if kept.exists():
        return kept
    tell(f"Student {shape}:")
    begin(options.seed)
    student = make_student(teacher.network, shape)
    max_length = checkpoint.length(options.max_length)
    features = _features(rows, checkpoint.tokenizer, max_length).train_test_split(
        max(1, round(len(rows) * _WATCHED)), seed=options.seed
    )
    lesson = Lesson(student, teacher, temperature=options.temperature, hidden_loss_weight=options.hidden_loss_weight)
    trainer = LengthGroupedTrainer(
        lesson,
        training_arguments(
            folder.checkpoints / str(shape),
            options,
            examples=len(features["train"]),
            remove_unused_columns=False,
            label_names=[],
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=False,
        ),
        data_collator=DataCollatorWithPadding(checkpoint.tokenizer),
        train_dataset=features["train"],
        eval_dataset=features["test"],
    )
    train(trainer)
    return _saved(kept, student, checkpoint.tokenizer)


def _features(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    texts = [tuple(row.values()) for row in rows]
    firsts = [text[0] for text in texts]
    seconds = [text[1] for text in texts] if len(texts[0]) > 1 else None
    cut = encode(tokenizer, firsts, seconds, max_length)
    return datasets.Dataset.from_dict({name: cut[name] for name in tokenizer.model_input_names if name in cut})


def _saved(folder: Path, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write a checkpoint that is there whole or not at all."""
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        network.save_pretrained(new)
        tokenizer.save_pretrained(new)
        new.rename(folder)
    return folder


def _identity(options: Options) -> dict[str, object]:
    """Return what makes a student what it is; of files, it is what they hold."""
    given = {name: value for name, value in dataclasses.asdict(options).items() if name not in _IRRELEVANT}
    sources = {"texts": options.texts}
    if options.eval_data is not None:
        sources["eval_data"] = [options.eval_data]
    if Path(options.teacher).is_dir():
        sources["teacher"] = [Path(options.teacher)]
    return given | {name: fingerprint(source_files(paths)) for name, paths in sources.items()}
