"""Documents, sentences and vocabularies."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.training.pretrain.language import write_texts

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three? 4 more", ["One.", "Two!", "Three?", "4 more"]),
        ('He said: "Go." Then (so it was.) It ended', ['He said: "Go."', "Then (so it was.)", "It ended"]),
        ("It costs 3.5 euros, e.g. here, and more.", ["It costs 3.5 euros, e.g. here, and more."]),
        ("Mr. Smith came.", ["Mr.", "Smith came."]),
        ("\u6211\u6765\u3002\u4f60\u53bb\uff01", ["\u6211\u6765\u3002", "\u4f60\u53bb\uff01"]),
        ("...", ["..."]),
    ],
)
def test_a_line_is_split_into_sentences(line: str, sentences: list[str]) -> None:
    from training.pretrain.documents import split_sentences

    assert list(split_sentences(line)) == sentences


def test_documents_end_at_empty_lines_and_with_files(tmp_path: Path) -> None:
    from training.pretrain.documents import read_documents

    (tmp_path / "a.txt").write_text("one\ntwo\n \n\nthree")
    (tmp_path / "b.txt").write_text("\nfour\n")
    files = sorted(tmp_path.iterdir())
    assert list(read_documents(files, "utf-8")) == [["one", "two"], ["three"], ["four"]]


def test_a_long_sentence_is_cut_and_no_token_is_lost(tmp_path: Path) -> None:
    from tests.training.pretrain.language import make_tokenizer
    from training.pretrain.corpus import open_corpus, write_corpus

    documents = [["w1 " * 25, "w2"], ["w3. W4 w5"], ["\u200b"]]
    assert write_corpus(tmp_path, documents, make_tokenizer(), 10) == (4, 1)
    corpus = open_corpus(tmp_path)
    assert corpus.tokens.dtype.itemsize == 2
    assert corpus.sentences[corpus.first].tolist() == [0, 26, 30]
    assert (corpus.last - corpus.first).tolist() == [4, 2, 0]
    part = corpus.part(corpus.first >= 0)
    assert part.count == 30
    assert len(part.first) == 2
    assert corpus.frequencies(65)[6] == 25


VOCABULARY = """
import sys
from pathlib import Path
from training.pretrain.documents import read_documents
from training.pretrain.tokenizer import learn_tokenizer
tokenizer = learn_tokenizer(list(read_documents([Path(sys.argv[1])], "utf-8")), 300, cased=False, max_length=16)
print(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
"""


def test_the_same_texts_make_the_same_vocabulary(tmp_path: Path) -> None:
    # The library's own order differs from process to process.
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")))
    command = [sys.executable, "-c", VOCABULARY, str(texts)]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    assert len(first) > 1000


@pytest.mark.parametrize(("cased", "tokens"), [(False, ["anna"]), (True, ["Anna"])])
def test_case_is_kept_if_asked(tmp_path: Path, cased: bool, tokens: list[str]) -> None:
    from training.pretrain.documents import read_documents
    from training.pretrain.tokenizer import learn_tokenizer

    documents = list(read_documents([write_texts(tmp_path / "texts.txt")], "utf-8"))
    assert learn_tokenizer(documents, 400, cased=cased, max_length=16).tokenize("Anna") == tokens
