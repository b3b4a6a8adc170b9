# Sourced by the scripts beside it. POSIX sh, since not every distribution begins with a bash.
# The names of the packages are set by those scripts.
# shellcheck shell=sh disable=SC2154

# The oldest Rust that builds tcp-echo is 1.85: `rust-version` in Cargo.toml.
oldest=85

# The commands of rustup are found although no profile was read.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin

rust_suffices() {
    minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$oldest" ] && cargo --version >/dev/null 2>&1
}

# Whether there is a Rust that suffices and is no package: rustup's, which is left alone.
rust_of_ones_own() {
    rust_suffices && [ "$(command -v rustc)" != /usr/bin/rustc ]
}

# provide ID [SET]: installs a set of packages on the distribution that calls itself ID.
#
# A script says before what the packages are called there: $build, $rust, $lints, $nc, $tools, $checks;
# and how they are handled: `installed PACKAGE...`, `fetch PACKAGE...`, and `prepare_rust`, if Rust needs it.
provide() {
    script=requirements/$1.sh
    set_wanted=${2:-all}
    ID='' ID_LIKE=''
    if [ -r /etc/os-release ]; then
        # shellcheck source=/dev/null
        . /etc/os-release
    fi
    case " $ID $ID_LIKE " in
        *" $1 "*) ;;
        *)
            echo "$script: this system is '${ID:-unknown}', not '$1': see requirements/install.sh" >&2
            exit 1
            ;;
    esac

    case $set_wanted in
        nc) packages=$nc ;;
        checks) packages=$checks ;;
        build) packages="$build $rust" ;;
        all) packages="$build $rust $lints $nc $tools" ;;
        *)
            echo "$script: unknown set '$set_wanted': all, build, checks or nc" >&2
            exit 2
            ;;
    esac
    if rust_of_ones_own; then
        case $set_wanted in
            build) packages=$build ;;
            all) packages="$build $nc $tools" ;;
        esac
    fi

    # One word is one package.
    # shellcheck disable=SC2086
    set -- $packages
    # What is there is not fetched, so this passes without a network when nothing is missing.
    if ! installed "$@"; then
        if [ "$(id -u)" -ne 0 ]; then
            echo "$script: needs root to install: $*" >&2
            exit 1
        fi
        fetch "$@"
    fi
    [ "$set_wanted" != nc ] || return 0

    rust_suffices || prepare_rust
    if ! rust_suffices; then
        echo "$script: there is no Rust 1.$oldest or newer among the packages: get one with rustup" >&2
        exit 1
    fi
    [ "$set_wanted" != checks ] || cargo deny --version >/dev/null 2>&1 || install_cargo_deny
}

# Needs Rust 1.88. The last one that Rust 1.85 builds, 0.18.3, rejects `unsound` in deny.toml.
install_cargo_deny() {
    unset CARGO_TARGET_DIR
    cargo install --locked cargo-deny
}

# Packages of Rust need nothing more.
prepare_rust() {
    :
}
