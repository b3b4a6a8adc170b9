#!/usr/bin/env bash
# Everything that must hold before a change goes in. Steps whose tools are not installed are skipped.
set -u -o pipefail

scripts=(test.sh .ci/run requirements/debian.sh)

usage() {
    cat <<'EOF'
Usage: ./test.sh [OPTIONS]

Checks format, lints, documentation, tests, dependencies and scripts, and runs
the daemon under valgrind. Exits with 0 when nothing has failed.

Options:
  --no-memcheck  Skip the run under valgrind
  --help         Print this text

TCP_ECHO_BIN=/path/to/tcp-echo runs the integration tests against that program.
EOF
}

memcheck=yes
for option in "$@"; do
    case $option in
        --no-memcheck) memcheck=no ;;
        --help) usage && exit 0 ;;
        *) echo "test.sh: unknown option '$option' (see --help)" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")" || exit 1
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
if ! command -v cargo >/dev/null; then
    echo "test.sh: cargo is not installed (see README.md)" >&2
    exit 1
fi

tmp=$(mktemp -d) || exit 1
# The pid of the daemon that runs under valgrind, which leads a process group of its own.
daemon=

cleanup() {
    if [[ -n $daemon ]]; then
        kill -KILL -- "-$daemon" "$daemon" 2>/dev/null
        wait "$daemon" 2>/dev/null
    fi
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- Steps: each is a function that returns 0, or calls `skip`, or fails -------------------------

SKIPPED=77
reason=

# The last command of a step that cannot be taken.
skip() {
    reason=$1
    return $SKIPPED
}

passed=0 failed=0 skipped=0
summary=()

# step NAME FUNCTION
step() {
    local name=$1 began=$SECONDS code
    reason=
    echo "==> $name"
    "$2"
    code=$?
    local took="$((SECONDS - began)) s"
    case $code in
        0)
            ((passed += 1))
            summary+=("passed   $name ($took)")
            ;;
        "$SKIPPED")
            ((skipped += 1))
            summary+=("skipped  $name ($reason)")
            ;;
        *)
            ((failed += 1))
            summary+=("FAILED   $name ($took)")
            ;;
    esac
    echo "    ${summary[-1]}"
}

format() {
    cargo fmt --version &>/dev/null || { skip "rustfmt is not installed"; return; }
    cargo fmt --check
}

lints() {
    cargo clippy --version &>/dev/null || { skip "clippy is not installed"; return; }
    cargo clippy --locked --all-targets -- -D warnings
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked
}

tests() {
    cargo test --locked
}

dependencies() {
    cargo deny --version &>/dev/null || { skip "cargo-deny is not installed"; return; }
    cargo deny --locked check bans licenses sources
}

advisories() {
    cargo deny --version &>/dev/null || { skip "cargo-deny is not installed"; return; }
    cargo deny fetch db &>/dev/null || { skip "the advisory database cannot be fetched"; return; }
    cargo deny --locked check advisories
}

shell_scripts() {
    command -v shellcheck >/dev/null || { skip "shellcheck is not installed"; return; }
    shellcheck "${scripts[@]}"
}

# --- The run under valgrind ----------------------------------------------------------------------

# wait_for SECONDS WHAT COMMAND...: until the command succeeds, or fails after that time.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if ((SECONDS > deadline)); then
            echo "waited in vain: $what"
            return 1
        fi
        sleep 0.05
    done
}

logged() {
    grep -q "$1" "$tmp/log"
}

logged_times() {
    (($(grep -c "$1" "$tmp/log") >= $2))
}

ended() {
    ! kill -0 -- "$1" 2>/dev/null
}

serving_or_ended() {
    logged "serving on" || ended "$daemon"
}

