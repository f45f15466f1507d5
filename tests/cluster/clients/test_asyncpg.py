"""asyncpg and its pool do through the pooler what they do with the primary itself."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests import roles
from tests.cluster.clients.tools import EACH_LOGIN, words
from tests.cluster.conftest import Address


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


async def use(address: Address, what: Callable[[asyncpg.Connection], Awaitable[Any]], **options: Any) -> Any:
    """What `what` returns of a connection, which is closed afterwards."""
    connection = await asyncpg.connect(**address.params(), timeout=10, **options)
    try:
        return await what(connection)
    finally:
        await connection.close()


def test_asyncpg_keeps_statements_and_finds_new_types(address, table):
    """Types that it does not know are asked for with statements of its own, in the middle of the application's."""
    async def work(connection):
        await connection.execute("drop type if exists shade")
        await connection.execute("create type shade as enum ('light', 'dark')")
        asked = "select $1::shade as s, $2::int[] as a, $3::numeric as n"
        rows = [await connection.fetchrow(asked, "dark", [1, 2], 12) for _ in range(5)]
        await connection.execute(f"insert into {table} values (1, 'one')")
        star = f"select * from {table}"
        before = [await connection.fetchrow(star) for _ in range(3)]
        other = await asyncpg.connect(**address.params(roles.ADMIN))
        await other.execute(f"alter table {table} add column more int default 7")
        await other.close()
        after = [tuple(await connection.fetchrow(star)) for _ in range(3)]
        await connection.execute("drop type shade")
        return {tuple(row["a"]) for row in rows}, {tuple(row) for row in before}, set(after)

    assert asyncio.run(use(address, work)) == ({(1, 2)}, {(1, "one")}, {(1, "one", 7)})


def test_asyncpg_prepares_again_by_itself_when_a_column_has_another_type(address):
    """It knows that from the error's code and the routine that it comes from; in a transaction it cannot repeat it."""
    async def work(connection):
        await connection.execute("drop table if exists changing; create table changing as select 1 as a, 2 as b")
        seen = [tuple(await connection.fetchrow("select * from changing")) for _ in range(3)]
        await connection.execute("alter table changing alter b type text")
        seen += [tuple(await connection.fetchrow("select * from changing")) for _ in range(3)]
        await connection.execute("alter table changing alter b type int using b::int")
        with pytest.raises(asyncpg.InvalidCachedStatementError):
            async with connection.transaction():
                await connection.fetchrow("select * from changing")
        seen.append(tuple(await connection.fetchrow("select * from changing")))
        await connection.execute("drop table changing")
        return seen

    assert asyncio.run(use(address, work)) == [(1, 2)] * 3 + [(1, "2")] * 3 + [(1, 2)]


def test_asyncpg_with_a_small_statement_cache_closes_what_it_does_not_need(address):
    async def work(connection):
        return [await connection.fetchval(f"select $1::int + {turn % 7}", turn) for turn in range(50)]

    answers = asyncio.run(use(address, work, statement_cache_size=3, max_cached_statement_lifetime=1))
    assert answers == [turn + turn % 7 for turn in range(50)]


def test_asyncpg_walks_with_cursors_in_a_transaction(address):
    async def work(connection):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            cursor = await connection.cursor("select generate_series(1, $1::int)", 100)
            first = [row[0] for row in await cursor.fetch(10)]
            await cursor.forward(80)
            async with connection.transaction():
                statement = await connection.prepare("select $1::int * 2")
                inner = await statement.fetchval(21)
            return first, [row[0] for row in await cursor.fetch(50)], inner

    assert asyncio.run(use(address, work)) == (list(range(1, 11)), list(range(91, 101)), 42)


def test_asyncpg_listens_while_it_works(address):
    async def work(connection):
        heard: asyncio.Queue = asyncio.Queue()
        await connection.add_listener("asyncpg_news", lambda *what: heard.put_nowait(what[2:]))
        speaker = await asyncpg.connect(**address.params())
        for number in range(3):
            await speaker.execute("select pg_notify('asyncpg_news', $1)", str(number))
            assert await connection.fetchval("select $1::int", number) == number
        await speaker.close()
        return [await asyncio.wait_for(heard.get(), 20) for _ in range(3)]

    assert asyncio.run(use(address, work)) == [("asyncpg_news", str(number)) for number in range(3)]


def test_asyncpg_gives_up_a_slow_statement_and_goes_on(address):
    async def work(connection):
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch("select pg_sleep(31)", timeout=0.1)
        with pytest.raises(asyncpg.QueryCanceledError):
            await connection.execute("set statement_timeout = 50")
            await connection.fetch("select pg_sleep(31)")
        return await connection.fetchval("select 'alive'")

    assert asyncio.run(use(address, work)) == "alive"


def test_asyncpg_has_its_settings_and_its_pool_takes_them_back(address):
    async def work():
        options = {"server_settings": {"application_name": "asyncpg's", "work_mem": "5MB"}}
        async with asyncpg.create_pool(**address.params(), min_size=1, max_size=1, timeout=10, **options) as pool:
            async with pool.acquire() as connection:
                await connection.execute("set work_mem = '7MB'; set timezone = 'Asia/Shanghai'")
                inside = await connection.fetchval("show work_mem")
                told = connection.get_settings().TimeZone
            async with pool.acquire() as connection:
                name = connection.get_settings().application_name
                return inside, told, await connection.fetchval("show work_mem"), name

    assert asyncio.run(work()) == ("7MB", "Asia/Shanghai", "5MB", "asyncpg's")
