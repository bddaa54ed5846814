#!/bin/sh
# Snapshots of etcd in a bucket: takes one there, lists them, fetches one. Runs in the image with the AWS command line.
#
#   snapshot.sh upload        uploads $SNAPSHOT_FILE as {prefix}/{time}.db, then its checksum, then deletes what is too old
#   snapshot.sh list          prints the names of all complete snapshots, oldest first
#   snapshot.sh fetch NAME    downloads a snapshot to $SNAPSHOT_FILE, if its checksum is right
#   snapshot.sh make-room     moves data of etcd in $ETCD_DATA_DIR aside
#
# A snapshot is complete if it has a .sha256 beside it, which is uploaded last and deleted first.
#
# Environment: SNAPSHOT_BUCKET, SNAPSHOT_PREFIX (without slash at its end), SNAPSHOT_FILE, SNAPSHOT_RETENTION_DAYS,
# SNAPSHOT_CREATE_BUCKET, SNAPSHOT_PROTECT_BUCKET (true or false), SNAPSHOT_S3_ENDPOINT, SNAPSHOT_S3_ADDRESSING,
# SNAPSHOT_KMS_KEY (may be empty), and those of the AWS command line.
set -eu

die() {
    echo "error: $*" >&2
    exit 1
}

warn() { echo "warning: $*" >&2; }

work="${TMPDIR:-/tmp}/snapshot.$$"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
if [ -n "${SNAPSHOT_S3_ADDRESSING:-}" ]; then
    printf '[default]\ns3 =\n    addressing_style = %s\n' "$SNAPSHOT_S3_ADDRESSING" >"$work/config"
    AWS_CONFIG_FILE="$work/config"
    export AWS_CONFIG_FILE
fi

call() {
    if [ -n "${SNAPSHOT_S3_ENDPOINT:-}" ]; then
        aws --endpoint-url "$SNAPSHOT_S3_ENDPOINT" "$@"
    else
        aws "$@"
    fi
}

s3api() {
    operation=$1
    shift
    call s3api "$operation" --bucket "$SNAPSHOT_BUCKET" "$@"
}

# put FILE KEY
put() {
    if [ -n "${SNAPSHOT_KMS_KEY:-}" ]; then
        call s3 cp --only-show-errors --sse aws:kms --sse-kms-key-id "$SNAPSHOT_KMS_KEY" "$1" "s3://$SNAPSHOT_BUCKET/$2"
    else
        call s3 cp --only-show-errors "$1" "s3://$SNAPSHOT_BUCKET/$2"
    fi
}

# checksum FILE
checksum() {
    line=$(sha256sum "$1")
    echo "${line%% *}"
}

# is_name TEXT: true of what `upload` calls a snapshot.
is_name() {
    case $1 in
        [0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9][0-9][0-9]Z.db) return 0 ;;
        *) return 1 ;;
    esac
}

prepare_bucket() {
    if [ "${SNAPSHOT_CREATE_BUCKET:-false}" = true ] && ! s3api head-bucket >"$work/head" 2>&1; then
        region="${AWS_DEFAULT_REGION:-us-east-1}"
        if [ "$region" = us-east-1 ]; then
            s3api create-bucket >/dev/null
        else
            s3api create-bucket --create-bucket-configuration "LocationConstraint=$region" >/dev/null
        fi
        echo "made bucket $SNAPSHOT_BUCKET"
    fi
    if [ "${SNAPSHOT_PROTECT_BUCKET:-false}" = true ]; then
        s3api put-bucket-versioning --versioning-configuration Status=Enabled
        s3api put-public-access-block --public-access-block-configuration \
            BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true ||
            warn "public access to bucket $SNAPSHOT_BUCKET could not be blocked; see that it is not public"
    fi
}

