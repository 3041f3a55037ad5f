"""Make a bundle of a checkpoint."""

import gc
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import numpy as np

from app.bundle.files import describe_file
from app.bundle.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    Architecture,
    Golden,
    GoldenCase,
    GoldenMask,
    Manifest,
    Pooling,
    Precision,
    Source,
    Target,
    Task,
    Variant,
)
from model_export.check.comparison import Comparison, check_agreement, observe
from model_export.check.parity import TOP_K, Batch, Examination, RunnableGraph, check, check_scores
from model_export.check.reference import Reference, sigmoid, softmax
from model_export.check.samples import Sample, golden_cases, random_samples
from model_export.checkpoint.config import CONFIG_FILE
from model_export.checkpoint.find import Checkpoint, choose_task, find_checkpoint
from model_export.checkpoint.network import FloatArray, Network
from model_export.checkpoint.peft import refuse_wrapped
from model_export.checkpoint.sentence_transformers import EmbeddingSettings, read_embedding_settings
from model_export.checkpoint.tensors import read_network, trained_heads
from model_export.checkpoint.tokenizer import CheckpointTokenizer, read_tokenizer
from model_export.checkpoint.unused import find_unused
from model_export.checkpoint.weights import open_weights
from model_export.errors import ExportError, few
from model_export.graph.build import build_graph
from model_export.graph.onnx_file import write_onnx
from model_export.output.atomic import check_place, replacing

VARIANTS: Final[Mapping[str, tuple[Target, Precision]]] = {
    "cpu-fp32": ("cpu", "fp32"),
    "cuda-fp16": ("cuda", "fp16"),
    "cuda-fp32": ("cuda", "fp32"),
    "cpu-int8": ("cpu", "int8"),
}
"""What can be exported."""
DEFAULT_VARIANTS: Final = ("cpu-fp32", "cuda-fp16", "cuda-fp32")
"""int8 changes answers: it is served only on request, and so it is exported only on request."""

NEXT_SENTENCE_LABELS: Final = ("IS_NEXT", "NOT_NEXT")
"""Labels of the two logits of BERT's head, in order."""

# The libraries that influence a bundle. ONNX Runtime has one name for the CPU and one for the GPU.
_LIBRARIES: Final = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "safetensors", "tokenizers", "transformers")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHORTEST: Final = 3

Progress = Callable[[str], None]
"""Called with the step that starts."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, how and where to.

    `tolerance` replaces that of every variant; `keeps_inaccurate` keeps a variant that changes too many answers.
    """

    checkpoint: str
    output: Path
    task: Task | Literal["auto"] = "auto"
    variants: Sequence[str] = DEFAULT_VARIANTS
    max_length: int | None = None
    revision: str | None = None
    tolerance: float | None = None
    keeps_inaccurate: bool = False
    pooling: Pooling | Literal["auto"] = "auto"


