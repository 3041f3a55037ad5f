"""Texts to tokens and back, as text-embeddings-inference shows them."""

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.bundle.sequences import IntArray
from app.errors import ValidationFailed
from app.tasks.base import Model
from app.tasks.inputs import MAX_INPUTS, ModelName, TextInputs, as_list
from app.tasks.prompts import PromptParameters, prompt_of
from app.text.located import Located
from app.text.pieces import MOST_TOKENS
from app.work import go_on


def _as_lists(value: object) -> object:
    return [value] if isinstance(value, list) and not any(isinstance(item, list) for item in value) else value


class TokenizeForm(BaseModel):
    """Texts to tokenize."""

    model_config = ConfigDict(strict=True, frozen=True)

    model: ModelName = None
    inputs: TextInputs
    add_special_tokens: bool = True
    prompt_name: str | None = None

    @property
    def listed(self) -> list[str]:
        """The texts as a list."""
        return as_list(self.inputs)


class DecodeForm(BaseModel):
    """Token ids of texts; those of a single one need no list around them."""

    model_config = ConfigDict(strict=True, frozen=True)

    model: ModelName = None
    ids: Annotated[
        list[Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_INPUTS),
        BeforeValidator(_as_lists),
    ]
    skip_special_tokens: bool = True


def tokenized(model: Model, form: TokenizeForm) -> list[list[dict[str, Any]]]:
    """Return the tokens of every text, after its prompt; those that belong to no place of the text are special.

    Raises:
        ValidationFailed: the texts have more tokens than are listed at once, or the model does not have the prompt.
    """
    prompt = prompt_of(model.manifest, PromptParameters(prompt_name=form.prompt_name))
    texts = [prompt + text for text in form.listed]
    located = model.tokenizer.encode_located(texts, cut=None)
    count = sum(len(one.input_ids) for one in located)
    if count > MOST_TOKENS:
        raise ValidationFailed(
            f"The texts have {count} tokens together; at most {MOST_TOKENS} are listed at once. Send several requests."
        )
    return [
        _tokens(model, text, one, add_special_tokens=form.add_special_tokens)
        for text, one in zip(texts, located, strict=True)
    ]


def decoded(model: Model, form: DecodeForm) -> list[str]:
    """Return the text of each list of ids. Ids that the vocabulary does not have are left out, as in the original."""
    return [model.tokenizer.decode(ids, skip_special_tokens=form.skip_special_tokens) for ids in form.ids]


def _tokens(model: Model, text: str, located: Located, *, add_special_tokens: bool) -> list[dict[str, Any]]:
    go_on()
    [own] = located.texts
    ids, characters = located.input_ids.tolist(), located.offsets.tolist()
    places = _bytes_at(text)[located.offsets].tolist()
    tokens = []
    for i in range(len(ids)) if add_special_tokens else own:
        if i in own:
            begin, end = characters[i]
            start, stop = places[i]
            tokens.append({"id": ids[i], "text": text[begin:end], "special": False, "start": start, "stop": stop})
        else:
            name = model.tokenizer.token(ids[i])
            tokens.append({"id": ids[i], "text": name, "special": True, "start": None, "stop": None})
    return tokens


def _bytes_at(text: str) -> IntArray:
    """Return int64[characters + 1], the place in UTF-8 of every character and of the end: what the original counts in."""
    content = np.frombuffer(text.encode(), np.uint8)
    return np.append(np.flatnonzero(content & 0xC0 != 0x80), len(content))
