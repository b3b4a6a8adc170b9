# The images of tcp-echo. Needs BuildKit (`docker build` of Docker 23 and newer, or the buildx plugin).
#
#   docker build -t tcp-echo .                   prod: the program and its licences, nothing else
#   docker build -t tcp-echo:dev --target dev .  what building, testing and developing needs
#
# Build arguments:
#   BASE_IMAGE  where everything but `prod` begins: any system with a script in requirements/
#   PROD_BASE   where `prod` begins: scratch, an image, or the stages `slim` and `netcat` below
#
# Where the network is not open: a secret `ca-bundle` holds the certificates to trust, a folder
# `vendor/` (`cargo vendor`) the crates. Proxies are the arguments that Docker knows (HTTPS_PROXY, ...).
ARG BASE_IMAGE=debian:trixie-slim
ARG PROD_BASE=scratch

# --- toolchain: a Rust and a linker --------------------------------------------------------------
FROM ${BASE_IMAGE} AS toolchain
ENV CARGO_HOME=/usr/local/cargo \
    RUSTUP_HOME=/usr/local/rustup \
    PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY requirements /usr/local/share/tcp-echo/requirements
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export SSL_CERT_FILE=/run/secrets/ca-bundle; fi; \
    /usr/local/share/tcp-echo/requirements/install.sh build && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /tcp-echo

# --- crates: the dependencies, in CARGO_HOME ------------------------------------------------------
FROM toolchain AS crates
COPY Cargo.toml Cargo.lock ./
# The folder may be missing: a pattern matches nothing then, and Cargo.lock is copied alone.
COPY Cargo.lock vendo[r] ${CARGO_HOME}/vendor/
# An empty program stands for the sources, so that this layer lasts until the dependencies change. It
# has no tests and the like, whose files would have to be there.
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export CARGO_HTTP_CAINFO=/run/secrets/ca-bundle; fi; \
    mkdir src && echo 'fn main() {}' >src/main.rs && : >src/lib.rs && \
    awk '/^\[/ { drop = /^\[\[(test|bench|example)\]\]/ } !drop' Cargo.toml >Cargo.short && \
    mv Cargo.short Cargo.toml && \
    if [ "$(ls "$CARGO_HOME/vendor")" = Cargo.lock ]; then \
        rm -r "$CARGO_HOME/vendor"; \
    else \
        printf '[source.crates-io]\nreplace-with = "vendor"\n[source.vendor]\ndirectory = "%s"\n' \
            "$CARGO_HOME/vendor" >"$CARGO_HOME/config.toml"; \
    fi && \
    cargo fetch --locked && \
    chmod -R a+rwX "$CARGO_HOME"

# --- build: one static program and its licences, in /out ------------------------------------------
FROM crates AS build
# Static, so that `prod` needs no system. The target is named, or it would hold for proc-macros too.
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    CARGO_NET_OFFLINE=true
RUN mkdir .cargo && \
    printf '[build]\ntarget = "%s"\n' "$(rustc -vV | sed -n 's/^host: //p')" >.cargo/config.toml && \
    cargo build --release --locked
COPY src src
COPY LICENSE-MIT LICENSE-APACHE build.r[s] ./
COPY deploy/licences.sh deploy/
# COPY keeps the times of the files, which may be older than the empty program.
RUN touch src/main.rs src/lib.rs && \
    cargo build --release --locked && \
    install -D target/*/release/tcp-echo /out/tcp-echo && \
    sh deploy/licences.sh /out/licences

# --- dev: the sources are mounted at /tcp-echo ----------------------------------------------------
FROM toolchain AS dev
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export SSL_CERT_FILE=/run/secrets/ca-bundle; fi; \
    /usr/local/share/tcp-echo/requirements/install.sh && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=crates ${CARGO_HOME} ${CARGO_HOME}
# Not among the sources: those may belong to somebody who builds with another Rust.
ENV CARGO_TARGET_DIR=/target
RUN mkdir -m 1777 /target
EXPOSE 8090
CMD ["sleep", "infinity"]

# --- test: the sources and the debug build, under valgrind ----------------------------------------
FROM dev AS test
ENV CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0
COPY --from=crates /tcp-echo ./
RUN cargo test --locked --no-run
COPY Cargo.toml Cargo.lock rustfmt.toml clippy.toml deny.toml build.r[s] ./
# Benchmarks and examples, if there are any.
COPY Cargo.lock benche[s] benches/
COPY Cargo.lock example[s] examples/
COPY src src
COPY tests tests
# COPY keeps the times of the files, which may be older than the empty program.
RUN touch src/main.rs src/lib.rs tests/integration/main.rs && cargo test --locked --no-run
STOPSIGNAL SIGTERM
# No vgdb: its pipes would stay behind where a process is killed.
ENTRYPOINT ["valgrind", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=definite,possible", \
    "--errors-for-leak-kinds=definite,possible", "--trace-children=yes", "--vgdb=no", "/target/debug/tcp-echo"]
CMD ["--workers", "2"]

# --- what `prod` may begin with, other than scratch -----------------------------------------------
FROM ${BASE_IMAGE} AS slim

FROM slim AS netcat
COPY requirements /tmp/requirements
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export SSL_CERT_FILE=/run/secrets/ca-bundle; fi; \
    /tmp/requirements/install.sh nc && \
    rm -rf /tmp/requirements /var/lib/apt/lists/* /var/cache/apt/*

# --- prod -----------------------------------------------------------------------------------------
# hadolint ignore=DL3006
FROM ${PROD_BASE} AS prod
ARG VERSION=2.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tcp-echo" \
    org.opencontainers.image.description="A prefork TCP echo daemon: every byte comes back, in order" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/ /
# A number, since a policy of runAsNonRoot cannot look names up.
USER 65532:65532
EXPOSE 8090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=5s --retries=3 \
    CMD ["/tcp-echo", "check", "--quick", "--timeout", "3s"]
ENTRYPOINT ["/tcp-echo"]
CMD ["--enable-log-timestamps"]
