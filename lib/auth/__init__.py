"""Who may come in, and what a worker logs in with.

hbatext      the words of pg_hba.conf and pg_ident.conf, with their quotes
matching     whether a word means this role or database: yes, no, or it cannot be known here
hba          the rule that the server would apply to a frontend
ident        the maps for the method peer
scram        SCRAM-SHA-256's numbers
exchange     the dialogues of a login as generators: the pool as server, the pool as client
relay        what a login teaches that the server conducts
credential   what is kept of a role
access       what a role may do, and what follows from it and from the rule
"""
