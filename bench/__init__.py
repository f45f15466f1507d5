"""The side-by-side benchmark: direct, PgBouncer, pgpool-II and pgstmtpool in one run on the same PostgreSQL.

run.py is the command; contenders.py and workloads.py are its two tables; report.py is the maths and the page, plot.py
the picture; pgbench.py, client.py, postgres.py and meter.py are the tools. Nothing here imports the pooler: it is
measured from outside, as the program that users start, like all the others.
"""
