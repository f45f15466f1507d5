"""The proof run (`make proof`): many frontends do everything at once, and every single answer is checked.

There are two loads: "riders", reads and writes that share backends while statements are canceled, and "home", settings,
prepared statements and transactions, of which each frontend must find its own on whichever backend.

Meanwhile backends are terminated, the server crashes, statements are canceled, tables are locked. In the end no answer
was wrong, nobody was shown anything of another's, and the rows in the tables are those that were acknowledged and, of
the rest, only such as were declared unknown.
"""
