#!/bin/sh
# Makes the image from a binary that is built already, on a machine that cannot pull images:
#   docker/test-image.sh BINARY TAG
# The image of the first stage is made by debootstrap from Debian's packages, once, under the name of Debian's own. Needs docker, debootstrap, tar, strip and root. Prints the image's size in bytes.
set -eu
binary=$1
tag=$2
base=debian:bookworm-slim
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! docker image inspect "$base" >/dev/null 2>&1; then
    debootstrap --variant=minbase --include=ca-certificates bookworm "$scratch/base" \
        "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
    # What the published image leaves out too.
    rm -rf "$scratch/base"/usr/share/doc/* "$scratch/base"/usr/share/man/* "$scratch/base"/usr/share/info/* \
        "$scratch/base"/usr/share/locale/* "$scratch/base"/var/cache/apt/* "$scratch/base"/var/lib/apt/lists/*
    tar --directory "$scratch/base" --create . | docker import - "$base" >&2
    rm -rf "$scratch/base"
fi

# A context of the binary alone: nothing else is sent to the engine.
mkdir "$scratch/context"
cp "$binary" "$scratch/context/sheaf"
strip "$scratch/context/sheaf"
DOCKER_BUILDKIT=0 docker build --file "$here/Dockerfile" --tag "$tag" \
    --build-arg BUILD_IMAGE="$base" --build-arg BINARY=sheaf "$scratch/context" >&2
docker image inspect --format '{{.Size}}' "$tag"
