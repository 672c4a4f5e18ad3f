#!/bin/sh
# Makes a Debian package from a binary that is built already:
#   packaging/deb.sh [BINARY] [FOLDER]
# By default from target/dist/sheaf, into the current folder. Needs dpkg-deb, gzip and strip. Prints the package's path.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
binary=${1:-$here/target/dist/sheaf}
out=${2:-.}
version=$("$binary" --version | cut -d' ' -f2)
arch=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"

install -D --mode=0755 "$binary" "$root/usr/bin/sheaf"
strip "$root/usr/bin/sheaf"
"$binary" man --dir "$root/usr/share/man/man1"
gzip --best --no-name "$root"/usr/share/man/man1/*.1
mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
    "$root/usr/share/fish/vendor_completions.d"
"$binary" completions bash > "$root/usr/share/bash-completion/completions/sheaf"
"$binary" completions zsh > "$root/usr/share/zsh/vendor-completions/_sheaf"
"$binary" completions fish > "$root/usr/share/fish/vendor_completions.d/sheaf.fish"
install -D --mode=0644 "$here/packaging/sheafdb.service" "$root/lib/systemd/system/sheafdb.service"
# The data folder is the service's to name.
mkdir -p "$root/etc/sheafdb"
sed -e '/^data_dir = /d' "$here/docker/sheaf.example.toml" > "$root/etc/sheafdb/sheaf.toml"
chmod 0644 "$root/etc/sheafdb/sheaf.toml"
install -D --mode=0644 "$here/CHANGELOG.md" "$root/usr/share/doc/sheafdb/changelog"
gzip --best --no-name "$root/usr/share/doc/sheafdb/changelog"
cat > "$root/usr/share/doc/sheafdb/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: SheafDB
Source: https://github.com/sheafdb/sheafdb

Files: *
Copyright: the SheafDB contributors
License: Apache-2.0
 On Debian systems the text of the licence is in /usr/share/common-licenses/Apache-2.0.
END

mkdir "$root/DEBIAN"
cat > "$root/DEBIAN/control" <<END
Package: sheafdb
Version: $version
Architecture: $arch
Maintainer: The SheafDB contributors <maintainers@sheafdb.example>
Depends: libc6 (>= 2.36), libgcc-s1, zlib1g, adduser
Suggests: ca-certificates, less
Section: database
Priority: optional
Homepage: https://github.com/sheafdb/sheafdb
Installed-Size: $(du --summarize --block-size=1024 "$root" | cut -f1)
Description: distributed SQL database for analytics
 One binary that is a whole database in one process, or a node of a cluster.
 It reads Parquet, CSV and JSON files, and speaks the MySQL protocol.
END
echo /etc/sheafdb/sheaf.toml > "$root/DEBIAN/conffiles"
cat > "$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    getent passwd sheafdb >/dev/null ||
        adduser --system --group --home /var/lib/sheafdb --no-create-home --quiet sheafdb
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
fi
END
cat > "$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now sheafdb || true
fi
END
chmod 0755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
package="$out/sheafdb_${version}_$arch.deb"
dpkg-deb --root-owner-group --build "$root" "$package" >&2
echo "$package"
