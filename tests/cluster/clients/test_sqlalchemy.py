"""SQLAlchemy, its ORM and its pool do through the pooler what they do with the primary itself, with two drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tests.cluster.conftest import Address


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "alchemy_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "alchemy_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("alchemy_author.id"))
    title: Mapped[str]
    pages: Mapped[int | None]
    author: Mapped[Author] = relationship(back_populates="books")


def url(address: Address, driver: str) -> sa.URL:
    params = address.params()
    return sa.URL.create(
        f"postgresql+{driver}", params["user"], params["password"], address.host, address.port, params["database"]
    )


@pytest.fixture
def engine(address: Address) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url(address, "psycopg"), pool_size=5, pool_pre_ping=True)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


def shelf() -> list[Author]:
    return [
        Author(name=f"author {n}", books=[Book(title=f"book {n}.{m}", pages=m * 100) for m in range(3)])
        for n in range(20)
    ]


def test_sqlalchemy_maps_objects_in_sessions_of_its_pool(engine):
    with Session(engine) as session:
        session.add_all(shelf())
        session.commit()
        author = session.scalars(sa.select(Author).where(Author.name == "author 7")).one()
        assert [book.title for book in author.books] == ["book 7.0", "book 7.1", "book 7.2"]
        author.books.pop()
        author.name = "renamed"
        session.commit()
        session.delete(session.scalars(sa.select(Author).filter_by(name="author 8")).one())
        session.rollback()
    with Session(engine) as session:
        per_author = sa.select(Author.name, sa.func.sum(Book.pages)).join(Author.books).group_by(Author.name)
        sums = dict(session.execute(per_author).all())
        assert (sums["renamed"], sums["author 8"], len(sums)) == (100, 300, 20)


def test_sqlalchemy_uses_savepoints_isolation_and_a_cursor_on_the_server(engine):
    with Session(engine) as session:
        session.add_all(shelf())
        session.flush()
        with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
            session.add(Author(name="author 1"))
            session.flush()
        session.commit()
        names = session.scalars(sa.select(Book.title).execution_options(yield_per=10))
        assert len(list(names)) == 60
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        assert connection.scalar(sa.text("show transaction_isolation")) == "serializable"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.delete(Book))
        rows = [{"author_id": 1, "title": f"new {n}"} for n in range(500)]
        assert len(connection.scalars(sa.insert(Book).returning(Book.id), rows).all()) == 500
    with engine.connect() as connection:
        assert connection.scalar(sa.text("show transaction_isolation")) == "read committed"
        assert connection.scalar(sa.select(sa.func.count()).select_from(Book)) == 500


def test_sqlalchemy_sees_the_tables_that_are_there(engine):
    inspector = sa.inspect(engine)
    assert {"alchemy_author", "alchemy_book"} <= set(inspector.get_table_names())
    assert [column["name"] for column in inspector.get_columns("alchemy_book")] == ["id", "author_id", "title", "pages"]
    assert inspector.get_foreign_keys("alchemy_book")[0]["referred_table"] == "alchemy_author"
    assert inspector.get_unique_constraints("alchemy_author")[0]["column_names"] == ["name"]


def test_sqlalchemy_with_asyncpg_serves_many_sessions_at_once(address, engine):
    async def rename(sessions: async_sessionmaker, number: int) -> str:
        async with sessions() as session, session.begin():
            author = (await session.scalars(sa.select(Author).filter_by(name=f"author {number}"))).one()
            author.name = f"renamed {number}"
            await session.flush()
            return (await session.scalars(sa.select(Author.name).filter_by(id=author.id))).one()

    async def work(engine: AsyncEngine) -> list[str]:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        async with sessions() as session:
            session.add_all(shelf())
            await session.commit()
        renamed = await asyncio.gather(*(rename(sessions, number) for number in range(20)))
        async with sessions() as session:
            streamed = await session.stream(sa.select(Author.name).order_by(Author.id))
            assert [name async for (name,) in streamed] == list(renamed)
        async with engine.connect() as connection:
            with pytest.raises(sa.exc.IntegrityError):
                await connection.execute(sa.insert(Author), [{"name": "twice"}, {"name": "twice"}])
            await connection.rollback()
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
            assert await connection.scalar(sa.select(sa.func.count()).select_from(Author)) == 0
            await connection.commit()
        await engine.dispose()
        return renamed

    expected = [f"renamed {number}" for number in range(20)]
    assert asyncio.run(work(create_async_engine(url(address, "asyncpg"), pool_size=5, pool_pre_ping=True))) == expected
