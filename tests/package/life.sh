# What happens to the package in the machine, one step after the other.
# shellcheck shell=bash disable=SC2154

port=8090

# What apt, dpkg and man keep for themselves.
files_of_the_system='^/(root|var/(log/(apt|dpkg\.log|alternatives\.log)|lib/(apt|dpkg)|cache/(apt|man|debconf)))(/|$)'

files() {
    in_machine find / -xdev | grep -vE "$files_of_the_system" | sort
}

# install N: the package of that number, as somebody would who has it as a file.
install() {
    in_machine apt-get install --yes "/root/$1.deb" >"$tmp/apt" 2>&1 || { cat "$tmp/apt"; return 1; }
    # dpkg and the scripts have nothing to complain of.
    if grep -iE "warning|error|failed" "$tmp/apt"; then
        return 1
    fi
}

# Whether the service is active, or in another state that is named.
is() {
    [[ $(in_machine systemctl is-active tcp-echo.service) == "${1:-active}" ]]
}

# property NAME: of the service.
property() {
    in_machine systemctl show --property "$1" --value tcp-echo.service
}

journal() {
    in_machine journalctl --unit tcp-echo.service --output cat --no-pager
}

# says TEXT [TIMES]: whether the journal has it, so often.
says() {
    (($(journal | grep -c -- "$1") >= ${2:-1}))
}

echoes() {
    local said
    said=$(echo "hello $1" | in_machine timeout 10 nc -N 127.0.0.1 "$1")
    [[ $said == "hello $1" ]] || { echo "port $1 answers '$said'"; return 1; }
}

# setting LINE: it is the one setting of the file; nothing at all for none.
setting() {
    in_machine sed -i '/^[a-z]/d' /etc/tcp-echo/tcp-echo.toml
    [[ -z $1 ]] || in_machine tee -a /etc/tcp-echo/tcp-echo.toml <<<"$1" >/dev/null
}

# Whoever wants to know what went wrong.
tell() {
    journal | tail -n 40
    return 1
}

installed() {
    local user
    into_machine "$tmp"/?.deb "$tmp/client" tests/deploy/completions.sh || return
    files >"$tmp/before"
    install 1 || return
    is active || tell || return
    echoes $port && in_machine tcp-echo check || tell || return
    user=$(in_machine ps -o uid= -p "$(property MainPID)")
    echo "runs as$user: $(property StatusText)"
    # One of those that systemd gives away.
    ((user >= 61184 && user <= 65519)) || return
    # One for each worker and address.
    [[ $(property NFileDescriptorStore) == $(in_machine pgrep -c -f '^tcp-echo\[wrk') ]]
}

units() {
    local threshold=20
    in_machine systemd-analyze verify /usr/lib/systemd/system/tcp-echo.service \
        /usr/lib/systemd/system/tcp-echo.socket >"$tmp/verified" 2>&1 || { cat "$tmp/verified"; return 1; }
    # What it does not know it ignores, and says so.
    ! grep . "$tmp/verified" || return
    in_machine systemd-analyze security --no-pager --offline=true --threshold=$threshold \
        /usr/lib/systemd/system/tcp-echo.service >"$tmp/score" || { cat "$tmp/score"; return 1; }
    tail -n 1 "$tmp/score"
    # And as it runs, which counts drop-ins too.
    in_machine systemd-analyze security --no-pager --threshold=$threshold tcp-echo.service | tail -n 1
}

manual_and_completions() {
    local page
    for page in tcp-echo tcp-echo-check tcp-echo-bench tcp-echo-doctor; do
        in_machine man $page | grep "^SEE ALSO" >/dev/null || { echo "no manual page $page"; return 1; }
    done
    in_machine bash /root/completions.sh
}

settings() {
    local pid
    pid=$(property MainPID)
    setting "port = 9000"
    in_machine systemctl reload tcp-echo.service || return
    wait_for 20 "the new port is served" says "reloaded version=$version" || tell || return
    echoes 9000 || tell || return
    # What is wrong is refused, and systemd is not told that anything has failed.
    setting "prot = 9000"
    in_machine systemctl reload tcp-echo.service || return
    says "unknown key 'prot'; did you mean 'port'?" || tell || return
    echoes 9000 || tell || return
    setting ""
    in_machine systemctl reload tcp-echo.service || return
    wait_for 20 "the former port is served" says "reloaded version=$version" 2 || tell || return
    echoes $port || tell || return
    [[ $(property MainPID) == "$pid" && $(property NRestarts) == 0 ]]
}

# Connections that wait while nobody is there: systemd has kept the sockets.
crash() {
    local pid
    pid=$(property MainPID)
    in_machine systemctl kill --signal KILL --kill-whom all tcp-echo.service
    echoes $port || tell || return
    wait_for 20 "it runs again" is active || tell || return
    [[ $(property MainPID) != "$pid" && $(property NRestarts) == 1 ]] || tell
}

