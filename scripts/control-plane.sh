#!/usr/bin/env bash
# A Kubernetes control plane on free loopback ports, without containers: etcd, kube-apiserver, kube-controller-manager,
# kube-scheduler, and kwok, which plays three nodes in three zones and the pods on them. Nothing on the machine is
# changed except one folder, and folders below /tmp/hostpath_pv while volumes are claimed.
#
#   scripts/control-plane.sh up FOLDER     starts one with its data in FOLDER; prints the path of an administrator's
#                                          kubeconfig (FOLDER/kubeconfig)
#   scripts/control-plane.sh down FOLDER   stops it, by its process ids, and removes FOLDER
#   scripts/control-plane.sh run FOLDER    starts one, prints the path, and does what `down` does when standard input ends
#                                          or the script is told to end: the tests' own. They hold the other end of
#                                          a pipe, so that it ends with them, however they end.
#
# FOLDER also gets: ca.crt and ca.key, which sign what a test needs; one log and one process id for each program; `env`
# with the ports. The programs are those of `make tools`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 2 ] || die "usage: $0 up|down|run FOLDER"
verb="$1" dir="$2"
nodes=3
ready_sec=180 # nothing but a program that ended says that it is too late; two cores may be busy with a compiler

# ours PID: true if that process runs and its command names the folder; the number alone may be somebody else's by now,
# and a process that ended but was not reaped has no command.
ours() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null | grep -qF -- "$dir/"; }

# The API server hangs when etcd goes first, so etcd goes last, and nobody gets more than two seconds.
stop_all() {
    local program pid
    [ ! -x "$tools_dir/kubectl" ] || [ ! -f "$dir/volumes" ] || remove_volumes
    for program in kwok kube-scheduler kube-controller-manager kube-apiserver etcd; do
        [ -f "$dir/$program.pid" ] || continue
        pid="$(cat "$dir/$program.pid")"
        if ours "$pid"; then kill "$pid" 2>/dev/null || true; fi
        for _ in $(seq 20); do
            ours "$pid" || break
            sleep 0.1
        done
        if ours "$pid"; then kill -9 "$pid" 2>/dev/null || true; fi
        rm -f "$dir/$program.pid"
    done
}

