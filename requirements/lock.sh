#!/usr/bin/env bash
# Pin what is installed: one file per use, each with the hashes of every file of every release it names. `make lock` calls it.
#
#   requirements/lock.sh                       follow pyproject.toml, keep every pin that still fits
#   requirements/lock.sh --upgrade             the newest of everything
#   requirements/lock.sh --upgrade-package X   the newest of one
#
# dev.txt is resolved first and constrains the others, so that what is tested is what is deployed. The files hold no
# address: they install from whatever index the machine uses. torch is in none of them: its builds differ by machine.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
    local output=$1
    shift
    echo "locking $output"
    env -u UV_INDEX -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_DEFAULT_INDEX -u UV_FIND_LINKS \
        .venv/bin/uv pip compile pyproject.toml --quiet --no-config \
        --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command requirements/lock.sh --output-file "$output" "$@" >/dev/null
}

compile requirements/dev.txt --extra cpu --extra otel --extra export --extra audit --extra test --extra check --extra lock "$@"
compile requirements/cpu.txt --extra cpu --extra otel --constraints requirements/dev.txt "$@"
compile requirements/export.txt --extra cpu --extra export --constraints requirements/dev.txt "$@"
compile requirements/audit.txt --extra cpu --extra export --extra audit --constraints requirements/dev.txt "$@"
# Nor is what torch brings along: it is installed before.
compile requirements/train.txt --extra cpu --extra export --extra train --constraints requirements/dev.txt \
    --override <(echo "torch==2.13.0; sys_platform == 'none'") --no-emit-package torch "$@"
# Not constrained by the CPU runtime; the shared packages are pinned alike all the same.
compile requirements/gpu.txt --extra gpu --extra otel --constraints requirements/dev.txt "$@"
compile requirements/cuda-test.txt --extra cuda-test --extra otel --extra export --extra test \
    --constraints requirements/dev.txt --constraints requirements/gpu.txt "$@"
