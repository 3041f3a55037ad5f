"""Each kind of tokenizer without the tokens that a corpus does not use: the same answers on it, to the bit."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from app.bundle.files import load_bundle
from model_export.check.sequences import checked_sequence
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS, loaded
from training.errors import TrainingError
from training.prune_vocabulary.arguments import Options

pytestmark = pytest.mark.torch

TEXTS = (
    "I love this product. It is the best thing that I have bought.",
    "The capital of France is Paris, and 5 < 6.",
    "Le café est très chaud \N{GRINNING FACE}",
    "今天天气很好,我们去公园散步。",
    "good <mask> [MASK] day </s> [SEP]",
)
NEW = "the quick brown fox jumps over the lazy dog"
KINDS = (
    "bert-embed-dense",
    "bert-fill-mask-chinese-untied",
    "bert-multi-label",  # vocab.txt alone
    "bert-regression",  # without a tokenizer_config.json
    "distilbert-fill-mask",
    "electra-fill-mask",
    "roberta-answer",
    "roberta-fill-mask",  # more rows than tokens
    "xlm-roberta-fill-mask",
    "xlm-roberta-multi-label",
    "camembert-fill-mask",
    "camembert-regression",  # float16
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that share a processor with those of other tests wait for them longer than these networks take."""
    import torch  # not installed for the other tests

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def prune(checkpoint: Path, corpus: Path, output: Path, *, min_count: int = 1, encoding: str = "utf-8") -> Path:
    from training.prune_vocabulary.command import run  # it imports torch

    run(Options(output, False, str(checkpoint), [corpus], encoding, min_count))
    return output


def copy_of(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINTS / name, tmp_path / name))


def tokenizer_of(folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


def outputs(folder: Path, texts: Sequence[str]) -> list[Any]:
    import torch
    import transformers

    from training.prune_vocabulary.check import load_aligned

    [architecture] = json.loads((folder / "config.json").read_bytes())["architectures"]
    model = load_aligned(getattr(transformers, architecture), folder)
    with torch.inference_mode():
        ids = [tokenizer_of(folder)(text, return_tensors="pt").input_ids[:, :38] for text in texts]
        return [model(one, output_hidden_states=True) for one in ids]


@pytest.mark.parametrize("name", KINDS)
def test_the_corpus_has_the_same_tokens_and_answers_and_new_words_are_spelt_out(
    name: str, tmp_path: Path, corpus: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    before, after = CHECKPOINTS / name, prune(CHECKPOINTS / name, corpus, tmp_path / "pruned")
    old, new = tokenizer_of(before), tokenizer_of(after)
    assert len(new) < 0.8 * len(old)
    for text in TEXTS:
        assert new.tokenize(text) == old.tokenize(text)
    for one, other in zip(outputs(before, TEXTS), outputs(after, TEXTS), strict=True):
        for of_old, of_new in zip(one.hidden_states, other.hidden_states, strict=True):
            assert torch.equal(of_old, of_new)
        if "fill-mask" in name:
            kept = old.convert_tokens_to_ids(new.convert_ids_to_tokens(range(len(new))))
            torch.testing.assert_close(other.logits, one.logits[..., kept])
        elif "logits" in one:
            assert torch.equal(one.logits, other.logits)
    weights, smaller = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert {key: tensor.dtype for key, tensor in smaller.items()} == {key: one.dtype for key, one in weights.items()}

    spelt, whole = new.tokenize(NEW), old.tokenize(NEW)
    assert len(spelt) > len(whole)
    assert old.unk_token not in {*spelt, *whole}

    config = json.loads((after / "config.json").read_bytes())
    assert config["vocab_size"] == len(new)
    for token in ("bos", "eos"):
        assert config.get(f"{token}_token_id") in (None, getattr(new, f"{token}_token_id"))
    assert config["pad_token_id"] == new.pad_token_id == old.pad_token_id
    assert new("a").input_ids[-1] == new.sep_token_id
    assert (new.mask_token_id == len(new) - 1) == (old.mask_token_id == len(old) - 1)


def test_padding_that_positions_are_counted_from_keeps_its_id(tmp_path: Path, corpus: Path) -> None:
    # BERT's positions are not counted from it; the rule is one for all.
    folder = copy_of("bert-fill-mask-chinese-untied", tmp_path)
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 5}))
    pruned = prune(folder, corpus, tmp_path / "pruned")
    assert json.loads((pruned / "config.json").read_bytes())["pad_token_id"] == 5


