"""Export a checkpoint: write its bundle and check it."""

import ctypes
import gc
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from app.bundle.checksum import sealed
from app.bundle.files import describe_file
from app.bundle.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    Architecture,
    Golden,
    Manifest,
    Pooling,
    Precision,
    Target,
    Variant,
)
from model_export.check.agreement import Comparison, check_agreement, observe
from model_export.check.golden import golden_batch, golden_cases, with_answer, with_labels
from model_export.check.reference import reference_answers
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.sequences import random_sequences
from model_export.check.tolerances import Batch, ReferenceBatches, check, check_scores, score_function
from model_export.checkpoint.config import Config
from model_export.checkpoint.load import LoadedCheckpoint, load_checkpoint
from model_export.checkpoint.network import Network
from model_export.checkpoint.sentence_transformers import EmbeddingSettings
from model_export.checkpoint.tokenizer_choice import TokenizerChoice
from model_export.errors import ExportError, InaccurateVariant
from model_export.graph.build import build_graph
from model_export.graph.onnx_file import write_onnx
from model_export.output.atomic import replacing
from model_export.output.place import check_output

VARIANTS: Final[Mapping[str, tuple[Target, Precision]]] = {
    "cpu-fp32": ("cpu", "fp32"),
    "cuda-fp16": ("cuda", "fp16"),
    "cuda-fp32": ("cuda", "fp32"),
    "cpu-int8": ("cpu", "int8"),
}
"""What can be exported."""
GPU_VARIANTS: Final = ("cpu-fp32", "cuda-fp16", "cuda-fp32")
"""What is exported by default where there is a GPU's driver.

int8 changes answers: the server uses it only on request, and so it is exported only on request.
"""
CPU_VARIANTS: Final = ("cpu-fp32",)
"""What is exported by default elsewhere: two graphs that nothing uses would take 1.5 times as much of the disk again."""

# The libraries that influence a bundle. ONNX Runtime has one name for the CPU and one for the GPU.
_LIBRARIES: Final = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "safetensors", "tokenizers", "transformers")

Progress = Callable[[str], None]
"""Called with the step that starts."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, how and where to.

    `task` is a name of `tasks.TASKS` or `auto`. `tokenizer` decides if the checkpoint has two. `variants` is None for the
    machine's defaults: of these, one that does not pass its checks is left out, while one that is named stops the export.
    `tolerance` replaces that of every variant; `keeps_inaccurate` keeps a variant that changes too many answers.
    """

    checkpoint: str
    output: Path
    task: str = "auto"
    variants: Sequence[str] | None = None
    max_length: int | None = None
    revision: str | None = None
    tolerance: float | None = None
    keeps_inaccurate: bool = False
    pooling: Pooling | Literal["auto"] = "auto"
    tokenizer: TokenizerChoice = "auto"


def export(options: ExportOptions, progress: Progress, warn: Callable[[str], None] = lambda _: None) -> Manifest:
    """Write the bundle of a checkpoint, whole and checked, or leave everything as it was.

    Args:
        options: What to export.
        progress: Called with each step.
        warn: Called with what a person should look at, though the export goes on.

    Raises:
        ExportError: the checkpoint or an option cannot be used, or the answers of a graph that is named, or of all, differ
            from the reference's.
    """
    check_output(options.output)
    wanted = default_variants() if options.variants is None else options.variants
    progress("Reading the checkpoint")
    checkpoint = load_checkpoint(
        options.checkpoint,
        options.revision,
        task=options.task,
        pooling=options.pooling,
        max_length=options.max_length,
        tokenizer=options.tokenizer,
        warn=warn,
    )
    network = checkpoint.network
    progress("Answering with the reference")
    golden, batches = _reference(checkpoint)
    comparison = None
    if any(VARIANTS[variant][1] == "int8" for variant in wanted):
        progress("Observing the fp32 graph")
        comparison = observe(checkpoint)
    with replacing(options.output) as folder:
        (folder / TOKENIZER_FILE).write_bytes(checkpoint.tokenizer.fast.to_str(pretty=False).encode())
        (folder / GOLDEN_FILE).write_text(golden.model_dump_json(exclude_none=True), encoding="utf-8")
        variants: list[Variant] = []
        left_out: dict[str, str] = {}
        for name in wanted:
            progress(f"Writing and checking {name}")
            try:
                variant = _write_variant(name, folder, network, batches=batches, comparison=comparison, options=options)
                variants.append(variant)
            except InaccurateVariant as error:
                if options.variants is not None:
                    raise
                if name == wanted[-1] and not variants:
                    raise ExportError(
                        f"{error.finding} No other variant is left. If that is accurate enough, allow it with --tolerance."
                    ) from error
                left_out[name] = error.finding
                warn(f"{name} is left out of the bundle: {error.finding} The other variants are not affected.")
                for path in folder.glob(f"{name}.onnx*"):
                    path.unlink()
            gc.collect()  # evaluators are in reference cycles, each with a copy of the weights
        progress("Writing the manifest")
        manifest = _manifest(options.output.name, folder, checkpoint, variants, left_out)
        # Written last, so that a folder with a manifest is complete.
        (folder / MANIFEST_FILE).write_text(
            sealed(manifest.model_dump_json(indent=2, exclude_none=True)), encoding="utf-8"
        )
    return manifest


