#!/usr/bin/env bash
# Provide prometheus and promtool for the tests: those on the PATH, else the two programs out of Debian's package, put into
# monitoring/.prometheus. The package itself is not installed, so no service starts on port 9090. Does nothing the second
# time.
set -euo pipefail
cd "$(dirname "$0")"

needs="The tests of monitoring/ need prometheus and promtool, 2.42 or newer, on the PATH."
if PATH="$PWD/.prometheus:$PATH" promtool check config prometheus/prometheus.yml >/dev/null 2>&1 &&
    PATH="$PWD/.prometheus:$PATH" command -v prometheus >/dev/null; then
    exit 0
fi
if command -v promtool >/dev/null; then
    echo "$needs This promtool cannot read monitoring/prometheus: $(promtool --version 2>&1 | head -1)" >&2
    exit 1
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "$needs" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
download() { (cd "$work" && apt-get download --quiet prometheus >/dev/null 2>&1); }
download || { [ "$(id -u)" = 0 ] && apt-get update --quiet >/dev/null && download; } ||
    { echo "$needs apt-get finds none; as root, apt-get update may mend that." >&2; exit 1; }
mkdir -p .prometheus
echo '*' >.prometheus/.gitignore
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb |
    tar --extract --directory .prometheus --strip-components 3 ./usr/bin/prometheus ./usr/bin/promtool
.prometheus/promtool check config prometheus/prometheus.yml >/dev/null || { echo "$needs apt-get's is older." >&2; exit 1; }
