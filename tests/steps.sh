# Sourced by test.sh and the scripts beside this one: steps that are counted, and waiting for evidence.
# shellcheck shell=bash

# --- Steps: each is a function that returns 0, or calls `skip` or `lack`, or fails ---------------

SKIPPED=77 LACKING=78
reason='' outcome=''

# The last command of a step that is impossible on this machine, or that was not requested.
skip() {
    reason=$1
    return $SKIPPED
}

# The last command of a step that needs WHAT, which this machine could have: --strict fails it.
lack() {
    reason="$1 is not installed"
    return $LACKING
}

passed=0 failed=0 skipped=0 strict=${strict:-no}
summary=()

# count_skip SKIPPED|LACKING LINE: counts a skipped test. If a file TCP_ECHO_SKIPS is named, the line is
# appended there for the script that runs this one.
count_skip() {
    if [[ $strict == yes && $1 == "$LACKING" ]]; then
        ((failed += 1))
        summary+=("FAILED   $2")
    else
        ((skipped += 1))
        summary+=("skipped  $2")
    fi
    [[ -z ${TCP_ECHO_SKIPS:-} ]] || echo "$1 $2" >>"$TCP_ECHO_SKIPS"
}

# step NAME FUNCTION [ARGUMENT...]
step() {
    local name=$1 began=$SECONDS
    shift
    reason=
    echo "==> $name"
    "$@"
    outcome=$?
    local took="$((SECONDS - began)) s"
    case $outcome in
        0)
            ((passed += 1))
            summary+=("passed   $name ($took)")
            ;;
        "$SKIPPED" | "$LACKING") count_skip $outcome "$name ($reason)" ;;
        *)
            ((failed += 1))
            summary+=("FAILED   $name ($took)")
            ;;
    esac
    echo "    ${summary[-1]}"
}

# Prints what came of the steps; whether none has failed.
sum_up() {
    echo
    echo "==> summary"
    printf '    %s\n' "${summary[@]}"
    echo "$passed passed, $failed failed, $skipped skipped"
    ((failed == 0))
}

# --- Evidence ------------------------------------------------------------------------------------

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

# Sets `program` to TCP_ECHO_BIN, or to the debug build.
program_is_built() {
    program=${TCP_ECHO_BIN:-}
    [[ -z $program ]] || return 0
    program=$(cargo build --locked --bin tcp-echo --message-format json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    [[ -n $program ]]
}

# plain ARGUMENT...: the program, with nothing from the environment.
plain() {
    local name clean=()
    for name in "${!TCP_ECHO_@}"; do
        clean+=(-u "$name")
    done
    env "${clean[@]}" "$program" "$@"
}

# exchange PORT FILE: sends it to this machine's port and prints what comes back. With `nc -N` the
# sending side is closed after the last byte; bash alone cannot do that.
exchange() {
    if [[ $(nc -h 2>&1) == *" -N"* ]]; then
        timeout 60 nc -N 127.0.0.1 "$1" <"$2"
        return
    fi
    local socket writer
    exec {socket}<>"/dev/tcp/127.0.0.1/$1" || return
    cat "$2" >&"$socket" &
    writer=$!
    timeout 60 head -c "$(stat -c %s "$2")" <&"$socket"
    wait "$writer"
    exec {socket}>&-
}

# comes_back PORT FILE
comes_back() {
    if ! exchange "$1" "$2" | cmp - "$2"; then
        echo "not everything came back: $2"
        return 1
    fi
}
