"""asyncpg and its pool do through the pooler what they do with the primary itself."""

from __future__ import annotations

import asyncio
import io

import asyncpg
import pytest

from tests.cluster.clients.tools import EACH_LOGIN, words


@EACH_LOGIN
def test_asyncpg_logs_in_and_asks(address, role):
    async def ask():
        connection = await asyncpg.connect(**address.params(role), timeout=10)
        try:
            return await connection.fetchrow("select current_user::text, $1::int + 1", 41)
        finally:
            await connection.close()

    assert tuple(asyncio.run(ask())) == (role.name, 42)


def test_asyncpg_uses_transactions_and_copy(address, table):
    async def work():
        connection = await asyncpg.connect(**address.params(), timeout=10)
        try:
            async with connection.transaction():
                await connection.executemany(f"insert into {table} values ($1, $2)", [(1, "one"), (2, "two")])
            with pytest.raises(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute(f"insert into {table} values (3, 'three')")
                    await connection.execute(f"insert into {table} values (1, 'again')")
            rows = [(number, f"word {number}") for number in range(10, 3010)]
            copied = await connection.copy_records_to_table(table, records=rows)
            out = io.BytesIO()
            await connection.copy_from_query(f"select id from {table} where id > 3000 order by id", output=out)
            async with connection.transaction():
                cursor = connection.cursor(f"select id from {table}", prefetch=100)
                walked = [row["id"] async for row in cursor]
            return copied, out.getvalue(), len(walked)
        finally:
            await connection.close()

    out = "".join(f"{number}\n" for number in range(3001, 3010)).encode()
    assert asyncio.run(work()) == ("COPY 3000", out, 3002)
    assert words(address, table)[:3] == [(1, "one"), (2, "two"), (10, "word 10")]


def test_asyncpg_with_ten_connections_gives_everybody_their_own_answers(address):
    async def ask(pool, number):
        async with pool.acquire() as connection:
            statement = await connection.prepare("select $1::int, $2::text")
            return [tuple(await statement.fetchrow(number, f"{number}/{turn}")) for turn in range(20)]

    async def all_at_once():
        async with asyncpg.create_pool(**address.params(), min_size=10, max_size=10, timeout=10) as pool:
            return await asyncio.gather(*(ask(pool, number) for number in range(40)))

    expected = [[(number, f"{number}/{turn}") for turn in range(20)] for number in range(40)]
    assert asyncio.run(all_at_once()) == expected
