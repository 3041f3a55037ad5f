"""What is read from a folder of sentence-transformers, what is refused in it, and models without a head."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.check.reference import reference_answers
from model_export.checkpoint.find import choose_task, find_checkpoint
from model_export.checkpoint.sentence_transformers import EmbeddingSettings, read_embedding_settings
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS, edit_tensors, network_of, sequences_for, written

Copy = Callable[..., Path]


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


def test_release_that_is_no_number(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    write(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "new"}})
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


def test_pooling_may_be_one_name(copy_of: Copy) -> None:
    folder = copy_of("bert-embed")
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})
    assert read_embedding_settings(folder, "auto").pooling == "cls"


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([module("Transformer"), module("Pooling", "1_Pooling"), module("Dense", "2_Dense")], "Pooling, Dense; only"),
        ([module("Transformer")], "lists Transformer; only"),
        ([module("Transformer"), module("Normalize"), module("Pooling", "1_Pooling")], "Normalize, Pooling; only"),
        ([module("MLMTransformer"), module("SpladePooling", "1_SpladePooling")], "MLMTransformer, SpladePooling; only"),
        ([module("Transformer", "0_BERT"), module("Pooling", "1_Pooling")], "has its Transformer in the folder 0_BERT"),
        ([module("Transformer"), module("Pooling", "other")], r"other/config\.json is missing"),
        ([], "lists no modules; only"),
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
        ({"word_embedding_dimension": 32}, "has the pooling none; only"),
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
    for target in ("cpu", "cuda"):
        graph = written(network, tmp_path / "graph.onnx", target)
        np.testing.assert_allclose(graph.answers(sequences), expected, rtol=0, atol=2e-5)


def test_mean_of_a_sequence_is_bit_identical_in_every_batch(tmp_path: Path) -> None:
    network = network_of(CHECKPOINTS / "bert-single-label", "embed")
    sequences = sequences_for(CHECKPOINTS / "bert-single-label", network, 40)
    graph = written(network, tmp_path / "graph.onnx")
    for sequence in sequences:
        alone = graph.answers([sequence])[0]
        for answer in graph.answers([sequence] * 7 + sequences)[:7]:
            np.testing.assert_array_equal(answer, alone)
