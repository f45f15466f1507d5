"""pgstmtpool: a statement-level connection pool for PostgreSQL. `lib/README.md` is the map."""

__version__ = "0.1.0"
