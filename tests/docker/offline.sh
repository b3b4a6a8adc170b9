# A build with the network cut off: the toolchain is in the base image, the crates are in `vendor/`.
# shellcheck shell=bash disable=SC2154

part_offline() {
    step "offline: prod builds without a network, from vendor/" offline
}

offline() {
    local context=$tmp/offline version
    builds toolchain && builds dev || return
    copy_of_sources "$context" || return
    # Of what `dev` carries; cargo on this machine may be older, or missing.
    docker create --name "$id-vendor" --label "$images=$id" --network none --workdir /sources "$images/dev" \
        cargo vendor --locked --offline --quiet vendor >/dev/null || return
    docker cp --quiet "$context/." "$id-vendor:/sources" || return
    docker start --attach "$id-vendor" >"$tmp/vendor" 2>&1 || { cat "$tmp/vendor"; return 1; }
    docker cp --quiet "$id-vendor:/sources/vendor" "$context/vendor" && remove vendor || return
    echo "vendor/: $(find "$context/vendor" -mindepth 1 -maxdepth 1 | wc -l) crates"

    base=$images/toolchain build prod "$images/offline" --network none --no-cache "$context" || return
    grep -E 'Compiling tcp-echo|Finished' "$tmp/build.log" | tail -n 2
    version=$(docker run --rm --network none --label "$images=$id" "$images/offline" --version) || return
    echo "built without a network: $version, $(size_of "$images/offline") MB"
    docker rmi --no-prune "$images/offline" >/dev/null
}
