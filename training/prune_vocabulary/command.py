"""Run `prune-vocabulary`."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from training.errors import TrainingError, share
from training.prune_vocabulary import weights
from training.prune_vocabulary.arguments import Options
from training.prune_vocabulary.check import Checked, check_answers, check_tokens
from training.prune_vocabulary.needed import needed_ids
from training.prune_vocabulary.source import Source, prompts, read_source
from training.prune_vocabulary.usage import Usage, batches
from training.prune_vocabulary.write import named_ids, write_files
from training.texts import read_lines, text_files
from training.work_folder import WorkFolder


def run(options: Options) -> None:
    """Write the checkpoint without the tokens that the corpus does not use, and check that it answers as before.

    Raises:
        TrainingError: the checkpoint, the corpus or the output is none that this can work with, or the answers differ.
    """
    files = text_files(options.corpus)
    folder = Path(options.checkpoint)
    if folder.is_dir() and options.output.resolve().is_relative_to(folder.resolve()):
        raise TrainingError("--output is in the folder of the checkpoint, or that folder; name another.")
    # It always begins anew, so that a run with other options has nothing to keep.
    with WorkFolder(options.output, {"command": "prune-vocabulary"}, overwrite=options.overwrite) as work:
        source = read_source(options.checkpoint)
        tensors = weights.read_weights(source.folder)
        rows = weights.rows(tensors)

        def texts() -> Iterator[str]:
            return chain(prompts(source.folder), read_lines(files, options.encoding))

        usage = _count(source, texts(), rows)
        kept = sorted(_needed(source, usage, options.min_count))
        new_ids = {old: new for new, old in enumerate(kept)}
        with_row = [token_id for token_id in kept if token_id < rows]
        smaller = weights.keep_rows(tensors, with_row)
        write_files(source, work.result, new_ids, len(with_row))
        weights.write_weights(work.result, smaller)
        checked = check_tokens(source, work.result, new_ids, texts())
        check_answers(source, work.result, new_ids, checked.sample)
        before, after = weights.size(tensors), weights.size(smaller)
        work.finish()
    _tell(options.output, share(len(with_row), rows), before, after, checked)


def _count(source: Source, texts: Iterator[str], rows: int) -> Usage:
    usage = Usage(source.readings)
    for batch in batches(texts):
        usage.add(batch)
    if not usage.counts.any():
        raise TrainingError("the corpus has no text: all of its lines are empty.")
    if usage.counts[rows:].any():
        raise TrainingError(f"the corpus uses tokens that {source.name} has no embedding for: it is not its tokenizer.")
    return usage


def _needed(source: Source, usage: Usage, min_count: int) -> set[int]:
    used = {int(token_id) for token_id in (usage.counts >= min_count).nonzero()[0]} | usage.before_unknown
    named = named_ids(source.config)
    # RoBERTa's positions are counted from the id of its padding, so that this id stays.
    used.update(range(named.get("pad_token_id", -1) + 1), named.values())
    for reading in source.readings:
        used |= needed_ids(json.loads(reading.to_str()), used)
    return {token_id for token_id in used if 0 <= token_id < usage.ids}


def _tell(output: Path, tokens: str, before: weights.Size, after: weights.Size, checked: Checked) -> None:
    print(
        f"{output}\n"
        f"tokens      {tokens}\n"
        f"parameters  {share(after.parameters, before.parameters)}\n"
        f"megabytes   {after.bytes / 1e6:,.1f} of {before.bytes / 1e6:,.1f}\n"
        f"texts       {checked.texts - checked.changed:,} have the same tokens as before; the hidden states of "
        f"{len(checked.sample):,} were compared and are the same, bit for bit"
    )
    if checked.changed:
        print(
            f"warning: {share(checked.changed, checked.texts)} texts have a token that is too rare for --min-count; their answers change."
        )
    print(
        "warning: words that the corpus does not have are now cut into more tokens, down to single characters, and answers on them "
        "are worse: prune with texts of every kind that the model will get. A fill-mask head answers with the tokens that are left."
    )
