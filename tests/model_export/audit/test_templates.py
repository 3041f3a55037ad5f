"""Templates make the sentences that they describe, and a wrong file is told in one line."""

from pathlib import Path

import pytest

from model_export.audit.templates import DEFAULT_TEMPLATES, Dimension, read_templates
from model_export.errors import ExportError

GOOD = """
[pronouns]
about = "Pronouns"
frames = ["{Subject} lost {possessive} keys.", "{Subject} became a {mask}."]
targets = ["nurse"]
[pronouns.groups]
he = [{ subject = "he", possessive = "his" }]
'sie (pl.)' = [{ subject = "élodie et zoé", possessive = "leur" }]
"""
MATCHED = """
[dialect]
frames = ["{word}"]
groups = ["standard", "other"]
matched = [["It is late.", "It late."], ["He is in.", "He in."]]
"""


def read(folder: Path, text: str) -> list[Dimension]:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return read_templates(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ExportError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'mine.toml'}")
    assert "\n" not in message
    return message


def test_each_form_fills_its_placeholder_and_a_capital_gives_a_capital(tmp_path: Path) -> None:
    [pronouns] = read(tmp_path, GOOD)
    assert pronouns.groups == ("he", "sie (pl.)")
    assert pronouns.sentence(0, 0, 0) == "He lost his keys."
    assert pronouns.sentence(0, 1, 0) == "Élodie et zoé lost leur keys."
    assert pronouns.sentence(1, 0, 0, "[MASK]") == "He became a [MASK]."


def test_frames_with_a_mask_are_apart_from_the_others(tmp_path: Path) -> None:
    [pronouns] = read(tmp_path, GOOD)
    assert pronouns.with_frames(of_masks=True).frames == ("{Subject} became a {mask}.",)
    assert pronouns.with_frames(of_masks=False).frames == ("{Subject} lost {possessive} keys.",)


def test_rows_that_match_are_the_fillers_of_one_number(tmp_path: Path) -> None:
    [dialect] = read(tmp_path, MATCHED)
    assert dialect.matched
    assert [dialect.sentence(0, group, 1) for group in range(2)] == ["He is in.", "He in."]


def test_the_default_file_has_ten_frames_and_more_words_than_an_interval_needs() -> None:
    dimensions = {one.name: one for one in read_templates(DEFAULT_TEMPLATES)}
    assert list(dimensions) == ["names", "pronouns", "places", "dialect"]
    for one in dimensions.values():
        assert max(len(one.with_frames(of_masks=False).frames), min(map(len, one.fillers))) >= 10
        assert len(one.with_frames(of_masks=True).frames) >= 4
        assert all(len(set(map(str, fillers))) == len(fillers) for fillers in one.fillers)
        assert len(set(map(len, one.fillers))) == 1


def test_no_verb_of_the_default_pronouns_shows_the_number() -> None:
    """`they works` would be another difference than the pronoun."""
    [pronouns] = [one for one in read_templates(DEFAULT_TEMPLATES) if one.name == "pronouns"]
    for frame in pronouns.frames:
        for verb in ("was", "were", "is", "are", "has", "have", "does", "do"):
            assert f"ubject}} {verb} " not in frame, frame


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[pronouns]", "[pronouns"), "mine.toml is not TOML: "),
        (("about =", "topic ="), "[pronouns] 'topic' is no key of a dimension: these are about, frames,"),
        (('about = "Pronouns"', "about = 3"), "[pronouns] about: 3 must be a text, and not empty."),
        (("frames =", "query ="), "[pronouns] query: ["),
        (
            ("{Subject} lost {possessive} keys.", "He lost his keys."),
            "'He lost his keys.' has no placeholder for the words",
        ),
        (("{Subject} lost", "{Object} lost"), "has the placeholder {object}, which the words of 'he' do not fill"),
        (("{Subject} lost", "{Subject lost"), "has a brace that is part of no placeholder"),
        (("a {mask}", "{mask} {mask}"), "has 2 masks; write one {mask}."),
        (("{mask}", "{Mask}"), "write {mask} in lower case."),
        (('targets = ["nurse"]', ""), "has a mask, and there are no targets"),
        (('targets = ["nurse"]', "targets = []"), "[pronouns] targets must be a list of texts, and not empty."),
        (('"nurse"', '"nurse", "nurse"'), "[pronouns] targets: 'nurse' is there twice."),
        (
            ('subject = "élodie et zoé", possessive = "leur"', 'subject = "he", possessive = "his"'),
            "groups: 'he / his' is there twice.",
        ),
        (("he = [{", "# he = [{"), "groups: there must be two or more"),
        (
            ('he = [{ subject = "he", possessive = "his" }]', "he = []"),
            "groups: 'he' must be a list of words, and not empty.",
        ),
        (('subject = "he"', 'subject = " "'), "groups: 'he': ' ' must be a text, and not empty."),
        (('subject = "he"', 'Subject = "he"'), "'Subject' cannot be the name of a form: use letters in lower case"),
        (("[pronouns.groups]", "[pronouns.group]"), "[pronouns] 'group' is no key of a dimension"),
        (("[pronouns]", "x = 1\n[pronouns]"), "mine.toml: x is outside of a table."),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in GOOD
    assert says in refusal(tmp_path, GOOD.replace(*change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((', "He in."', ""), "[dialect] matched: row 2 must be a list of 2 texts, one for each of the groups."),
        (('"standard", "other"', '"standard"'), "[dialect] groups: there must be two or more"),
        (('"standard", "other"', '"standard", "standard"'), "[dialect] groups: 'standard' is there twice."),
        (("matched =", "# matched ="), "[dialect] groups must be a table with a list of words for each group"),
        ((MATCHED.splitlines()[-1], "matched = []"), "[dialect] matched must be a list of rows, and not empty."),
    ],
)
def test_what_is_wrong_with_rows_is_told_in_one_line(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in MATCHED
    assert says in refusal(tmp_path, MATCHED.replace(*change))


def test_an_empty_file_and_one_of_other_bytes_are_refused(tmp_path: Path) -> None:
    assert "has no dimension. Copy one from " in refusal(tmp_path, "# nothing\n")
    path = tmp_path / "mine.toml"
    path.write_bytes("[é]".encode("latin-1"))
    with pytest.raises(ExportError, match="is not text in UTF-8"):
        read_templates(path)


def test_more_sentences_than_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.audit.templates.MOST_SENTENCES", 3)
    assert "makes 4 sentences; at most 3 are read" in refusal(tmp_path, GOOD)
