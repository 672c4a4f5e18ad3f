"""SQLAlchemy over a driver that the fourth argument names: reflection, Core, the ORM, pandas.

With `1.4` behind it, that version and without pandas, which needs the newer one.
"""

import datetime
import decimal
import os
import sys
import warnings

driver, is_old = sys.argv[4], "1.4" in sys.argv[5:]
if is_old:
    sys.path.insert(0, os.path.join(sys.prefix, "sqlalchemy-1.4"))
    os.environ["SQLALCHEMY_SILENCE_UBER_WARNING"] = "1"

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql
from tried import HOST, database, port, trying

assert sa.__version__.startswith("1.4.") == is_old, sa.__version__
# "Unknown schema content" is how SQLAlchemy says that it could not read SHOW CREATE TABLE.
warnings.simplefilter("error")
url = f"mysql+{driver}://root@{HOST}:{port}"
options = {"future": True} if is_old else {}

with trying("connect"):
    with sa.create_engine(url, **options).connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {database}"))
        connection.execute(sa.text(f"CREATE DATABASE {database}"))
    engine = sa.create_engine(f"{url}/{database}", pool_pre_ping=True, pool_size=2, **options)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT DATABASE()")).scalar_one() == database
        assert engine.dialect.server_version_info >= (8,), engine.dialect.server_version_info

