#!/usr/bin/env bash
# Installs what building and testing need; safe to run again, and quick if there is nothing to do.
#
#   scripts/setup.sh build   what `make dev` needs
#   scripts/setup.sh test    that, and what `make test` needs: Go tools, Kafka clients, a browser
#
# Debian packages are installed only if their program is missing. Rust and Go are not: Debian's are too old, so the
# script says where to get them. Everything else goes to the cache folder (see lib.sh).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

scope="${1:-test}"
case "$scope" in build | test) ;; *) die "usage: $0 [build|test]" ;; esac

# Lines of: program (or a file, with its path), the Debian package that brings it.
build_programs='
gcc gcc
make make
protoc protobuf-compiler
/usr/include/google/protobuf/descriptor.proto libprotobuf-dev
kcat kcat
'
test_programs='
chromium chromium
javac openjdk-17-jdk-headless
mvn maven
node nodejs
npm npm
openssl openssl
python3 python3
'

missing_packages() {
    local program package
    while read -r program package; do
        case "$program" in
        '') ;;
        /*) [ -e "$program" ] || printf '%s ' "$package" ;;
        *) command -v "$program" >/dev/null || printf '%s ' "$package" ;;
        esac
    done
}

install_packages() {
    local packages="$1" root=()
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null || die "these are missing, and there is no apt-get to install them with: $packages"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "these are missing; install them as root: apt-get install $packages"
        root=(sudo)
    fi
    say "installing Debian packages: $packages"
    "${root[@]}" apt-get update -q
    # shellcheck disable=SC2086 # a list of words
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
}

# need PROGRAM WHERE: PROGRAM must be there; WHERE says how to get it.
need() { command -v "$1" >/dev/null || die "$1 is missing: $2"; }

wanted="$build_programs"
if [ "$scope" = test ]; then wanted="$wanted$test_programs"; fi
packages="$(missing_packages <<<"$wanted")"
if [ "$scope" = test ] && command -v python3 >/dev/null && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    packages="$packages python3-venv"
elif [ "$scope" = test ] && ! command -v python3 >/dev/null; then
    packages="$packages python3-venv"
fi
install_packages "$packages"
need cargo "install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo_dir/Cargo.toml") or newer with rustup (https://rustup.rs)"
if [ "$scope" = build ]; then exit 0; fi

need go "install Go 1.26 or newer (https://go.dev/dl); etcd, Kubernetes and the S3 server of the tests are built with it"
java_major="$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)"
[ "${java_major:-0}" -ge 17 ] || die "java is version ${java_major:-unknown}; Kafka's tools need 17 or newer"
node_major="$(node --version | sed 's/^v\([0-9]*\).*/\1/')"
[ "$node_major" -ge 18 ] || die "node is version $node_major; 18 or newer is needed"

"$repo_dir/scripts/tools.sh"
"$repo_dir/scripts/promtool.sh"
"$repo_dir/scripts/clients.sh"
say "everything is there"
