# The `stormglass` command on a small Debian. It copies a binary that was built before, so that an image takes seconds:
#
#     cargo build --release --package stormglass-server && docker build --tag stormglass .
#
# The binary needs no library that is not here: librdkafka and TLS are linked into it. It must have been built against
# a glibc no newer than bookworm's 2.36.
FROM debian:bookworm-slim

# Any binary that .dockerignore lets through: that of a debug build, for example.
ARG BINARY=target/release/stormglass
COPY ${BINARY} /usr/local/bin/stormglass

# It writes no file and needs no privilege.
USER 10001:10001
EXPOSE 8080
# Without a shell between, so that SIGTERM arrives, and what runs is drained.
ENTRYPOINT ["stormglass"]
