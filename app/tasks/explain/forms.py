"""What is asked of `POST /v1/explain`, and answered."""

from typing import Final, Literal

from pydantic import BaseModel, Field

from app.tasks.base import Usage, example
from app.tasks.explain.attribution import Stopped
from app.tasks.explain.perturbed import Perturbation
from app.tasks.inputs import ModelName, PairInputs, Request, Text, TextPair, Truncation, as_list
from app.tasks.scores import Function

Method = Literal["occlusion", "shapley"]
MAX_RUNS: Final = 100_000
"""Largest value of `max_runs`."""


class ExplainParameters(Truncation):
    """What to explain, and how."""

    method: Method = Field(
        "occlusion",
        description="occlusion: what the score loses without each word. shapley: what each word adds on average over all orders "
        "in which the words could come.",
    )
    perturbation: Perturbation | None = Field(
        None,
        description="What becomes of a word that is not there: its tokens become the mask token, or are removed. Default: mask, if "
        "the model has one. For entities mask only.",
    )
    target: Text | None = Field(
        None,
        description="Whose score is explained: a label, a word for the mask, an entity group. Default: the best one.",
    )
    function_to_apply: Function | None = Field(
        None, description="For classify and rerank: turns logits into the score. Default: as there."
    )
    mask_index: int = Field(0, ge=0, description="For fill-mask: which mask, counted from 0.")
    start: int | None = Field(
        None, ge=0, description="For entities: the first character of the span. Default: the best entity."
    )
    end: int | None = Field(None, ge=1, description="For entities: the character after the span.")
    max_runs: int = Field(
        1000, ge=2, le=MAX_RUNS, description="Most sequences that the model runs for an input. Each has its length."
    )
    standard_error: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="For shapley: stop when that of every word is this or less. Default: a tenth of the largest contribution.",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="For shapley: chooses the orders of words.")


class ExplainRequest(Request):
    """Texts, or pairs of texts, whose answers to explain."""

    model: ModelName = None
    inputs: PairInputs
    parameters: ExplainParameters = ExplainParameters()

    @property
    def listed(self) -> list[tuple[str, ...]]:
        """The inputs as a list, of one text or two each. An empty second text counts as none."""
        inputs: list[str | TextPair] = as_list(self.inputs)
        return [
            (item,) if isinstance(item, str) else (item.text, item.text_pair) if item.text_pair else (item.text,)
            for item in inputs
        ]


class Contribution(BaseModel):
    """What a word adds to the score, below 0 if it takes away. In Python it is `text[start:end]` of the text that `field` names.

    `standard_error` is that of `contribution`; None for `occlusion`, and if there were too few runs.
    """

    word: str
    field: Literal["text", "text_pair"]
    start: int
    end: int
    contribution: float
    standard_error: float | None


class Explanation(BaseModel):
    """Why `target` has its score; `start` and `end` are where an entity or mask stands, else None.

    `contributions` and `remainder` add up to `score - baseline_score`, where the baseline is the input without any of its words;
    `stopped` says why there were no more `runs`.
    """

    method: Method
    perturbation: Perturbation
    target: str | None
    start: int | None
    end: int | None
    score: float
    baseline_score: float
    contributions: list[Contribution]
    remainder: float
    runs: int
    stopped: Stopped


class ExplainResponse(BaseModel):
    """`predictions[i]` belongs to `inputs[i]`, with its words in the order of the text."""

    model_config = example(
        {
            "method": "occlusion",
            "perturbation": "mask",
            "target": "POSITIVE",
            "start": None,
            "end": None,
            "score": 0.9871,
            "baseline_score": 0.5312,
            "contributions": [
                {"word": "So", "field": "text", "start": 0, "end": 2, "contribution": 0.0213, "standard_error": None},
                {"word": "good", "field": "text", "start": 3, "end": 7, "contribution": 0.4017, "standard_error": None},
            ],
            "remainder": 0.0329,
            "runs": 4,
            "stopped": "complete",
        },
        tokens=16,
    )

    model: str
    predictions: list[Explanation]
    usage: Usage
