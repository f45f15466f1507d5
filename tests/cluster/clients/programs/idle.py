"""Python's clients, and psql, as programs: `idle.py CLIENT idle NUMBER` opens so many connections with a driver as it
comes, does the usual things on each, and keeps them until standard input ends. PGHOST and the like say where.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

USUAL = "select {} + 1 as usual_work"
TURNS = 10

WHERE = {"host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"])}
WHO = {"user": os.environ["PGUSER"], "password": os.environ["PGPASSWORD"]}
DATABASE = os.environ["PGDATABASE"]


def wait() -> None:
    print("idle", flush=True)
    sys.stdin.read()


def psql(number: int) -> None:
    children = []
    for _ in range(number):
        command = [os.environ["PSQL"], "-XAtq"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdin and child.stdout
        child.stdin.write(f"{USUAL.format(1)};\nbegin;\nselect 1;\ncommit;\n\\echo done\n")
        child.stdin.flush()
        while child.stdout.readline() != "done\n":
            pass
    wait()
    for child in children:
        child.communicate()


def psycopg2(number: int) -> None:
    import psycopg2

    connections = [psycopg2.connect(**WHERE, **WHO, dbname=DATABASE) for _ in range(number)]
    for connection in connections:
        for turn in range(TURNS):
            with connection, connection.cursor() as cursor:
                cursor.execute(USUAL.format("%s"), [turn])
    wait()


def psycopg3(number: int, autocommit: bool = False) -> None:
    import psycopg

    connections = [psycopg.connect(**WHERE, **WHO, dbname=DATABASE, autocommit=autocommit) for _ in range(number)]
    for connection in connections:
        for turn in range(TURNS):
            connection.execute(USUAL.format("%s"), [turn])
        with connection.transaction():
            connection.execute("select 1")
        connection.commit()
    wait()


def psycopg3_autocommit(number: int) -> None:
    psycopg3(number, autocommit=True)


def asyncpg(number: int) -> None:
    import asyncpg

    async def work() -> None:
        options = {"database": DATABASE, "min_size": number, "max_size": number}
        async with asyncpg.create_pool(**WHERE, **WHO, **options) as pool, contextlib.AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(pool.acquire()) for _ in range(number)]
            for connection in connections:
                for turn in range(TURNS):
                    await connection.fetchval(USUAL.format("$1::int"), turn)
                async with connection.transaction():
                    await connection.fetchval("select 1")
            await stack.aclose()
            await asyncio.to_thread(wait)

    asyncio.run(work())


def pg8000(number: int) -> None:
    import pg8000.dbapi

    connections = [pg8000.dbapi.connect(**WHERE, **WHO, database=DATABASE) for _ in range(number)]
    for connection in connections:
        cursor = connection.cursor()
        for turn in range(TURNS):
            cursor.execute(USUAL.format("cast(%s as int)"), [turn])
        connection.commit()
    wait()


def sqlalchemy_psycopg(number: int) -> None:
    import sqlalchemy as sa
    from sqlalchemy.orm import Session

    address = sa.URL.create("postgresql+psycopg", WHO["user"], WHO["password"], **WHERE, database=DATABASE)
    engine = sa.create_engine(address, pool_size=number, pool_pre_ping=True)
    with contextlib.ExitStack() as stack:
        for session in [stack.enter_context(Session(engine)) for _ in range(number)]:
            for turn in range(TURNS):
                session.execute(sa.text(USUAL.format(":turn")), {"turn": turn})
            session.commit()
            session.scalar(sa.text("select 1"))
            session.rollback()
    wait()


def sqlalchemy_asyncpg(number: int) -> None:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def work() -> None:
        address = sa.URL.create("postgresql+asyncpg", WHO["user"], WHO["password"], **WHERE, database=DATABASE)
        engine = create_async_engine(address, pool_size=number, pool_pre_ping=True)
        async with contextlib.AsyncExitStack() as stack:
            for session in [await stack.enter_async_context(AsyncSession(engine)) for _ in range(number)]:
                for turn in range(TURNS):
                    await session.execute(sa.text(USUAL.format("cast(:turn as int)")), {"turn": turn})
                await session.commit()
                await session.scalar(sa.text("select 1"))
                await session.rollback()
        await asyncio.to_thread(wait)
        await engine.dispose()

    asyncio.run(work())


client: Callable[[int], None] = globals()[sys.argv[1]]
client(int(sys.argv[3]))
