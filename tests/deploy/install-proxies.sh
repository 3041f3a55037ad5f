#!/usr/bin/env bash
# Provide nginx and HAProxy for the tests of the recipes: those on the PATH, else Debian's. Does nothing the second time.
set -euo pipefail
export PATH="$PATH:/usr/sbin"

needs="The tests of deploy/proxies need nginx and haproxy on the PATH."
has_both() { command -v nginx >/dev/null && command -v haproxy >/dev/null; }
has_both && exit 0
command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || { echo "$needs As root, on Debian: apt-get install nginx haproxy" >&2; exit 1; }

install() { apt-get install --yes --quiet --no-install-recommends nginx haproxy >/dev/null 2>&1; }
install || { apt-get update --quiet >/dev/null && install; } || { echo "$needs apt-get finds none." >&2; exit 1; }
has_both
