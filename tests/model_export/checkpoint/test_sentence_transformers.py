"""What is read from a folder of sentence-transformers, what is refused in it, and models without a head."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.manifest import Target
from model_export.check.reference import reference_answers
from model_export.checkpoint.find import choose_task, find_checkpoint
from model_export.checkpoint.load import hash_of, load_checkpoint
from model_export.checkpoint.sentence_transformers import EmbeddingSettings, read_embedding_settings
from model_export.checkpoint.weights import open_weights
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.conftest import BundleOf
from tests.model_export.support import CHECKPOINTS, edit_tensors, network_of, sequences_for, written

Copy = Callable[..., Path]
TARGETS: tuple[Target, ...] = ("cpu", "cuda")


def module(name: str, path: str = "") -> dict[str, str]:
    return {"type": f"sentence_transformers.models.{name}", "path": path}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def test_folder_is_read() -> None:
    settings = read_embedding_settings(CHECKPOINTS / "bert-embed", "auto")
    assert settings == EmbeddingSettings(
        "mean", normalizes=True, strips_whitespace=True, max_length=32, lowercases=False
    )
    settings = read_embedding_settings(CHECKPOINTS / "distilbert-embed-cls", "auto")
    assert settings == EmbeddingSettings(
        "cls", normalizes=False, strips_whitespace=True, max_length=32, lowercases=False
    )


@pytest.mark.parametrize(
    ("versions", "strips"),
    [
        ({"__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1"}}, True),
        ({"__version__": {"sentence_transformers": "5.3.0"}}, True),
        ({"__version__": {"sentence_transformers": "5.4.0.dev0"}}, False),
        ({"__version__": {"sentence_transformers": "5.10.0"}}, False),
        ({"__version__": {"sentence_transformers": "10.0"}}, False),
        ({"__version__": {}}, True),
        ({}, True),
    ],
)
def test_texts_are_stripped_as_by_the_release_that_saved_the_folder(copy_of: Copy, versions: Any, strips: bool) -> None:
    folder = copy_of("bert-embed")
    write(folder / "config_sentence_transformers.json", versions)
    assert read_embedding_settings(folder, "auto").strips_whitespace is strips


@pytest.mark.parametrize(
    "versions", [{"sentence_transformers": "new"}, {"sentence_transformers": 5.4}, "5.4.0", ["5.4.0"]]
)
def test_release_that_is_no_number(copy_of: Copy, versions: object) -> None:
    folder = copy_of("bert-embed")
    write(folder / "config_sentence_transformers.json", {"__version__": versions})
    with pytest.raises(
        ExportError, match=r"config_sentence_transformers\.json has no valid sentence-transformers release"
    ):
        read_embedding_settings(folder, "auto")


@pytest.mark.parametrize(("release", "strips"), [("5.3.0", True), ("5.4.0", False)])
def test_manifest_has_whether_texts_are_stripped(copy_of: Copy, tmp_path: Path, release: str, strips: bool) -> None:
    folder = copy_of("bert-embed")
    write(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": release}})
    options = ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"])
    assert export(options, lambda _: None).strips_whitespace is strips


def test_option_goes_before_the_folders_pooling(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    settings = read_embedding_settings(folder, "cls")
    assert (settings.pooling, settings.normalizes) == ("cls", True)


def test_plain_checkpoint_is_pooled_by_the_mean() -> None:
    folder = CHECKPOINTS / "bert-single-label"
    assert read_embedding_settings(folder, "auto") == EmbeddingSettings("mean")
    assert read_embedding_settings(folder, "cls") == EmbeddingSettings("cls")


@pytest.mark.parametrize(
    ("stored", "pooling"),
    [
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({}, "mean"),
        ({"pooling_mode_cls_token": False}, "mean"),
    ],
)
def test_pooling_may_be_one_name_or_none(copy_of: Copy, stored: Any, pooling: str) -> None:
    folder = copy_of("bert-embed")
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, **stored})
    assert read_embedding_settings(folder, "auto").pooling == pooling


def test_pooling_without_the_prompt_is_refused_whatever_the_option(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(ExportError, match="include_prompt"):
        read_embedding_settings(folder, "cls")


# --- prompts and sizes


def test_prompts_and_dimensions_are_read() -> None:
    settings = read_embedding_settings(CHECKPOINTS / "bert-embed-dense", "auto")
    assert settings.prompts == {"query": "What is it? ", "document": "The world: ", "topic": "day "}
    assert (settings.default_prompt_name, settings.dimensions, settings.normalizes) == ("topic", None, True)
    settings = read_embedding_settings(CHECKPOINTS / "roberta-embed-dense", "auto")
    assert settings.prompts == {"query": "Is it good? ", "document": ""}
    assert (settings.default_prompt_name, settings.dimensions, settings.normalizes) == (None, 12, False)


@pytest.mark.parametrize(
    ("stored", "prompts", "default"),
    [
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, {}, None),
        ({"prompts": {"query": None}, "default_prompt_name": "query"}, {}, None),
        ({"prompts": None, "default_prompt_name": "document"}, {}, None),
        ({"prompts": {"a": "b: ", "none": ""}, "default_prompt_name": "none"}, {"a": "b: ", "none": ""}, None),
        ({"prompts": {"a": "b: "}, "default_prompt_name": "a"}, {"a": "b: "}, "a"),
    ],
)
def test_empty_prompts_are_none(copy_of: Copy, stored: Any, prompts: dict[str, str], default: str | None) -> None:
    folder = copy_of("bert-embed")
    write(folder / "config_sentence_transformers.json", stored)
    settings = read_embedding_settings(folder, "auto")
    assert (settings.prompts, settings.default_prompt_name) == (prompts, default)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"prompts": ["query: "]}, "The prompts in .* are not texts by name"),
        ({"prompts": {"query": 1}}, "The prompts in .* are not texts by name"),
        (
            {"prompts": {"a": "b"}, "default_prompt_name": "c"},
            "default_prompt_name in .* is 'c', but the prompts are a",
        ),
        ({"truncate_dim": 0}, "truncate_dim in .* is not a number of dimensions"),
        ({"truncate_dim": "all"}, "truncate_dim in .* is not a number of dimensions"),
        ({"truncate_dim": True}, "truncate_dim in .* is not a number of dimensions"),
        ({"default_prompt_name": ["a"]}, "default_prompt_name in .* is \\['a'\\], but the prompts are none"),
    ],
)
def test_damaged_prompts_and_dimensions_are_refused(copy_of: Copy, stored: Any, expected: str) -> None:
    folder = copy_of("bert-embed")
    write(folder / "config_sentence_transformers.json", stored)
    with pytest.raises(ExportError, match=expected):
        read_embedding_settings(folder, "auto")


def test_manifest_says_nothing_of_what_a_model_does_not_have(bundle_of: BundleOf) -> None:
    new = {"embedding_size", "default_dimensions", "prompts", "default_prompt_name"}

    def said(name: str) -> dict[str, Any]:
        manifest = json.loads((bundle_of(name) / "manifest.json").read_text())
        return {key: value for key, value in manifest.items() if key in new}

    assert said("bert-embed") == said("roberta-embed") == {}
    assert said("bert-embed-dense") == {
        "embedding_size": 24,
        "prompts": {"query": "What is it? ", "document": "The world: ", "topic": "day "},
        "default_prompt_name": "topic",
    }
    assert said("roberta-embed-dense") == {
        "embedding_size": 16,
        "default_dimensions": 12,
        "prompts": {"query": "Is it good? ", "document": ""},
    }


# --- dense layers


def edit_dense(folder: Path, **changes: Any) -> None:
    path = folder / "2_Dense" / "config.json"
    config = json.loads(path.read_text()) | changes
    write(path, {key: value for key, value in config.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_residual": True}, "sets use_residual; only"),
        (
            {"activation_function": "torch.nn.modules.activation.SiLU"},
            "activation 'torch.nn.modules.activation.SiLU'; Id",
        ),
        ({"activation_function": "mine.Tanh"}, "has the activation 'mine.Tanh'; Identity"),
        ({"module_input_name": "token_embeddings"}, "has the module_input_name 'token_embeddings'; only"),
        ({"bias": False}, r"has the tensors linear\.bias, linear\.weight, but .* should have linear\.weight\. Down"),
    ],
)
def test_other_dense_layers_are_refused(copy_of: Copy, changes: dict[str, Any], expected: str) -> None:
    folder = copy_of("bert-embed-dense")
    edit_dense(folder, **changes)
    with pytest.raises(ExportError, match=expected):
        read_embedding_settings(folder, "auto")


def test_normalization_of_tokens_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-embed-dense")
    write(folder / "3_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(ExportError, match=r"3_Normalize.* has the module_input_name 'token_embeddings'"):
        read_embedding_settings(folder, "auto")


def test_dense_layer_without_its_weights_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-embed-dense")
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="2_Dense has no weights"):
        read_embedding_settings(folder, "auto")


def test_dense_layer_of_another_size_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-embed-dense")
    edit_tensors(folder / "2_Dense", lambda tensors: tensors.update({"linear.weight": np.zeros((24, 31), np.float32)}))
    with pytest.raises(ExportError, match=r"2_Dense has a dense layer of the shape \(24, 31\), but gets 32 numbers"):
        network_of(folder, "embed")


def test_dense_layer_with_damaged_weights_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-embed-dense")
    edit_tensors(folder / "2_Dense", lambda tensors: tensors["linear.bias"].fill(np.nan))
    with pytest.raises(ExportError, match=r"infinity or NaN in 2_Dense/linear\.bias"):
        network_of(folder, "embed")


def test_activation_of_a_dense_layer_is_tanh_if_none_is_named(copy_of: Copy) -> None:
    folder = copy_of("bert-embed-dense")
    edit_dense(folder, activation_function=None)
    [dense] = read_embedding_settings(folder, "auto").after_pooling
    assert dense != "normalize"
    assert dense.activation == "tanh"


def test_hash_of_the_checkpoint_covers_its_dense_layers(copy_of: Copy) -> None:
    folder = copy_of("bert-embed-dense")

    def made_of() -> str:
        return hash_of(open_weights(folder), read_embedding_settings(folder, "auto"))

    before = made_of()
    edit_tensors(folder / "2_Dense", lambda tensors: tensors["linear.bias"].fill(0))
    assert made_of() != before


def test_normalizations_at_the_end_are_one_and_those_before_a_layer_are_in_the_graph(
    copy_of: Copy, tmp_path: Path
) -> None:
    """A row of zeros is not divided by zero."""
    folder = copy_of("bert-embed-dense")
    modules = json.loads((folder / "modules.json").read_text())
    [transformer, pooling, dense, normalize] = modules
    write(folder / "modules.json", [transformer, pooling, dense, normalize, normalize])
    settings = read_embedding_settings(folder, "auto")
    assert (len(settings.after_pooling), settings.normalizes) == (1, True)
    write(folder / "modules.json", [transformer, pooling, normalize, dense])
    settings = read_embedding_settings(folder, "auto")
    assert (settings.after_pooling[0], len(settings.after_pooling), settings.normalizes) == ("normalize", 2, False)

    def silence(tensors: dict[str, Any]) -> None:
        for part in ("weight", "bias"):
            tensors[f"encoder.layer.1.output.LayerNorm.{part}"].fill(0)

    edit_tensors(folder, silence)
    network = network_of(folder, "embed")
    sequences = sequences_for(folder, network, 20)
    graphs = [written(network, tmp_path / f"{target}.onnx", target) for target in TARGETS]
    for answers in (reference_answers(network, sequences), *(graph.answers(sequences) for graph in graphs)):
        expected = np.tanh(network.tensors["dense.1.bias"])
        np.testing.assert_allclose(answers, [expected] * len(sequences), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (
            [module("Transformer"), module("Pooling", "1_Pooling"), module("LSTM")],
            "LSTM, and LSTM is not implemented; only",
        ),
        ([module("Transformer"), module("Router"), module("Pooling")], "Pooling, and Router is not implemented; only"),
        ([module("Transformer"), module("Dense"), module("Pooling", "1_Pooling")], "Dense, Pooling; only"),
        ([module("Transformer")], "lists Transformer; only"),
        ([module("Transformer"), module("Normalize"), module("Pooling", "1_Pooling")], "Normalize, Pooling; only"),
        (
            [module("MLMTransformer"), module("SpladePooling", "1_SpladePooling")],
            "MLMTransformer, SpladePooling, and MLMTransformer is not",
        ),
        ([module("Transformer", "0_BERT"), module("Pooling", "1_Pooling")], "has its Transformer in the folder 0_BERT"),
        ([module("Transformer"), module("Pooling", "other")], r"other/config\.json is missing"),
        ([], "lists no modules; only"),
        ([module("Transformer"), module("Pooling", "../other")], r"names '\.\./other', which is no folder in it"),
        ([module("Transformer"), module("Pooling", "/other")], "names '/other', which is no folder in it"),
        ([module("Transformer"), module("Pooling", "a\0b")], r"names 'a\\x00b', which is no folder in it"),
        ([module("Transformer"), 3], "is not a list of modules with type and path"),
        (["Transformer"], "is not a list of modules with type and path"),
        ({"Transformer": ""}, "does not have the expected content"),
    ],
)
def test_other_modules_are_refused(copy_of: Copy, modules: Any, expected: str) -> None:
    folder = copy_of("bert-embed")
    write(folder / "modules.json", modules)
    with pytest.raises(ExportError, match=expected):
        read_embedding_settings(folder, "auto")


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_max_tokens": True}, "has the pooling pooling_mode_max_tokens; only"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token and pooling_mode_mean_tokens"),
        ({"pooling_mode": "lasttoken"}, "has the pooling lasttoken; only"),
        ({"pooling_mode": ["cls", "max"]}, "has the pooling cls and max; only"),
        (
            {"pooling_mode": "mean", "include_prompt": False},
            r"leaves the prompt's tokens out of the pooling \(include_prompt\)",
        ),
    ],
)
def test_other_poolings_are_refused(copy_of: Copy, pooling: Any, expected: str) -> None:
    folder = copy_of("bert-embed")
    write(folder / "1_Pooling" / "config.json", pooling)
    with pytest.raises(ExportError, match=expected):
        read_embedding_settings(folder, "auto")


def test_length_that_is_no_number(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    write(folder / "sentence_bert_config.json", {"max_seq_length": "long"})
    with pytest.raises(ExportError, match=r"max_seq_length in .*sentence_bert_config\.json is not a number"):
        read_embedding_settings(folder, "auto")


@pytest.mark.parametrize(
    "file", ["sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"]
)
@pytest.mark.parametrize(("stored", "length"), [({"max_seq_length": 36}, 36), ({"max_seq_length": 99}, 40), ({}, 16)])
def test_the_folders_length_goes_before_the_tokenizers(
    copy_of: Copy, file: str, stored: dict[str, int], length: int
) -> None:
    """The tokenizer's is 16; there are 40 positions."""
    folder = copy_of("bert-embed")
    (folder / "sentence_bert_config.json").unlink()
    write(folder / file, stored)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", settings | {"model_max_length": 16})
    loaded = load_checkpoint(str(folder), None, task="auto", pooling="auto", max_length=None, warn=lambda _: None)
    assert loaded.max_length == length


