# One server of the demo: PostgreSQL with PL/Python, which switchfunc.sql needs.
FROM debian:bookworm
RUN apt-get update -qq \
    && mkdir -p /etc/postgresql-common \
    && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf \
    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        postgresql-15 postgresql-plpython3-15 >/dev/null \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data \
    && install -d -o postgres -g postgres -m 755 /secrets
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data/main
COPY switchfunc.sql docker/demo.sql docker/server.conf docker/pg_hba.conf docker/server.sh /demo/
USER postgres
EXPOSE 5432
HEALTHCHECK --interval=2s --timeout=2s --retries=15 CMD ["pg_isready", "-q", "-h", "127.0.0.1"]
CMD ["/bin/bash", "/demo/server.sh"]
