#!/bin/sh
# Alpine 3.22: its own Rust, 1.87, suffices. test.sh needs more of bash, coreutils and grep than busybox
# has.
set -eu

build="gcc musl-dev ca-certificates"
rust="cargo rust"
lints="rustfmt rust-clippy"
nc="netcat-openbsd"
tools="bash coreutils grep valgrind shellcheck procps-ng util-linux iproute2 strace"

installed() {
    apk info --installed "$@" >/dev/null 2>&1
}

fetch() {
    apk add --no-cache "$@"
}

# shellcheck source=requirements/common.sh
. "$(dirname "$0")/common.sh"

provide alpine "$@"
