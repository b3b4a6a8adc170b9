#!/bin/sh
# Rocky Linux 9: its Rust moves on with each minor release, and suffices from 1.85 on.
# glibc-static is in crb, which is off at first. ShellCheck is in EPEL and left out: that step is
# skipped. So are Chromium, the Python client of Prometheus and fish; Prometheus is in no repository.
# Its nc (nmap) has no -N; test.sh does without.
set -eu

build="gcc glibc-devel glibc-static ca-certificates"
rust="cargo rust"
lints="rustfmt clippy"
nc="nmap-ncat"
tools="valgrind procps-ng util-linux iproute strace diffutils"
checks="python3-pyyaml man-db systemd zsh"

installed() {
    rpm --query "$@" >/dev/null 2>&1
}

fetch() {
    dnf install --assumeyes --setopt=install_weak_deps=False --enablerepo=crb "$@"
}

# shellcheck source=requirements/common.sh
. "$(dirname "$0")/common.sh"

provide rocky "$@"
