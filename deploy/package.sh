#!/bin/sh
# Builds the package for Debian and its relatives, with cargo-deb (cargo install cargo-deb).
#
# Usage: deploy/package.sh [OPTIONS OF cargo deb]
set -eu

cd "$(dirname "$0")/.."
command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
if ! cargo deb --version >/dev/null 2>&1; then
    echo "deploy/package.sh: cargo-deb is not installed: cargo install --locked cargo-deb" >&2
    exit 1
fi

# Cargo.toml looks for what is generated here, where cargo puts what it builds.
assets=${CARGO_TARGET_DIR:-target}/release/assets
rm -rf "$assets"
cargo run --locked --quiet --example generate "$assets" >&2
gzip --no-name -9 "$assets"/*.1
sh deploy/licences.sh "$assets/licences"
for file in "$assets"/licences/crates/*/*; do
    [ -f "$file" ] || { echo "deploy/package.sh: no licences of crates" >&2 && exit 1; }
    echo "=== ${file#"$assets/licences/crates/"}"
    echo
    cat "$file"
    echo
done >"$assets/licences.txt"
gzip --no-name -9 <"$assets/licences.txt" >"$assets/licences.gz"
cargo deb --locked --strip "$@"
