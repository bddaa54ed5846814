#!/usr/bin/env bash
# Puts promtool into the cache folder, which reads and plays the alert rules in tests: the one on the PATH, or else that of
# Debian's package. The package is unpacked and not installed, since that would start a Prometheus server.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$tools_dir"
exec 9>"$tools_dir/.lock"
flock 9
[ ! -x "$tools_dir/promtool" ] || exit 0

if command -v promtool >/dev/null; then
    ln -sf "$(command -v promtool)" "$tools_dir/promtool"
    exit 0
fi
command -v apt-get >/dev/null || die "promtool is missing, and there is no apt-get to get it with: install Prometheus"
say "fetching promtool (Debian's prometheus package, unpacked)"
work="$(mktemp -d "$tools_dir/.promtool.XXXXXX")"
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -q prometheus && dpkg -x ./*.deb unpacked)
install -m 755 "$work/unpacked/usr/bin/promtool" "$tools_dir/promtool"
