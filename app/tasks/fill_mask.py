"""Masked tokens: the best tokens for each mask, as in transformers' fill-mask pipeline."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, Field

from app.bundle.manifest import SpecialToken
from app.bundle.sequences import MaskScores, TokenArray, TokenSequence
from app.errors import ValidationFailed
from app.tasks.base import Model, Prepared, TaskHandler, Usage
from app.tasks.inputs import MAX_TOP_K, Request, Text, TextsRequest
from app.work import go_on

MAX_WRITTEN: Final = 5 * 512 * 512
"""Most tokens that an answer may repeat: masks x top_k x tokens of their text. As many as those of 512 texts of 512 tokens with
one mask each and the default top_k; this many take about a second."""
MAX_SCORES: Final = 1 << 26
"""Most scores of the masks of a text, one for each token of the vocabulary: a quarter of a gigabyte, and the model takes several
times as much."""
LEAST: Final = 64
"""Tokens that one token of an answer counts for at least: it is listed with its own text, too."""
TOKENS_A_WEIGHT: Final = 4
"""Tokens that are written in one unit of `weight`."""


class FillMaskParameters(Request):
    """How to fill masks."""

    top_k: int = Field(5, ge=1, le=MAX_TOP_K, description="How many tokens to return for each mask.")
    targets: list[Text] | None = Field(
        None, min_length=1, max_length=MAX_TOP_K, description="Choose among these words only; each must be one token."
    )


class FillMaskRequest(TextsRequest):
    """Texts with one or more mask tokens to fill."""

    parameters: FillMaskParameters = FillMaskParameters()


class TokenScore(BaseModel):
    """A token for a mask: its id, its text, its softmax score over the vocabulary, and the input with the mask replaced."""

    token: int
    token_str: str
    score: float
    sequence: str


class FillMaskResponse(BaseModel):
    """`predictions[i][j]` belongs to the j-th mask of `inputs[i]`, best token first."""

    model: str
    predictions: list[list[list[TokenScore]]]
    usage: Usage


class FillMaskHandler(TaskHandler[FillMaskRequest, Prepared, MaskScores]):
    """`POST /v1/fill-mask`."""

    task = "fill-mask"
    summary = "The most likely tokens for each mask of a text"
    request = FillMaskRequest
    response = FillMaskResponse
    golden = "masks"
    takes_masks = True
    lighter = "Lower parameters.top_k, or send fewer inputs or masks."

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": f"He drank a cup of {mask_of(model).text}."}

    def prepare(self, model: Model, request: FillMaskRequest) -> Prepared:
        mask = mask_of(model)
        targets = self._targets(model, request)
        vocabulary = model.manifest.architecture.vocab_size
        top_k = min(request.parameters.top_k, vocabulary if targets is None else len(targets))
        sequences = []
        # A text is never cut: that might cut off its masks.
        for i, encoded in enumerate(model.tokenizer.encode(request.listed, truncation=False)):
            masks = np.flatnonzero(encoded.input_ids == mask.id).astype(np.int32)
            if not len(masks):
                raise without_mask(f"inputs[{i}]", mask)
            if len(masks) * vocabulary > MAX_SCORES:
                raise ValidationFailed(
                    f"inputs[{i}] has {len(masks)} masks; at most {MAX_SCORES // vocabulary} of a text are filled with this model's "
                    f"vocabulary of {vocabulary} tokens. Split it."
                )
            sequences.append(TokenSequence(encoded.input_ids, encoded.token_type_ids, masks, top_k, targets))
        written = _written(sequences)
        if written > MAX_WRITTEN:
            raise ValidationFailed(
                f"The answer would repeat {written} tokens (masks x top_k x tokens of their text, counted as at least {LEAST}); "
                f"at most {MAX_WRITTEN} are allowed. {self.lighter}"
            )
        return Prepared(sequences, truncated=0)

    def _targets(self, model: Model, request: FillMaskRequest) -> TokenArray | None:
        if request.parameters.targets is None:
            return None
        ids = []
        for i, text in enumerate(request.parameters.targets):
            token = model.tokenizer.token_id(text)
            if token is None:
                raise ValidationFailed(
                    f"parameters.targets[{i}] is not a single token of this model's vocabulary; leave it out."
                )
            ids.append(token)
        return np.unique(np.array(ids, np.int32))

    def answer(
        self,
        model: Model,
        request: FillMaskRequest,  # noqa: ARG002
        prepared: Prepared,
        results: Sequence[MaskScores],
    ) -> list[Any]:
        return [
            [
                _candidates(model, sequence, position, tokens, scores)
                for position, tokens, scores in zip(
                    sequence.masks.tolist(), result.tokens.tolist(), result.scores.tolist(), strict=True
                )
            ]
            for sequence, result in zip(prepared.sequences, results, strict=True)
        ]

    def weight(self, model: Model, request: FillMaskRequest, prepared: Prepared) -> int:  # noqa: ARG002
        return _written(prepared.sequences) // TOKENS_A_WEIGHT


def _candidates(
    model: Model, sequence: TokenSequence, position: int, tokens: list[int], scores: list[float]
) -> list[dict[str, Any]]:
    """Return the tokens for one mask."""
    go_on()
    pad = model.manifest.special_tokens.pad.id
    ids = sequence.input_ids.tolist()
    before = [one for one in ids[:position] if one != pad]
    after = [one for one in ids[position + 1 :] if one != pad]
    # With several masks, the other masks and all special tokens stay visible.
    filled = model.tokenizer.decode_all(
        [before + [token] * (token != pad) + after for token in tokens], skip_special_tokens=len(sequence.masks) == 1
    )
    return [
        {
            "token": token,
            "token_str": model.tokenizer.decode([token], skip_special_tokens=False),
            "score": score,
            "sequence": text,
        }
        for token, score, text in zip(tokens, scores, filled, strict=True)
    ]


def _written(sequences: Sequence[TokenSequence]) -> int:
    return sum(len(sequence.masks) * sequence.top_k * max(LEAST, len(sequence)) for sequence in sequences)


def without_mask(place: str, mask: SpecialToken) -> ValidationFailed:
    """Return the error for an input that has nothing to fill."""
    return ValidationFailed(f"{place} has no mask token; write {mask.text} in place of a word.")


def mask_of(model: Model) -> SpecialToken:
    """Return the mask token of a model that was exported for fill-mask."""
    mask = model.manifest.special_tokens.mask
    assert mask is not None  # the export refuses a checkpoint for fill-mask that has none
    return mask


HANDLER: Final = FillMaskHandler()