@pytest.mark.parametrize("name", ["bert-multi-label", "roberta-single-label", "xlm-roberta-multi-label"])
def test_a_pruned_checkpoint_is_exported_and_answers_the_same(name: str, tmp_path: Path, corpus: Path) -> None:
    answers = []
    for folder in (CHECKPOINTS / name, prune(CHECKPOINTS / name, corpus, tmp_path / "pruned")):
        bundle = tmp_path / "bundles" / folder.name
        export(ExportOptions(str(folder), bundle, "auto", ["cpu-fp32"]), lambda _: None)
        read = load_bundle(bundle)
        tokenizer = tokenizers.Tokenizer.from_file(str(read.path(read.manifest.tokenizer)))
        graph = loaded(read, "cpu-fp32")
        encodings = [tokenizer.encode(text) for text in TEXTS[:2]]
        sequences = [checked_sequence(one.ids[:38], one.type_ids[:38], None) for one in encodings]
        answers.append(graph.answers(sequences))
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_files_stay_and_old_vocabularies_go(tmp_path: Path, corpus: Path) -> None:
    folder = copy_of("bert-embed-dense", tmp_path)
    (folder / "README.md").write_text("A card.")
    for name in ("vocab.txt", "added_tokens.json", "optimizer.pt"):
        (folder / name).write_text("{}")
    (folder / "onnx").mkdir()
    pruned = prune(folder, corpus, tmp_path / "pruned")
    stay = {path.relative_to(CHECKPOINTS / folder.name) for path in (CHECKPOINTS / folder.name).rglob("*")}
    assert {path.relative_to(pruned) for path in pruned.rglob("*")} == stay | {Path("README.md")}
    assert not list(tmp_path.glob("pruned.*"))


def test_prompts_count_as_text(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a")
    folder = copy_of("bert-embed-dense", tmp_path)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"prompts": {"query": "weather: "}}))
    pruned = tokenizer_of(prune(folder, corpus, tmp_path / "pruned"))
    assert pruned.tokenize("weather:") == tokenizer_of(folder).tokenize("weather:")


