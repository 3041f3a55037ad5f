"""With torch: contributions are those that Captum finds with transformers' model of the same checkpoint."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import ModelsOf
from tests.support import DEMO_CHECKPOINT, ServerProcess, serving

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # Captum's, of Python and torch
]

SHORT = [
    "A dull story, saved by luck.",
    "The staff was rude.",
    "I love this product",
    "Not bad at all!",
    "It isn't worth the money.",
]
LONGER = "The room was small but clean, and the breakfast was good."
SAME = 1e-4
"""The scores are sums in fp32 in different orders, which differ by up to 2e-5; a contribution is an average of their differences."""
Explainer = Callable[..., Any]


@pytest.fixture(scope="module")
def server(models_of: ModelsOf) -> Iterator[ServerProcess]:
    patience = ("--max-queue-s", "600", "--request-timeout-s", "600")
    with serving(models_of({"sentiment": "demo-classify"}), "--threads", "1", *patience) as server:
        yield server
        assert server.stop() == 0, server.log


def explained(server: ServerProcess, text: str, **parameters: Any) -> dict[str, Any]:
    reply = server.post("/v1/explain", {"inputs": text, "parameters": parameters})
    assert reply.status == 200, reply.body
    [prediction] = reply.json["predictions"]
    return prediction


def contributions(explanation: dict[str, Any]) -> np.ndarray:
    return np.array([word["contribution"] for word in explanation["contributions"]])


class Captum:
    """Captum's methods for the probability of a label, where an absent word's tokens are masks."""

    def __init__(self, text: str, explanation: dict[str, Any]) -> None:
        """Take the words of an explanation as features of the tokens that transformers' tokenizer makes."""
        import torch  # noqa: PLC0415
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

        tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
        model = AutoModelForSequenceClassification.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32).eval()
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        self.ids = encoded["input_ids"]
        spans = [(word["start"], word["end"]) for word in explanation["contributions"]]
        starts = [start for start, _ in encoded["offset_mapping"][0].tolist()]
        # Special tokens have no characters, and are a feature that is always there: their baseline is themselves.
        special = len(spans)
        owners = [special] + [
            next(i for i, (first, last) in enumerate(spans) if first <= start < last) for start in starts[1:-1]
        ]
        self.mask = torch.tensor([[*owners, special]])
        self.words = special
        self.baseline = torch.where(self.mask == special, self.ids, tokenizer.mask_token_id)
        label = model.config.label2id[explanation["target"]]

        known: dict[
            tuple[int, ...], float
        ] = {}  # short texts have few sets of words, which Captum asks for again and again

        def score(ids: Any) -> Any:
            rows = [tuple(row) for row in ids.tolist()]
            new = list(dict.fromkeys(row for row in rows if row not in known))
            if new:
                with torch.no_grad():
                    scores = model(input_ids=torch.tensor(new)).logits.softmax(-1)[:, label].double().tolist()
                known.update(zip(new, scores, strict=True))
            return torch.tensor([known[row] for row in rows], dtype=torch.float64)

        self.score = score

    def attribute(self, method: str, **options: Any) -> np.ndarray:
        """Return what each word adds, float64[words]."""
        import torch  # noqa: PLC0415
        from captum import attr  # noqa: PLC0415

        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - Captum's own
        attribution = getattr(attr, method)(self.score).attribute(
            self.ids, baselines=self.baseline, feature_mask=self.mask, **options
        )
        values = attribution[0].double().numpy()
        owners = self.mask[0].numpy()
        return np.array([values[owners == word][0] for word in range(self.words)])


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's."""
    ranks = np.stack([one, other]).argsort(axis=1).argsort(axis=1)
    return 1 - 6 * float(((ranks[0] - ranks[1]) ** 2).sum()) / (len(one) * (len(one) ** 2 - 1))


@pytest.mark.parametrize("text", SHORT)
def test_shapley_values_of_short_texts_are_captums(server: ServerProcess, text: str) -> None:
    explanation = explained(server, text, method="shapley")
    assert explanation["stopped"] == "complete"
    captum = Captum(text, explanation)
    sampled = captum.attribute("ShapleyValueSampling", n_samples=400, perturbations_per_eval=64)
    assert rank_correlation(contributions(explanation), sampled) > 0.95
    kernel = captum.attribute("KernelShap", n_samples=2000, perturbations_per_eval=64)
    assert rank_correlation(contributions(explanation), kernel) > 0.95


def test_exact_shapley_values_are_captums(server: ServerProcess) -> None:
    """Which takes every order of the words: 120 of five."""
    text = SHORT[1]
    explanation = explained(server, text, method="shapley")
    exact = Captum(text, explanation).attribute("ShapleyValues", perturbations_per_eval=64)
    np.testing.assert_allclose(contributions(explanation), exact, atol=SAME)


@pytest.mark.parametrize("text", [*SHORT, LONGER])
def test_occlusion_is_captums_ablation(server: ServerProcess, text: str) -> None:
    explanation = explained(server, text)
    ablated = Captum(text, explanation).attribute("FeatureAblation", perturbations_per_eval=64)
    np.testing.assert_allclose(contributions(explanation), ablated, atol=SAME)


def test_sampled_shapley_values_of_a_longer_text_are_captums(server: ServerProcess) -> None:
    explanation = explained(server, LONGER, method="shapley", standard_error=0.01, max_runs=4000)
    assert explanation["stopped"] == "standard_error"
    sampled = Captum(LONGER, explanation).attribute("ShapleyValueSampling", n_samples=150, perturbations_per_eval=64)
    assert rank_correlation(contributions(explanation), sampled) > 0.95
