#!/usr/bin/env bash
# What is promised of the images, tried on a Docker engine. Leaves images and their build cache
# behind, for the next time, and nothing else.
set -u -o pipefail

usage() {
    cat <<'EOF2'
Usage: tests/docker.sh [OPTIONS]

Options:
  --quick        Only the image that is shipped, and only where a base image is at
                 hand from an earlier run
  --no-memcheck  Not the run under valgrind
  --only NAME    Only this part, repeatable: stages, image, compose, dev, offline,
                 memory, tests, swarm, requirements
  --help         Print this text

Exits with 77 when nothing could be tried; the last line says why.
BASE_IMAGE names another base image; see tests/docker/engine.sh for what is done
where none is at hand. A file that SSL_CERT_FILE names is handed to the builds.
EOF2
}

quick=no memcheck=yes only=()
# Some are used in tests/docker/ only.
# shellcheck disable=SC2034
while (($# > 0)); do
    case $1 in
        --quick) quick=yes ;;
        --no-memcheck) memcheck=no ;;
        --only) only+=("${2:?}") && shift ;;
        --help) usage && exit 0 ;;
        *) echo "tests/docker.sh: unknown option '$1' (see --help)" >&2 && exit 2 ;;
    esac
    shift
done

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/steps.sh
. tests/steps.sh
for file in engine image compose offline memory swarm requirements; do
    # shellcheck source=/dev/null
    . "tests/docker/$file.sh"
done

tmp=$(mktemp -d) || exit 1
trap 'clear_away; rm -rf "$tmp"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

engine_or_skip
((${#only[@]} > 0)) || if [[ $quick == yes ]]; then
    only=(image)
else
    only=(stages image compose dev offline memory tests swarm requirements)
fi

step "image: prod builds" builds prod
step "image: prod builds on a base with nc" builds prod netcat
for part in "${only[@]}"; do
    if declare -F "part_$part" >/dev/null; then
        "part_$part"
    else
        echo "tests/docker.sh: there is no part '$part' (see --help)" >&2
        exit 2
    fi
done
sum_up
