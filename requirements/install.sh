#!/bin/sh
# Installs what building, testing and developing needs, with the script of this distribution.
#
# Usage: requirements/install.sh [SET]
#   all     what building, testing and developing needs; the default
#   build   what `cargo build` needs
#   checks  what further checks of test.sh need: a browser, Prometheus, cargo-deny; large, and needs `all`
#   nc      a netcat, and nothing else
set -eu

here=$(dirname "$0")
ID='' ID_LIKE=''
if [ -r /etc/os-release ]; then
    # shellcheck source=/dev/null
    . /etc/os-release
fi

# The system itself first, then what it says that it is like, the nearest first.
for name in $ID $ID_LIKE; do
    if [ -x "$here/$name.sh" ]; then
        exec "$here/$name.sh" "$@"
    fi
done
echo "requirements/install.sh: no script for '${ID:-unknown}': write requirements/${ID:-ID}.sh like those here" >&2
exit 1