def export(options: ExportOptions, progress: Progress, warn: Callable[[str], None] = lambda _: None) -> Manifest:
    """Write the bundle of a checkpoint, whole and checked, or leave everything as it was.

    Args:
        options: What to export.
        progress: Called with each step.
        warn: Called with what a person should look at, though the export goes on.

    Raises:
        ExportError: the checkpoint or an option cannot be used, or a graph's answers differ from the reference's.
    """
    _check_output(options.output)
    progress("Reading the checkpoint")
    checkpoint = find_checkpoint(options.checkpoint, options.revision)
    config = checkpoint.config
    weights = open_weights(checkpoint.folder)
    refuse_wrapped(checkpoint.name, weights.tensors)
    task = choose_task(checkpoint, options.task, trained_heads(config, weights))
    tokenizer = read_tokenizer(checkpoint.folder)
    _check_vocabulary(checkpoint, tokenizer, task)
    settings = _embedding_settings(checkpoint, tokenizer, task, options.pooling)
    max_length = _max_length(checkpoint, tokenizer, settings, options.max_length)
    network = read_network(
        checkpoint.name,
        config,
        task,
        weights,
        tokenizer_tells_types=tokenizer.tells_types,
        pooling=settings.pooling if settings else None,
    )
    unused = find_unused(checkpoint.name, config, weights)
    if unused:
        warn(
            f"{checkpoint.name} has tensors of no head that can be exported: {few(unused)}. They are left out; "
            "if its answers depend on them, do not use this bundle."
        )
    source = Source(checkpoint=checkpoint.name, revision=checkpoint.revision, sha256=weights.sha256())
    del weights  # also frees the mapped pages of their files

    progress("Answering with the reference")
    mask = tokenizer.special_tokens.mask
    cases = golden_cases(tokenizer.fast, max_length=max_length, mask=mask, task=task)
    samples = random_samples(max_length=max_length, vocab_size=config.vocab_size, mask=mask, task=task)
    examination = Examination(
        lengths=_answered(network, samples),
        texts=_answered(network, [Sample.of(case, mask, task) for case in cases]),
    )
    comparison = None
    if any(VARIANTS[variant][1] == "int8" for variant in options.variants):
        progress("Observing the fp32 graph")
        comparison = observe(network, tokenizer.fast, max_length=max_length, mask=mask)
    golden = Golden(
        cases=tuple(_golden(case, answer, task) for case, answer in zip(cases, examination.texts.expected, strict=True))
    )

    with replacing(options.output) as folder:
        tokenizer.fast.save(str(folder / TOKENIZER_FILE), pretty=False)
        (folder / GOLDEN_FILE).write_text(golden.model_dump_json(exclude_none=True), encoding="utf-8")
        variants = []
        for variant in options.variants:
            progress(f"Writing and checking {variant}")
            variants.append(
                _write_variant(
                    network, variant, folder, examination=examination, comparison=comparison, options=options
                )
            )
            gc.collect()  # evaluators are in reference cycles, each with a copy of the weights
        progress("Writing the manifest")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=options.output.name,
            task=task,
            labels=_labels(checkpoint, task),
            problem_type=config.problem_type if task == "classify" else None,
            pooling=settings.pooling if settings else None,
            normalizes=settings.normalizes if settings else None,
            strips_whitespace=settings.strips_whitespace if settings else None,
            max_length=max_length,
            position_offset=config.position_offset,
            special_tokens=tokenizer.special_tokens,
            clean_up_tokenization_spaces=tokenizer.cleans_up,
            architecture=Architecture(
                family=config.model_type,
                layers=config.layers,
                hidden_size=config.hidden_size,
                attention_heads=config.attention_heads,
                vocab_size=config.vocab_size,
                parameters=network.parameters,
            ),
            variants=tuple(variants),
            tokenizer=describe_file(folder / TOKENIZER_FILE),
            golden=describe_file(folder / GOLDEN_FILE),
            source=source,
            exported_with=_versions(),
        )
        # Written last, so that a folder with a manifest is complete.
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2, exclude_none=True), encoding="utf-8")
    return manifest


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _write_variant(
    network: Network,
    name: str,
    folder: Path,
    *,
    examination: Examination,
    comparison: Comparison | None,
    options: ExportOptions,
) -> Variant:
    target, precision = VARIANTS[name]
    path = folder / f"{name}.onnx"
    ranges = comparison.ranges if comparison else {}
    # Frees the graph's copy of the weights before the file is loaded for the check.
    external_data = write_onnx(build_graph(network, target=target, precision=precision, ranges=ranges), path)
    graph = RunnableGraph(path, target=target, task=network.task, position_offset=network.config.position_offset)
    tolerance = examination.tolerance(precision) if options.tolerance is None else options.tolerance
    parity = examination.measure(graph, tolerance)
    check(name, target, parity)
    to_scores = _to_scores(network) if precision == "fp16" and options.tolerance is None else None
    if to_scores:
        check_scores(name, examination.texts, graph.answers(examination.texts.samples), to_scores)
    agreement = comparison.agreement(graph) if comparison and precision == "int8" else None
    if agreement and not options.keeps_inaccurate:
        check_agreement(name, network.task, agreement)
    return Variant(
        target=target,
        precision=precision,
        graph=describe_file(path),
        external_data=describe_file(external_data) if external_data else None,
        parity=parity,
        agreement=agreement,
    )


def _to_scores(network: Network) -> Callable[[FloatArray], FloatArray] | None:
    """Return the function that turns logits into default scores; None if scores are not made of logits."""
    if network.task == "next-sentence":
        return softmax
    if network.task != "classify" or network.config.problem_type == "regression":
        return None
    if network.config.problem_type == "multi_label_classification" or len(network.config.labels) == 1:
        return sigmoid
    return softmax