def test_the_length_among_the_arguments_of_the_tokenizer_goes_first(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    arguments = {"model_max_length": 20, "use_fast": True}
    write(folder / "sentence_bert_config.json", {"max_seq_length": 30, "tokenizer_args": arguments})
    assert read_embedding_settings(folder, "auto").max_length == 20


def test_file_that_is_not_json(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    (folder / "modules.json").write_text("[")
    with pytest.raises(ExportError, match=r"modules\.json is not JSON"):
        read_embedding_settings(folder, "auto")


@pytest.mark.parametrize(("name", "is_refused"), [("bert-embed", False), ("distilbert-embed-cls", True)])
def test_lower_case_is_the_tokenizers(copy_of: Copy, tmp_path: Path, name: str, is_refused: bool) -> None:
    """The first tokenizer lowercases, the second does not."""
    folder = copy_of(name)
    write(folder / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": True})
    options = ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"])
    if is_refused:
        with pytest.raises(ExportError, match="expects texts in lower case"):
            export(options, lambda _: None)
    else:
        assert export(options, lambda _: None).max_length == 40


# --- models without a head


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        ("bert-fill-mask", "BertModel", "embed"),
        ("roberta-fill-mask", "RobertaModel", "embed"),
        ("xlm-roberta-fill-mask", "XLMRobertaModel", "embed"),
        ("camembert-fill-mask", "CamembertModel", "embed"),
        ("distilbert-fill-mask", "DistilBertModel", "embed"),
        ("electra-fill-mask", "ElectraModel", "embed"),
        ("bert-embed", "BertForMaskedLM", "embed"),
        ("bert-fill-mask", "BertForPreTraining", "fill-mask"),
        ("bert-fill-mask", "BertForNextSentencePrediction", "next-sentence"),
        ("distilbert-fill-mask", "DistilBertForTokenClassification", "entities"),
        ("electra-fill-mask", "ElectraForQuestionAnswering", "answer"),
    ],
)
def test_task_by_the_architecture(copy_of: Copy, name: str, architecture: str, expected: str) -> None:
    checkpoint = find_checkpoint(str(copy_of(name, architectures=[architecture])))
    assert choose_task(checkpoint, "auto", []).name == expected


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("bert-single-label", "bert."),
        ("bert-fill-mask-chinese-untied", "bert."),
        ("roberta-single-label", "roberta."),
        ("xlm-roberta-fill-mask", "roberta."),
        ("camembert-regression", "roberta."),
        ("distilbert-two-labels", "distilbert."),
        ("electra-single-label", "electra."),
    ],
)
def test_names_without_the_prefix_are_the_same_network(copy_of: Copy, name: str, prefix: str) -> None:
    folder = copy_of(name)

    def strip(tensors: dict[str, Any]) -> None:
        for key in list(tensors):
            tensor = tensors.pop(key)
            if key.startswith(prefix):
                tensors[key.removeprefix(prefix)] = tensor

    edit_tensors(folder, strip)
    bare, whole = network_of(folder, "embed"), network_of(CHECKPOINTS / name, "embed")
    assert bare.tensors.keys() == whole.tensors.keys()
    for part, tensor in whole.tensors.items():
        np.testing.assert_array_equal(bare.tensors[part], tensor)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", ["electra-single-label", "camembert-fill-mask"])
