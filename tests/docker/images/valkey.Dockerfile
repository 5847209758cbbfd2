FROM python:3.11.13-slim-bookworm
# Redis 7, from which Valkey was made.
RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s redis-server /usr/bin/valkey-server \
    && ln -s redis-cli /usr/bin/valkey-cli \
    && install -d -o 999 -g 1000 /data
