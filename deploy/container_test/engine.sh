# shellcheck shell=bash disable=SC2154
# Sourced by run.sh: sees to a Docker engine and to the images that the stack is made of.
#
# With an engine running, that one and the public images are used. With none, a private engine is started under $work, and
# as it may reach no image registry, each public image has a stand-in made from Debian's packages: Python, Prometheus (the
# real one, Debian's) and, for Grafana, a page that answers its health check. That needs root on Debian.

engine_pid=

use_engine() {
    if docker info >/dev/null 2>&1; then
        say "using the running engine"
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        cannot "no Docker engine is running, and starting a private one needs root on Debian. Start Docker and run this again."
    fi
    install_engine
    start_private_engine
    make_stand_ins
}

install_engine() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap eatmydata)
    command -v prometheus >/dev/null || missing+=(prometheus)
    [ ${#missing[@]} = 0 ] && return
    [ "${CI:-}" = true ] ||
        cannot "no Docker engine is running. Start one, or let a private one be started: apt-get install ${missing[*]}, then run this again."
    # Services of these packages must not start: this makes apt's own helper refuse to.
    local policy=/usr/sbin/policy-rc.d made_policy=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made_policy=1; }
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${missing[@]}"; } \
        >"$work/apt.log" 2>&1 || { tail -5 "$work/apt.log"; cannot "apt-get could not install ${missing[*]}"; }
    [ -z "$made_policy" ] || rm $policy
}

# No bridge and no firewall rules of its own, so that it leaves the machine's network as it is; networks of a stack still
# work, with names and published ports, through the userland proxy.
start_private_engine() {
    export DOCKER_HOST=unix://$work/docker.sock
    setsid dockerd --host "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
        --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --storage-driver=overlay2 \
        >"$work/dockerd.log" 2>&1 </dev/null &
    engine_pid=$!
    wait_for 30 docker info || { tail -5 "$work/dockerd.log"; cannot "the private Docker engine did not start"; }
    say "private engine $(docker info --format '{{.ServerVersion}}')"
}

stop_private_engine() {
    [ -n "$engine_pid" ] || return 0
    kill "$engine_pid" 2>/dev/null
    wait "$engine_pid" 2>/dev/null
    umount "$work/exec/netns/default" 2>/dev/null
    return 0
}

make_stand_ins() {
    local context=$work/stand_ins
    cp -r "$here/stand_ins" "$context"
    mmdebstrap --quiet --variant=minbase --hook-dir=/usr/share/mmdebstrap/hooks/eatmydata \
        --aptopt='Acquire::Languages "none"' --include=python3,python3-venv,python3-pip,ca-certificates,busybox \
        bookworm "$work/debian.tar" >"$work/mmdebstrap.log" 2>&1 || { tail -5 "$work/mmdebstrap.log"; fail "no base image"; }
    docker import "$work/debian.tar" stand-in/debian >/dev/null
    rm "$work/debian.tar"
    # The build trusts whom this machine trusts.
    cp /etc/ssl/certs/ca-certificates.crt "$context/ca-certificates.crt"
    cp "$(command -v prometheus)" "$(command -v promtool)" "$context"
    local image
    for image in python prometheus grafana; do
        build --target $image --tag stand-in/$image "$context"
    done
    export PYTHON_IMAGE=stand-in/python PROMETHEUS_IMAGE=stand-in/prometheus GRAFANA_IMAGE=stand-in/grafana
    say "stand-ins for the images that cannot be pulled"
}

# BuildKit comes with the buildx plugin, or inside a client of before 23.
find_builder() {
    local candidate
    for candidate in $(which -a docker); do
        if "$candidate" buildx version >/dev/null 2>&1 ||
            [[ $("$candidate" version --format '{{.Client.Version}}' 2>/dev/null) =~ ^(19|20)\. ]]; then
            builder=$candidate
            return
        fi
    done
    cannot "no docker client with BuildKit: install the buildx plugin"
}

# The build reaches the package index as this machine does.
build() {
    [ -n "${builder:-}" ] || find_builder
    DOCKER_BUILDKIT=1 "$builder" build --network=host "$@" >>"$work/build.log" 2>&1 ||
        { tail -20 "$work/build.log"; fail "docker build $* failed"; }
}