# The path of the debug build.
debug_binary() {
    cargo build --locked --bin tcp-echo --message-format json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

# start_under_valgrind BINARY: two workers on a free port, serving. Sets `daemon` and `port`.
start_under_valgrind() {
    local name clean=()
    for name in "${!TCP_ECHO_@}"; do
        clean+=(-u "$name")
    done
    # No vgdb: its pipes would stay behind where a process is killed.
    setsid env "${clean[@]}" TMPDIR="$tmp" valgrind --error-exitcode=99 --leak-check=full \
        --show-leak-kinds=definite,possible --track-origins=yes --trace-children=yes --vgdb=no \
        --log-file="$tmp/valgrind.%p" "$1" --workers 2 --port 0 </dev/null 2>"$tmp/log" &
    daemon=$!
    wait_for 60 "the daemon serves" serving_or_ended || return
    logged "serving on" || { echo "the daemon ended before it served"; return 1; }
    port=$(sed -n 's/.*serving on [^ ]*:\([0-9]*\) .*/\1/p' "$tmp/log")
}

# exchange FILE: sends it and prints what comes back. With `nc -N` the sending side is closed after
# the last byte; bash alone cannot do that.
exchange() {
    if [[ $(nc -h 2>&1) == *" -N"* ]]; then
        timeout 60 nc -N 127.0.0.1 "$port" <"$1"
        return
    fi
    local socket writer
    exec {socket}<>"/dev/tcp/127.0.0.1/$port" || return
    cat "$1" >&"$socket" &
    writer=$!
    timeout 60 head -c "$(stat -c %s "$1")" <&"$socket"
    wait "$writer"
    exec {socket}>&-
}

comes_back() {
    if ! exchange "$1" | cmp - "$1"; then
        echo "not everything came back: $1"
        return 1
    fi
}

# judge KILLED: what valgrind has to say of every process; that one could not sum up.
judge() {
    local log pid verdict=0 said
    local header='^(Memcheck, |Copyright |Using Valgrind|Command: |Parent PID: |$)'
    for log in "$tmp"/valgrind.*; do
        pid=${log##*.}
        said=$(sed "s/^==$pid== *//" "$log" | grep -vE "$header")
        if [[ $pid == "$1" ]]; then
            [[ -z $said ]] && echo "process $pid, killed: no errors until then" && continue
        elif grep -q "ERROR SUMMARY: 0 errors" "$log" &&
            ! grep -qE "(definitely|possibly) lost: [1-9]" "$log"; then
            echo "process $pid: no errors, nothing lost"
            grep "WARNING" "$log"
            continue
        fi
        echo "process $pid:"
        cat "$log"
        verdict=1
    done
    return $verdict
}

# The life of a daemon: it echoes, loses a worker, echoes again, and ends.
life() {
    local worker code logs
    wait_for 10 "two workers are ready" logged_times "worker ready" 2 || return
    echo FOO >"$tmp/foo"
    head -c 4194304 /dev/urandom >"$tmp/bulk"
    comes_back "$tmp/foo" && comes_back "$tmp/bulk" || return

    worker=$(sed -n 's/.*worker ready slot=1 worker_pid=\([0-9]*\).*/\1/p' "$tmp/log")
    kill -KILL "$worker" || return
    wait_for 60 "the killed worker is replaced" logged_times "worker ready" 3 || return
    comes_back "$tmp/foo" && comes_back "$tmp/bulk" || return

    kill -TERM "$daemon"
    wait_for 60 "the daemon ends after TERM" ended "$daemon" || return
    wait "$daemon"
    code=$?
    wait_for 5 "no process is left" ended "-$daemon" || return
    daemon=
    if ((code != 0)); then
        echo "exit code $code after TERM"
        judge "$worker"
        return 1
    fi
    judge "$worker" || return
    # The controller, two workers, and the one that replaced the first.
    logs=("$tmp"/valgrind.*)
    ((${#logs[@]} == 4)) || { echo "${#logs[@]} logs of valgrind, not 4"; return 1; }
}

memory() {
    [[ $memcheck == yes ]] || { skip "--no-memcheck"; return; }
    local tool binary
    for tool in valgrind setsid; do
        command -v $tool >/dev/null || { skip "$tool is not installed"; return; }
    done
    binary=$(debug_binary) && start_under_valgrind "$binary" && life && return
    echo "--- log of the daemon"
    cat "$tmp/log"
    return 1
}

# --- All of it -----------------------------------------------------------------------------------

step "format: cargo fmt --check" format
step "lints: cargo clippy" lints
step "documentation: cargo doc" documentation
step "tests: cargo test" tests
step "dependencies: cargo deny check bans licenses sources" dependencies
step "advisories: cargo deny check advisories" advisories
step "scripts: shellcheck" shell_scripts
step "memory: valgrind" memory

echo
echo "==> summary"
printf '    %s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
