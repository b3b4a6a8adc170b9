# The packages that are tried: this version, and later ones.
# shellcheck shell=bash disable=SC2154

packager() {
    command -v cargo-deb >/dev/null && return
    [[ $quick == no ]] || { skip "cargo-deb was not fetched"; return; }
    echo "installing cargo-deb into $cache/tools"
    cargo install --quiet --locked --root "$cache/tools" cargo-deb
}

# Sets `version`, and makes `$tmp/1.deb` to `$tmp/4.deb`.
package_is_built() {
    ((EUID == 0)) || { skip "needs root"; return; }
    command -v dpkg-deb >/dev/null || { lack dpkg; return; }
    root_is_there || return
    if [[ -n $deb ]]; then
        cp "$deb" "$tmp/1.deb"
    else
        packager && deploy/package.sh --quiet --output "$tmp/1.deb" || return
    fi
    dpkg-deb --contents "$tmp/1.deb" | awk '{ print $3, $6 }' | grep -v '/$'
    version=$(dpkg-deb --field "$tmp/1.deb" Version)
    version=${version%-*}
    dpkg-deb --fsys-tarfile "$tmp/1.deb" | tar --extract --directory "$tmp" ./usr/bin/tcp-echo || return
    mv "$tmp/usr/bin/tcp-echo" "$tmp/client"
    repack 2 && repack 3 && repack 4 || return
    echo "$(stat -c %s "$tmp/1.deb") bytes, the program $(stat -c %s "$tmp/client")"
}

# later N: the version, with its last digit N - 1 higher.
later() {
    echo "${version%?}$(((${version: -1} + $1 - 1) % 10))"
}

# repack N: a package, and a program, of a later version that are this one otherwise.
repack() {
    local folder=$tmp/repacked from=${version//./\\.} to
    to=$(later "$1")
    dpkg-deb --raw-extract "$tmp/1.deb" "$folder" || return
    LC_ALL=C sed -i "s/\(^\|[^0-9.]\)$from\($\|[^0-9.]\)/\1$to\2/g" "$folder/usr/bin/tcp-echo"
    if [[ $("$folder/usr/bin/tcp-echo" --version) != "tcp-echo $to" ]]; then
        echo "the program does not call itself $to"
        return 1
    fi
    sed -i "s/^Version: .*/Version: $to-1/" "$folder/DEBIAN/control"
    (cd "$folder" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
    dpkg-deb --root-owner-group --build "$folder" "$tmp/$1.deb" >/dev/null || return
    rm -rf "$folder"
}

lintian_is_content() {
    command -v lintian >/dev/null || { lack lintian; return; }
    # A package that is not made for Debian has no bug number and no changelog of Debian's.
    lintian --allow-root --fail-on error --suppress-tags no-changelog,bogus-mail-host "$tmp/1.deb"
}

# In a container nobody starts services; the package must not mind.
without_systemd() {
    mkdir -p "$tmp/plain"
    # The folder with the packages is not to be found in the new root, so they are handed over open.
    unshare --mount --pid --fork --kill-child=KILL --net \
        tests/package/boot.sh "$root" "$tmp/plain" /bin/sh -e -c '
            cat <&3 >/root/1.deb
            cat <&4 >/root/2.deb
            dpkg -i /root/1.deb
            tcp-echo --version
            tcp-echo --config /etc/tcp-echo/tcp-echo.toml --check-config
            dpkg -i /root/2.deb
            tcp-echo --version
            dpkg -P tcp-echo
            ! find / -xdev -name "*tcp-echo*" | grep .' 3<"$tmp/1.deb" 4<"$tmp/2.deb" >"$tmp/said" 2>&1 ||
        { cat "$tmp/said"; return 1; }
    grep "^tcp-echo " "$tmp/said"
}