metadata = sa.MetaData()
items = sa.Table(
    "items",
    metadata,
    sa.Column("id", sa.BigInteger, nullable=False, autoincrement=False),
    sa.Column("name", sa.String(40)),
    sa.Column("price", sa.Numeric(12, 2)),
    sa.Column("weight", mysql.DOUBLE()),
    sa.Column("made", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("ok", sa.Boolean),
    comment="what there is",
)
row = {
    "id": 1,
    "name": "naïve 世界",
    "price": decimal.Decimal("12.50"),
    "weight": 0.25,
    "made": datetime.datetime(2024, 2, 29, 12, 30),
    "day": datetime.date(2024, 2, 29),
    "ok": True,
}
with trying("create tables from metadata, has_table"):
    metadata.create_all(engine)
    inspector = sa.inspect(engine)
    assert inspector.has_table("items") and not inspector.has_table("no_such")
    metadata.create_all(engine)
with trying("reflection"):
    assert database in inspector.get_schema_names() and inspector.get_table_names() == ["items"]
    columns = {column["name"]: column for column in inspector.get_columns("items")}
    assert list(columns) == list(row), columns
    kinds = [str(column["type"]).split("(")[0] for column in columns.values()]
    assert kinds[0] == "BIGINT" and kinds[2] == "DECIMAL" and kinds[3] == "DOUBLE", kinds
    assert kinds[4] == "DATETIME" and kinds[5] == "DATE" and kinds[6] == "TINYINT", kinds
    assert not columns["id"]["nullable"] and columns["name"]["nullable"]
    assert inspector.get_indexes("items") == [] and inspector.get_foreign_keys("items") == []
    assert inspector.get_pk_constraint("items")["constrained_columns"] == []
    assert inspector.get_table_comment("items")["text"] == "what there is"
    assert inspector.get_view_names() == [] and inspector.get_unique_constraints("items") == []
    reflected = sa.Table("items", sa.MetaData(), autoload_with=engine)
    assert [column.name for column in reflected.columns] == list(row)
    try:
        sa.Table("no_such", sa.MetaData(), autoload_with=engine)
        raise AssertionError("a table that is not there was reflected")
    except sa.exc.NoSuchTableError:
        pass
with trying("insert, select, update and delete by expressions"):
    with engine.begin() as connection:
        connection.execute(items.insert(), [row, {**row, "id": 2, "name": None, "ok": None}])
    with engine.connect() as connection:
        found = connection.execute(sa.select(items).order_by(items.c.id)).mappings().all()
        assert dict(found[0]) == row and found[1]["name"] is None and len(found) == 2, found
        grouped = sa.select(items.c.day, sa.func.count(), sa.func.sum(items.c.price)).group_by(items.c.day)
        assert connection.execute(grouped).all() == [(row["day"], 2, decimal.Decimal("25.00"))]
        paged = sa.select(items.c.id).where(items.c.id.in_([1, 2])).order_by(items.c.id.desc()).limit(1).offset(1)
        assert connection.execute(paged).scalars().all() == [1]
        named = sa.select(items.c.id).where(items.c.name.like("%e 世%"))
        assert connection.execute(named).scalars().all() == [1]
    with engine.begin() as connection:
        assert connection.execute(items.update().where(items.c.id == 2).values(name="two")).rowcount == 1
        assert connection.execute(items.delete().where(items.c.id == 2)).rowcount == 1
with trying("isolation levels, streaming"):
    with engine.connect() as connection:
        assert connection.get_isolation_level() == "REPEATABLE READ", connection.get_isolation_level()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        streamed = connection.execution_options(stream_results=True).execute(sa.text("SELECT 1 UNION ALL SELECT 2"))
        assert sorted(streamed.scalars()) == [1, 2]
with trying("errors as SQLAlchemy's classes"):
    for sql in ["SELECT * FROM no_such", "SELEC 1", "SELECT no_such FROM items"]:
        try:
            with engine.connect() as connection:
                connection.execute(sa.text(sql))
            raise AssertionError(f"{sql} did not fail")
        except (sa.exc.ProgrammingError, sa.exc.OperationalError):
            pass

Base = orm.declarative_base()


class Item(Base):
    __tablename__ = "items"
    id = sa.Column(sa.BigInteger, primary_key=True, autoincrement=False)
    name = sa.Column(sa.String(40))
    price = sa.Column(sa.Numeric(12, 2))


with trying("the ORM: add, get, change, delete"):
    with orm.Session(engine) as session:
        session.add_all([Item(id=10, name="ten", price=decimal.Decimal("1.10")), Item(id=11, name="eleven")])
        session.commit()
        ten = session.get(Item, 10)
        assert (ten.name, ten.price) == ("ten", decimal.Decimal("1.10"))
        ten.name = "TEN"
        session.commit()
        assert session.execute(sa.select(Item.name).where(Item.id == 10)).scalar_one() == "TEN"
        session.delete(ten)
        session.commit()
        assert session.get(Item, 10) is None
        assert session.query(Item).filter(Item.id > 1).order_by(Item.name).count() == 1

if not is_old:
    import pandas as pd

    with trying("pandas.read_sql, DataFrame.to_sql"):
        frame = pd.read_sql("SELECT id, name, price FROM items ORDER BY id", engine)
        assert list(frame["id"]) == [1, 11] and list(frame.columns) == ["id", "name", "price"], frame
        frame = pd.read_sql_table("items", engine, columns=["id", "made"])
        assert frame["made"].dt.year.max() == 2024, frame
        times = pd.date_range("2024-01-01", periods=500, freq="h")
        written = pd.DataFrame({"n": range(500), "x": [i / 4 for i in range(500)], "t": [f"t{i}" for i in range(500)], "at": times})
        for if_exists, expected in [("fail", 500), ("append", 1000), ("replace", 500)]:
            written.to_sql("frames", engine, index=False, if_exists=if_exists, chunksize=200, method="multi")
            read = pd.read_sql("SELECT count(*) AS n, sum(n) AS s, max(at) AS last FROM frames", engine)
            assert int(read["n"][0]) == expected and read["last"][0] == times[-1], read
        read = pd.read_sql_table("frames", engine).sort_values("n").reset_index(drop=True)
        assert read["t"].tolist() == written["t"].tolist() and read["at"].tolist() == written["at"].tolist()
with trying("drop tables"):
    metadata.drop_all(engine)
    assert not sa.inspect(engine).has_table("items")
