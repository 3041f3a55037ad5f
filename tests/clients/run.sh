#!/usr/bin/env bash
# Let the clients that people have ask a server, unmodified. Installs each set of them into an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
.venv/bin/python -m tests.clients.models "$folder"

# Clients may report their use to their makers; no test reaches outside this machine.
export BERT_CLIENT_MODELS=$folder HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=0 HAYSTACK_TELEMETRY_ENABLED=False LITELLM_LOCAL_MODEL_COST_MAP=True

ask() { # the environment, then what pytest is to run
    local venv=.venv-clients-$1 pins=tests/clients/requirements/$1.txt
    shift
    if [ $pins -nt $venv/installed ]; then
        rm -rf $venv
        "${PYTHON:-python3}" -m venv $venv
        $venv/bin/pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r $pins
        touch $venv/installed
    fi
    # Not tests/conftest.py: it needs what the server needs.
    $venv/bin/python -m pytest --confcutdir tests/clients "$@"
}

if [ tests/clients/node/package-lock.json -nt tests/clients/node/node_modules/.package-lock.json ]; then
    npm ci --silent --ignore-scripts --prefix tests/clients/node
fi
ask langchain tests/clients/test_langchain.py "$@"
ask main tests/clients --ignore tests/clients/test_langchain.py "$@"
