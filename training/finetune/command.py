"""Fine-tune a checkpoint, evaluate it, and write it with what the held-out rows say of it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from training.bundle import check_export, export
from training.checkpoint import Checkpoint, check_language, open_checkpoint, reading_weights
from training.errors import TrainingError, tell
from training.figures import draw_loss
from training.finetune.answers import Answers
from training.finetune.arguments import Options, Task
from training.finetune.card import write_report
from training.finetune.classification import Classification
from training.finetune.entities import TOKENS, Entities
from training.finetune.kind import Kind
from training.rows import Rows, read_held_out, read_rows, source_files
from training.running import BestStep, LengthGroupedTrainer, begin, train, training_arguments
from training.work_folder import WorkFolder, check_apart, fingerprint

KINDS: Final[Mapping[Task, type[Kind]]] = {"classify": Classification, "entities": Entities, "answer": Answers}
_ANSWER_LENGTH: Final = 384
"""Tokens of a window, as BERT's authors have it for SQuAD."""
_IRRELEVANT: Final = ("output", "overwrite", "export", "variants", "data", "eval_data", "save_eval_data")
"""Options that do not make a model what it is; of the data, it is what they hold."""


def run(options: Options) -> None:
    """Fine-tune.

    Raises:
        TrainingError: the rows, the checkpoint or the options do not do.
    """
    _check_paths(options)
    rows = read_rows(options.data, options)
    evaluation = None if options.eval_data is None else read_held_out(options.eval_data, options)
    task = options.task or _task(rows)
    with WorkFolder(options.output, _identity(options), overwrite=options.overwrite) as folder:
        if not folder.is_finished:
            checkpoint = open_checkpoint(options.checkpoint)
            if options.export is not None:
                check_export(options.export, checkpoint.config, checkpoint.tokenizer, options.variants)
            kind = KINDS[task](options, rows, evaluation, _known_labels(checkpoint))
            _train(options, checkpoint, kind, folder)
        print(f"{options.output} has the checkpoint, and README.md says how good it is.", flush=True)
        if options.export is not None:
            variants = [] if options.variants is None else ["--variants", options.variants]
            export(options.output, options.export, task, variants)


def _check_paths(options: Options) -> None:
    """Check that nothing that is read is written over.

    Raises:
        TrainingError: it would be.
    """
    data = [path for path in (options.data, options.eval_data) if path is not None]
    check_apart("--output", options.output, [*data, Path(options.checkpoint)])
    if options.save_eval_data is not None:
        check_apart("--save-eval-data", options.save_eval_data, [*data, options.output])
    if options.export is not None:
        check_apart("--export", options.export, [*data, Path(options.checkpoint), options.output])
    elif options.variants is not None:
        raise TrainingError("--variants are of the bundle that --export writes: give both.")


def _train(options: Options, checkpoint: Checkpoint, kind: Kind, folder: WorkFolder) -> None:
    tokenizer = checkpoint.tokenizer
    max_length = checkpoint.length(options.max_length, _ANSWER_LENGTH if kind.task == "answer" else None)
    check_language(tokenizer, kind.train["context" if kind.task == "answer" else "text"])
    tell(f"{len(kind.train):,} rows to learn from, {len(kind.held_out):,} held out.")
    if options.save_eval_data is not None:
        with options.save_eval_data.open("w") as file:
            file.writelines(f"{json.dumps(kind.written(row), ensure_ascii=False)}\n" for row in kind.held_out)
    begin(options.seed)
    with reading_weights(checkpoint.name):
        model = kind.model(checkpoint.name)
    model.accepts_loss_kwargs = False  # its loss is the mean of a batch, of which a step may have several
    learnt, held_out = (kind.features(rows, tokenizer, max_length) for rows in (kind.train, kind.held_out))
    trainer = LengthGroupedTrainer(
        model,
        training_arguments(
            folder.checkpoints,
            options,
            examples=len(learnt),
            load_best_model_at_end=True,
            metric_for_best_model=kind.best_metric,
            greater_is_better=True,
        ),
        data_collator=kind.collator(tokenizer),
        train_dataset=learnt,
        eval_dataset=held_out,
        compute_loss_func=kind.loss(),
        compute_metrics=kind.metrics,
        callbacks=[BestStep(kind.best_metric, options.early_stopping_patience)],
    )
    history = train(trainer)
    folder.result.mkdir()
    report = kind.report(trainer.predict(held_out), model, folder.result)
    draw_loss(history, folder.result / "loss.png")
    tokenizer.save_pretrained(folder.result)
    model.save_pretrained(folder.result)
    write_report(folder.result, options, kind=kind, report=report, state=trainer.state)
    folder.finish()


def _task(rows: Rows) -> Task:
    """Return what rows of these columns are for."""
    columns = rows.train.column_names
    if "question" in columns and "answers" in columns:
        return "answer"
    return "entities" if any(name in columns for name in (*TOKENS, "entities", "spans")) else "classify"


def _known_labels(checkpoint: Checkpoint) -> Sequence[str]:
    labels: Mapping[int, str] = checkpoint.config.id2label
    return [labels[i] for i in sorted(labels)]


def _identity(options: Options) -> dict[str, object]:
    """Return what makes the result what it is."""
    given = {name: value for name, value in dataclasses.asdict(options).items() if name not in _IRRELEVANT}
    paths = [path for path in (options.data, options.eval_data) if path is not None]
    return {
        **given,
        "data": fingerprint(source_files(paths)),
        "from": fingerprint(source_files([Path(options.checkpoint)])),
    }
