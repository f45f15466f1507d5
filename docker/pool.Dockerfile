# A pool.
FROM debian:bookworm
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ca-certificates python3-venv >/dev/null \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system pgstmtpool \
    && install -d -o pgstmtpool -g pgstmtpool -m 700 /var/lib/pgstmtpool
COPY requirements.txt /pool/
RUN python3 -m venv /pool/venv && /pool/venv/bin/pip install --quiet --no-cache-dir -r /pool/requirements.txt
COPY pgstmtpool.py docker/pool.conf.py /pool/
COPY lib /pool/lib
USER pgstmtpool
EXPOSE 7777 9127
HEALTHCHECK --interval=2s --timeout=2s --retries=15 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9127/healthz', timeout=1)"]
CMD ["/pool/venv/bin/python", "/pool/pgstmtpool.py", "/pool/pool.conf.py"]
