# requirements/*.sh on systems that are not at hand: told by a file that this is one of them, and with
# package managers that only write down what they are asked for.
# shellcheck shell=bash disable=SC2154

part_requirements() {
    step "requirements: each distribution's script is picked and asks for its packages" distributions
}

# on ID LIKE SET: what would be installed there.
on() {
    local folder=$tmp/on-$1 manager
    mkdir -p "$folder/bin"
    printf 'ID=%s\nID_LIKE="%s"\n' "$1" "$2" >"$folder/os-release"
    # Nothing is installed; whatever is fetched is there afterwards.
    for manager in apt-get apk dnf rustup; do
        printf '#!/bin/sh\necho "%s $*" >>/tmp/asked\n' $manager >"$folder/bin/$manager"
    done
    printf '#!/bin/sh\nexit 1\n' | tee "$folder/bin/dpkg" >"$folder/bin/rpm"
    printf '#!/bin/sh\ngrep -qE "cargo|rustup default" /tmp/asked 2>/dev/null && echo "rustc 1.85.1"\n' >"$folder/bin/rustc"
    printf '#!/bin/sh\n:\n' >"$folder/bin/cargo"
    # shellcheck disable=SC2016
    sed -i '2i [ "$1" = add ] || exit 1' "$folder/bin/apk"
    chmod +x "$folder"/bin/*
    docker run --rm --label "$images=$id" --network none --volume "$folder/os-release:/etc/os-release:ro" \
        --volume "$folder/bin:/stand-ins:ro" --volume "$PWD/requirements:/requirements:ro" \
        --env PATH=/stand-ins:/usr/bin:/bin "$base" \
        sh -c "/requirements/install.sh $3; code=\$?; cat /tmp/asked 2>/dev/null; exit \$code" 2>&1
}

distributions() {
    local name like want said
    while read -r name like want; do
        said=$(on "$name" "${like//,/ }" all) || { echo "$name: $said"; return 1; }
        echo "$name: $(tail -n 1 <<<"$said" | cut -c 1-100)..."
        # shellcheck disable=SC2053
        [[ $said == *$want* && $said == *valgrind* ]] || { echo "$said"; return 1; }
        said=$(on "$name" "${like//,/ }" nc) || { echo "$name, only nc: $said"; return 1; }
        [[ $said != *gcc* ]] || { echo "nc brings a compiler: $said"; return 1; }
        said=$(on "$name" "${like//,/ }" "all && /requirements/install.sh checks") || { echo "$name, checks: $said"; return 1; }
        [[ $(sed '$d' <<<"$said") != *yaml* && $said == *yaml* ]] || { echo "checks is not a set of its own: $said"; return 1; }
    done <<'EOF2'
debian - apt-get install
ubuntu debian rustup default stable
alpine - apk add
fedora - dnf install
rocky rhel,centos,fedora --enablerepo=crb
linuxmint ubuntu,debian rustup default stable
EOF2
    said=$(on plan9 - all) && return 1
    echo "elsewhere: $said"
    [[ $said == *"no script for 'plan9'"* ]]
}
