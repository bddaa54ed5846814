#!/usr/bin/env bash
# Copies what the console's pages use from npm to src/web/assets/vendor, with its licences.
#
#   scripts/vendor-console.sh           after a change of src/web/ui-vendor/package.json and its lock file
#   scripts/vendor-console.sh --check   fails if what is committed is not what the lock file says
#
# Browsers do not resolve bare names (`from "preact"`), and a map of them would have to stand inside the page, which its
# content security policy forbids: the names are replaced by paths here. Nothing else is changed but references to
# source maps, which are not shipped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

manifest="$repo_dir/src/web/ui-vendor"
target="$repo_dir/src/web/assets/vendor"
mode="${1:-}"
case "$mode" in '' | --check) ;; *) die "usage: $0 [--check]" ;; esac

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp "$manifest"/package.json "$manifest"/package-lock.json "$work"
(cd "$work" && npm ci --silent --ignore-scripts --no-audit --no-fund)
modules="$work/node_modules"
out="$work/vendor"
mkdir "$out"

# take NAME FILE LICENCE [AS]
take() {
    local name="$1" file="$2" licence="$3" as="${4:-$(basename "$2")}"
    cp "$modules/$name/$file" "$out/$as"
    cp "$modules/$name/$licence" "$out/LICENSE-${name//[@\/]/_}.txt"
}

take preact dist/preact.mjs LICENSE preact.js
take preact hooks/dist/hooks.mjs LICENSE preact-hooks.js
take @preact/signals dist/signals.mjs LICENSE signals.js
take @preact/signals-core dist/signals-core.mjs LICENSE signals-core.js
take htm dist/htm.mjs LICENSE htm.js
take uplot dist/uPlot.esm.js LICENSE uplot.js
take uplot dist/uPlot.min.css LICENSE uplot.css
take @fontsource-variable/inter files/inter-latin-wght-normal.woff2 LICENSE inter-latin.woff2

sed -i -E \
    -e 's#from ?"preact/hooks"#from"./preact-hooks.js"#g' \
    -e 's#from ?"preact"#from"./preact.js"#g' \
    -e 's#from ?"@preact/signals-core"#from"./signals-core.js"#g' \
    -e '/^\/\/# sourceMappingURL=/d' "$out"/*.js
if grep -nE "(^|[;}*])[^'\"/]*\bfrom ?[\"'][^./]" "$out"/*.js | grep -v '//.*from' | cut -c1-200; then die "a bare import is left over"; fi

{
    echo "Third-party files, copied by scripts/vendor-console.sh; do not edit them here."
    echo
    (cd "$work" && npm ls --depth=0 --parseable --long | sed -n 's#^[^:]*/node_modules/[^:]*:\(.*\)$#\1#p' | sort)
} >"$out/README.txt"

if [ "$mode" = --check ]; then
    diff -r "$out" "$target" || die "src/web/assets/vendor is not what src/web/ui-vendor says: run scripts/vendor-console.sh"
    say "src/web/assets/vendor is what src/web/ui-vendor says"
else
    rm -rf "$target"
    mkdir -p "$(dirname "$target")"
    cp -r "$out" "$target"
    say "copied to ${target#"$repo_dir"/}: $(du -sh --apparent-size "$target" | cut -f1)"
fi
