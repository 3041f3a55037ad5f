#!/usr/bin/env bash
# Pin the clients and what they bring, with hashes. Takes the flags of requirements/lock.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

for name in main langchain; do
    env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_DEFAULT_INDEX -u UV_FIND_LINKS \
        .venv/bin/uv pip compile tests/clients/requirements/$name.in --quiet --no-config \
        --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command tests/clients/lock.sh --output-file tests/clients/requirements/$name.txt "$@" >/dev/null
done
