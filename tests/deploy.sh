#!/usr/bin/env bash
# Looks at all that is shipped beside the program: manual pages, completions, the configuration file,
# the manifests for Kubernetes, the units for systemd, the alerts. Starts no service; tests/package.sh does.
set -u -o pipefail

usage() {
    cat <<'EOF'
Usage: tests/deploy.sh [OPTIONS]

Options:
  --quick  Fetch nothing, and do not build the program anew
  --help   Print this text

TCP_ECHO_BIN=/path/to/tcp-echo tries that program.
EOF
}

quick=no
for option in "$@"; do
    case $option in
        --quick) quick=yes ;;
        --help) usage && exit 0 ;;
        *) echo "tests/deploy.sh: unknown option '$option' (see --help)" >&2 && exit 2 ;;
    esac
done

cd "$(dirname "$0")/.." || exit 1
# shellcheck source=tests/steps.sh
. tests/steps.sh
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tcp-echo-test
# The oldest version of Kubernetes that is still maintained somewhere; the newest is the tool's own.
oldest_kubernetes=1.30.0
# The worst score of `systemd-analyze security` that will do, times ten.
worst_score=20

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- What is generated ---------------------------------------------------------------------------

generated() {
    cargo run --locked --quiet --example generate "$tmp/assets" && ls "$tmp/assets"
}

# As it comes the file says nothing; with the marks taken away it says what holds anyway.
configuration_file() {
    local file=$tmp/assets/tcp-echo.toml
    plain --config "$file" --check-config || return
    diff <(plain --print-config) <(plain --config "$file" --print-config) || return
    sed -n 's|^#\([a-z-]* = \)|\1|p' "$file" | grep -vE '"[][A-Z:]+"$' >"$tmp/all.toml"
    plain --config "$tmp/all.toml" --print-config | sed 's/ *#.*//' >"$tmp/all" || return
    diff <(plain --print-config | sed 's/ *#.*//') "$tmp/all" || return
    echo "$(wc -l <"$tmp/all.toml") settings with their defaults"
    # An empty file would pass, too.
    (($(wc -l <"$tmp/all.toml") > 20)) || return
    # The example of listeners, without its marks.
    sed -n 's|^#   ||p' "$file" >"$tmp/listeners.toml"
    plain --config "$tmp/listeners.toml" --print-config >"$tmp/listeners" || return
    grep -F 'listen = ["*:8090", "lines://*:8002?' "$tmp/listeners"
}

