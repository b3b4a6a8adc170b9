# The image that is shipped.
# shellcheck shell=bash disable=SC2154

part_image() {
    step "image: small, and nothing in it but the program and licences" contents
    step "image: echoes without privileges on a read-only root" echoes
    step "image: HUP reloads" reloads
    step "image: PID 1 reaps strangers" reaps
    step "image: stop drains in time" drains
    step "image: health is true" health
}

contents() {
    local files size
    size=$(docker image inspect --format '{{.Size}}' "$images/prod")
    docker create --name "$id-contents" --label "$images=$id" "$images/prod" >/dev/null || return
    # Docker itself adds the rest, for the container.
    docker export "$id-contents" | tar --list | grep -vE '/$|^(dev|proc|sys)/|^etc/|^\.dockerenv$' >"$tmp/files"
    remove contents
    files=$(grep -v '^licences/' "$tmp/files")
    echo "size: $((size / 1000)) kB, of it the program: $files, and $(grep -c '^licences/' "$tmp/files") licence files"
    docker image inspect --format 'user {{.Config.User}}, stop signal {{.Config.StopSignal}}, ports {{.Config.ExposedPorts}},
entrypoint {{.Config.Entrypoint}} {{.Config.Cmd}}, health {{.Config.Healthcheck.Test}}' "$images/prod"
    [[ $files == tcp-echo ]] || return
    [[ $(docker image inspect --format '{{.Config.User}}' "$images/prod") == 65532:65532 ]] || return
    ((size <= 15000000))
}

echoes() {
    local port
    start echo --publish 127.0.0.1::8090 "$images/prod" --workers 2 && serving echo || return
    port=$(port_of echo)
    echo FOO >"$tmp/foo"
    head -c 4194304 /dev/urandom >"$tmp/bulk"
    comes_back "$port" "$tmp/foo" && comes_back "$port" "$tmp/bulk" || return
    echo "through the published port: FOO and 4 MiB came back"
    docker exec "$id-echo" /tcp-echo check && docker exec "$id-echo" /tcp-echo check localhost:8090
}

# The container of `echoes` goes on.
reloads() {
    local before
    before=$(state echo Pid)
    docker kill --signal HUP "$id-echo" >/dev/null || return
    wait_for 10 "reloaded" says echo "reloaded" || return
    docker logs "$id-echo" 2>&1 | grep "reloaded"
    [[ $(state echo Pid) == "$before" ]] && comes_back "$(port_of echo)" "$tmp/foo" && remove echo
}

# processes NAME: pid, ppid, state and title of each, as the engine's machine sees them.
processes() {
    docker top "$id-$1" -eo pid,ppid,stat,args | tail -n +2
}

# A process whose creator is gone belongs to PID 1, which must bury it.
reaps() {
    local stranger
    start reap "$images/netcat-prod" --workers 2 --log-level DEBUG && serving reap || return
    stranger=$(docker exec "$id-reap" sh -c 'sh -c "exec sleep 2" >/dev/null 2>&1 & echo $!') || return
    docker exec "$id-reap" sed -n "s/^PPid:/PID $stranger is adopted by PID/p" "/proc/$stranger/status" >"$tmp/adopted"
    cat "$tmp/adopted"
    grep -qE 'PID\s1$' "$tmp/adopted" || return
    wait_for 10 "stranger $stranger is reaped" says reap "reaped unknown process unknown_pid=$stranger" || return
    docker logs "$id-reap" 2>&1 | grep "stranger"
    # Nothing but the controller and its workers, and no zombie.
    docker top "$id-reap" -eo pid,ppid,stat,args | tail -n +2 | tee "$tmp/processes"
    (($(wc -l <"$tmp/processes") == 3)) && ! awk '{ print $3 }' "$tmp/processes" | grep -q Z || return
    docker exec "$id-reap" /tcp-echo check --quick && remove reap
}

# drained NAME: milliseconds from the signal to the end, by the timestamps of the log. They exclude the
# time of the engine itself, and exit code 0 proves that the engine has not killed the daemon.
drained() {
    local from to
    from=$(docker logs "$id-$1" 2>&1 | sed -n 's/^\([^ ]*Z\) .*: received SIGTERM$/\1/p') &&
        to=$(docker logs "$id-$1" 2>&1 | sed -n 's/^\([^ ]*Z\) .*: stopped$/\1/p') &&
        [[ $from && $to ]] || return
    echo $(($(date --date "$to" +%s%3N) - $(date --date "$from" +%s%3N)))
}

# With connections that never pause the drain ends at the deadline of 8 s; without connections, at once.
drains() {
    local took loaded most
    for loaded in no yes; do
        start drain "$images/prod" --workers 2 --enable-log-timestamps && serving drain || return
        most=2000
        if [[ $loaded == yes ]]; then
            docker exec "$id-drain" /tcp-echo bench --quiet -c 20 -T 60 >"$tmp/bench" 2>&1 &
            wait_for 10 "load" load_arrives || return
            most=10000
        fi
        docker stop "$id-drain" >/dev/null || return
        took=$(drained drain) || { echo "the log does not say when it began and ended" && return 1; }
        echo "20 busy connections: $loaded; drained in $took ms, exit code $(state drain ExitCode)"
        is drain ExitCode 0 && ((took < most)) || return
        remove drain
    done
    wait
}

# The workers say what they have.
load_arrives() {
    docker kill --signal USR1 "$id-drain" >/dev/null
    docker logs "$id-drain" 2>&1 | grep "currently handling ([1-9]" >/dev/null
}

# signal_workers NAME SIGNAL
signal_workers() {
    docker exec "$id-$1" sh -c "
        for process in /proc/[0-9]*; do
            grep -q '^tcp-echo.wrk' \$process/cmdline 2>/dev/null && kill -$2 \${process#/proc/}
        done; true"
}

# Stopped workers are not replaced here, so that nobody answers.
health() {
    start health --health-interval 500ms --health-retries 2 --health-timeout 2s --env TCP_ECHO_WORKER_TIMEOUT=0 \
        "$images/netcat-prod" --workers 2 && serving health || return
    wait_for 20 "healthy" is health Health.Status healthy || return
    echo "it serves: $(state health Health.Status)"
    signal_workers health STOP || return
    wait_for 30 "unhealthy" is health Health.Status unhealthy || return
    echo "all workers are stopped: $(state health Health.Status)"
    docker inspect --format '{{range .State.Health.Log}}{{println .ExitCode .Output}}{{end}}' "$id-health" | grep '^[1-9-]' | tail -n 1
    signal_workers health CONT || return
    wait_for 20 "healthy again" is health Health.Status healthy || return
    echo "they go on: $(state health Health.Status)"
    remove health
}
