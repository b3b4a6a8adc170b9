# The Compose files, read by the program docker-compose (v1) and by the plugin (v2).
# shellcheck shell=bash disable=SC2154

# Each that is to be had, as an array: `compose` holds the words of the command.
part_compose() {
    step "compose v1: up, nc, check" compose_with docker-compose up_and_talk
    step "compose v2: up, nc, check" compose_with plugin up_and_talk
    step "compose: observability" observability
}

part_dev() {
    step "compose v1: the mounted sources are compiled" compose_with docker-compose mounted
    step "compose v2: the mounted sources are compiled" compose_with plugin mounted
}

# compose_with docker-compose|plugin FUNCTION
compose_with() {
    case $1 in
        docker-compose)
            command -v docker-compose >/dev/null || { lack docker-compose; return; }
            compose=(docker-compose)
            ;;
        plugin)
            plugin compose || { lack "the plugin compose"; return; }
            compose=(docker compose)
            ;;
    esac
    "${compose[@]}" version | head -n 1
    # Port 0: a free one. Images bear names of their own.
    TCP_ECHO_PORT=0 BASE_IMAGE=$base TCP_ECHO_IMAGE="$images/compose" TCP_ECHO_DEV_IMAGE="$images/compose-dev" \
        COMPOSE_PROJECT_NAME=${id//-/} "$2"
    local code=$?
    ((code == 0)) || "${compose[@]}" --project-name "${id//-/}" logs --tail 20 2>/dev/null
    take_down
    return $code
}

# Of whatever project and way is still up.
take_down() {
    local project=${id//-/} left
    left=$(docker ps --all --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null)
    # shellcheck disable=SC2086
    [[ -z $left ]] || docker rm --force --volumes $left >/dev/null 2>&1
    docker network ls --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null |
        xargs --no-run-if-empty docker network rm >/dev/null 2>&1
    docker volume ls --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null |
        xargs --no-run-if-empty docker volume rm >/dev/null 2>&1
}

# The container of the service, by its number.
container() {
    docker ps --quiet --filter "label=com.docker.compose.project=${id//-/}" --filter label=com.docker.compose.service=tcp-echo
}

container_is() {
    [[ $(docker inspect --format "{{.State.$1}}" "$(container)") == "$2" ]]
}

up_and_talk() {
    local port said
    "${compose[@]}" up --detach --build >"$tmp/up" 2>&1 || { tail -n 30 "$tmp/up"; return 1; }
    wait_for 30 "healthy" container_is Health.Status healthy || return
    said=$(echo FOO | "${compose[@]}" exec -T tcp-echo nc -N localhost 8090) || return
    echo "exec tcp-echo nc localhost 8090: FOO, and back comes $said"
    [[ $said == FOO ]] || return
    "${compose[@]}" exec -T tcp-echo /tcp-echo check || return
    port=$(docker port "$(container)" 8090 | sed -n 's/^127\.0\.0\.1://p')
    head -c 1000000 /dev/urandom >"$tmp/bulk"
    comes_back "$port" "$tmp/bulk" || return
    docker inspect --format 'published on {{(index .NetworkSettings.Ports "8090/tcp")}}, root read-only: {{.HostConfig.ReadonlyRootfs}}, capabilities dropped: {{.HostConfig.CapDrop}}, memory: {{.HostConfig.Memory}}, time to stop: {{.Config.StopTimeout}} s' "$(container)"
    "${compose[@]}" stop >"$tmp/stop" 2>&1 || return
    said=$(docker ps --all --quiet --filter "label=com.docker.compose.project=${id//-/}" |
        xargs docker inspect --format '{{.State.ExitCode}}')
    echo "stopped: exit code $said"
    [[ $said == 0 ]]
}

# Sources in a place of their own, changed when they are mounted already: what is compiled must be them,
# and nothing that was built must lie among them.
mounted() {
    local files=(-f docker-compose.yml -f docker-compose.dev.yml) version
    # With the secret, which Compose v1 cannot hand on; below it is all in the cache.
    builds dev || return
    rm -rf "$tmp/mounted"
    copy_of_sources "$tmp/mounted" || return
    (
        cd "$tmp/mounted" || exit
        "${compose[@]}" "${files[@]}" up --detach --build >"$tmp/up" 2>&1 || { tail -n 30 "$tmp/up"; exit 1; }
        sed -i 's/^version = "[^"]*"/version = "2.99.0-mounted"/' Cargo.toml
        "${compose[@]}" "${files[@]}" exec -T tcp-echo cargo build --offline >"$tmp/cargo" 2>&1 ||
            { tail -n 30 "$tmp/cargo"; exit 1; }
        tail -n 1 "$tmp/cargo"
        version=$("${compose[@]}" "${files[@]}" exec -T tcp-echo /target/debug/tcp-echo --version) || exit
        echo "in the container, of the mounted sources: $version"
        [[ $version == "tcp-echo 2.99.0-mounted" && ! -e target ]]
    )
}

# copy_of_sources FOLDER: what is or would be under version control.
copy_of_sources() {
    mkdir -p "$1" || return
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard -z | xargs -0 ls -d 2>/dev/null |
            tar --create --files-from - | tar --extract --directory "$1"
    else
        tar --create --exclude ./target --exclude ./vendor . | tar --extract --directory "$1"
    fi
}

# The images cannot be had everywhere; that the files are read, and the profile is off at first, can.
observability() {
    local compose known=no
    for compose in docker-compose "docker compose"; do
        $compose version >/dev/null 2>&1 || continue
        known=yes
        $compose config --services | sort | paste -sd ' ' | sed "s/^/$compose, no profile: /"
        $compose --profile observability config --services 2>/dev/null | sort | paste -sd ' ' >"$tmp/services"
        sed "s/^/$compose, observability: /" "$tmp/services"
        [[ $(<"$tmp/services") == "grafana prometheus tcp-echo" ]] || return
    done
    [[ $known == yes ]] || { lack "docker-compose or the plugin compose"; return; }
    docker stack config --compose-file docker-compose.yml 2>"$tmp/stack" >/dev/null || { cat "$tmp/stack"; return 1; }
    echo "docker stack reads docker-compose.yml"
    command -v python3 >/dev/null || { lack python3; return; }
    python3 -m json.tool deploy/observability/tcp-echo.json >/dev/null || return
    command -v promtool >/dev/null || { lack promtool; return; }
    promtool check config deploy/observability/prometheus.yml
}
