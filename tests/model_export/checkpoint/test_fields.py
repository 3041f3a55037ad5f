"""Each field of the table is treated as it says: an example of each is put into a checkpoint."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from transformers import AutoConfig

from model_export.checkpoint.families import FAMILIES
from model_export.checkpoint.fields import ROWS, as_markdown, unknown_fields
from model_export.checkpoint.load import LoadedCheckpoint, load_checkpoint
from model_export.checkpoint.tokenizer_texts import TEXTS
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, ROOT

Copy = Callable[..., Path]
Example = tuple[str, Any]
"""A checkpoint, and the value of the field in it."""

BERT, ROBERTA, EMBED, DENSE, CROSS = "bert-nli", "roberta-fill-mask", "bert-embed", "bert-embed-dense", "roberta-rerank"
ID_OF_IS: Final = 214
SPECIAL: Final = {"content": "is", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
TOKENS: Final = {f"{name}_token": (BERT, "is") for name in ("pad", "unk", "mask", "cls", "sep", "bos", "eos")}
CONFIG: Final[Mapping[str, Example]] = {
    "model_type": (BERT, "roberta"),
    "architectures": ("bert-single-label", ["BertModel"]),
    "vocab_size": (BERT, 500),
    "hidden_size": (BERT, 64),
    "num_hidden_layers": (BERT, 1),
    "num_attention_heads": (BERT, 2),
    "intermediate_size": (BERT, 32),
    "hidden_act": (BERT, "relu"),
    "layer_norm_eps": (BERT, 0.5),
    "max_position_embeddings": (BERT, 30),
    "type_vocab_size": (BERT, 1),
    "tie_word_embeddings": ("bert-fill-mask", False),
    "embedding_size": ("electra-fill-mask", 32),
    "dim": ("distilbert-fill-mask", 64),
    "n_layers": ("distilbert-fill-mask", 1),
    "n_heads": ("distilbert-fill-mask", 4),
    "hidden_dim": ("distilbert-fill-mask", 32),
    "activation": ("distilbert-fill-mask", "gelu"),
    "pad_token_id": (ROBERTA, 3),
    "id2label": ("bert-single-label", {"0": "a", "1": "b", "2": "c"}),
    "num_labels": ("distilbert-one-label", 2),
    "problem_type": ("bert-single-label", "multi_label_classification"),
    "label2id": ("bert-single-label", {"entailment": 2}),
    "tokenizer_class": ("distilbert-two-labels", "PreTrainedTokenizerFast"),
    "sentence_transformers": ("distilbert-one-label", {"activation_fn": "torch.nn.modules.linear.Identity"}),
    "sbert_ce_default_activation_function": ("distilbert-one-label", "torch.nn.modules.linear.Identity"),
    "position_embedding_type": (BERT, "relative_key"),
    "is_decoder": (BERT, True),
    "add_cross_attention": (BERT, True),
    "pruned_heads": (BERT, {"0": [1]}),
    "quantization_config": (BERT, {"quant_method": "gptq", "bits": 4}),
    "auto_map": (BERT, {"AutoModel": "own.Model"}),
}
SETTINGS: Final[Mapping[str, Example]] = {
    "tokenizer_class": ("electra-single-label", "TokenizersBackend"),
    "do_lower_case": (BERT, False),
    "strip_accents": (BERT, False),
    "tokenize_chinese_chars": (BERT, False),
    "add_prefix_space": (ROBERTA, True),
    "trim_offsets": (ROBERTA, False),
    "model_max_length": (BERT, 20),
    "max_len": ("distilbert-two-labels", 20),
    "truncation_side": (BERT, "left"),
    "split_special_tokens": (BERT, True),
    "model_input_names": (BERT, ["input_ids"]),
    "clean_up_tokenization_spaces": (BERT, True),
    **TOKENS,
    "additional_special_tokens": (BERT, ["is"]),
    "extra_special_tokens": (BERT, ["is"]),
    "added_tokens_decoder": (BERT, {"399": SPECIAL | {"content": "new"}}),
    "auto_map": (BERT, {"AutoTokenizer": ["own.Tokenizer", None]}),
    "fast_tokenizer_files": (BERT, ["tokenizer.json", "tokenizer.4.0.json"]),
    "padding_side": (BERT, "left"),
}
TOKENIZER: Final[Mapping[str, Example]] = {
    "added_tokens": (BERT, [SPECIAL | {"special": True, "id": ID_OF_IS}]),
    "normalizer": (BERT, None),
    "pre_tokenizer": (BERT, {"type": "WhitespaceSplit"}),
    "post_processor": (BERT, None),
    "decoder": ("bert-fill-mask", None),
    "model": (BERT, {"type": "WordLevel", "vocab": {"[UNK]": 0, "[PAD]": 1}, "unk_token": "[UNK]"}),
    "truncation.direction": (BERT, "Left"),
    "truncation.max_length": (BERT, 5),
    "truncation.stride": (BERT, 2),
    "truncation.strategy": (BERT, "OnlyFirst"),
    "model.dropout": (ROBERTA, 0.5),
}
TEXT: Final = {"method": "forward", "method_output_name": "pooler_output"}
MODULE: Final[Mapping[str, Example]] = {
    "max_seq_length": (EMBED, 36),
    "do_lower_case": ("distilbert-embed-cls", True),
    "tokenizer_args": (EMBED, {"truncation_side": "left"}),
    "processor_kwargs": (EMBED, {"do_lower_case": False}),
    "model_args": (EMBED, {"num_hidden_layers": 1}),
    "model_kwargs": (EMBED, {"num_hidden_layers": 1}),
    "config_args": (EMBED, {"num_hidden_layers": 1}),
    "config_kwargs": (EMBED, {"num_hidden_layers": 1}),
    "transformer_task": (EMBED, "text-generation"),
    "modality_config": (EMBED, {"text": TEXT}),
    "module_output_name": (EMBED, "sentence_embedding"),
    "processing_kwargs": (EMBED, {"text": {"max_length": 8}}),
    "query_length": (EMBED, 8),
    "document_length": (EMBED, 8),
    "query_expansion": (EMBED, {"strategy": "fixed"}),
}
SENTENCE: Final[Mapping[str, Example]] = {
    "__version__": (EMBED, {"sentence_transformers": "5.4.0"}),
    "model_type": (CROSS, "SentenceTransformer"),
    "activation_fn": (CROSS, "torch.nn.modules.activation.Sigmoid"),
    "prompts": (EMBED, {"query": "Q: "}),
    "default_prompt_name": (DENSE, "query"),
    "truncate_dim": (EMBED, 8),
}
POOLING: Final[Mapping[str, Example]] = {
    "pooling_mode": (EMBED, "cls"),
    "pooling_mode_mean_tokens": ("distilbert-embed-cls", True),
    "pooling_mode_cls_token": (EMBED, True),
    "include_prompt": (EMBED, False),
}
DENSE_LAYER: Final[Mapping[str, Example]] = {
    "activation_function": (DENSE, "torch.nn.modules.activation.ReLU"),
    "bias": (DENSE, False),
    "use_residual": (DENSE, True),
    "module_input_name": (DENSE, "token_embeddings"),
    "module_output_name": (DENSE, "token_embeddings"),
}
EXAMPLES: Final[Mapping[str, Mapping[str, Example]]] = {
    "config.json": CONFIG,
    "tokenizer_config.json": SETTINGS,
    "special_tokens_map.json": TOKENS | {"additional_special_tokens": (BERT, ["is"])},
    "tokenizer.json": TOKENIZER,
    "sentence_bert_config.json": MODULE,
    "config_sentence_transformers.json": SENTENCE,
    "1_Pooling/config.json": POOLING,
    "2_Dense/config.json": DENSE_LAYER,
    "2_Normalize/config.json": dict.fromkeys(("module_input_name", "module_output_name"), (EMBED, "token_embeddings")),
}
ELSEWHERE: Final = {
    ("config.json", "transformers_version"),
    ("tokenizer_config.json", "backend"),
    ("tokenizer_config.json", "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"),
    ("modules.json", "type"),
    ("modules.json", "path"),
    ("added_tokens.json", "(each"),
    ("added_tokens.json", "token)"),
}
"""Decided with other fields together: test_tokenizer.py, test_tokenizer_choice.py, test_sentence_transformers.py."""
NOT_READ_BY_EXAMPLE: Final = {"tokenizer.json": {"padding", "version"}, "modules.json": {"idx", "name", "kwargs"}}
CHECKED_BY_TRANSFORMERS: Final[Mapping[str, Any]] = {
    "bos_token_id": 7,
    "eos_token_id": 7,
    "dtype": "float16",
    "torch_dtype": "float16",
    "classifier_dropout": 0.25,
    "summary_last_dropout": 0.25,
    "init_inputs": [],
    "chunk_size_feed_forward": 1,
    "attn_implementation": "eager",
}
"""Fields whose types transformers checks."""


def names(treatment: str) -> list[tuple[str, str]]:
    return [
        (row.file, name)
        for row in ROWS
        if row.treatment == treatment
        for name in row.fields.split()
        if (row.file, name) not in ELSEWHERE
    ]


def change(path: Path, field: str, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    stored = json.loads(path.read_text()) if path.exists() else {}
    outer, _, inner = field.partition(".")
    if outer == "truncation":
        stored["truncation"] = {"direction": "Right", "max_length": 40, "strategy": "LongestFirst", "stride": 0}
    if inner:
        stored[outer][inner] = value
    else:
        stored[outer] = value
    path.write_text(json.dumps(stored))


def loaded(folder: Path) -> Any:
    """Return all that a bundle would be made of, but for the weights."""
    read: LoadedCheckpoint = load_checkpoint(
        str(folder), None, task="auto", pooling="auto", max_length=None, warn=lambda _: None
    )
    network, tokenizer, embedding = read.network, read.tokenizer, read.embedding
    encodings = [tokenizer.fast.encode(text, pair) for text, pair in TEXTS]
    layers = (
        [layer if layer == "normalize" else layer.activation for layer in embedding.after_pooling] if embedding else ()
    )
    return (
        (network.config, network.task.name, network.uses_token_types, network.pooling, layers),
        [(one.ids, one.type_ids, one.offsets) for one in encodings],
        [tokenizer.fast.decode(one.ids) for one in encodings],
        (tokenizer.special_tokens, tokenizer.truncation_side, tokenizer.splits_special_tokens, tokenizer.cleans_up),
        (read.max_length, read.mask, read.score_function, tokenizer.fast.get_vocab_size()),
        (embedding.dimensions, embedding.prompts, embedding.default_prompt_name) if embedding else None,
        (embedding.strips_whitespace, embedding.normalizes) if embedding else None,
    )


@cache
def unchanged(name: str) -> Any:
    return loaded(CHECKPOINTS / name)


@pytest.mark.parametrize(("file", "field"), names("honoured"))
def test_a_field_that_is_honoured_changes_what_is_exported(copy_of: Copy, file: str, field: str) -> None:
    name, value = EXAMPLES[file][field]
    folder = copy_of(name)
    if file == "special_tokens_map.json":
        (folder / "tokenizer_config.json").write_text("{}")  # which goes before it
        before = loaded(folder)
    else:
        before = unchanged(name)
    change(folder / file, field, value)
    try:
        assert loaded(folder) != before
    except ExportError:
        return  # it contradicts the tensors or another file


@pytest.mark.parametrize(("file", "field"), names("refused"))
def test_a_field_that_is_refused_is_named(copy_of: Copy, file: str, field: str) -> None:
    name, value = EXAMPLES[file].get(field, (EMBED, True))
    folder = copy_of(name)
    change(folder / file, field, value)
    with pytest.raises(ExportError) as caught:
        loaded(folder)
    others = {"tokenizer_args": "truncation_side", "position_embedding_type": "relative_key"}
    assert field in str(caught.value) or others[field] in str(caught.value)


@pytest.mark.parametrize("name", [BERT, "electra-fill-mask", "distilbert-fill-mask", EMBED])
def test_fields_that_are_ignored_change_nothing(copy_of: Copy, name: str) -> None:
    folder, before = copy_of(name), unchanged(name)
    for file, field in names("ignored"):
        path = folder / file
        if not path.exists() or field in NOT_READ_BY_EXAMPLE.get(file, ()) or field == "model.dropout":
            continue
        stored = json.loads(path.read_text())
        old = stored.get(field)
        value = EXAMPLES.get(file, {}).get(field, (name, None))[1]
        if value is None:
            other = {bool: not old, float: 0.25}.get(type(old), "x")
            value = CHECKED_BY_TRANSFORMERS.get(field, other)
        change(path, field, value)
    assert loaded(folder) == before


def test_dropout_of_byte_pairs_is_turned_off(copy_of: Copy) -> None:
    folder = copy_of(ROBERTA)
    change(folder / "tokenizer.json", "model.dropout", 0.5)
    assert loaded(folder) == unchanged(ROBERTA)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_transformers_is_in_the_table(family: str) -> None:
    config = AutoConfig.for_model(family).to_dict()
    assert unknown_fields("config.json", config) == []


def test_no_field_of_the_fixtures_is_unknown() -> None:
    for path in (ROOT / "tests" / "fixtures" / "checkpoints").glob("*/*.json"):
        if path.name != "answers.json" and isinstance(stored := json.loads(path.read_text()), dict):
            assert unknown_fields(path.name, stored) == [], path


def test_a_field_that_is_unknown_is_reported(copy_of: Copy) -> None:
    folder = copy_of(EMBED)
    change(folder / "config_sentence_transformers.json", "new_field", 1)
    warnings: list[str] = []
    load_checkpoint(str(folder), None, task="auto", pooling="auto", max_length=None, warn=warnings.append)
    assert warnings == [
        "config_sentence_transformers.json has fields that this export does not know and ignores: new_field."
    ]


def test_the_docs_have_the_table() -> None:
    assert as_markdown() in (ROOT / "docs" / "checkpoint-fields.md").read_text()
