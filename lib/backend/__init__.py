"""The server's side: who owns which backend, and who may use it now.

tuning     (pure) what a startup packet means for a worker, and the SQL that tunes one to a group
dispatch   (pure) how many workers, which worker, which unit next
unit       one statement on its way through the pool, and a worker's own exchanges with its backend
dialogue   from a server's address to a backend that is ready
relay      from a backend's bytes to its frontends
worker     a green thread that owns one backend
roster     the workers of one server for one login, and the units that wait for them
pool       one server
cluster    the pools, who is primary, the groups and what each database's catalog says
"""
