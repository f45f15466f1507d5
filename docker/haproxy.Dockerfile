# haproxy in front of the pools.
FROM debian:bookworm
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends haproxy >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY docker/haproxy.cfg docker/haproxy.health /demo/
USER haproxy
EXPOSE 7777
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=2s --timeout=2s --retries=15 CMD ["/bin/bash", "/demo/haproxy.health"]
CMD ["haproxy", "-db", "-f", "/demo/haproxy.cfg"]
