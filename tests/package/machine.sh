# A Debian to install the package in: its root, and a machine that boots from it in namespaces of its
# own, with nothing but loopback.
# shellcheck shell=bash disable=SC2154

suite=trixie
root=$cache/$suite-systemd
# What is tried there, beside the package: the service manager, the shells, the pages.
inside="systemd systemd-sysv netcat-openbsd procps iproute2 man-db zsh fish"

# Sets `machine`, the pid of the machine's PID 1, and `cgroup`.
machine='' cgroup=''
# Who waits for it.
keeper=''

# --- The root ------------------------------------------------------------------------------------

# One of an earlier run, or a new one.
root_is_there() {
    [[ -x $root/usr/lib/systemd/systemd ]] && return
    [[ $quick == no ]] || { skip "no Debian from an earlier run"; return; }
    command -v debootstrap >/dev/null || { lack debootstrap; return; }
    mkdir -p "$cache"
    rm -rf "$root.new"
    if ! debootstrap --variant=minbase --include="${inside// /,}" $suite "$root.new" >"$tmp/debootstrap" 2>&1; then
        tail -n 20 "$tmp/debootstrap"
        rm -rf "$root.new"
        return 1
    fi
    rm -rf "$root.new"/var/cache/apt/archives/*.deb "$root.new"/var/lib/apt/lists/*
    mv "$root.new" "$root"
}

# --- The machine ---------------------------------------------------------------------------------

# A cgroup of the second version below our own: all that systemd needs of them, even where the host
# still uses the first. Sets `cgroup`.
cgroup_of_its_own() {
    local mounted own
    mounted=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) || return
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    cgroup=$mounted/${own#/}
    cgroup=${cgroup%/}/tcp-echo-test-$$
    mkdir "$cgroup" || { cgroup=''; return 1; }
}

# Boots one with a fresh copy of the root. Skips the step where it may not.
boot() {
    cgroup_of_its_own 2>"$tmp/why" || { skip "no cgroup: $(tail -n 1 "$tmp/why")"; return; }
    mkdir -p "$tmp/machine"
    # shellcheck disable=SC2016
    sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
        unshare --mount --pid --fork --kill-child=KILL --uts --ipc --net --cgroup \
        tests/package/boot.sh "$root" "$tmp/machine" \
        /usr/lib/systemd/systemd --system --unit=multi-user.target </dev/null >"$tmp/boot" 2>&1 &
    keeper=$!
    if ! wait_for 60 "the machine has booted" booted; then
        cat "$tmp/boot"
        shut_down
        skip "no machine can be booted here: $(tail -n 1 "$tmp/boot")"
        return
    fi
    echo "booted $(in_machine systemctl --version | head -n 1)"
}

booted() {
    if [[ -z $machine ]]; then
        machine=$(cat "/proc/$keeper/task/$keeper/children" 2>/dev/null)
        machine=${machine// /}
        [[ -n $machine ]] || return
    fi
    # What is started by default is there, well or not.
    case $(in_machine systemctl is-system-running 2>/dev/null) in
        running | degraded) ;;
        *) return 1 ;;
    esac
}

# in_machine COMMAND...
in_machine() {
    nsenter --target "$machine" --all env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# into_machine FILE...: into its /root.
into_machine() {
    cp "$@" "/proc/$machine/root/root/"
}

# At the end, whatever has happened. The machine's processes end with its PID 1, its mounts with them.
shut_down() {
    if [[ -n $keeper ]]; then
        kill -KILL "$keeper" 2>/dev/null
        wait "$keeper" 2>/dev/null
    fi
    if [[ -n $cgroup ]]; then
        wait_for 10 "the machine is gone" empty_cgroup
        find "$cgroup" -depth -type d -exec rmdir {} +
    fi
    machine='' cgroup='' keeper=''
}

empty_cgroup() {
    grep -q "populated 0" "$cgroup/cgroup.events"
}
