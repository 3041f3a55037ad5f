"""What is explained: one score of a model's answer, by task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from app.bundle.manifest import Manifest
from app.bundle.sequences import NO_MASKS, FloatArray, MaskScores, SequenceResult, TokenArray
from app.errors import ValidationFailed
from app.tasks.base import Model
from app.tasks.classify import default_function
from app.tasks.entities import group_of
from app.tasks.fill_mask import mask_of, without_mask
from app.tasks.scores import FUNCTIONS, Function
from app.text.located import Located

SHOWN_NAMES: Final = 20
"""Labels that an error lists."""
Span = tuple[int, int]
"""The first character and the one after the last."""


class Subject(ABC):
    """A score of one input.

    `target` names what it is the score of, None where a model has one score alone; `span` is where that stands in the text, None
    where it is of the whole input. Both may be open until `choose` has the result of the whole input.
    """

    target: str | None = None
    span: Span | None = None
    runs_first: bool = False
    """Whether the whole input runs before all others, as these ask for the target alone."""
    # What each sequence asks for, as `TokenSequence` has it; `masks` are positions in the whole input.
    masks: TokenArray = NO_MASKS
    top_k: int = 0
    targets: TokenArray | None = None

    def choose(self, whole: SequenceResult) -> None:  # noqa: B027 - most have nothing to choose
        """Choose what the model finds best, where the caller has named nothing.

        Raises:
            ValidationFailed: it finds nothing.
        """

    @abstractmethod
    def score(self, result: SequenceResult) -> float:
        """Return the score of a run."""


class LabelSubject(Subject):
    """The score of a label, as `POST /v1/classify` returns it."""

    def __init__(self, manifest: Manifest, target: str | None, function: Function | None) -> None:
        """Take the label, None for the best one.

        Raises:
            ValidationFailed: the model has no such label.
        """
        self._labels: Final = manifest.labels
        self._function: Final = FUNCTIONS[function or default_function(manifest)]
        self.target = target
        if target is not None:
            _check(target, self._labels, "label")

    def choose(self, whole: SequenceResult) -> None:
        if self.target is None:
            self.target = self._labels[int(_numbers(whole).argmax())]

    def score(self, result: SequenceResult) -> float:
        assert self.target is not None
        return self._function(_numbers(result).tolist())[self._labels.index(self.target)]


class FirstSubject(Subject):
    """The score of reranking, and of next sentence: the first of the numbers that the function makes."""

    def __init__(self, function: Function, target: str | None) -> None:
        self._function: Final = FUNCTIONS[function]
        self.target = target

    def score(self, result: SequenceResult) -> float:
        return self._function(_numbers(result).tolist())[0]


class TokenSubject(Subject):
    """The probability of a token in place of a mask, as `POST /v1/fill-mask` returns it."""

    def __init__(self, model: Model, target: str | None, number: int, located: Located, place: str) -> None:
        """Take the mask of a number, and a word for it, None for the best one.

        Raises:
            ValidationFailed: there is no such mask, or the word is no token.
        """
        mask = mask_of(model)
        positions = np.flatnonzero(located.input_ids == mask.id)
        if not len(positions):
            raise without_mask(place, mask)
        if number >= len(positions):
            raise ValidationFailed(f"parameters.mask_index: {place} has {len(positions)} masks, counted from 0.")
        self._tokenizer: Final = model.tokenizer
        start, end = located.offsets[positions[number]].tolist()
        self.span = start, end
        self.masks = positions[number : number + 1].astype(np.int32)
        self.top_k = 1
        self.target = target
        self.runs_first = target is None
        if target is not None:
            token = model.tokenizer.token_id(target)
            if token is None:
                raise ValidationFailed("parameters.target: is not a single token of this model's vocabulary.")
            self.targets = np.array([token], np.int32)

    def choose(self, whole: SequenceResult) -> None:
        if self.target is None:
            assert isinstance(whole, MaskScores)
            self.targets = whole.tokens[0, :1].astype(np.int32)
            self.target = self._tokenizer.decode(self.targets.tolist(), skip_special_tokens=False)

    def score(self, result: SequenceResult) -> float:
        assert isinstance(result, MaskScores)
        return float(result.scores[0, 0])


class SpanSubject(Subject):
    """The probability that the tokens of a span are of a group of labels, as PER is of B-PER and I-PER: their average."""

    def __init__(
        self,
        manifest: Manifest,
        target: str | None,
        span: Span | None,
        located: Located,
        *,
        place: str,
        best: Callable[[FloatArray], tuple[Span, str]],
    ) -> None:
        """Take the group and the span, None for what is best; `best` returns the best span of a result, and its group.

        `place` is what a caller calls the input.

        Raises:
            ValidationFailed: the model has no such group, or nothing is there.
        """
        self._groups: Final = [group_of(label) for label in manifest.labels]
        self._located: Final = located
        self._place: Final = place
        self._best: Final = best
        self._positions: list[int] = []
        self.target = target
        if target is not None:
            _check(target, self._groups, "group of labels")
        if span is not None:
            self._take(span)

    def _take(self, span: Span) -> None:
        [tokens] = self._located.texts
        offsets = self._located.offsets
        self._positions = [
            position for position in tokens if offsets[position, 0] < span[1] and offsets[position, 1] > span[0]
        ]
        if not self._positions:
            raise ValidationFailed(
                f"parameters.start and parameters.end: the model reads no token of {self._place} there."
            )
        self.span = int(offsets[self._positions[0], 0]), int(offsets[self._positions[-1], 1])  # whole tokens

    def choose(self, whole: SequenceResult) -> None:
        if self.span is None:
            span, group = self._best(_numbers(whole))
            self._take(span)
            self.target = self.target or group
        if self.target is None:
            self.target = max(dict.fromkeys(self._groups), key=lambda group: self._probability(whole, group))

    def score(self, result: SequenceResult) -> float:
        assert self.target is not None
        return self._probability(result, self.target)

    def _probability(self, result: SequenceResult, group: str) -> float:
        softmax = FUNCTIONS["softmax"]
        shares = [softmax(row) for row in _numbers(result)[self._positions].tolist()]
        of_group = [i for i, own in enumerate(self._groups) if own == group]
        return sum(share[i] for share in shares for i in of_group) / len(shares)


def _numbers(result: SequenceResult) -> FloatArray:
    assert not isinstance(result, MaskScores)
    return result


def _check(target: str, names: Sequence[str], kind: str) -> None:
    if target not in names:
        known = list(dict.fromkeys(names))
        more = (
            f", and {len(known) - SHOWN_NAMES} more; GET /v1/models has all labels" if len(known) > SHOWN_NAMES else ""
        )
        raise ValidationFailed(
            f"parameters.target: this model has no such {kind}. It has: {', '.join(known[:SHOWN_NAMES])}{more}."
        )