def test_fine_tuned_checkpoint_gives_embeddings(name: str, pooling: Any, tmp_path: Path) -> None:
    """In the order that the sequences were given in, whatever their lengths."""
    network = network_of(CHECKPOINTS / name, "embed", pooling)
    sequences = sequences_for(CHECKPOINTS / name, network, 20)
    sequences = [*sequences, *sequences[::2]]
    expected = reference_answers(network, sequences)
    for target in TARGETS:
        graph = written(network, tmp_path / "graph.onnx", target)
        np.testing.assert_allclose(graph.answers(sequences), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["bert-embed-dense", "roberta-embed-dense"])
def test_layers_after_the_pooling_are_in_every_graph(name: str, tmp_path: Path) -> None:
    """On a CPU bit-identical alone and in a batch."""
    network = network_of(CHECKPOINTS / name, "embed")
    sequences = sequences_for(CHECKPOINTS / name, network, 40)
    expected = reference_answers(network, sequences)
    assert len(expected[0]) == network.embedding_size != network.config.hidden_size
    for target in TARGETS:
        graph = written(network, tmp_path / "graph.onnx", target)
        together = graph.answers(sequences)
        np.testing.assert_allclose(together, expected, rtol=0, atol=2e-5)
        if target == "cpu":
            np.testing.assert_array_equal([graph.answers([one])[0] for one in sequences], together)


def test_mean_of_a_sequence_is_bit_identical_in_every_batch(tmp_path: Path) -> None:
    network = network_of(CHECKPOINTS / "bert-single-label", "embed")
    sequences = sequences_for(CHECKPOINTS / "bert-single-label", network, 40)
    graph = written(network, tmp_path / "graph.onnx")
    for sequence in sequences:
        alone = graph.answers([sequence])[0]
        for answer in graph.answers([sequence] * 7 + sequences)[:7]:
            np.testing.assert_array_equal(answer, alone)
