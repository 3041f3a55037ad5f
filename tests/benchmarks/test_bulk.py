"""The benchmark of predictions without a server runs, and compares like with like."""

from types import SimpleNamespace

import pytest

from app.bundle.files import load_bundle
from benchmarks.parts.bulk import bulk
from tests.conftest import BundleOf


def test_rows_are_predicted_beside_the_engine_alone(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    bench = SimpleNamespace(device="cpu", rounds=2, precisions=("fp32",), bundle=lambda _: bundle)
    rows = list(bulk(bench, rows={"demo": 300}))  # type: ignore[arg-type] # what it uses of one
    assert [row["rows"] for row in rows] == [300, 300]
    for row in rows:
        assert row["of_engine"] == pytest.approx(row["predict_rows_per_s"] / row["engine_rows_per_s"])
