"""The stored answers of transformers (tests/fixtures/README.md), as requests to send and responses to expect."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import CHECKPOINTS, DEMO_CHECKPOINT

Json = Any

FIXTURES: Final = CHECKPOINTS.parent

TOLERANCE: Final = 2e-5
"""How far a score may be from that of transformers, plus as much of the score itself where it is a raw logit (up to 7).

Both are sums in fp32, in different orders: over all stored answers the service was within 1.9e-6. The smallest mistake we know of,
the tanh approximation in place of the exact GELU, moves some answer of every small checkpoint by 2.4e-4 or more. Promised is 1e-4.
"""


@dataclass(frozen=True)
class Question:
    """A request for one input, and what to expect."""

    input: Json
    parameters: Mapping[str, Json]
    prediction: Json
    tokens: int
    truncated: int


@dataclass(frozen=True, eq=False)
class Oracle:
    """One checkpoint with one head, and its stored answers."""

    name: str
    checkpoint: Path
    content: Mapping[str, Json] = field(repr=False)

    @property
    def task(self) -> str:
        return str(self.content["task"])

    @property
    def exported_as(self) -> str:
        """The task that its checkpoint is exported for."""
        return "classify" if self.task == "zero-shot" else self.task

    @property
    def sequences(self) -> list[Mapping[str, Json]]:
        """What the model reads: the cases, or the pairs that they make."""
        return [{**case, **one} for case in self.content["cases"] for one in case.get("pairs", [case])]

    @property
    def questions(self) -> Iterator[Question]:
        for case in self.content["cases"]:
            for answer in case["answers"]:
                yield Question(
                    input=case["input"],
                    parameters=answer["parameters"],
                    prediction=answer["prediction"],
                    # Of an input in windows or pairs each answer says for itself.
                    tokens=answer["tokens"] if "tokens" in answer else len(case["input_ids"]),
                    truncated=answer.get("truncated", case.get("truncated", False)),
                )


@cache
def oracles() -> tuple[Oracle, ...]:
    """Return every oracle: the small checkpoints, and the demo with each of its heads."""
    folders = sorted(path.parent for path in CHECKPOINTS.glob("*/answers.json"))
    small = [Oracle(folder.name, folder, _read(folder / "answers.json")) for folder in folders]
    demo = [
        Oracle(f"demo-{path.stem}", DEMO_CHECKPOINT, _read(path)) for path in sorted((FIXTURES / "demo").glob("*.json"))
    ]
    return (*small, *demo)


def _read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def each_oracle(*, demo: bool = True) -> pytest.MarkDecorator:
    """Run a test once for each oracle, or only for the small ones."""
    chosen = [oracle for oracle in oracles() if demo or oracle.checkpoint != DEMO_CHECKPOINT]
    return pytest.mark.parametrize("oracle", chosen, ids=lambda oracle: oracle.name)


def assert_same(got: Json, expected: Json, place: str = "prediction") -> None:
    """Hold scores to the tolerance and everything else, order too, to the letter."""
    if isinstance(expected, float):
        assert got == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), place
    elif isinstance(expected, list):
        assert len(got) == len(expected), place
        for i, (one, other) in enumerate(zip(got, expected, strict=True)):
            assert_same(one, other, f"{place}[{i}]")
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_same(got[key], value, f"{place}.{key}")
    else:
        assert got == expected, place