def _answered(network: Network, samples: Sequence[Sample]) -> Batch:
    reference = Reference(network)
    with np.errstate(all="ignore"):  # what overflows ends as infinity or NaN, and is told below
        answers = [reference.answer(sample.input_ids, sample.token_type_ids, sample.masks) for sample in samples]
    if not all(np.isfinite(answer).all() for answer in answers):
        raise ExportError(
            "The checkpoint's answers contain infinity or NaN: its weights are damaged. Train or download it again."
        )
    return Batch(samples, answers)


def _golden(case: GoldenCase, answer: FloatArray, task: Task) -> GoldenCase:
    if task == "embed":
        return case.model_copy(update={"embedding": tuple(answer.tolist())})
    if answer.ndim == 1:
        return case.model_copy(update={"logits": tuple(answer.tolist())})
    if task != "fill-mask":
        return case.model_copy(update={"token_logits": tuple(map(tuple, answer.tolist()))})
    best = np.argsort(-answer, axis=1, kind="stable")[:, :TOP_K]
    masks = [
        GoldenMask(tokens=tuple(tokens.tolist()), scores=tuple(scores[tokens].tolist()))
        for tokens, scores in zip(best, answer, strict=True)
    ]
    return case.model_copy(update={"masks": tuple(masks)})


def _check_output(output: Path) -> None:
    if not _NAME.fullmatch(output.name):
        raise ExportError(
            f"--output {output} does not end in a valid model name: letters, digits, dots, dashes and underscores, "
            "starting with a letter or a digit."
        )
    try:
        check_place(output)
        is_file = output.exists() and not output.is_dir()
        is_other = output.is_dir() and any(output.iterdir()) and not (output / MANIFEST_FILE).is_file()
    except OSError as error:
        raise ExportError(
            f"--output {output} cannot be written: {error.filename}: {error.strerror}. "
            "Let the user that runs the export write there, or choose another folder."
        ) from error
    if is_file:
        raise ExportError(f"--output {output} is a file. Choose the name of a folder.")
    if is_other:
        raise ExportError(
            f"--output {output} is not empty and is not a bundle. Choose another name, or empty the folder."
        )
    if os.path.ismount(output):  # of a link, Path.is_mount asks what it leads to
        raise ExportError(
            f"--output {output} is where a file system is mounted, which no folder can take the place of. "
            f"Choose one in it: {output}/NAME."
        )


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, task: Task) -> None:
    vocab_size = checkpoint.config.vocab_size
    if tokenizer.ids > vocab_size:
        raise ExportError(
            f"The tokenizer of {checkpoint.name} has token ids up to {tokenizer.ids - 1}, but "
            f"its {CONFIG_FILE} has a vocab_size of {vocab_size}: they belong to different models. "
            "Replace it with the model's own tokenizer."
        )
    if task == "fill-mask" and tokenizer.special_tokens.mask is None:
        raise ExportError(
            f"The tokenizer of {checkpoint.name} has no mask token. Name it in its tokenizer_config.json, "
            "or choose --task classify."
        )


def _embedding_settings(
    checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, task: Task, pooling: Pooling | Literal["auto"]
) -> EmbeddingSettings | None:
    if task != "embed":
        if pooling != "auto":
            raise ExportError(f"--pooling {pooling} is for --task embed, but the task is {task}. Leave it out.")
        return None
    settings = read_embedding_settings(checkpoint.folder, pooling)
    if settings.lowercases and tokenizer.fast.encode("A").ids != tokenizer.fast.encode("a").ids:
        raise ExportError(
            f"{checkpoint.name} expects texts in lower case, but its tokenizer does not lowercase them. "
            "Add a Lowercase normalizer to its tokenizer.json."
        )
    return settings


def _labels(checkpoint: Checkpoint, task: Task) -> tuple[str, ...]:
    if task == "next-sentence":
        return NEXT_SENTENCE_LABELS
    return checkpoint.config.labels if task in ("classify", "entities") else ()


def _max_length(
    checkpoint: Checkpoint, tokenizer: CheckpointTokenizer, settings: EmbeddingSettings | None, asked: int | None
) -> int:
    positions = checkpoint.config.positions - checkpoint.config.position_offset
    said = [positions, tokenizer.max_length, settings.max_length if settings else None]
    max_length = min(length for length in said if length) if asked is None else asked
    if max_length > positions:
        raise ExportError(f"--max-length {asked} exceeds the {positions} positions of {checkpoint.name}. Lower it.")
    if max_length < _SHORTEST:
        raise ExportError(f"A maximum length of {max_length} tokens leaves no room for text. Raise --max-length.")
    return max_length
