"""Best answers that int8 changes: how they are counted, and how many are refused."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from app.bundle.manifest import Agreement
from app.bundle.sequences import FloatArray, TokenSequence
from model_export.check.agreement import Comparison, check_agreement, choices, observe
from model_export.check.runnable_graph import RunnableGraph
from model_export.check.sequences import checked_sequence
from model_export.checkpoint.load import load_checkpoint
from model_export.errors import ExportError
from model_export.tasks import TASKS
from tests.model_export.support import CHECKPOINTS


def test_largest_magnitudes_are_those_of_the_reference_encoder() -> None:
    folder = CHECKPOINTS / "bert-single-label"
    checkpoint = load_checkpoint(str(folder), None, task="classify", pooling="auto", max_length=32, warn=print)
    network, ranges = checkpoint.network, observe(checkpoint).ranges
    norms = {"embeddings_norm"} | {
        f"layer.{i}.{norm}" for i in range(network.config.layers) for norm in ("attention_norm", "output_norm")
    }
    assert set(ranges) == norms
    for norm in norms:
        gain, shift = network.tensors[f"{norm}.weight"], network.tensors[f"{norm}.bias"]
        bound = np.abs(gain) * np.sqrt(network.config.hidden_size) + np.abs(shift)  # of anything normalized
        assert ((ranges[norm] > 0) & (ranges[norm] <= bound)).all()


def test_single_label_changes_when_it_moves_by_more_than_a_twentieth_of_the_range() -> None:
    class Moved(RunnableGraph):
        def __init__(self, by: float) -> None:
            self._by = by

        def answers(self, _: object) -> list[FloatArray]:
            return [np.array([value + self._by], np.float32) for value in (0.0, 1.0, 10.0)]

    expected = [np.array([value], np.float32) for value in (0.0, 1.0, 10.0)]
    comparison = Comparison(TASKS["classify"], [checked_sequence([7], [0], None)] * 3, expected, {})
    assert comparison.agreement(Moved(0.4)) == Agreement(answers=3, changed=0)
    assert comparison.agreement(Moved(0.6)) == Agreement(answers=3, changed=3)


def test_where_a_few_too_many_labels_change_more_sentences_decide() -> None:
    class Constant(RunnableGraph):
        def __init__(self) -> None:
            pass

        def answers(self, sequences: Sequence[TokenSequence]) -> list[FloatArray]:
            return [np.array([1, 0], np.float32)] * len(sequences)

    def comparison(changed: int, observe_more: Callable[[], Comparison] | None = None) -> Comparison:
        answers = [np.array([i >= changed, i < changed], np.float32) for i in range(400)]
        return Comparison(TASKS["classify"], [checked_sequence([7], [0], None)] * 400, answers, {}, observe_more)

    few, many = comparison(3), comparison(9)
    assert comparison(9, lambda: few).agreement(Constant()).changed == 9
    assert comparison(4, lambda: many).agreement(Constant()).changed == 4
    assert comparison(5, lambda: few).agreement(Constant()).changed == 3
    assert comparison(5, lambda: many).agreement(Constant()).changed == 9


def test_best_answers_of_each_kind_of_result() -> None:
    rows = np.array([[9, 0, 0], [0, 1, 2], [3, 0, 0], [0, 9, 0]], np.float32)
    assert [best.argmax() for best in choices("token-labels", [rows])] == [2, 0]
    assert [best.argmax() for best in choices("span", [rows, rows[:3]])] == [0, 3, 1, 0, 1, 1]
    assert [best.argmax() for best in choices("masked-tokens", [rows[:1], rows[1:]])] == [0, 2, 0, 1]
    assert [best.argmax() for best in choices("labels", list(rows))] == [0, 2, 0, 1]
    # By direction; no text is the nearest to itself.
    assert [best.argmax() for best in choices("embedding", list(rows))] == [2, 3, 0, 1]


def test_too_many_changed_answers_are_refused() -> None:
    check_agreement("cpu-int8", TASKS["classify"], Agreement(answers=400, changed=4))
    with pytest.raises(ExportError, match=r"5 of 400 best answers \(1\.2%\); 1% .* --keep-inaccurate"):
        check_agreement("cpu-int8", TASKS["classify"], Agreement(answers=400, changed=5))
