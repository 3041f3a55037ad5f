"""Score the sentences of templates with a bundle's CPU graph: the scores that callers of the server get by default."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import tokenizers

from app.bundle.files import Bundle
from app.bundle.manifest import Manifest, Variant
from app.bundle.onnx_contents import check_contents
from app.bundle.sequences import TokenSequence
from model_export.audit.templates import Dimension
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.sequences import checked_sequence
from model_export.errors import ExportError, of_one_model, shown

AUDITED: Final = ("classify", "rerank", "fill-mask")
"""The tasks whose bundles are audited."""

_BATCH: Final = 16
"""Sequences that run together: of the maximum length they take as much memory as a large batch of the server."""
_LEAST: Final = float(np.finfo(np.float32).tiny)
"""A probability below this counts as this: the graph may round one to 0, which has no logarithm."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The scores of the sentences of a dimension.

    `scores` has for each group float64[frames, fillers, labels]: of classifiers and rerankers as the server answers them, of
    masked tokens log2 of the probability of each target, whose words are the `labels`.
    """

    dimension: Dimension
    labels: tuple[str, ...]
    scores: tuple[Scores, ...]
    left_out: tuple[str, ...]
    """Targets that are not one token of the vocabulary in each frame."""
    unknown: tuple[int, ...]
    """Sentences of each group with a word for which the vocabulary has no token."""
    sentences: tuple[tuple[tuple[str, ...], ...], ...]
    """The text of each, by group, frame and filler, with the model's own mask token."""
    is_of_masks: bool


