"""Pretrain a BERT, evaluate it, and write it with what the held-out documents say of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from training.checkpoint import open_checkpoint
from training.errors import tell
from training.figures import draw_loss
from training.pretrain.arguments import Options
from training.pretrain.card import write_report
from training.pretrain.examples import Collator
from training.pretrain.held_out import MEASURES, held_out_examples, metrics, next_sentence_baseline, unigram_entropy
from training.pretrain.network import check_checkpoint, check_options, make_network
from training.pretrain.phases import SHORT, Phases
from training.pretrain.preparation import Prepared, prepare
from training.pretrain.trainer import PretrainingTrainer
from training.rows import source_files
from training.running import begin, train, training_arguments
from training.texts import text_files
from training.work_folder import WorkFolder, check_apart, fingerprint

_IRRELEVANT: Final = ("output", "overwrite", "texts", "vocab")
"""Options that do not make a model what it is; of the files, it is what they hold."""
_WORKERS: Final = 2
"""Processes that make examples, while a GPU learns from them: it is faster than one."""


def run(options: Options) -> None:
    """Pretrain.

    Raises:
        TrainingError: the texts, the checkpoint or the options do not do.
    """
    check_options(options)
    checkpoint = None if options.checkpoint is None else open_checkpoint(options.checkpoint)
    if checkpoint is not None:
        check_checkpoint(checkpoint, options)
    read = [*options.texts, *(Path(path) for path in (options.checkpoint, options.vocab) if path is not None)]
    check_apart("--output", options.output, read)
    with WorkFolder(options.output, _identity(options), overwrite=options.overwrite) as folder:
        if not folder.is_finished:
            _train(options, prepare(folder.scratch / "corpus", options, checkpoint), folder)
    print(f"{options.output} has the checkpoint, and README.md says how good it is.")


def _train(options: Options, prepared: Prepared, folder: WorkFolder) -> None:
    tokenizer = prepared.tokenizer
    phases = Phases(prepared.train, tokenizer, options)
    held_out = {
        length: held_out_examples(prepared.held_out, tokenizer, max_length=length, seed=options.seed)
        for length in sorted({min(SHORT, options.max_length), options.max_length})
    }
    frequencies = prepared.train.frequencies(len(tokenizer))
    baselines = {
        length: {
            "unigram_entropy": unigram_entropy(examples, frequencies),
            "next_sentence_baseline": next_sentence_baseline(examples),
        }
        for length, examples in held_out.items()
    }
    first = min(held_out)
    entropy = baselines[first]["unigram_entropy"]
    tell(
        f"Who knows frequencies alone has a masked-word loss of {entropy:.3f}, and a next-sentence accuracy of "
        f"{baselines[first]['next_sentence_baseline']:.3f}."
    )
    if not baselines[first]["next_sentence_baseline"]:
        tell("No held-out document has two sentences that fit: how well next sentences are told stays unknown.")
    begin(options.seed)
    model = make_network(options, tokenizer)
    trainer = PretrainingTrainer(
        model,
        training_arguments(
            folder.checkpoints,
            dataclasses.replace(options, max_steps=phases.steps),
            examples=round(phases.per_epoch),
            adam_epsilon=1e-6,  # as BERT's authors have it
            train_sampling_strategy="sequential",
            dataloader_num_workers=_WORKERS if torch.cuda.is_available() else 0,
        ),
        data_collator=Collator(tokenizer),
        train_dataset=phases.examples,
        eval_dataset=held_out[first],  # of one length, for a curve without a step
        compute_metrics=metrics,
    )
    history = train(trainer)
    rows = {}
    for length, examples in held_out.items():
        if length == first:  # the last step evaluated them
            found = next(entry for entry in reversed(history) if "eval_loss" in entry)
        else:
            tell(f"Held-out documents in sequences of {length} tokens:")
            found = trainer.evaluate(examples)
        rows[length] = {name: found[f"eval_{name}"] for name in MEASURES} | baselines[length]
    folder.result.mkdir()
    tokenizer.save_pretrained(folder.result)
    model.save_pretrained(folder.result)
    draw_loss(_of_masked_words(history), folder.result / "loss.png", {"unigram entropy": entropy})
    figures = {
        "held_out": rows,
        "documents": len(prepared.train.first),
        "tokens": prepared.train.count,
        "held_out_documents": len(prepared.held_out.first),
        "held_out_tokens": prepared.held_out.count,
        "vocabulary": len(tokenizer),
        "parameters": model.num_parameters(),
        "steps": phases.steps,
        "history": history,
    }
    write_report(folder.result, options, figures)
    folder.finish()


def _of_masked_words(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return the log with the masked-word loss as the loss."""
    names = {"masked_word_loss": "loss", "eval_masked_word_loss": "eval_loss"}
    return [
        {"step": entry["step"], **{shown: entry[name] for name, shown in names.items() if name in entry}}
        for entry in history
    ]


def _identity(options: Options) -> dict[str, object]:
    """Return what makes the result what it is."""
    given = {name: value for name, value in dataclasses.asdict(options).items() if name not in _IRRELEVANT}
    vocab = None if options.vocab is None else fingerprint([options.vocab])
    start = None if options.checkpoint is None else fingerprint(source_files([Path(options.checkpoint)]))
    return {**given, "texts": fingerprint(text_files(options.texts)), "vocab": vocab, "from": start}
