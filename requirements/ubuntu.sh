#!/bin/sh
# Ubuntu 24.04: its rustc is 1.75, too old; Rust comes from its package of rustup.
# Chromium and kubectl are snaps there, not packages: what needs them is skipped.
set -eu

build="gcc libc6-dev ca-certificates"
rust="rustup"
lints=""
nc="netcat-openbsd"
tools="valgrind shellcheck procps util-linux iproute2 strace debootstrap"
checks="prometheus python3-prometheus-client python3-yaml man-db systemd curl fish zsh lintian"

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

# Brings rustfmt and clippy along.
prepare_rust() {
    rustup toolchain install stable --profile default
    rustup default stable
}

provide ubuntu "$@"
