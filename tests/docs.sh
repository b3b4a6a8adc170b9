#!/usr/bin/env bash
# Checks the README and the book: size, links, completeness, and whether mdbook can build it.
set -u -o pipefail

usage() {
    cat <<'END'
Usage: tests/docs.sh [OPTIONS]

Options:
  --help  Print this text

TCP_ECHO_BIN=/path/to/tcp-echo compares the book with that program.
END
}

for option in "$@"; do
    case $option in
        --help) usage && exit 0 ;;
        *) echo "tests/docs.sh: unknown option '$option' (see --help)" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/steps.sh
. tests/steps.sh
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin

tmp=$(mktemp -d) || exit 1

# The daemon removes its pid file when it ends.
cleanup() {
    if [[ -s $tmp/pid ]]; then
        kill -KILL "$(<"$tmp/pid")"
    fi
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Files that people read on their own, and the chapters of the book.
files=(README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md RELEASING.md SECURITY.md benches/README.md docs/*.md)

# --- The README ----------------------------------------------------------------------------------

readme() {
    local size first
    size=$(stat -c %s README.md)
    first=$(grep -nE '^(\$ )?tcp-echo ' README.md | head -n 1 | cut -d : -f 1)
    echo "README.md: $size bytes, first command in line ${first:-none}"
    ((size <= 10240)) || { echo "more than 10240 bytes"; return 1; }
    ((${first:-999} < 40)) || { echo "no command before line 40"; return 1; }
}

# --- Links ---------------------------------------------------------------------------------------

# prose FILE: its lines, without blocks of code and code within lines.
prose() {
    awk '/^ *```/ { code = !code; next } !code' "$1" | sed "s/\`[^\`]*\`//g"
}

# anchors FILE: the fragments that its headings have on GitHub and in mdbook.
anchors() {
    awk '/^ *```/ { code = !code; next } !code && /^#+ /' "$1" |
        sed -E 's/^#+ +//; s/\[([^]]*)\]\([^)]*\)/\1/g' | tr '[:upper:]' '[:lower:]' |
        sed -E 's/[^a-z0-9_ -]//g; s/ /-/g'
}

links() {
    local file link path fragment target count=0 wrong=0
    for file in "${files[@]}"; do
        while read -r link; do
            [[ $link != *://* && $link != mailto:* ]] || continue
            ((count += 1))
            path=${link%%#*} fragment=
            [[ $link != *#* ]] || fragment=${link#*#}
            target=$file
            [[ -z $path ]] || target=$(dirname "$file")/$path
            if [[ ! -e $target ]]; then
                echo "$file: no such file: $link"
                wrong=1
            elif [[ -n $fragment ]] && ! anchors "$target" | grep -qx -e "$fragment"; then
                echo "$file: no such heading: $link"
                wrong=1
            fi
        done < <(prose "$file" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//')
    done
    echo "$count links in ${#files[@]} files"
    ((wrong == 0 && count > 50))
}

chapters() {
    local file wrong=0
    for file in docs/*.md; do
        file=${file#docs/}
        if [[ $file != SUMMARY.md ]] && ! grep -qF "]($file)" docs/SUMMARY.md; then
            echo "docs/SUMMARY.md: no link to $file"
            wrong=1
        fi
    done
    return $wrong
}

# --- The book and the program --------------------------------------------------------------------

# option_names: the long options of the help text on standard input.
option_names() {
    grep -oE '^ +(-[a-zA-Z], )?--[a-z-]+' | grep -oE -e '--[a-z-]+' | sort -u
}

# rows CHAPTER: the options that have a row in one of its tables.
rows() {
    sed -nE 's/^\| `(--[a-z-]+).*/\1/p' "$1" | sort -u
}

# Every option of the help texts has a row in its chapter, and every row is an option.
options() {
    local command
    diff <(plain --help | option_names) <(rows docs/options.md) || return
    # They have --help, too, which only the daemon's table lists.
    for command in check bench; do
        plain $command --help
    done | option_names | grep -vx -e --help | diff - <(rows docs/check-and-bench.md) || return
    echo "$(rows docs/options.md | wc -l) and $(rows docs/check-and-bench.md | wc -l) options"
}

# keys FILE: every key of its JSON objects, once.
keys() {
    grep -oE '"[A-Za-z0-9_]+":' "$1" | tr -d '":' | sort -u
}

# Every metric and every key of a running daemon is in the book.
statistics() {
    local name wrong=0
    command -v curl >/dev/null || { lack curl; return; }
    plain --daemon --pid-file "$tmp/pid" --workers 1 --listen 127.0.0.1:0 --admin "unix:$tmp/admin" \
        2>"$tmp/log" >/dev/null || { cat "$tmp/log"; return 1; }
    wait_for 10 "the admin process answers" test -S "$tmp/admin" || return
    curl --silent --fail --unix-socket "$tmp/admin" http://localhost/metrics >"$tmp/metrics" &&
        curl --silent --fail --unix-socket "$tmp/admin" http://localhost/stats >"$tmp/stats" || return
    kill "$(<"$tmp/pid")"
    wait_for 10 "the daemon ends" test ! -e "$tmp/pid" || return
    sed -n 's/^# TYPE \([^ ]*\) .*/\1/p' "$tmp/metrics" >"$tmp/names"
    echo "$(wc -l <"$tmp/names") metrics, $(keys "$tmp/stats" | wc -l) keys"
    while read -r name; do
        grep -qE "^\| \`${name}[{\`]" docs/monitoring.md || { echo "docs/monitoring.md: no $name"; wrong=1; }
    done <"$tmp/names"
    while read -r name; do
        # An object is described by its keys: `workers.wanted`.
        grep -qE "\`([a-z]+\.)?${name}[\`.]" docs/monitoring.md docs/operations.md ||
            { echo "docs/monitoring.md: no key $name"; wrong=1; }
    done < <(keys "$tmp/stats")
    (($(wc -l <"$tmp/names") > 30)) || { echo "too few metrics"; return 1; }
    return $wrong
}

# Every log line that is shown as an example has a message and keys that are in the source.
log_lines() {
    local text wrong=0
    grep -hoE '^([0-9TZ:.-]+ )?(DEBUG|INFO |WARN |ERROR|FATAL) [a-z]+(-[0-9]+)?\[[0-9]+\]: .*' README.md docs/*.md |
        sed -E 's/^[^]]*\]: //' >"$tmp/examples"
    # Messages end where keys begin, or where the source has a value.
    sed -E 's/ [a-z_]+=.*//; s/(:|serving on|received|cannot listen on) .*/\1/' "$tmp/examples" | sort -u >"$tmp/texts"
    grep -oE ' [a-z_]+=' "$tmp/examples" | tr -d ' =' | sort -u >"$tmp/keys"
    echo "$(wc -l <"$tmp/texts") messages, $(wc -l <"$tmp/keys") keys"
    while read -r text; do
        grep -rqF -e "$text" src || { echo "not in src: $text"; wrong=1; }
    done < <(cat "$tmp/texts" "$tmp/keys")
    [[ -s $tmp/texts && $wrong == 0 ]]
}

# --- The website ---------------------------------------------------------------------------------

book() {
    # It takes minutes to build, and the chapters are readable without it.
    command -v mdbook >/dev/null || { skip "mdbook is not installed"; return; }
    mdbook build --dest-dir "$tmp/book" docs && ls "$tmp/book/getting-started.html"
}

# --- All of it -----------------------------------------------------------------------------------

step "README: size, and how early the first command is" readme
step "links: files and headings" links
step "chapters: in the table of contents" chapters
step "program" program_is_built
step "options: help texts and the book" options
step "statistics: metrics, keys and the book" statistics
step "log: examples and the source" log_lines
step "book: mdbook build" book
sum_up
