#!/bin/sh
# Installs what the build and the tests use on Debian and its relatives. Needs root.
# Rust itself is not among it: see README.md.
set -eu

# The linker and the C library; then the tools of the tests.
set -- gcc libc6-dev ca-certificates \
    netcat-openbsd valgrind shellcheck procps util-linux iproute2 strace

ID=
ID_LIKE=
if [ -r /etc/os-release ]; then
    # shellcheck source=/dev/null
    . /etc/os-release
fi
case " $ID $ID_LIKE " in
    *" debian "*) ;;
    *)
        echo "requirements/debian.sh: this is not Debian. There the packages are called: $*" >&2
        exit 1
        ;;
esac
if [ "$(id -u)" -ne 0 ]; then
    echo "requirements/debian.sh: apt-get needs root" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends "$@"
