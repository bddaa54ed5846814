#!/usr/bin/env bash
# Builds the container image with docker or podman, whichever is there (ENGINE= chooses).
#
#   scripts/image.sh IMAGE TAG
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -eq 2 ] || die "usage: $0 IMAGE TAG"
image="$1" tag="$2" engine="${ENGINE:-}"

if [ -n "$engine" ]; then
    command -v "$engine" >/dev/null || die "ENGINE=$engine is not installed"
    "$engine" info >/dev/null 2>&1 || die "$engine is installed but does not work: see '$engine info'"
else
    # A client without its daemon is no engine.
    for candidate in docker podman; do
        if command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
            engine="$candidate"
            break
        fi
    done
    [ -n "$engine" ] || die "no container engine works here: install podman, or install and start docker; then run this again"
fi

revision="$(git -C "$repo_dir" rev-parse HEAD 2>/dev/null || echo unknown)"
say "building $image:$tag with $engine"
DOCKER_BUILDKIT=1 "$engine" build --tag "$image:$tag" \
    --build-arg "VERSION=$tag" --build-arg "REVISION=$revision" "$repo_dir"
say "built $image:$tag; push it with: $engine push $image:$tag"
