#!/usr/bin/env bash
# Builds the Go programs that the integration tests run into the cache folder: etcd, etcdctl, etcdutl, versitygw (an S3
# server with atomic conditional writes) and s3-latency (ours). Versions are pinned by tools/*/go.mod and go.sum. A
# program is built again only if those, its sources or the Go version change.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$tools_dir/.stamps"
# Two runs at once must not build the same thing twice.
exec 9>"$tools_dir/.lock"
flock 9

# build FOLDER PACKAGE PROGRAM
build() {
    local folder="$repo_dir/tools/$1" package="$2" program="$3" files wanted
    mapfile -t files < <(find "$folder" -type f \( -name '*.go' -o -name go.mod -o -name go.sum \) | LC_ALL=C sort)
    wanted="$(digest "$package $(go env GOVERSION)" "${files[@]}")"
    if [ -x "$tools_dir/$program" ] && is_current "$tools_dir/.stamps/$program" "$wanted"; then return; fi
    say "building $program (Go; a minute or two the first time)"
    (cd "$folder" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$tools_dir/.$program.new" "$package")
    mv "$tools_dir/.$program.new" "$tools_dir/$program"
    printf '%s\n' "$wanted" >"$tools_dir/.stamps/$program"
}

build etcd go.etcd.io/etcd/server/v3 etcd
build etcd go.etcd.io/etcd/etcdctl/v3 etcdctl
build etcd go.etcd.io/etcd/etcdutl/v3 etcdutl
build s3 github.com/versity/versitygw/cmd/versitygw versitygw
build s3-latency . s3-latency
say "Go tools are in $tools_dir"
