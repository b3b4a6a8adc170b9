#!/bin/sh
# Alpine 3.22: its own Rust, 1.87, suffices. test.sh needs more of bash, coreutils and grep than busybox
# has. There is no systemd and no lintian.
set -eu

build="gcc musl-dev ca-certificates"
rust="cargo rust"
lints="rustfmt rust-clippy"
nc="netcat-openbsd"
tools="bash coreutils grep valgrind shellcheck procps-ng util-linux iproute2 strace"
checks="chromium prometheus py3-prometheus-client py3-yaml curl fish zsh"

installed() {
    apk info --installed "$@" >/dev/null 2>&1
}

fetch() {
    apk add --no-cache "$@"
}

# shellcheck source=requirements/common.sh
. "$(dirname "$0")/common.sh"

provide alpine "$@"
