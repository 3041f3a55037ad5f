"""What a bundle is: the manifest, the golden answers, and how both are read and trusted.

A bundle is one folder: `manifest.json`, one ONNX graph per variant, `tokenizer.json`, `golden.json`. `model_export`
writes it with the models below, the server reads it with the same ones. Runs at start-up, in any process; imports only
`errors` of the project.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.json"

Task = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
"""The name of a task: the server looks it up among its handlers, the export in its table."""
Pooling = Literal["mean", "cls"]
Target = Literal["cpu", "cuda"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
ScoreFunction = Literal["sigmoid", "none"]
TruncationSide = Literal["right", "left"]
"""The end of a text that is cut off if it is too long."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A file beside the manifest: never a path that leaves the bundle."""


class Strict(BaseModel):
    """Unknown keys are an error, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BundleFile(Strict):
    """One file of the bundle, as it was when it was exported."""

    file: FileName
    sha256: str
    size_bytes: int


class Parity(Strict):
    """How far a variant's answers were from the reference when it was exported.

    Differences are the largest over all outputs of the parity batches: of the softmax over the vocabulary for masked
    tokens, of embeddings before they are normalized, else of logits. `alone` compares each sequence in a packed batch with
    the same sequence alone; bundles of older releases call it `company`.
    """

    reference_max_abs_diff: float
    alone_max_abs_diff: float = Field(validation_alias=AliasChoices("alone_max_abs_diff", "company_max_abs_diff"))
    tolerance: float
    checked_with: Literal["onnxruntime", "onnx.reference"]


class Agreement(Strict):
    """How often a variant gave another best answer than fp32, on the sentences of the export.

    A best answer is the top label of a text or a token, a mask's top token, the likeliest start or end of an answer, the
    sentence nearest to another one. Of a single label, whose score is the answer, an answer has changed that moved by
    more than a twentieth of the range of all.
    """

    answers: int = Field(ge=1)
    changed: int = Field(ge=0)


class Variant(Strict):
    """One graph of the model, for one kind of device in one precision. `agreement` is there where precision is given up."""

    target: Target
    precision: Precision
    graph: BundleFile
    external_data: BundleFile | None = None
    parity: Parity
    agreement: Agreement | None = None

    @property
    def name(self) -> str:
        """`cpu-fp32`, `cuda-fp16` and so on."""
        return f"{self.target}-{self.precision}"

    @property
    def size_bytes(self) -> int:
        """Of the graph and its weights."""
        return self.graph.size_bytes + (self.external_data.size_bytes if self.external_data else 0)


class SpecialToken(Strict):
    """A token with a meaning of its own to the model."""

    id: int
    text: str


class SpecialTokens(Strict):
    """The special tokens the server needs to know. `mask` is absent where the vocabulary has none."""

    pad: SpecialToken
    unknown: SpecialToken
    mask: SpecialToken | None = None


class Architecture(Strict):
    """The size of the network. `parameters` counts what this task uses."""

    family: str
    layers: int
    hidden_size: int
    attention_heads: int
    vocab_size: int
    parameters: int


class Source(Strict):
    """Where the weights came from: the checkpoint as it was named, and the sha256 over its weight files."""

    checkpoint: str
    revision: str | None = None
    sha256: str


class Manifest(Strict):
    """Everything the server must know about a model that is not in its graphs.

    `position_offset` is the position id of the first token (2 for RoBERTa, else 0). `max_length` counts special tokens.
    `truncation_side` is the end that is cut off unless a request says otherwise (None: right); `splits_special_tokens` whether
    special tokens within a text are read as text (None: no). `tokenizer_origin` tells people what the export took it from.
    `labels` are those of texts, of tokens (entities), or IS_NEXT and NOT_NEXT. `entailment` is the number of the label that
    means it, if the labels' names do not tell. Of `rerank` alone, `score_function` turns the
    logit into a score unless a request says otherwise. The rest is for `embed` alone: `pooling`;
    `embedding_size`, how many numbers an embedding has (None: the hidden size); `default_dimensions`, how many of them a
    request gets that does not say (None: all); `normalizes`, whether embeddings are scaled to unit length unless a request
    says otherwise; `strips_whitespace`, whether whitespace around a text is removed before it is tokenized (None, as in
    older bundles, is no); `prompts`, what may be put before a text, by name, and the name of the one that is by default.
    `left_out` says of each variant that the export tried by default, and that did not pass its checks, why.
    """

    schema_version: Literal[1]
    name: str
    task: Task
    labels: tuple[str, ...] = ()
    entailment: int | None = Field(None, ge=0)
    problem_type: ProblemType | None = None
    pooling: Pooling | None = None
    embedding_size: int | None = Field(None, ge=1)
    default_dimensions: int | None = Field(None, ge=1)
    normalizes: bool | None = None
    strips_whitespace: bool | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None
    score_function: ScoreFunction | None = None
    max_length: int = Field(ge=3, le=2**20)
    position_offset: int = Field(ge=0)
    special_tokens: SpecialTokens
    truncation_side: TruncationSide | None = None
    splits_special_tokens: bool | None = None
    tokenizer_origin: str | None = None
    clean_up_tokenization_spaces: bool
    architecture: Architecture
    variants: tuple[Variant, ...] = Field(min_length=1)
    left_out: dict[str, str] | None = None
    tokenizer: BundleFile
    golden: BundleFile
    source: Source
    exported_with: dict[str, str]

    @field_validator("variants")
    @classmethod
    def _each_once(cls, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        if len({variant.name for variant in variants}) < len(variants):
            raise ValueError("a variant is there twice")
        return variants

    @property
    def servable(self) -> tuple[Variant, ...]:
        """The variants that have a graph, and `cpu-bf16`, which is that of `cpu-fp32` with products in bf16."""
        of_fp32 = (one.model_copy(update={"precision": "bf16"}) for one in self.variants if one.name == "cpu-fp32")
        return (*self.variants, *of_fp32)

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """All files of the bundle, each once."""
        of_variants = (file for one in self.variants for file in (one.graph, one.external_data) if file is not None)
        return tuple({file.file: file for file in (self.tokenizer, self.golden, *of_variants)}.values())

    @property
    def dimensions(self) -> int:
        """How many numbers an embedding has."""
        return self.embedding_size or self.architecture.hidden_size


class GoldenMask(Strict):
    """The most likely tokens for one mask, best first, and their share of the softmax over the vocabulary."""

    tokens: tuple[int, ...]
    scores: tuple[float, ...]


class GoldenLabel(Strict):
    """A label and its score, as a caller gets them."""

    label: str
    score: float


class GoldenCase(Strict):
    """One input and what the source checkpoint answers: one of the four that are numbers, by task.

    `logits` for classification and next-sentence, `masks` for masked tokens, `token_logits` for entities (a row a token,
    labels side by side) and answer (start and end), `embedding` before it is normalized. Of `answer`, `text` is the
    question and `text_pair` the context. `labels` are what a caller gets of these numbers by default: of texts all labels, best
    first, of each token the best one; bundles of older releases, and models whose labels have no names, lack them. `input_ids` and `token_type_ids` include special tokens, so that an engine
    without a tokenizer can replay the case.
    """

    text: str
    text_pair: str | None = None
    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    logits: tuple[float, ...] | None = None
    masks: tuple[GoldenMask, ...] | None = None
    token_logits: tuple[tuple[float, ...], ...] | None = None
    embedding: tuple[float, ...] | None = None
    labels: tuple[GoldenLabel, ...] | None = None


class Golden(Strict):
    """Inputs and answers that the server replays before it says that it is ready."""

    cases: tuple[GoldenCase, ...] = Field(min_length=1)