manual_pages() {
    local tool page text option section options
    for tool in man groff col; do
        command -v $tool >/dev/null || { lack $tool; return; }
    done
    for page in "$tmp"/assets/*.1; do
        man --warnings --encoding=UTF-8 --local-file "$page" 2>"$tmp/warnings" | col -b >"$tmp/page"
        if [[ -s $tmp/warnings ]]; then
            cat "$page" "$tmp/warnings"
            return 1
        fi
        echo "$(basename "$page"): $(wc -l <"$tmp/page") lines"
        for section in NAME SYNOPSIS DESCRIPTION OPTIONS "EXIT STATUS" EXAMPLES "SEE ALSO"; do
            grep -qx "$section" "$tmp/page" || { echo "no section $section"; return 1; }
        done
        # Each option of the help text is on the page, too.
        text=$(basename "$page" .1)
        text=${text#tcp-echo}
        mapfile -t options < <(plain ${text:+"${text#-}"} --help | grep -oE '^ +(-[a-zA-Z], )?--[a-z-]+' | grep -oE -e '--[a-z-]+')
        ((${#options[@]} > 0)) || { echo "no options in the help text"; return 1; }
        for option in "${options[@]}"; do
            grep -qE -e "^ +(-[a-zA-Z], )?$option" "$tmp/page" || { echo "no option $option"; return 1; }
        done
    done
    man --encoding=UTF-8 --local-file "$tmp/assets/tcp-echo.1" | col -b >"$tmp/page"
    for section in SIGNALS ENVIRONMENT FILES; do
        grep -qx "$section" "$tmp/page" || { echo "no section $section"; return 1; }
    done
}

completions() {
    local shell
    tests/deploy/completions.sh "$tmp/assets" || return
    for shell in fish zsh; do
        command -v $shell >/dev/null || { lack $shell; return; }
    done
}

# --- Kubernetes ----------------------------------------------------------------------------------

render() {
    if command -v kustomize >/dev/null; then
        kustomize build "$1"
    else
        kubectl kustomize "$1"
    fi
}

rendered() {
    if ! command -v kustomize >/dev/null && ! command -v kubectl >/dev/null; then
        # Debian 12 has only a kubectl that is too old for the overlay.
        skip "neither kustomize nor kubectl is installed"
        return
    fi
    render deploy/kubernetes/base >"$tmp/base.yaml" &&
        render deploy/kubernetes/overlays/monitoring >"$tmp/overlay.yaml" || return
    echo "base: $(grep -c '^kind:' "$tmp/base.yaml") objects, with the overlay $(grep -c '^kind:' "$tmp/overlay.yaml")"
}

# Where nothing can render, the files by themselves: each is complete.
manifests() {
    if [[ -s $tmp/overlay.yaml ]]; then
        printf '%s\n' "$tmp/base.yaml" "$tmp/overlay.yaml"
    else
        find deploy/kubernetes -name '*.yaml' -not -name kustomization.yaml
    fi
}

# Sets `validate`: a tool that brings the schemas along.
validator() {
    validate=$(command -v kubernetes-validate) && return
    validate=$cache/kubernetes-validate/bin/kubernetes-validate
    [[ -x $validate ]] && return
    [[ $quick == no ]] || return
    python3 -m venv "$cache/kubernetes-validate" && "$cache/kubernetes-validate/bin/pip" install --quiet kubernetes-validate
}

schemas() {
    validator >"$tmp/validator" 2>&1 || { skip "kubernetes-validate (of pip) was not fetched"; return; }
    local version files
    mapfile -t files < <(manifests)
    for version in "$oldest_kubernetes" ""; do
        # It knows nothing of ServiceMonitor, which is no kind of Kubernetes itself, and says so.
        "$validate" --strict ${version:+--kubernetes-version "$version"} "${files[@]}" >"$tmp/validated" 2>&1 || {
            cat "$tmp/validated"
            return 1
        }
        if grep "^WARN" "$tmp/validated" | grep -v "schema for kind ServiceMonitor"; then
            return 1
        fi
        echo "Kubernetes ${version:-newest}: $(grep -c " passed for " "$tmp/validated") objects are valid"
        grep -q " passed for " "$tmp/validated" || return
    done
}

manifests_fit() {
    [[ -s $tmp/overlay.yaml ]] || { skip "nothing is rendered"; return; }
    local python
    # PATH may begin with another Python than the distribution's.
    for python in python3 /usr/bin/python3 "$cache/kubernetes-validate/bin/python"; do
        if "$python" -c 'import yaml' 2>/dev/null; then
            "$python" tests/deploy/manifests.py "$tmp/base.yaml" "$tmp/overlay.yaml" "$program"
            return
        fi
    done
    lack PyYAML
}

# --- systemd -------------------------------------------------------------------------------------

units() {
    local version
    command -v systemd-analyze >/dev/null || { lack systemd-analyze; return; }
    version=$(systemd-analyze --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    # Those before do not know what stands there.
    ((version >= 254)) || { skip "systemd $version is too old, tests/package.sh does it with a newer one"; return; }
    mkdir "$tmp/units"
    cp deploy/systemd/tcp-echo.socket "$tmp/units"
    # The program need not be installed here.
    sed "s,^ExecStart=/usr/bin/tcp-echo,ExecStart=$program," deploy/systemd/tcp-echo.service >"$tmp/units/tcp-echo.service"
    systemd-analyze verify --man=no "$tmp"/units/tcp-echo.* >"$tmp/verified" 2>&1 ||
        { cat "$tmp/verified"; return 1; }
    # What it does not know it ignores, and says so.
    ! grep tcp-echo "$tmp/verified" || return
    systemd-analyze security --no-pager --offline=true --threshold=$worst_score "$tmp/units/tcp-echo.service" | tail -n 1
}

alerts() {
    command -v promtool >/dev/null || { lack "promtool (of Prometheus)"; return; }
    promtool test rules tests/deploy/alerts.yml
}

# --- Others --------------------------------------------------------------------------------------

cargo_install() {
    [[ $quick == no ]] || { skip "it builds the program anew"; return; }
    cargo install --locked --quiet --path . --root "$tmp/install" --no-track || return
    ls "$tmp/install/bin"
    [[ $(ls "$tmp/install/bin") == tcp-echo && $("$tmp/install/bin/tcp-echo" --version) == "tcp-echo "* ]]
}

step "generated: cargo run --example generate" generated
step "the daemon is built" program_is_built
step "configuration file: says what holds anyway" configuration_file
step "manual pages: no warning, nothing missing" manual_pages
step "completions: in the shells that are here" completions
step "kubernetes: rendered" rendered
step "kubernetes: valid by the schemas" schemas
step "kubernetes: the manifests fit each other" manifests_fit
step "systemd: verify, and a score of 2.0 at most" units
step "alerts: promtool test rules" alerts
step "cargo install --path ." cargo_install
sum_up
