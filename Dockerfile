# syntax=docker/dockerfile:1
# The image of every part of Kafscale: broker, operator, console. `make image` builds it.
ARG RUST_VERSION=1.95.0
ARG DEBIAN_RELEASE=bookworm

FROM docker.io/library/rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libprotobuf-dev make protobuf-compiler \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin kafscale \
    && install -D -m 0755 target/release/kafscale /out/kafscale

# C library, libgcc and certificates of authorities; no shell, no package manager. It is of the same Debian as the build.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Kafscale" \
      org.opencontainers.image.description="Kafka-protocol streaming platform on S3 and etcd" \
      org.opencontainers.image.source="https://github.com/kafscale/kafscale" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/kafscale /usr/local/bin/kafscale
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["/usr/local/bin/kafscale"]
CMD ["--help"]
