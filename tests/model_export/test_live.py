"""The same checkpoints, and some that the fixtures do not have, against torch as it answers now."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.manifest import Pooling
from app.bundle.sequences import FloatArray, TokenSequence
from model_export.check.reference import reference_answers
from model_export.checkpoint.families import ACTIVATIONS
from model_export.checkpoint.network import Network
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS, NAMES, network_of, sequences_for, task_of, written

pytestmark = pytest.mark.torch


KINDS: dict[str, str] = {
    "classify": "AutoModelForSequenceClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "next-sentence": "AutoModelForNextSentencePrediction",
    "entities": "AutoModelForTokenClassification",
    "answer": "AutoModelForQuestionAnswering",
    "embed": "AutoModel",
    "rerank": "AutoModelForSequenceClassification",
}


def torch_after_pooling(network: Network, pooled: Any) -> Any:
    import torch  # noqa: PLC0415

    activations = {None: torch.nn.Identity(), "tanh": torch.nn.Tanh(), "gelu": torch.nn.GELU(), "relu": torch.nn.ReLU()}
    for layer in network.after_pooling:
        if layer == "normalize":
            pooled = torch.nn.functional.normalize(pooled, dim=0)
        else:
            weight, bias = (torch.from_numpy(network.tensors[f"{layer.name}.{part}"]) for part in ("weight", "bias"))
            pooled = activations[layer.activation](torch.nn.functional.linear(pooled, weight, bias))
    return pooled


def torch_answers(folder: Path, task: str, sequences: list[TokenSequence], network: Network) -> list[FloatArray]:
    import torch  # noqa: PLC0415  # not installed for the other tests
    import transformers  # noqa: PLC0415

    model = getattr(transformers, KINDS[task]).from_pretrained(folder, dtype=torch.float32).eval()
    tells_types = "token_type_ids" in transformers.AutoTokenizer.from_pretrained(folder).model_input_names
    answers = []
    for sequence in sequences:
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(sequence.input_ids.astype(np.int64))[None]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if tells_types and hasattr(model.config, "type_vocab_size"):
            types = sequence.token_type_ids.clip(max=model.config.type_vocab_size - 1)
            inputs["token_type_ids"] = torch.from_numpy(types.astype(np.int64))[None]
        with torch.inference_mode():
            output = model(**inputs)
        match task:
            case "answer":
                answer = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
            case "embed":
                hidden = output.last_hidden_state[0]
                answer = torch_after_pooling(network, hidden[0] if network.pooling == "cls" else hidden.mean(dim=0))
            case "fill-mask":
                answer = output.logits[0][sequence.masks.tolist()].softmax(-1)
            case _:
                answer = output.logits[0]
        answers.append(answer.numpy())
    return answers


def assert_all_agree(folder: Path, task: str, tmp_path: Path, max_length: int, pooling: Pooling | None = None) -> None:
    network = network_of(folder, task, pooling)
    sequences = sequences_for(folder, network, max_length)
    expected = torch_answers(folder, task, sequences, network)
    graph = written(network, tmp_path / "graph.onnx")
    for answers in (reference_answers(network, sequences), graph.answers(sequences)):
        for answer, torch_says in zip(answers, expected, strict=True):
            np.testing.assert_allclose(answer, torch_says, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", NAMES)
def test_fixtures(name: str, tmp_path: Path) -> None:
    assert_all_agree(CHECKPOINTS / name, task_of(name), tmp_path, max_length=40)


def make(folder: Path, model: str, tokenizer: str, **config: Any) -> Path:
    """Save a random model of transformers with the tokenizer of a fixture."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    torch.manual_seed(11)
    config_class = getattr(transformers, f"{model.split('For', maxsplit=1)[0].removesuffix('Model')}Config")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    network = getattr(transformers, model)(config_class(vocab_size=400, **(small | config)))
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.2)
    network.save_pretrained(folder)
    for path in (CHECKPOINTS / tokenizer).iterdir():
        if path.name.startswith(("tokenizer", "vocab")):
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "it", "BertForMaskedLM", "bert-fill-mask", hidden_act=activation)
    assert_all_agree(folder, "fill-mask", tmp_path, max_length=20)


