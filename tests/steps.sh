# Sourced by test.sh and the scripts beside this one: steps that are counted, and waiting for evidence.
# shellcheck shell=bash

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

# step NAME FUNCTION [ARGUMENT...]
step() {
    local name=$1 began=$SECONDS code
    shift
    reason=
    echo "==> $name"
    "$@"
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