# It does not start with what is wrong, is not tried again in vain, and says why.
wrong_settings() {
    local restarts
    restarts=$(property NRestarts)
    setting "prot = 9000"
    in_machine systemctl restart tcp-echo.service 2>/dev/null && return 1
    is failed || tell || return
    [[ $(property Result) == exit-code && $(property ExecMainStatus) == 2 ]] || tell || return
    [[ $(property NRestarts) == "$restarts" || $(property NRestarts) == 0 ]] || tell || return
    setting ""
    in_machine systemctl start tcp-echo.service || tell || return
    echoes $port
}

# load NAME OPTION...: a client that compares every byte, in the background; its figures come with TERM.
load() {
    local name=$1
    shift
    in_machine /root/client bench --quiet --json --duration 10m "$@" 127.0.0.1:$port >"$tmp/$name" 2>"$tmp/$name.err" &
    clients+=($!)
}

open_connections() {
    (($(in_machine ss -Htn state established "sport = :$port" | wc -l) >= $1))
}

# judge NAME: nothing was lost, in any of its ways.
judge() {
    local errors
    errors=$(sed -n 's/.*"errors":{\([^}]*\)}.*/\1/p' "$tmp/$1")
    echo "$1: $(sed -n 's/.*"opened":\([0-9]*\),"failed":\([0-9]*\).*"messages":\([0-9]*\).*/\1 connections, \2 failed, \3 messages/p' "$tmp/$1")"
    if [[ -z $errors || $errors == *:[1-9]* ]] || ! grep -q '"failed":0,' "$tmp/$1" || ! grep -q '"unsent":0,' "$tmp/$1"; then
        cat "$tmp/$1" "$tmp/$1.err"
        return 1
    fi
}

# Connections that last over the upgrade, and ones that come and go meanwhile.
upgrade() {
    local clients=() client number pid code=0
    pid=$(property MainPID)
    load lasting --connections 50 --connect-rate 500 --message-rate 20 --message-size 4KiB
    load coming --connections 20 --connect-rate 200 --channel-lifetime 0.2 --message-rate 50
    wait_for 20 "the clients are at work" open_connections 65 || code=1
    for number in 2 3; do
        install $number || code=1
        wait_for 20 "the workers are new" says "reloaded version=$(later $number)" || code=1
        # Meanwhile the load goes on, with the new workers.
        in_machine tcp-echo check || code=1
    done
    # The lasting ones are still with the first workers, and the others with the new ones.
    for client in "${clients[@]}"; do
        kill -0 "$client" || code=1
    done
    in_machine pkill -INT -f "^/root/client bench"
    wait "${clients[@]}"
    judge lasting && judge coming || code=1
    ((code == 0)) || { tell; return; }
    [[ $(in_machine tcp-echo --version) == "tcp-echo $(later 3)" ]] || return
    [[ $(property MainPID) == "$pid" ]] || tell
}

refused_upgrade() {
    setting "prot = 1"
    install 4 || return
    says "reload rejected, keeping current configuration" || tell || return
    echoes $port || tell || return
    # What has been changed by hand is still there.
    in_machine grep -q "^prot = 1" /etc/tcp-echo/tcp-echo.toml || return
    setting ""
    in_machine systemctl reload tcp-echo.service
    wait_for 20 "the new program serves" says "reloaded version=$(later 4)" || tell || return
    echoes $port
}

disabled() {
    in_machine systemctl disable --quiet --now tcp-echo.service || return
    in_machine dpkg --force-downgrade -i /root/1.deb >"$tmp/dpkg" 2>&1 || { cat "$tmp/dpkg"; return 1; }
    is inactive || return
    [[ $(in_machine systemctl is-enabled tcp-echo.service) == disabled ]]
}

socket() {
    in_machine systemctl enable --quiet --now tcp-echo.socket || return
    is inactive || return
    echoes $port || tell || return
    is active || tell || return
    in_machine tcp-echo check || return
    in_machine systemctl disable --quiet --now tcp-echo.socket || return
    in_machine systemctl stop tcp-echo.service
    ! echoes $port >/dev/null
}

removed() {
    in_machine systemctl enable --quiet --now tcp-echo.service || tell || return
    echoes $port || return
    setting "port = 9000"
    in_machine apt-get remove --yes tcp-echo >"$tmp/apt" 2>&1 || { cat "$tmp/apt"; return 1; }
    is inactive || return
    in_machine pgrep -f '^tcp-echo\[' && return 1
    in_machine test -e /etc/tcp-echo/tcp-echo.toml || return
    # Back again, with what was set.
    install 2 || return
    if ! is active || ! echoes 9000; then
        tell
    fi
}

purged() {
    in_machine apt-get purge --yes tcp-echo >"$tmp/apt" 2>&1 || { cat "$tmp/apt"; return 1; }
    in_machine pgrep -f '^tcp-echo\[' && return 1
    files | diff "$tmp/before" - || return
    in_machine systemctl list-units --all --no-legend "tcp-echo*" | grep . && return 1
    echo "$(wc -l <"$tmp/before") files, as before"
}
