"""What a bundle is: the manifest, the golden answers, and how both are read and trusted.

A bundle is one folder: `manifest.json`, one ONNX graph per variant, `tokenizer.json`, `golden.json`. `model_export`
writes it with the models below, the server reads it with the same ones. Runs at start-up, in any process; imports only
`errors` of the project.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from app.errors import BundleError

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.json"

Task = Literal["classify", "fill-mask", "next-sentence", "entities", "answer", "embed"]
Pooling = Literal["mean", "cls"]
Target = Literal["cpu", "cuda"]
Precision = Literal["fp32", "fp16", "int8"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

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
    `labels` are those of texts, of tokens (entities), or IS_NEXT and NOT_NEXT. Three are for `embed` alone: `pooling`;
    `normalizes`, whether embeddings are scaled to unit length unless a request says otherwise; `strips_whitespace`,
    whether whitespace around a text is removed before it is tokenized (None, as in older bundles, is no).
    """

    schema_version: Literal[1]
    name: str
    task: Task
    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    pooling: Pooling | None = None
    normalizes: bool | None = None
    strips_whitespace: bool | None = None
    max_length: int = Field(ge=3)
    position_offset: int = Field(ge=0)
    special_tokens: SpecialTokens
    clean_up_tokenization_spaces: bool
    architecture: Architecture
    variants: tuple[Variant, ...] = Field(min_length=1)
    tokenizer: BundleFile
    golden: BundleFile
    source: Source
    exported_with: dict[str, str]


class GoldenMask(Strict):
    """The most likely tokens for one mask, best first, and their share of the softmax over the vocabulary."""

    tokens: tuple[int, ...]
    scores: tuple[float, ...]


class GoldenCase(Strict):
    """One input and what the source checkpoint answers: one of the last four, by task.

    `logits` for classification and next-sentence, `masks` for masked tokens, `token_logits` for entities (a row a token,
    labels side by side) and answer (start and end), `embedding` before it is normalized. Of `answer`, `text` is the
    question and `text_pair` the context. `input_ids` and `token_type_ids` include special tokens, so that an engine
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


class Golden(Strict):
    """Inputs and answers that the server replays before it says that it is ready."""

    cases: tuple[GoldenCase, ...] = Field(min_length=1)


class Bundle:
    """A bundle on disk whose manifest has been read. Its files are hashed only by `verify_file`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def name(self) -> str:
        """The name it is served under: that of its folder, so that a link or a rename deploys another version."""
        return self.folder.name

    @cached_property
    def identity(self) -> str:
        """Tells it from every other bundle that was ever there under its name: the manifest holds the hashes of all files."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    def path(self, file: BundleFile) -> Path:
        return self.folder / file.file

    def verify_file(self, file: BundleFile) -> Path:
        """Return the path of a bundle file whose size and hash are those of the manifest.

        Raises:
            BundleError: the file is missing, cut short or changed.
        """
        path = self.path(file)
        try:
            size_bytes = path.stat().st_size
            if size_bytes != file.size_bytes:
                raise BundleError(
                    f"{path} has {size_bytes} bytes, its manifest says {file.size_bytes}: the copy is incomplete. "
                    "Copy the bundle again, or export the model again."
                )
            sha256 = sha256_of(path)
        except FileNotFoundError as error:
            raise BundleError(f"{path} is missing from the bundle. Export the model again.") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        if sha256 != file.sha256:
            raise BundleError(
                f"{path} is not the file that was exported: its sha256 differs from the manifest's. "
                "Copy the bundle again, or export the model again."
            )
        return path

    def golden(self) -> Golden:
        """Read the golden answers.

        Raises:
            BundleError: they are missing or damaged.
        """
        path = self.verify_file(self.manifest.golden)
        try:
            return Golden.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise BundleError(f"{path} does not hold golden answers: {_first_problem(error)}.") from error


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_file(path: Path) -> BundleFile:
    """Return the manifest entry of a file as it is now."""
    return BundleFile(file=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def load_bundle(folder: Path) -> Bundle:
    """Read the manifest of the bundle in `folder`.

    Raises:
        BundleError: there is no manifest, it is damaged, or of a schema version that this server does not know.
    """
    path = folder / MANIFEST_FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is not a bundle: it has no readable {MANIFEST_FILE}.") from error
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise BundleError(f"{path} is not JSON. Export the model again.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version!r}, this server reads {SCHEMA_VERSION}. "
            "Export the model again with the model_export of this release."
        )
    try:
        return Bundle(folder, Manifest.model_validate_json(raw))
    except ValidationError as error:
        raise BundleError(f"{path} is damaged: {_first_problem(error)}. Export the model again.") from error


def find_bundles(models: Path) -> list[Bundle]:
    """Return the bundles under `models`, by name; `models` may itself be a bundle.

    Raises:
        BundleError: there is none, or one is damaged or cannot be read.
    """
    try:
        is_bundle = (models / MANIFEST_FILE).exists()
    except OSError as error:
        raise _unreadable(models, error) from error
    if is_bundle:
        return [load_bundle(models.resolve() if models.name in ("", "..") else models)]
    if not models.is_dir():
        raise BundleError(
            f"The models folder {models} does not exist. Make a bundle with "
            f"'python -m model_export export --checkpoint DIR_OR_HUB_ID --output {models}/NAME', or set --models."
        )
    try:
        # Passed over: what fill_models and the export keep there (.versions, a link that was never put in its place), and
        # what a file system does, which only root may open.
        folders = sorted(
            folder
            for folder in models.iterdir()
            if not folder.name.startswith(".") and folder.name != "lost+found" and (folder / MANIFEST_FILE).exists()
        )
    except OSError as error:
        raise _unreadable(Path(error.filename or models), error) from error
    if not folders:
        raise BundleError(
            f"No bundle in {models}. Make one with "
            f"'python -m model_export export --checkpoint DIR_OR_HUB_ID --output {models}/NAME', or set --models."
        )
    return [load_bundle(folder) for folder in folders]


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be read: {error.strerror}. Let the user that serves read it, or take it out of the models folder."
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
