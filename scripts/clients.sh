#!/usr/bin/env bash
# Installs the Kafka clients that the integration tests use as oracles into the cache folder. Versions are pinned by the
# manifests in integration/clients/; a client is installed again only if its manifest or sources change.
#
#   clients/python   virtual environment: confluent-kafka (librdkafka), kafka-python
#   clients/node     kafkajs with its codecs, and client.js
#   clients/go       franz-client, a small program on franz-go
#   clients/java     Kafka's own client, and its command-line tools with Tools, which runs them in one process
#   clients/browser  what drives Chromium through the console's pages and checks their accessibility (integration/console_ui)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

manifests="$repo_dir/integration/clients"
mkdir -p "$clients_dir"
exec 9>"$clients_dir/.lock"
flock 9

# install_into NAME COMMAND FILE...: runs COMMAND with a fresh folder for NAME, unless it is there, made from these files.
install_into() {
    local name="$1" command="$2" target="$clients_dir/$1" wanted
    shift 2
    wanted="$(digest "$name" "$0" "$@")"
    if is_current "$target/.stamp" "$wanted"; then return; fi
    say "installing the $name client"
    rm -rf "$target"
    mkdir -p "$target"
    "$command" "$target"
    printf '%s\n' "$wanted" >"$target/.stamp"
}

install_python() {
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check -r "$manifests/python/requirements.txt"
}

install_node() {
    cp "$manifests"/node/{package.json,package-lock.json,client.js} "$1"
    (cd "$1" && npm ci --silent --ignore-scripts --no-audit --no-fund)
}

install_browser() {
    cp "$repo_dir"/integration/console_ui/{package.json,package-lock.json} "$1"
    (cd "$1" && npm ci --silent --ignore-scripts --no-audit --no-fund)
}

install_go() { (cd "$manifests/go" && CGO_ENABLED=0 go build -trimpath -o "$1/franz-client" .); }

install_java() {
    mvn --quiet --batch-mode --file "$manifests/java/pom.xml" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$1/jars"
    javac -cp "$1/jars/*" -d "$1/classes" "$manifests"/java/{Tools,Client}.java
}

install_into python install_python "$manifests/python/requirements.txt"
install_into node install_node "$manifests"/node/{package.json,package-lock.json,client.js}
install_into go install_go "$manifests"/go/{go.mod,go.sum,main.go,admin.go}
install_into java install_java "$manifests"/java/{pom.xml,Tools.java,Client.java}
install_into browser install_browser "$repo_dir"/integration/console_ui/{package.json,package-lock.json}
say "Kafka clients are in $clients_dir"
