#!/usr/bin/env bash
# Completes in the shells that are installed, with completions that are already where they belong, or
# are in the folder that is named.
#
# Usage: tests/deploy/completions.sh [FOLDER]
# shellcheck disable=SC2317
set -u -o pipefail

folder=${1:-}
failed=0
complaints=$(mktemp) || exit 1
trap 'rm -f "$complaints"' EXIT

# complete_SHELL LINE: what the shell makes of the line when TAB is pressed behind it.
complete_bash() {
    bash --norc -c '
        file=$1/tcp-echo.bash
        [[ -n $1 ]] || file=/usr/share/bash-completion/completions/tcp-echo
        . "$file" || exit
        read -ra COMP_WORDS <<<"$2"
        [[ $2 != *" " ]] || COMP_WORDS+=("")
        COMP_LINE=$2 COMP_POINT=${#2} COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        function=$(complete -p tcp-echo | sed "s/.* -F \([^ ]*\) .*/\1/")
        "$function" tcp-echo "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf "%s\n" "${COMPREPLY[@]}"' bash "$folder" "$1"
}

complete_fish() {
    # shellcheck disable=SC2016
    fish ${folder:+--no-config} -c '
        test -z "$argv[1]"; or source $argv[1]/tcp-echo.fish
        complete -C $argv[2]' -- "$folder" "$1" | cut -f 1
}

# A shell in a terminal of its own: types the line, TAB and Enter, and sees what would have been run.
complete_zsh() {
    # shellcheck disable=SC2016
    zsh -f -c '
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PS1= PS2= RPS1=; unsetopt zle_bracketed_paste 2>/dev/null
            [[ -z \"$1\" ]] || fpath=(\"$1\" \$fpath)
            autoload -Uz compinit; compinit -u -D
            tcp-echo() { print -l \"<run>\" \"\$@\" \"</run>\" }; print READY"
        zpty -r -m shell all "*READY*READY*" || exit
        zpty -n -w shell "$2"$'\''\t\n'\''
        zpty -r -m shell all "*<run>*</run>*" || exit
        print -r -- "$all" | tr -d "\r" | sed -n "/<run>/,/<\/run>/p" | sed "/run>/d"
        zpty -d shell' zsh "$folder" "$1"
}

# expect SHELL LINE WORD...: that each word is among what the line is completed to, without complaints.
expect() {
    local shell=$1 line=$2 said word
    shift 2
    said=$("complete_$shell" "$line" 2>"$complaints")
    if [[ -s $complaints ]]; then
        echo "$shell: '$line' is completed with complaints: $(cat "$complaints")"
        failed=1
    fi
    for word in "$@"; do
        if ! grep -qx -e "$word" <<<"$said"; then
            echo "$shell: '$line' is not completed to '$word', but to: $said"
            failed=1
        fi
    done
}

for shell in bash fish zsh; do
    if ! command -v $shell >/dev/null; then
        echo "$shell: not installed"
        continue
    fi
    before=$failed failed=0
    expect $shell "tcp-echo --por" "--port=\?"
    expect $shell "tcp-echo --log-level W" "WARN"
    expect $shell "tcp-echo --balance lea" "least-connections"
    expect $shell "tcp-echo --daemon --pid" "--pid-file=\?"
    expect $shell "tcp-echo ch" "check"
    expect $shell "tcp-echo bench --message-r" "--message-rate=\?"
    if [[ $shell != zsh ]]; then
        expect $shell "tcp-echo --log-level " DEBUG INFO WARN ERROR FATAL
        expect $shell "tcp-echo check --" "--quick" "--timeout"
        if "complete_$shell" "tcp-echo --" | grep -q -e --fault; then
            echo "$shell: offers what is for tests only"
            failed=1
        fi
    fi
    ((failed)) || echo "$shell: completes"
    ((before == 0)) || failed=1
done
exit $failed
