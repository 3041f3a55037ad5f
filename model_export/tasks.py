"""The table of tasks: what an export must know of a task is its row.

A task is data; the kinds that it is put together from are code. To add a task is to add a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from app.bundle.manifest import SpecialToken, SpecialTokens

HeadKind = Literal[
    "sequence-classification", "masked-token", "next-sentence", "token-classification", "question-answering"
]
"""A checkpoint's head: `checkpoint.families` has the names of its tensors."""

ResultKind = Literal["labels", "token-labels", "span", "masked-tokens", "embedding"]
"""What the graph answers to one sequence: `graph.builder` and `check.reference` compute it, `check.agreement` compares it.

    labels          float32[labels]          logits of the sequence
    token-labels    float32[tokens, labels]  logits of each token
    span            float32[tokens, 2]       logits of each token as the start and as the end of an answer
    masked-tokens   float32[masks, vocab]    softmax over the vocabulary for each mask token
    embedding       float32[size]            hidden states, pooled, with what follows but the last normalization
"""

InputKind = Literal["text-or-pair", "text", "pair", "question", "masked-text"]
"""What a caller sends: `check.golden` and `check.sentences` have texts of each kind."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task."""

    name: str
    head: HeadKind | None
    """None if the result is made of the encoder's hidden states."""
    architectures: tuple[str, ...]
    """Ends of the names of architectures that have the head. `auto` takes the first task of the table that lists one."""
    inputs: InputKind
    result: ResultKind
    most_changed: float
    """Largest share of best answers by which int8 may differ from fp32; see `check.agreement`."""
    labels: tuple[str, ...] = ()
    """Names of the head's outputs, one of which is right. Empty: the checkpoint's config names them, and how many are right."""
    has_one_label: bool = False
    """Whether the head must have exactly one output."""

    def mask(self, special_tokens: SpecialTokens) -> SpecialToken | None:
        """Return the token whose positions are answered; None if the task answers none, or the tokenizer has none."""
        return special_tokens.mask if self.result == "masked-tokens" else None


# A mask's two best words are often nearly as likely and as good as each other, and so are the nearest sentences. For
# embeddings, 6% changed with an earlier demo checkpoint, each to the second nearest, whose cosine was lower by at most 0.009, and
# 8.5% with the random checkpoints of the tests. Of the answers to questions 2.7% changed with the random checkpoints,
# which are not fine-tuned to be certain, and of the tokens' labels 0.9%.
_TABLE: Final = (
    # name, head, architectures, inputs, result, most_changed
    TaskSpec("classify", "sequence-classification", ("ForSequenceClassification",), "text-or-pair", "labels", 0.01),
    TaskSpec("rerank", "sequence-classification", (), "pair", "labels", 0.01, has_one_label=True),
    TaskSpec("fill-mask", "masked-token", ("ForMaskedLM", "BertForPreTraining"), "masked-text", "masked-tokens", 0.1),
    TaskSpec(
        "next-sentence",
        "next-sentence",
        ("ForNextSentencePrediction", "BertForPreTraining"),
        "pair",
        "labels",
        0.01,
        labels=("IS_NEXT", "NOT_NEXT"),
    ),
    TaskSpec("entities", "token-classification", ("ForTokenClassification",), "text", "token-labels", 0.01),
    TaskSpec("answer", "question-answering", ("ForQuestionAnswering",), "question", "span", 0.05),
    TaskSpec("embed", None, ("BertModel", "RobertaModel", "CamembertModel", "ElectraModel"), "text", "embedding", 0.1),
)
TASKS: Final[Mapping[str, TaskSpec]] = {task.name: task for task in _TABLE}
"""By name, in the order in which messages list them."""
