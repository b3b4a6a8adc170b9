#!/bin/sh
# Debian 13: its own rustc and cargo, 1.85, suffice. An older Debian needs those of rustup.
# cargo-deny needs those, too. The kubectl of Debian 12 is too old for the overlay.
set -eu

build="gcc libc6-dev ca-certificates"
rust="cargo rustc"
lints="rustfmt rust-clippy"
nc="netcat-openbsd"
tools="valgrind shellcheck procps util-linux iproute2 strace debootstrap"
checks="chromium-headless-shell prometheus python3-prometheus-client python3-yaml man-db systemd curl fish zsh
    lintian"

installed() {
    dpkg -s "$@" >/dev/null 2>&1
}

fetch() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends "$@"
}

# shellcheck source=requirements/common.sh
. "$(dirname "$0")/common.sh"

provide debian "$@"
