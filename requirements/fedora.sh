#!/bin/sh
# Fedora 42: its own Rust is 1.86 or newer, and suffices. The static program needs glibc-static.
# lintian is not among its packages.
set -eu

build="gcc glibc-devel glibc-static ca-certificates"
rust="cargo rust"
lints="rustfmt clippy"
nc="netcat"
tools="valgrind ShellCheck procps-ng util-linux iproute strace diffutils debootstrap"
checks="chromium golang-github-prometheus python3-prometheus_client python3-pyyaml man-db systemd fish zsh"

installed() {
    rpm --query "$@" >/dev/null 2>&1
}

fetch() {
    dnf install --assumeyes --setopt=install_weak_deps=False "$@"
}

# shellcheck source=requirements/common.sh
. "$(dirname "$0")/common.sh"

provide fedora "$@"