def with_wordpiece(tmp_path: Path, tokens: Sequence[str]) -> Path:
    folder = copy_of("bert-single-label", tmp_path)
    document = json.loads((folder / "tokenizer.json").read_bytes())
    vocabulary: dict[str, int] = document["model"]["vocab"]
    ids = iter(range(len(vocabulary) - len(tokens), len(vocabulary)))
    added = {token: next(ids) for token in tokens}
    document["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i not in added.values()} | added
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def test_an_unknown_word_stays_unknown(tmp_path: Path) -> None:
    # The longest start is qab; without it, qa and ##bψ would be found.
    folder = with_wordpiece(tmp_path, ("qab", "qa", "##bψ"))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("qabψ\n##bψ qa bψ", encoding="utf-8")
    assert tokenizer_of(folder).tokenize("qabψ") == ["[UNK]"]
    vocabulary = json.loads((prune(folder, corpus, tmp_path / "pruned") / "tokenizer.json").read_bytes())["model"][
        "vocab"
    ]
    assert "qab" in vocabulary


def test_rare_tokens_go_with_min_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the good\nthe good\nthe day\n")
    folder = prune(CHECKPOINTS / "bert-single-label", corpus, tmp_path / "pruned", min_count=2)
    assert "1 of 3 (33.3%) texts have a token that is too rare" in capsys.readouterr().out
    assert tokenizer_of(folder).tokenize("the good day") == ["the", "good", "d", "##a", "##y"]


def test_weights_are_read_from_pickles_and_shards(tmp_path: Path, corpus: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    expected = load_file(prune(CHECKPOINTS / "bert-fill-mask", corpus, tmp_path / "expected") / "model.safetensors")
    folder = copy_of("bert-fill-mask", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    pickled = Path(shutil.copytree(folder, tmp_path / "pickled"))
    torch.save(
        tensors | {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"]},
        pickled / "pytorch_model.bin",
    )
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in shards.items():
        save_file({name: tensors[name] for name in some}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, some in shards.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for one in (folder, pickled):
        found = load_file(prune(one, corpus, tmp_path / f"of-{one.name}") / "model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_old_files_of_tokenizers_are_read(tmp_path: Path, corpus: Path) -> None:
    folder = copy_of("roberta-fill-mask", tmp_path)
    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    document = json.loads(path.read_bytes())
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    document["added_tokens"].append({**document["added_tokens"][0], "id": 400, "content": "<new>"})
    path.write_text(json.dumps(document))
    decoder = {str(token.pop("id")): token for token in document["added_tokens"]}
    settings.write_text(json.dumps(json.loads(settings.read_bytes()) | {"added_tokens_decoder": decoder}))
    pruned = prune(folder, corpus, tmp_path / "pruned")
    new = tokenizer_of(pruned)
    assert new.convert_tokens_to_ids("<new>") == len(new) - 1
    decoder = json.loads((pruned / "tokenizer_config.json").read_bytes())["added_tokens_decoder"]
    assert decoder[str(len(new) - 1)]["content"] == "<new>"


def test_a_mask_of_roberta_takes_the_space_before_it_without_a_tokenizer_json(tmp_path: Path, corpus: Path) -> None:
    folder = copy_of("roberta-fill-mask", tmp_path)
    model = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    expected = tokenizer_of(CHECKPOINTS / folder.name)
    pruned = prune(folder, corpus, tmp_path / "pruned")
    assert tokenizer_of(pruned).tokenize("good <mask>.") == expected.tokenize("good <mask>.")
    assert not {"vocab.json", "merges.txt"} & {path.name for path in pruned.iterdir()}


def test_what_cannot_be_pruned_is_refused_and_leaves_nothing(tmp_path: Path, corpus: Path) -> None:
    def refused(checkpoint: Path, message: str, corpus: Path = corpus, **options: Any) -> None:
        with pytest.raises(TrainingError, match=message):
            prune(checkpoint, corpus, tmp_path / "pruned", **options)
        assert not (tmp_path / "pruned").exists()
        shutil.rmtree(tmp_path / "pruned.part", ignore_errors=True)

    bert = CHECKPOINTS / "bert-single-label"
    (empty := tmp_path / "empty.txt").write_text("\n \n")
    refused(bert, "all of its lines are empty", empty)
    refused(bert, "is not there", tmp_path / "missing.txt")
    refused(bert, "is not ascii", encoding="ascii")
    (no_config := copy_of("bert-single-label", tmp_path) / "config.json").unlink()
    refused(no_config.parent, "is not a checkpoint")
    (no_weights := copy_of("bert-nli", tmp_path) / "model.safetensors").unlink()
    refused(no_weights.parent, "has no weights")
    (no_tokenizer := copy_of("bert-regression", tmp_path) / "vocab.txt").unlink()
    refused(no_tokenizer.parent, "has no tokenizer")
    words = copy_of("distilbert-two-labels", tmp_path)
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")).save(str(words / "tokenizer.json"))
    refused(words, "of the type WordLevel")
    with pytest.raises(TrainingError, match="--output is in the folder"):
        prune(no_tokenizer.parent.parent / "bert-nli", corpus, tmp_path / "bert-nli" / "pruned")


def test_a_result_that_is_there_stays(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "pruned").mkdir()
    with pytest.raises(TrainingError, match="is there"):
        prune(CHECKPOINTS / "bert-single-label", corpus, tmp_path / "pruned")


def test_other_tokens_are_noticed(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.prune_vocabulary import needed

    monkeypatch.setattr(needed, "_merged_from", lambda *_: set())
    with pytest.raises(TrainingError, match=r"text 1 of the corpus is cut into other tokens"):
        prune(CHECKPOINTS / "roberta-answer", corpus, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()


def test_other_answers_are_noticed(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.prune_vocabulary import weights

    keep_rows = weights.keep_rows
    monkeypatch.setattr(weights, "keep_rows", lambda tensors, kept: keep_rows(tensors, kept[::-1]))
    with pytest.raises(TrainingError, match="answers otherwise"):
        prune(CHECKPOINTS / "bert-single-label", corpus, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()
