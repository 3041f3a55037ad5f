"""The text that an embedding model expects before a text: an instruction, or `query: ` and `passage: `.

It is chosen as in sentence-transformers: by name as `encode` does, by the kind of text as `encode_query` and
`encode_document` are documented, else it is the model's default prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from pydantic import Field

from app.bundle.manifest import Manifest
from app.errors import ValidationFailed
from app.tasks.base import Model, Prepared, prepare_whole
from app.tasks.inputs import Truncation

InputType = Literal["query", "document"]

_NAMES: Final[Mapping[InputType, Sequence[str]]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""The prompts for a kind of text; the first that the model has is used."""


class PromptParameters(Truncation):
    """How texts are tokenized, and what is put before them."""

    prompt_name: str | None = Field(
        None,
        description="Put this prompt of the model before every text; GET /v1/models names them. Empty: none. Default: the "
        "model's default prompt.",
    )
    input_type: InputType | None = Field(
        None,
        description="What the texts are: puts the model's prompt for queries or for documents before them, if it has one.",
    )


def prompt_of(manifest: Manifest, parameters: PromptParameters) -> str:
    """Return what is put before every text; empty for nothing.

    Raises:
        ValidationFailed: the model does not have the prompt.
    """
    name, kind = parameters.prompt_name, parameters.input_type
    prompts = manifest.prompts or {}
    if name is not None and kind is not None:
        raise ValidationFailed("parameters: prompt_name and input_type both choose a prompt; send only one of them.")
    if kind is not None:
        return next((prompts[one] for one in _NAMES[kind] if one in prompts), "")
    if name is None:
        name = manifest.default_prompt_name
    if not name:
        return ""
    if name not in prompts:
        raise ValidationFailed(
            f"parameters.prompt_name: this model has no such prompt; its prompts are: {', '.join(prompts) or 'none'}."
        )
    return prompts[name]


def prepare_texts(
    model: Model, texts: Sequence[str], parameters: PromptParameters, place: Callable[[int], str] = "inputs[{}]".format
) -> Prepared:
    """Tokenize texts, each after the prompt; `place` returns where a text stands in the request.

    Raises:
        ValidationFailed: the model does not have the prompt, or a text is too long and truncation is off.
    """
    prompt = prompt_of(model.manifest, parameters)
    if prompt:
        texts = [prompt + text for text in texts]
    if model.manifest.strips_whitespace:
        texts = [text.strip() for text in texts]
    return prepare_whole(model, texts, parameters, place)
