#!/usr/bin/env bash
# Everything that must hold before a change goes in. Steps whose tools are not installed are skipped, or
# fail with --strict.
set -u -o pipefail

usage() {
    cat <<'EOF'
Usage: ./test.sh [OPTIONS]

Checks format, lints, documentation, tests, dependencies and scripts, and runs
the daemon under valgrind and, where a Docker engine answers, in a container.
Exits with 0 when nothing has failed. The summary names every skipped test.

Options:
  --docker       Build every image and try all that is done with them: compose,
                 Swarm, builds without a network, tests with the oldest Rust.
                 Makes a base image where none can be had. And the package, in
                 a Debian that is made for it. Takes a quarter of an hour more
  --no-memcheck  Skip the runs under valgrind
  --long         Longer runs: the integration tests three times over, ten million
                 simulations (an hour or two), and a minute of fuzzing each target
                 where cargo-fuzz and a nightly toolchain are installed
  --strict       Fail tests whose tools are not installed instead of skipping them
  --help         Print this text

TCP_ECHO_BIN=/path/to/tcp-echo runs the integration tests against that program.
EOF
}

memcheck=yes docker=no long=no strict=no
for option in "$@"; do
    case $option in
        --docker) docker=yes ;;
        --no-memcheck) memcheck=no ;;
        --long) long=yes ;;
        --strict) strict=yes ;;
        --help) usage && exit 0 ;;
        *) echo "test.sh: unknown option '$option' (see --help)" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")" || exit 1
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
if ! command -v cargo >/dev/null; then
    echo "test.sh: cargo is not installed (see docs/install.md)" >&2
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

# shellcheck source=tests/steps.sh
. tests/steps.sh

# Tests that were skipped within a step; see `count_skip`.
skips=$tmp/skips
: >"$skips"

# A full table drops connections of every program, which looks like faults of the daemon.
conntrack=/proc/sys/net/netfilter/nf_conntrack
if { read -r count <"${conntrack}_count" && read -r most <"${conntrack}_max"; } 2>/dev/null &&
    ((most > 0 && count >= most)); then
    echo "test.sh: the connection-tracking table is full ($count of $most entries): tests will fail" >&2
fi


# --- The steps -----------------------------------------------------------------------------------

format() {
    cargo fmt --version &>/dev/null || { lack rustfmt; return; }
    cargo fmt --check || return
    # It does not find modules that a macro declares.
    rustfmt --check --edition 2024 src/daemon/services/*.rs
}

lints() {
    cargo clippy --version &>/dev/null || { lack clippy; return; }
    cargo clippy --locked --all-targets -- -D warnings
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked
}

tests() {
    local round code
    local -x TCP_ECHO_SKIPS=$skips
    # Most tests wait for timeouts.
    local -x RUST_TEST_THREADS=$((2 * $(nproc)))
    cargo test --locked | tee "$tmp/tests"
    code=$?
    sed -n "s/^test \(.*\) \.\.\. \(ignored.*\)/$SKIPPED \1 (\2)/p" "$tmp/tests" >>"$skips"
    [[ $code == 0 && $long == yes ]] || return $code
    for round in 2 3; do
        echo "--- round $round"
        cargo test --locked --test integration || return
    done
}

simulation() {
    [[ $long == yes ]] || { skip "needs --long; cargo test runs 20 000 sequences"; return; }
    TCP_ECHO_SIMULATIONS=10000000 cargo test --release --locked --lib simulation
}

fuzzing() {
    [[ $long == yes ]] || { skip "needs --long"; return; }
    cargo +nightly fuzz --version &>/dev/null ||
        { lack "cargo-fuzz or a nightly toolchain"; return; }
    local target
    for target in admin listen foo lines; do
        cargo +nightly fuzz run "$target" -- -max_total_time=60 -max_len=16384 || return
    done
}

dependencies() {
    cargo deny --version &>/dev/null || { lack cargo-deny; return; }
    cargo deny --locked check bans licenses sources
}

advisories() {
    cargo deny --version &>/dev/null || { lack cargo-deny; return; }
    cargo deny fetch db &>/dev/null || { skip "the advisory database cannot be fetched"; return; }
    cargo deny --locked check advisories
}

shell_scripts() {
    command -v shellcheck >/dev/null || { lack shellcheck; return; }
    local scripts
    mapfile -t scripts < <(find . -name '*.sh' -not -path './target/*' -not -path './vendor/*')
    shellcheck .ci/run deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "${scripts[@]}"
}

# --- The run under valgrind ----------------------------------------------------------------------

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
    comes_back "$port" "$tmp/foo" && comes_back "$port" "$tmp/bulk" || return

    worker=$(sed -n 's/.*worker ready slot=1 worker_pid=\([0-9]*\).*/\1/p' "$tmp/log")
    kill -KILL "$worker" || return
    wait_for 60 "the killed worker is replaced" logged_times "worker ready" 3 || return
    comes_back "$port" "$tmp/foo" && comes_back "$port" "$tmp/bulk" || return

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
        command -v $tool >/dev/null || { lack $tool; return; }
    done
    binary=$(debug_binary) && start_under_valgrind "$binary" && life && return
    echo "--- log of the daemon"
    cat "$tmp/log"
    return 1
}

# --- Containers ----------------------------------------------------------------------------------

# part SCRIPT [OPTION...]: a test of its own, and its reason where it is skipped.
part() {
    local -x TCP_ECHO_SKIPS=$skips
    "$@" | tee "$tmp/part"
    local code=${PIPESTATUS[0]}
    reason=$(tail -n 1 "$tmp/part")
    return "$code"
}

# Without --docker only what is quick, and only where an earlier --docker has left a base image.
containers() {
    local options=()
    [[ $docker == yes ]] || options+=(--quick)
    [[ $memcheck == yes ]] || options+=(--no-memcheck)
    part tests/docker.sh "${options[@]}"
}

# --- The README and the book ---------------------------------------------------------------------

book() {
    part tests/docs.sh
}

# --- What is shipped beside the program ----------------------------------------------------------

deployment() {
    local options=()
    [[ $docker == yes ]] || options+=(--quick)
    part tests/deploy.sh "${options[@]}"
}

package() {
    [[ $docker == yes ]] || { skip "needs --docker"; return; }
    part tests/package.sh
}

# --- All of it -----------------------------------------------------------------------------------

step "format: cargo fmt --check" format
step "lints: cargo clippy" lints
step "documentation: cargo doc" documentation
step "tests: cargo test" tests
step "simulation: ten million sequences" simulation
step "fuzzing: cargo fuzz run" fuzzing
step "dependencies: cargo deny check bans licenses sources" dependencies
step "advisories: cargo deny check advisories" advisories
step "scripts: shellcheck" shell_scripts
step "memory: valgrind" memory
step "book: tests/docs.sh" book
step "deployment: tests/deploy.sh" deployment
step "package: tests/package.sh" package
step "containers: tests/docker.sh" containers

while read -r kind line; do
    count_skip "$kind" "$line"
done < <(sort -u "$skips")
sum_up
