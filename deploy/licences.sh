#!/bin/sh
# Collects the licences of the program and of every crate that is linked into it.
#
# Usage: deploy/licences.sh FOLDER
# Runs at the root of the sources; the crates must have been fetched.
set -eu

folder=$1
cargo_home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$folder/crates"
cp LICENSE-MIT LICENSE-APACHE "$folder/"

# Where a crate's files are: unpacked from the registry, or vendored (with or without the version).
source_of() {
    for source in "$cargo_home"/registry/src/*/"$1-$2" "$cargo_home/vendor/$1-$2" "$cargo_home/vendor/$1"; do
        if [ -d "$source" ]; then
            echo "$source"
            return
        fi
    done
    echo "deploy/licences.sh: no sources of $1 $2" >&2
    return 1
}

# By way of a file: a failure in the middle of a pipeline would go unnoticed.
tree=$(mktemp)
trap 'rm -f "$tree"' EXIT
cargo tree --locked --offline --edges normal,no-proc-macro --prefix none --format '{p}' >"$tree"
sed -n 's/^\([^ ]*\) v\([^ ]*\).*/\1 \2/p' "$tree" | sort -u |
    while read -r name version; do
        [ "$name" != tcp-echo ] || continue
        source=$(source_of "$name" "$version")
        for file in "$source"/LICEN[CS]E* "$source"/COPYING* "$source"/UNLICENSE*; do
            [ -f "$file" ] || continue
            mkdir -p "$folder/crates/$name"
            cp "$file" "$folder/crates/$name/"
        done
        [ -d "$folder/crates/$name" ] || echo "deploy/licences.sh: $name $version has no licence file" >&2
    done
