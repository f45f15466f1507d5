"""The pseudo database: what a DBA sees of the pool, and how it is steered, from any client.

`commands` is the table: what there is, what it takes, what it answers and who may. `parsing` reads a line by it,
`filtering` what a listing is narrowed to, and `encoding` makes rows of the protocol from values: these are pure.
`listings` and the like look and act, and `pseudodb` speaks with the client: these are green.
"""
