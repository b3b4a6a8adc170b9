# The test image: the debug build under valgrind, and all tests with the distribution's own Rust.
# shellcheck shell=bash disable=SC2154

part_memory() {
    step "memory: FOO comes back under valgrind, and TERM ends it" under_valgrind
}

part_tests() {
    step "tests: cargo test in the container" cargo_tests
}

under_valgrind() {
    local said
    [[ $memcheck == yes ]] || { skip "--no-memcheck"; return; }
    builds test || return
    # Not read-only: valgrind keeps its files in /tmp.
    docker run --detach --name "$id-memory" --label "$images=$id" "$images/test" >/dev/null &&
        wait_for 60 "it serves under valgrind" says memory "serving on" || return
    said=$(docker exec "$id-memory" sh -c 'echo FOO | nc -N localhost 8090')
    echo "FOO, and back comes $said"
    docker kill --signal TERM "$id-memory" >/dev/null
    wait_for 60 "it ends" is memory Status exited || return
    docker logs "$id-memory" >"$tmp/memory" 2>&1
    echo "exit code $(state memory ExitCode)"
    grep -E 'Memcheck,|ERROR SUMMARY|definitely lost|possibly lost' "$tmp/memory"
    [[ $said == FOO ]] && is memory ExitCode 0 && grep -q "INFO .* stopped" "$tmp/memory" || return
    # The controller and two workers.
    (($(grep -c 'ERROR SUMMARY: 0 errors' "$tmp/memory") == 3)) || return
    remove memory
}

# The tests signal each other and look at whole process groups, as on a machine: an init to reap.
cargo_tests() {
    builds test || return
    docker run --rm --init --network none --entrypoint rustc "$images/test" --version || return
    docker run --rm --init --name "$id-tests" --label "$images=$id" --entrypoint cargo \
        --env TCP_ECHO_SKIPS=/dev/stderr "$images/test" test --locked >"$tmp/tests" 2>&1
    local code=$? line
    # The image has no browser and the like on purpose.
    while read -r _ line; do
        count_skip "$SKIPPED" "in the container: $line"
    done < <(grep -E "^($SKIPPED|$LACKING) " "$tmp/tests")
    grep -E '^test result: .* [1-9][0-9]* passed|^test .*FAILED|panicked' "$tmp/tests"
    ((code == 0)) || tail -n 60 "$tmp/tests"
    return $code
}
