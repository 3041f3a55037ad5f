#!/usr/bin/env bash
# Serve on a Ray cluster of this machine and compare with the plain server. Installs what it needs into .venv-ray.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=.venv-ray
if [ requirements/dev.txt -nt $venv/installed ] || [ deploy/ray/requirements.txt -nt $venv/installed ]; then
    "${PYTHON:-python3}" -m venv --clear $venv
    $venv/bin/pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
        -r requirements/dev.txt -r deploy/ray/requirements.txt
    touch $venv/installed
fi
exec $venv/bin/python -m pytest tests/ray "$@"
