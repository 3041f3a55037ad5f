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

MAX_CANDIDATES: Final = 20_000
"""Most tokens that one answer may list: inputs x masks x top_k. Each repeats its text, so without a limit a small request
could need more memory than there is. For sentences, this many take about a second."""


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

    def example(self, model: Model) -> dict[str, Any]:
        return {"model": model.name, "inputs": f"He drank a cup of {_mask_of(model).text}."}

    def prepare(self, model: Model, request: FillMaskRequest) -> Prepared:
        mask = _mask_of(model)
        targets = self._targets(model, request)
        vocabulary = model.manifest.architecture.vocab_size
        top_k = min(request.parameters.top_k, vocabulary if targets is None else len(targets))
        sequences = []
        # A text is never cut: that might cut off its masks.
        for i, encoded in enumerate(model.tokenizer.encode(request.listed, truncation=False)):
            masks = np.flatnonzero(encoded.input_ids == mask.id).astype(np.int32)
            if not len(masks):
                raise ValidationFailed(f"inputs[{i}] has no mask token; write {mask.text} in place of a word.")
            sequences.append(TokenSequence(encoded.input_ids, encoded.token_type_ids, masks, top_k, targets))
        candidates = _candidates(sequences)
        if candidates > MAX_CANDIDATES:
            raise ValidationFailed(
                f"The answer would list {candidates} tokens (masks x top_k); at most {MAX_CANDIDATES} are allowed. "
                "Lower parameters.top_k, or send fewer inputs or masks."
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
        pad = model.manifest.special_tokens.pad.id
        predictions = []
        for sequence, result in zip(prepared.sequences, results, strict=True):
            only_mask = len(sequence.masks) == 1
            masks = []
            for position, tokens, scores in zip(
                sequence.masks.tolist(), result.tokens.tolist(), result.scores.tolist(), strict=True
            ):
                filled = sequence.input_ids.tolist()
                candidates = []
                for token, score in zip(tokens, scores, strict=True):
                    filled[position] = token
                    candidates.append(
                        {
                            "token": token,
                            "token_str": model.tokenizer.decode([token], skip_special_tokens=False),
                            "score": score,
                            # With several masks, the other masks and all special tokens stay visible.
                            "sequence": model.tokenizer.decode(
                                [one for one in filled if one != pad], skip_special_tokens=only_mask
                            ),
                        }
                    )
                masks.append(candidates)
            predictions.append(masks)
        return predictions

    def weight(self, model: Model, request: FillMaskRequest, prepared: Prepared) -> int:  # noqa: ARG002
        return _candidates(prepared.sequences)


def _candidates(sequences: Sequence[TokenSequence]) -> int:
    return sum(len(sequence.masks) * sequence.top_k for sequence in sequences)


def _mask_of(model: Model) -> SpecialToken:
    mask = model.manifest.special_tokens.mask
    assert mask is not None  # the export refuses a checkpoint for fill-mask that has none
    return mask


HANDLER: Final = FillMaskHandler()
