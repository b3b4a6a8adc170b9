# The engine, what it needs to build, and the images that are tried.
# shellcheck shell=bash disable=SC2154

# Whatever a run starts bears this name, so that it is found again at the end.
id=tcp-echo-test-$$
# Images keep their names, so that the next run finds them built.
images=tcp-echo-test
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tcp-echo-test

# give_up REASON: nothing can be tried here.
give_up() {
    echo "$1"
    exit "$SKIPPED"
}

# An engine is more than a package: without one, nothing is lacking.
engine_or_skip() {
    command -v docker >/dev/null || give_up "docker is not installed"
    timeout 20 docker version >/dev/null 2>&1 || give_up "no Docker engine answers"
    echo "engine: $(docker version --format '{{.Server.Version}} ({{.Server.Os}}/{{.Server.Arch}})')"
    base_image || give_up "$why_no_base"
    buildkit || give_up "$why_no_buildkit"
}

present() {
    docker image inspect "$1" >/dev/null 2>&1
}

# --- The base image ------------------------------------------------------------------------------

# Sets `base`: the one that is named, the one of an earlier run, one from a registry of images, or one
# that is made here of Debian's packages.
base_image() {
    base=${BASE_IMAGE:-"$images/base:trixie"}
    if present "$base" || [[ -n ${BASE_IMAGE:-} ]]; then
        echo "base image: $base"
        return
    fi
    if [[ $quick == yes ]]; then
        why_no_base="no base image yet: ./test.sh --docker makes one"
        return 1
    fi
    if timeout 60 docker pull --quiet debian:trixie-slim 2>"$tmp/pull"; then
        docker tag debian:trixie-slim "$base"
        return
    fi
    echo "no registry of images: $(tail -n 1 "$tmp/pull" | cut -c 1-160)"
    if ! command -v debootstrap >/dev/null || ((EUID != 0)); then
        why_no_base="no base image: neither a registry of images nor debootstrap (as root)"
        return 1
    fi
    echo "making $base with debootstrap"
    if ! debootstrap --variant=minbase trixie "$tmp/root" >"$tmp/debootstrap" 2>&1; then
        tail -n 20 "$tmp/debootstrap"
        why_no_base="no base image: debootstrap has failed"
        return 1
    fi
    rm -f "$tmp"/root/var/cache/apt/archives/*.deb
    if ! tar --directory "$tmp/root" --create . |
        docker import --change 'CMD ["bash"]' - "$base" >/dev/null; then
        why_no_base="no base image: docker import has failed"
        return 1
    fi
    rm -rf "$tmp/root"
}

# --- BuildKit ------------------------------------------------------------------------------------

# plugin NAME: whether `docker NAME` is to be had; else it is taken from Debian's package of it.
plugin() {
    docker "$1" version >/dev/null 2>&1 && return
    export DOCKER_CONFIG=$cache
    docker "$1" version >/dev/null 2>&1 && return
    [[ $quick == no ]] || return
    echo "docker $1 is not installed: taking it from Debian's package"
    mkdir -p "$cache/cli-plugins"
    docker run --rm --label "$images=$id" --name "$id-plugin" "$base" sh -c "
        { apt-get update && cd /tmp && apt-get download docker-$1 && dpkg -x docker-$1*.deb plugin; } >&2 &&
        cat plugin/usr/libexec/docker/cli-plugins/docker-$1" >"$cache/cli-plugins/docker-$1" 2>"$tmp/plugin.log"
    chmod +x "$cache/cli-plugins/docker-$1"
    docker "$1" version >/dev/null 2>&1 && return
    rm -f "$cache/cli-plugins/docker-$1"
    tail -n 3 "$tmp/plugin.log"
    return 1
}

buildkit() {
    export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
    why_no_buildkit="no BuildKit: the plugin buildx is not installed (Debian 13: docker-buildx)"
    plugin buildx
}

# build TARGET TAG [OPTION...] CONTEXT
build() {
    local target=$1 tag=$2 options=() certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    shift 2
    [[ -s $certificates ]] && options+=(--secret "id=ca-bundle,src=$certificates")
    if ! docker build --progress=plain --target "$target" --tag "$tag" --label "$images=built" \
        --build-arg "BASE_IMAGE=$base" --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY \
        "${options[@]}" "$@" >"$tmp/build.log" 2>&1; then
        tail -n 40 "$tmp/build.log"
        return 1
    fi
}

# builds TARGET [PROD_BASE]: it is called TARGET then, or PROD_BASE-TARGET.
builds() {
    local began=$SECONDS name=${2:+$2-}$1
    build "$1" "$images/$name" ${2:+--build-arg "PROD_BASE=$2"} . || return
    echo "built $name in $((SECONDS - began)) s: $(size_of "$images/$name") MB"
}

# size_of IMAGE, in millions of bytes.
size_of() {
    docker image inspect --format '{{.Size}}' "$1" | awk '{ printf "%.2f", $1 / 1e6 }'
}

part_stages() {
    local stage
    for stage in toolchain crates build dev test slim netcat; do
        step "stages: $stage builds" builds $stage
    done
    step "stages: prod builds on slim" builds prod slim
}

# --- Containers ----------------------------------------------------------------------------------

# start NAME [OPTION...] IMAGE [ARGUMENT...]: in the background, without any privilege.
start() {
    local name=$id-$1
    shift
    docker run --detach --name "$name" --label "$images=$id" --read-only --cap-drop ALL \
        --security-opt no-new-privileges "$@" >/dev/null
}

# remove NAME
remove() {
    docker rm --force --volumes "$id-$1" >/dev/null 2>&1
}

# says NAME TEXT [TIMES]: whether the log has it, so often.
says() {
    (($(docker logs "$id-$1" 2>&1 | grep -c -- "$2") >= ${3:-1}))
}

# state NAME FIELD: for example Status, ExitCode, Health.Status.
state() {
    docker inspect --format "{{.State.$2}}" "$id-$1" 2>/dev/null
}

# is NAME FIELD VALUE
is() {
    [[ $(state "$1" "$2") == "$3" ]]
}

# port_of NAME: where it is published on this machine.
port_of() {
    docker port "$id-$1" 8090 | sed -n 's/^127\.0\.0\.1://p'
}

serving() {
    wait_for 20 "$1 serves" says "$1" "serving on"
}

# At the end, whatever has happened.
clear_away() {
    local left
    leave_swarm
    take_down
    left=$(docker ps --all --quiet --filter "label=$images=$id" 2>/dev/null)
    # shellcheck disable=SC2086
    [[ -z $left ]] || docker rm --force --volumes $left >/dev/null 2>&1
    docker image prune --force --filter "label=$images=built" >/dev/null 2>&1
}