# Volumes that are still claimed are folders of their own, which nobody would remove later.
remove_volumes() {
    local folder
    kubectl --request-timeout=5s get pv -o jsonpath='{range .items[*]}{.spec.hostPath.path}{"\n"}{end}' 2>/dev/null |
        while read -r folder; do case "$folder" in /tmp/hostpath_pv/*) rm -rf -- "$folder" ;; esac done || true
}

# start PROGRAM ARGUMENT...: in a session of its own, so that an interrupt typed at a terminal does not reach it and the
# order of the end stays ours.
start() {
    local program="$1"
    shift
    setsid "$tools_dir/$program" "$@" >"$dir/$program.log" 2>&1 </dev/null &
    echo $! >"$dir/$program.pid"
}

# free_ports COUNT: they are held together, so that they differ, and lie below the range that outgoing connections get
# theirs from: one of those could take a port before the program binds it.
free_ports() {
    python3 -c '
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", random.randrange(12000, 32000)))
        held.append(s)
    except OSError:
        pass
print(*[s.getsockname()[1] for s in held])' "$1"
}

# An authority, which also signs certificate requests; the API server's certificate; the key of service accounts' tokens.
make_keys() {
    local curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    cd "$dir"
    openssl req -x509 "${curve[@]}" -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca \
        -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
    openssl req "${curve[@]}" -keyout api.key -out api.csr -subj /CN=kube-apiserver
    printf 'subjectAltName=%s\n' IP:127.0.0.1,IP:10.0.0.1,DNS:localhost,DNS:kubernetes.default.svc >api.ext
    openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out api.crt -extfile api.ext
    openssl ecparam -name prime256v1 -genkey -noout -out sa.key
    openssl ec -in sa.key -pubout -out sa.pub
}

# kubeconfig FILE USER [GROUP]: a user with a token of its own.
kubeconfig() {
    local token
    token="$(openssl rand -hex 16)"
    printf '%s,%s,%s%s\n' "$token" "$2" "$2" "${3:+,$3}" >>"$dir/tokens.csv"
    cat >"$dir/$1" <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$api_port", certificate-authority: "$dir/ca.crt"}}]
users: [{name: user, user: {token: "$token"}}]
contexts: [{name: test, context: {cluster: test, user: user, namespace: default}}]
current-context: test
END
}

kubectl() { "$tools_dir/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
    local what="$1" program end=$((SECONDS + ready_sec))
    shift
    until "$@" >/dev/null 2>&1; do
        for program in "$dir"/*.pid; do
            ours "$(cat "$program")" || die "$(basename "$program" .pid) ended while waiting for $what"
        done
        [ "$SECONDS" -lt "$end" ] || die "$what is not there after $ready_sec s"
        sleep 0.1
    done
}

storage_class() {
    cat <<'END'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/host-path
allowVolumeExpansion: true
reclaimPolicy: Delete
END
}

all_nodes() {
    local n
    for n in $(seq 0 $((nodes - 1))); do
        cat <<END
---
apiVersion: v1
kind: Node
metadata:
  name: node-$n
  labels: {kubernetes.io/hostname: node-$n, kubernetes.io/os: linux, kubernetes.io/arch: amd64, topology.kubernetes.io/zone: zone-$((n % 3))}
status:
  allocatable: {cpu: "64", memory: 256Gi, pods: "1000"}
  capacity: {cpu: "64", memory: 256Gi, pods: "1000"}
END
    done
}

# The requests of service accounts, without their contents. Those of the controllers are many and nobody asks.
audit_policy() {
    cat <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
  - {level: None}
END
}

start_all() {
    local etcd_port etcd_peer api_port kwok_port program
    for program in etcd kube-apiserver kube-controller-manager kube-scheduler kwok kubectl; do
        [ -x "$tools_dir/$program" ] || die "$tools_dir/$program is missing: run \`make tools\`"
    done
    read -r etcd_port etcd_peer api_port kwok_port < <(free_ports 4)
    printf 'ETCD_PORT=%s\nAPI_PORT=%s\nKWOK_PORT=%s\n' "$etcd_port" "$api_port" "$kwok_port" >"$dir/env"
    start etcd --name test --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
        --listen-peer-urls "http://127.0.0.1:$etcd_peer" --initial-advertise-peer-urls "http://127.0.0.1:$etcd_peer" \
        --initial-cluster "test=http://127.0.0.1:$etcd_peer"
    (make_keys) 2>"$dir/openssl.log" || die "openssl failed: $(tail -n 3 "$dir/openssl.log")"
    (
        umask 077
        kubeconfig kubeconfig admin system:masters
        kubeconfig kcm.kubeconfig system:kube-controller-manager
        kubeconfig scheduler.kubeconfig system:kube-scheduler
    )
    audit_policy >"$dir/audit-policy.yaml"
    # A loopback address may not stand in the endpoints of the service `kubernetes`: nobody maintains them.
    start kube-apiserver --etcd-servers "http://127.0.0.1:$etcd_port" \
        --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$api_port" \
        --endpoint-reconciler-type none --service-cluster-ip-range 10.0.0.0/16 \
        --tls-cert-file "$dir/api.crt" --tls-private-key-file "$dir/api.key" --client-ca-file "$dir/ca.crt" \
        --token-auth-file "$dir/tokens.csv" --authorization-mode Node,RBAC --allow-privileged \
        --audit-policy-file "$dir/audit-policy.yaml" --audit-log-path "$dir/audit.log" --audit-log-maxsize 4000 --enable-admission-plugins PodNodeSelector \
        --service-account-issuer https://kubernetes.default.svc \
        --service-account-key-file "$dir/sa.pub" --service-account-signing-key-file "$dir/sa.key" --profiling=false
    wait_for kube-apiserver kubectl get --raw /readyz
    start kube-controller-manager --kubeconfig "$dir/kcm.kubeconfig" --leader-elect=false --secure-port 0 \
        --use-service-account-credentials --service-account-private-key-file "$dir/sa.key" --root-ca-file "$dir/ca.crt" \
        --cluster-signing-cert-file "$dir/ca.crt" --cluster-signing-key-file "$dir/ca.key" --enable-hostpath-provisioner
    start kube-scheduler --kubeconfig "$dir/scheduler.kubeconfig" --leader-elect=false --secure-port 0
    start kwok --config "$tools_dir/kwok-stages.yaml" --kubeconfig "$dir/kubeconfig" --manage-all-nodes --cidr 10.1.0.1/16 \
        --node-ip 127.0.0.1 --node-lease-duration-seconds 40 --server-address "127.0.0.1:$kwok_port"
    touch "$dir/volumes"
    { storage_class; all_nodes; } | kubectl apply --server-side -f - >/dev/null
    wait_for "a ready node" kubectl wait --for=condition=Ready node --all --timeout=1s
    # Pods need their namespace's service account, which the controller manager makes.
    wait_for "the default service account" kubectl -n default get serviceaccount default
}

# A start that fails shows why and leaves no process.
up() {
    mkdir -p "$dir"
    dir="$(cd "$dir" && pwd)"
    [ ! -f "$dir/etcd.pid" ] || die "$dir is in use: \`$0 down $dir\` ends what runs there"
    trap 'for log in "$dir"/*.log; do echo "== $log"; tail -n 5 "$log"; done >&2; stop_all' EXIT
    start_all
    trap - EXIT
    echo "$dir/kubeconfig"
}

down() {
    [ -d "$dir" ] || return 0
    dir="$(cd "$dir" && pwd)"
    [ -f "$dir/env" ] || die "$dir is not the folder of a control plane"
    stop_all
    rm -rf "$dir"
}

case "$verb" in
up) up ;;
down) down ;;
run)
    trap 'exit 1' INT TERM HUP
    up
    # In the background, because a signal interrupts only a wait.
    cat >/dev/null <&0 &
    trap "kill $! 2>/dev/null || true; down" EXIT
    wait $!
    ;;
*) die "usage: $0 up|down|run FOLDER" ;;
esac