class Model:
    """A bundle that scores sentences."""

    def __init__(self, bundle: Bundle, variant: str | None = None) -> None:
        """Load a variant for CPUs: the one of this name, or fp32 where there is one.

        Raises:
            BundleError: a file is missing or changed.
            ExportError: the bundle is for another task, or it has no such variant, or its graph cannot run.
        """
        manifest = bundle.manifest
        if manifest.task not in AUDITED:
            raise ExportError(
                f"{bundle.folder} is for the task {manifest.task}. Bundles for {', '.join(AUDITED)} are audited."
            )
        self.manifest: Final = manifest
        self.variant: Final = _chosen(bundle, variant)
        for file in (self.variant.graph, self.variant.external_data):
            if file is not None:
                bundle.verify_file(file)
        check_contents(
            bundle.path(self.variant.graph), self.variant.external_data.file if self.variant.external_data else None
        )
        self._graph: Final = RunnableGraph(
            bundle.path(self.variant.graph), target="cpu", position_offset=manifest.position_offset
        )
        self._mask: Final = manifest.special_tokens.mask if manifest.task == "fill-mask" else None
        tokenizer = tokenizers.Tokenizer.from_buffer(bundle.read_file(manifest.tokenizer))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = bool(manifest.splits_special_tokens)
        if self._mask is None:  # a text with masks is not cut, as its mask may be cut off
            tokenizer.enable_truncation(manifest.max_length, direction=manifest.truncation_side or "right")
        self._tokenizer: Final = tokenizer

    def scored(self, dimension: Dimension) -> Scored | None:
        """Score the sentences of a dimension; return None if it has none for such a model.

        Raises:
            ExportError: a sentence cannot be scored.
        """
        manifest = self.manifest
        chosen = dimension.with_frames(of_masks=self._mask is not None)
        if not chosen.frames or (manifest.task == "rerank" and chosen.query is None):
            return None
        targets = np.empty((len(chosen.frames), 0), np.int64)
        labels = manifest.labels
        left_out: tuple[str, ...] = ()
        if self._mask is not None:
            labels, left_out, targets = self._targets(chosen)
            if not labels:
                return None
        groups, unknown, sentences = [], [], []
        for group, fillers in enumerate(chosen.fillers):
            shape = (len(chosen.frames), len(fillers))
            texts = [self._sentence(chosen, frame, group, filler) for frame, filler in np.ndindex(shape)]
            sequences = [self._sequence(chosen, text) for text in texts]
            answers = self._answers(sequences)
            if self._mask is None:
                rows = _scores(np.array(list(answers), np.float64), manifest)
            else:
                rows = np.array([row[0, targets[i // len(fillers)]] for i, row in enumerate(answers)], np.float64)
                rows = np.log2(np.maximum(rows, _LEAST))
            groups.append(rows.reshape(*shape, len(labels)))
            unknown.append(sum(manifest.special_tokens.unknown.id in one.input_ids for one in sequences))
            sentences.append(tuple(tuple(texts[i : i + len(fillers)]) for i in range(0, len(texts), len(fillers))))
        is_of_masks = self._mask is not None
        return Scored(chosen, labels, tuple(groups), left_out, tuple(unknown), tuple(sentences), is_of_masks)

    def _sentence(self, dimension: Dimension, frame: int, group: int, filler: int) -> str:
        """Return a sentence as the model gets it, with its own mask token."""
        return dimension.sentence(frame, group, filler, self._mask.text if self._mask else "")

    def _sequence(self, dimension: Dimension, text: str) -> TokenSequence:
        if self.manifest.task == "rerank":
            encoding = self._tokenizer.encode(dimension.query, text)
        else:
            encoding = self._tokenizer.encode(text)
        sequence = checked_sequence(encoding.ids, encoding.type_ids, self._mask)
        if not 0 < len(sequence) <= self.manifest.max_length:
            raise ExportError(
                f"The sentence {shown(text)} has {len(sequence)} tokens; the model takes 1 to {self.manifest.max_length}. "
                "Write another one into the templates."
            )
        if self._mask is not None and len(sequence.masks) != 1:
            raise ExportError(
                f"The sentence {shown(text)} has {len(sequence.masks)} mask tokens for this model, and not one. Write another "
                "one into the templates."
            )
        return sequence

    def _answers(self, sequences: Sequence[TokenSequence]) -> Iterator[npt.NDArray[np.float32]]:
        """Yield what the graph answers to each: logits float32[labels], or probabilities float32[1, vocab] of its mask."""
        for start in range(0, len(sequences), _BATCH):
            yield from self._graph.answers(sequences[start : start + _BATCH])

    def _targets(self, dimension: Dimension) -> tuple[tuple[str, ...], tuple[str, ...], npt.NDArray[np.int64]]:
        """Return the targets that are one token in each frame, the others, and the tokens int64[frames, targets]."""
        frames = range(len(dimension.frames))
        tokens = {word: [self._token(dimension, frame, word) for frame in frames] for word in dimension.targets}
        ids = {word: [one for one in found if one is not None] for word, found in tokens.items()}
        whole = tuple(word for word in tokens if len(ids[word]) == len(frames))
        rows = np.array([ids[word] for word in whole], np.int64).reshape(len(whole), len(frames))
        return whole, tuple(word for word in tokens if word not in whole), rows.T

    def _token(self, dimension: Dimension, frame: int, word: str) -> int | None:
        """Return the token that the word is in place of the mask, None if it is not one: in RoBERTa's vocabulary it has the space."""
        masked = self._sequence(dimension, self._sentence(dimension, frame, 0, 0))
        ids = np.array(self._tokenizer.encode(dimension.sentence(frame, 0, 0, word)).ids)
        [at] = masked.masks
        if len(ids) != len(masked) or (np.flatnonzero(ids != masked.input_ids) != at).any():
            return None
        return None if ids[at] == self.manifest.special_tokens.unknown.id else int(ids[at])


def score_all(
    bundle: Bundle, variant: str | None, dimensions: Sequence[Dimension], progress: Callable[[str], None]
) -> tuple[Model, list[Scored]]:
    """Score the sentences of all dimensions that are for such a model.

    Args:
        bundle: The bundle.
        variant: The name of one of its variants for CPUs; None: fp32 where there is one.
        dimensions: Those of the templates.
        progress: Called with each step.

    Raises:
        BundleError: a file is missing or changed.
        ExportError: the bundle cannot be audited, or no dimension is for it.
    """
    with of_one_model(bundle.folder):
        progress("Loading the model")
        model = Model(bundle, variant)
        scored = []
        for dimension in dimensions:
            progress(f"Scoring the sentences of {dimension.name}")
            one = model.scored(dimension)
            if one is not None:
                scored.append(one)
    if not scored:
        needed = {"fill-mask": "a frame with {mask} and a target that is one token", "rerank": "a query and a frame"}
        raise ExportError(
            f"The templates have nothing for the task {model.manifest.task}: a dimension needs "
            f"{needed.get(model.manifest.task, 'a frame')}{'' if model.manifest.task == 'fill-mask' else ' without {mask}'}."
        )
    return model, scored


def _chosen(bundle: Bundle, name: str | None) -> Variant:
    """Return the variant of this name, or the preferred one; only those for CPUs run here."""
    own = {variant.name: variant for variant in bundle.manifest.variants if variant.target == "cpu"}
    if not own:
        raise ExportError(
            f"{bundle.folder} has no variant for CPUs, which the audit runs. Export the model with --variants cpu-fp32."
        )
    if name is None:
        return own.get("cpu-fp32") or next(iter(own.values()))
    if name not in own:
        raise ExportError(f"{bundle.folder} has no variant {name} for CPUs. Choose from {', '.join(own)}.")
    return own[name]


def _scores(logits: Scores, manifest: Manifest) -> Scores:
    """Turn logits float64[sentences, labels] into scores, as `app/tasks/classify.py` and `app/tasks/rerank.py` do by default."""
    if manifest.task == "rerank":
        is_sigmoid = manifest.score_function != "none"
    elif manifest.problem_type == "regression":
        return logits
    else:
        is_sigmoid = manifest.problem_type == "multi_label_classification" or len(manifest.labels) == 1
        if not is_sigmoid:
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    return 0.5 * (1 + np.tanh(logits / 2)) if is_sigmoid else logits