def default_variants() -> Sequence[str]:
    """Return the names of the variants to export if none is named: those of a GPU only where its driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return CPU_VARIANTS
    return GPU_VARIANTS


def _reference(checkpoint: LoadedCheckpoint) -> tuple[Golden, ReferenceBatches]:
    """Return the golden cases with the reference's answers, and what graphs are compared on."""
    network, mask = checkpoint.network, checkpoint.mask
    cases = golden_cases(checkpoint)
    texts = golden_batch(cases, mask)
    lengths = random_sequences(checkpoint.max_length, network.config.vocab_size, mask)
    batches = ReferenceBatches(
        lengths=Batch(lengths, reference_answers(network, lengths)),
        texts=Batch(texts, reference_answers(network, texts)),
    )
    answers = zip(cases, batches.texts.expected, strict=True)
    told = (with_labels(with_answer(case, answer, network.task.result), answer, checkpoint) for case, answer in answers)
    return Golden(cases=tuple(told)), batches


def _write_variant(
    name: str,
    folder: Path,
    network: Network,
    *,
    batches: ReferenceBatches,
    comparison: Comparison | None,
    options: ExportOptions,
) -> Variant:
    target, precision = VARIANTS[name]
    path = folder / f"{name}.onnx"
    ranges = comparison.ranges if comparison else None
    # Frees the graph's copy of the weights before the file is loaded for the check.
    external_data = write_onnx(build_graph(network, target=target, precision=precision, ranges=ranges), path)
    graph = RunnableGraph(path, target=target, position_offset=network.config.position_offset)
    parity = batches.parity(graph, batches.tolerance(precision) if options.tolerance is None else options.tolerance)
    if precision == "fp32" and options.tolerance is None and not parity.reference_max_abs_diff <= parity.tolerance:
        tolerance = max(parity.tolerance, batches.tolerance_of_rounding(network))
        parity = parity.model_copy(update={"tolerance": tolerance})
    check(name, target, parity)
    to_scores = score_function(network) if precision == "fp16" and options.tolerance is None else None
    if to_scores:
        check_scores(name, batches.texts, graph.answers(batches.texts.sequences), to_scores)
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


def _manifest(
    name: str, folder: Path, checkpoint: LoadedCheckpoint, variants: Sequence[Variant], left_out: Mapping[str, str]
) -> Manifest:
    network, tokenizer, embedding = checkpoint.network, checkpoint.tokenizer, checkpoint.embedding
    task, config = network.task, network.config
    config_labels = config.labels if task.result in ("labels", "token-labels") else ()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        task=task.name,
        labels=task.labels or config_labels,
        entailment=config.entailment if task.name == "classify" and not _names_entailment(config) else None,
        problem_type=config.problem_type if task.result == "labels" and not task.labels else None,
        **(_of_embeddings(network, embedding) if embedding else {}),
        score_function=checkpoint.score_function,
        max_length=checkpoint.max_length,
        position_offset=config.position_offset,
        special_tokens=tokenizer.special_tokens,
        truncation_side="left" if tokenizer.truncation_side == "left" else None,
        splits_special_tokens=tokenizer.splits_special_tokens or None,
        tokenizer_origin=tokenizer.origin,
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
        left_out=dict(left_out) or None,
        tokenizer=describe_file(folder / TOKENIZER_FILE),
        golden=describe_file(folder / GOLDEN_FILE),
        source=checkpoint.source,
        exported_with=_versions(),
    )


def _names_entailment(config: Config) -> bool:
    """Return whether the labels tell alone which of them means entailment."""
    named = [i for i, label in enumerate(config.labels) if label.lower().startswith("entail")]
    return named == [config.entailment]


def _of_embeddings(network: Network, embedding: EmbeddingSettings) -> dict[str, Any]:
    """Return what a manifest says of embeddings. The server takes None for what most models do not have."""
    size, dimensions = network.embedding_size, embedding.dimensions
    return {
        "pooling": embedding.pooling,
        "embedding_size": size if size != network.config.hidden_size else None,
        "default_dimensions": dimensions if dimensions and dimensions < size else None,
        "normalizes": embedding.normalizes,
        "strips_whitespace": embedding.strips_whitespace,
        "prompts": dict(embedding.prompts) or None,
        "default_prompt_name": embedding.default_prompt_name,
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