upload() {
    [ -s "$SNAPSHOT_FILE" ] || die "there is no snapshot in $SNAPSHOT_FILE: look at the log of container save"
    prepare_bucket
    name="$(date -u +%Y%m%dT%H%M%SZ).db"
    key="$SNAPSHOT_PREFIX/$name"
    sum=$(checksum "$SNAPSHOT_FILE")
    bytes=$(($(wc -c <"$SNAPSHOT_FILE")))
    put "$SNAPSHOT_FILE" "$key"
    stored=$(s3api head-object --key "$key" --query ContentLength --output text)
    [ "$stored" = "$bytes" ] || die "$key has $stored bytes instead of $bytes: is the bucket written by somebody else?"
    printf '%s  %s\n' "$sum" "$name" >"$work/$name.sha256"
    put "$work/$name.sha256" "$key.sha256"
    echo "uploaded s3://$SNAPSHOT_BUCKET/$key, $bytes bytes, sha256 $sum"
    # The snapshot is safe; that old ones stay is no reason to take it again.
    (prune "$name") || warn "old snapshots could not be deleted; this one is complete"
}

remove() {
    s3api delete-object --key "$SNAPSHOT_PREFIX/$1" >/dev/null || exit 1
    echo "deleted $SNAPSHOT_PREFIX/$1"
}

# prune NEWEST: ages are differences between times of the S3 server, so that a wrong clock here deletes nothing.
prune() {
    now=$(s3api head-object --key "$SNAPSHOT_PREFIX/$1.sha256" --query LastModified --output text) || exit 1
    now_sec=$(date -u -d "$now" +%s) || exit 1
    days=$SNAPSHOT_RETENTION_DAYS
    [ "$days" -ge 7 ] || die "snapshots are kept for at least 7 days, not $days"
    before=$(date -u -d "@$((now_sec - days * 86400))" +%Y-%m-%dT%H:%M:%S) || exit 1
    s3api list-objects-v2 --prefix "$SNAPSHOT_PREFIX/" --output text \
        --query "Contents[?LastModified<'$before'].[Key]" >"$work/old" || exit 1
    while read -r key; do
        file=${key#"$SNAPSHOT_PREFIX/"}
        name=${file%.sha256}
        if ! is_name "$name" || [ "$name" = "$1" ]; then continue; fi
        if [ "$file" != "$name" ]; then
            remove "$file"
            remove "$name"
            continue
        fi
        # One without checksum was never complete.
        proofs=$(s3api list-objects-v2 --prefix "$key.sha256" --query 'length(Contents || `[]`)' --output text) || exit 1
        if [ "$proofs" = 0 ]; then remove "$name"; fi
    done <"$work/old"
}

list() {
    s3api list-objects-v2 --prefix "$SNAPSHOT_PREFIX/" --output text \
        --query "Contents[?ends_with(Key, '.db.sha256')].[Key]" >"$work/all"
    while read -r key; do
        file=${key#"$SNAPSHOT_PREFIX/"}
        if is_name "${file%.sha256}"; then echo "${file%.sha256}"; fi
    done <"$work/all"
}

fetch() {
    is_name "$1" || die "$1 is not the name of a snapshot; they look like 20260131T120000Z.db, and list prints them"
    key="$SNAPSHOT_PREFIX/$1"
    call s3 cp --only-show-errors "s3://$SNAPSHOT_BUCKET/$key.sha256" "$work/sum" ||
        die "$key has no checksum: it was not uploaded to its end, or does not exist. Take another one"
    call s3 cp --only-show-errors "s3://$SNAPSHOT_BUCKET/$key" "$work/db"
    read -r wanted _ <"$work/sum"
    found=$(checksum "$work/db")
    [ "$found" = "$wanted" ] || die "$key is damaged: its sha256 is $found instead of $wanted. Take another snapshot"
    mv "$work/db" "$SNAPSHOT_FILE"
    echo "fetched $key, sha256 $found is right"
}

make_room() {
    if [ ! -e "$ETCD_DATA_DIR" ]; then return; fi
    aside="$ETCD_DATA_DIR.replaced-$(date -u +%Y%m%dT%H%M%SZ)"
    mv "$ETCD_DATA_DIR" "$aside"
    echo "moved $ETCD_DATA_DIR to $aside; delete it when etcd serves again"
}

case "${1:-}" in
    upload) upload ;;
    list) list ;;
    fetch) fetch "${2:?fetch needs the name of a snapshot}" ;;
    make-room) make_room ;;
    *) die "say upload, list, fetch NAME or make-room" ;;
esac
