"""The PostgreSQL frontend/backend protocol, version 3: bytes in, meaning out. Pure: no socket, no clock, no gevent.

framing    where messages begin and end, on both sides, and what a frontend may send
messages   building and reading single messages
units      the least that can be dispatched: one Query, or extended-protocol messages up to Sync
session    what a backend still owes for what was sent to it
"""
