"""Verify a bundle without its checkpoint: its files, its golden answers, and each sequence alone and in a batch."""

from collections.abc import Callable, Sequence

import tokenizers

from app.bundle.files import Bundle
from app.bundle.manifest import GoldenCase, Parity
from app.bundle.onnx_contents import check_contents
from model_export.check.golden import golden_batch, golden_difference
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.sequences import random_sequences
from model_export.check.tolerances import check, difference_from_alone
from model_export.errors import ExportError, of_one_model
from model_export.tasks import TASKS


def verify_bundle(bundle: Bundle, progress: Callable[[str], None]) -> dict[str, Parity]:
    """Verify every variant of a bundle.

    Args:
        bundle: The bundle.
        progress: Called with each step.

    Returns:
        What was measured now, by variant, with the tolerances of the export.

    Raises:
        BundleError: a file is missing or changed.
        ExportError: a variant does not give the golden answers, or its answers depend on the rest of the batch, or the files are
            not of one model.
    """
    with of_one_model(bundle.folder):
        return _verify(bundle, progress)


def _verify(bundle: Bundle, progress: Callable[[str], None]) -> dict[str, Parity]:
    manifest = bundle.manifest
    if manifest.task not in TASKS:
        raise ExportError(f"{bundle.folder} is for the task {manifest.task}, which this release does not have.")
    progress("Reading the golden answers")
    cases = bundle.golden.cases
    mask = None if cases[0].masks is None else manifest.special_tokens.mask
    _check_tokenizer(bundle, cases)
    golden = golden_batch(cases, mask)
    lengths = random_sequences(manifest.max_length, manifest.architecture.vocab_size, mask)
    measured = {}
    for variant in manifest.variants:
        progress(f"Checking {variant.name}")
        for file in (variant.graph, variant.external_data):
            if file is not None:
                bundle.verify_file(file)
        check_contents(bundle.path(variant.graph), variant.external_data.file if variant.external_data else None)
        graph = RunnableGraph(
            bundle.path(variant.graph), target=variant.target, position_offset=manifest.position_offset
        )
        measured[variant.name] = Parity(
            reference_max_abs_diff=max(map(golden_difference, cases, graph.answers(golden))),
            alone_max_abs_diff=difference_from_alone(graph, lengths, graph.answers(lengths)),
            tolerance=variant.parity.tolerance,
            checked_with=variant.parity.checked_with,
        )
        check(variant.name, variant.target, measured[variant.name])
    return measured


def _check_tokenizer(bundle: Bundle, cases: Sequence[GoldenCase]) -> None:
    path = bundle.verify_file(bundle.manifest.tokenizer)
    tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    for case in cases:
        if tuple(tokenizer.encode(case.text, case.text_pair).ids) != case.input_ids:
            raise ExportError(
                f"{path} tokenizes the golden texts differently than at the export. Export the model again."
            )