@pytest.mark.parametrize(
    ("model", "tokenizer", "config"),
    [
        ("BertForSequenceClassification", "bert-single-label", {"type_vocab_size": 1}),
        ("BertForSequenceClassification", "bert-single-label", {"num_labels": 70, "num_attention_heads": 1}),
        ("BertForSequenceClassification", "bert-single-label", {"num_hidden_layers": 1}),
        ("RobertaForMaskedLM", "roberta-fill-mask", {"tie_word_embeddings": False, "pad_token_id": 1}),
        ("RobertaForSequenceClassification", "roberta-fill-mask", {"type_vocab_size": 1, "pad_token_id": 1}),
        ("ElectraForSequenceClassification", "electra-single-label", {"embedding_size": 32}),
        ("ElectraForMaskedLM", "electra-fill-mask", {"embedding_size": 40, "tie_word_embeddings": False}),
        ("BertForPreTraining", "bert-fill-mask", {}),
    ],
)
def test_other_architectures(model: str, tokenizer: str, config: dict[str, Any], tmp_path: Path) -> None:
    task = "classify" if "Classification" in model else "fill-mask"
    assert_all_agree(make(tmp_path / "it", model, tokenizer, **config), task, tmp_path, max_length=20)


FAMILIES = [
    ("Bert", "bert-fill-mask", {}),
    ("Roberta", "roberta-fill-mask", {"pad_token_id": 1}),
    ("XLMRoberta", "xlm-roberta-fill-mask", {"pad_token_id": 1}),
    ("Camembert", "camembert-fill-mask", {"pad_token_id": 1}),
    ("DistilBert", "distilbert-fill-mask", {}),
    ("Electra", "electra-fill-mask", {"embedding_size": 24}),
]


@pytest.mark.parametrize(("family", "tokenizer", "config"), FAMILIES)
@pytest.mark.parametrize(
    ("head", "task", "pooling"),
    [
        ("ForTokenClassification", "entities", None),
        ("ForQuestionAnswering", "answer", None),
        ("Model", "embed", "mean"),
        ("Model", "embed", "cls"),
        ("ForMaskedLM", "embed", "mean"),
    ],
)
def test_heads_of_tokens_and_none_in_every_family(
    family: str, tokenizer: str, config: dict[str, Any], head: str, task: str, pooling: Pooling, tmp_path: Path
) -> None:
    folder = make(tmp_path / "it", family + head, tokenizer, **config)
    assert_all_agree(folder, task, tmp_path, max_length=20, pooling=pooling)


@pytest.mark.parametrize("model", ["BertForNextSentencePrediction", "BertForPreTraining"])
def test_next_sentence(model: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "it", model, "bert-fill-mask")
    assert_all_agree(folder, "next-sentence", tmp_path, max_length=20)


def test_tied_decoder_that_differs_from_the_embeddings(tmp_path: Path) -> None:
    """What transformers does with both in a file: each for itself."""
    folder = make(tmp_path / "it", "BertForMaskedLM", "bert-fill-mask", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert not network_of(folder, "fill-mask").is_tied
    assert_all_agree(folder, "fill-mask", tmp_path, max_length=20)


def test_tokenizer_that_tells_no_types(tmp_path: Path) -> None:
    """Transformers then gives the model none, and all are 0."""
    folder = make(tmp_path / "it", "BertForSequenceClassification", "bert-single-label")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"model_input_names": ["input_ids", "attention_mask"]}
    path.write_text(json.dumps(settings))
    assert not network_of(folder, "classify").uses_token_types
    assert_all_agree(folder, "classify", tmp_path, max_length=20)


def test_pickled_checkpoint_is_exported(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    folder = make(tmp_path / "it", "BertForSequenceClassification", "bert-single-label")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    manifest = export(ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"]), lambda _: None)
    assert manifest.architecture.family == "bert"
