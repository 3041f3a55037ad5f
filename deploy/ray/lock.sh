#!/usr/bin/env bash
# Pin Ray and what it brings, with hashes, into deploy/ray/requirements.txt. It is installed beside requirements/cpu.txt or
# gpu.txt, whose pins constrain it through dev.txt: run it after requirements/lock.sh. Takes the same flags.
set -euo pipefail
cd "$(dirname "$0")/../.."

env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_DEFAULT_INDEX -u UV_FIND_LINKS \
    .venv/bin/uv pip compile deploy/ray/requirements.in --quiet --no-config --constraints requirements/dev.txt \
    --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
    --custom-compile-command deploy/ray/lock.sh --output-file deploy/ray/requirements.txt "$@" >/dev/null
