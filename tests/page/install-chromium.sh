#!/usr/bin/env bash
# Provide Chromium for the tests of the page: the one on the PATH, else Debian's, with a font. Does nothing the second time.
set -euo pipefail

needs="The tests of the page need chromium on the PATH."
command -v chromium >/dev/null && exit 0
command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || { echo "$needs As root, on Debian: apt-get install chromium" >&2; exit 1; }

install() { apt-get install --yes --quiet --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1; }
install || { apt-get update --quiet >/dev/null && install; } || { echo "$needs apt-get finds none." >&2; exit 1; }
chromium --version
