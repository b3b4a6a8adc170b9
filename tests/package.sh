#!/usr/bin/env bash
# The package's life, in a Debian of its own that has systemd as PID 1 and no network but loopback:
# installed, used, upgraded under load, removed, purged. Needs root. Leaves that Debian and the packager
# behind in ~/.cache, for the next time, and nothing else.
set -u -o pipefail

usage() {
    cat <<'EOF'
Usage: tests/package.sh [OPTIONS]

Options:
  --deb FILE  Try this package; without it, one is built
  --quick     Fetch nothing
  --help      Print this text

Exits with 77 when nothing could be tried, or with 78 if only tools are not installed;
the last line says why.
EOF
}

quick=no deb=
# They are used in tests/package/ only.
# shellcheck disable=SC2034
while (($# > 0)); do
    case $1 in
        --deb) deb=$(realpath "${2:?}") && shift ;;
        --quick) quick=yes ;;
        --help) usage && exit 0 ;;
        *) echo "tests/package.sh: unknown option '$1' (see --help)" >&2 && exit 2 ;;
    esac
    shift
done

cd "$(dirname "$0")/.." || exit 1
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tcp-echo-test
PATH=$PATH:$cache/tools/bin
# shellcheck source=tests/steps.sh
. tests/steps.sh
for file in machine build life; do
    # shellcheck source=/dev/null
    . "tests/package/$file.sh"
done

tmp=$(mktemp -d) || exit 1
trap 'shut_down; rm -rf "$tmp"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Each step builds on the ones before.
life() {
    local before=$failed
    step "installed: it serves" installed
    ((failed == before)) || return
    step "the units: verify, and a score of 2.0 at most" units
    step "the manual and the completions are found" manual_and_completions
    step "settings: changed by a reload" settings
    step "a crash: what is queued is served afterwards" crash
    step "wrong settings: it does not start" wrong_settings
    step "two upgrades under load lose nothing" upgrade
    step "an upgrade that does not like the settings" refused_upgrade
    step "stopped and disabled: an upgrade leaves it so" disabled
    step "the socket: started by the first connection" socket
    step "removed, and installed again" removed
    step "purged: nothing is left" purged
}

# The exit status reports a skip of this step.
TCP_ECHO_SKIPS='' step "the package is built" package_is_built
if ((skipped > 0)); then
    echo "$reason"
    exit "$outcome"
fi
if ((passed == 1)); then
    step "lintian has no error" lintian_is_content
    step "without systemd: installed, upgraded, purged" without_systemd
    step "a machine boots" boot
    [[ -z $machine ]] || life
fi
sum_up
