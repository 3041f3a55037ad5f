#!/usr/bin/env bash
# Pin requirements-peers.txt; uv is in the environment of the tests (`make check`). It follows no pin of the project: BentoML and
# its OpenTelemetry would not fit. The pins of requirements-torch.txt are those of a working environment, by hand: torch's builds differ
# by machine, so they have no hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/uv pip compile benchmarks/requirements-peers.in --quiet --no-config --universal --python-version 3.11 \
    --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
    --custom-compile-command benchmarks/lock.sh --output-file benchmarks/requirements-peers.txt "$@" >/dev/null
