# shellcheck shell=bash disable=SC2034 # what the scripts beside it share: where things are cached, how to say what happens
# Sourced, not run.

# Everything that is built or fetched lives here, never in the work tree.
cache_dir="${XDG_CACHE_HOME:-$HOME/.cache}/kafscale"
tools_dir="${KAFSCALE_TOOLS:-$cache_dir/tools}"
clients_dir="$cache_dir/clients"
repo_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# digest WORD FILE...: a hash of the words of the first argument and of the files' contents.
digest() {
    local words="$1"
    shift
    { printf '%s\n' "$words"; cat "$@"; } | sha256sum | cut -d' ' -f1
}

# is_current STAMP DIGEST: true if STAMP says that what it stands for was made from DIGEST.
is_current() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
