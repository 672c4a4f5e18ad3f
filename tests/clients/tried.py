"""What the scripts of Python clients have in common: where the server is, and telling what was tried.

A script is run with the server's port, the name of a database that it may make, and the file of the server's certificate.
It prints `TRIED what` for everything that went well; the tests compare that with the table of website/docs/connect.md.
"""

import contextlib
import datetime
import decimal
import sys

HOST = "127.0.0.1"
port, database, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3]

CREATE = (
    "CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), weight DOUBLE, made DATETIME, day DATE, "
    "raw BLOB, ok BOOLEAN)"
)
ROWS = [
    (1, "naïve 世界", decimal.Decimal("12.50"), 0.5, datetime.datetime(2024, 2, 29, 23, 59, 58), datetime.date(2024, 2, 29), b"\x00\xff'", 1),
    (2, "it's \"quoted\" \\ 100%", decimal.Decimal("-0.01"), -1250.25, datetime.datetime(1999, 12, 31), datetime.date(1970, 1, 1), b"\xfe", 0),
    (3, None, None, None, None, None, None, None),
]


@contextlib.contextmanager
def trying(what):
    try:
        yield
    except BaseException as error:
        raise SystemExit(f"{what}: {type(error).__name__}: {error}") from error
    print("TRIED", what, flush=True)


def raises(kinds, code, call, *arguments):
    """Checks that a call fails with MySQL's error number."""
    try:
        call(*arguments)
    except kinds as error:
        found = getattr(error, "errno", None) or error.args[0]
        assert found == code, (arguments, error)
        return error
    raise AssertionError(f"{arguments} did not fail")


def drive(connect, placeholder, error, first_code=lambda raised: getattr(raised, "errno", None) or raised.args[0]):
    """What every driver of Python's DB-API is asked. `connect` takes a database, or none."""

    def fails(cursor, sql, code):
        try:
            cursor.execute(sql)
        except error as raised:
            assert first_code(raised) == code, (sql, raised)
            return
        raise AssertionError(f"{sql} did not fail")

    marks = ", ".join([placeholder] * 8)
    with trying("connect"):
        connection = connect(None)
        cursor = connection.cursor()
        cursor.execute(f"DROP DATABASE IF EXISTS {database}")
        cursor.execute(f"CREATE DATABASE {database}")
        connection.close()
        connection = connect(database)
        cursor = connection.cursor()
        cursor.execute("SELECT DATABASE(), 1 + 1")
        assert tuple(cursor.fetchone()) == (database, 2)
        try:
            connect("no_such")
            raise AssertionError("connected to a database that does not exist")
        except error as raised:
            assert first_code(raised) == 1049, raised
    with trying("write and read back every type"):
        cursor.execute(CREATE)
        cursor.executemany(f"INSERT INTO items VALUES ({marks})", ROWS)
        assert cursor.rowcount in (3, 1), cursor.rowcount
        connection.commit()
        cursor.execute("SELECT * FROM items ORDER BY id")
        rows = [tuple(row) for row in cursor.fetchall()]
        assert rows == ROWS, rows
        assert [column[0] for column in cursor.description] == ["id", "name", "price", "weight", "made", "day", "raw", "ok"]
    with trying("parameters"):
        cursor.execute(f"SELECT name, price FROM items WHERE id = {placeholder} AND made = {placeholder}", (1, ROWS[0][4]))
        assert [tuple(row) for row in cursor.fetchall()] == [ROWS[0][1:3]]
        cursor.execute(f"SELECT id FROM items WHERE name = {placeholder} OR raw = {placeholder} ORDER BY id", (ROWS[1][1], ROWS[0][6]))
        assert [tuple(row) for row in cursor.fetchall()] == [(1,), (2,)]
    with trying("affected rows"):
        cursor.execute("UPDATE items SET weight = 7 WHERE id < 3")
        assert cursor.rowcount == 2, cursor.rowcount
        cursor.execute("DELETE FROM items WHERE id = 3")
        assert cursor.rowcount == 1, cursor.rowcount
    with trying("commit and rollback"):
        connection.commit()
        connection.rollback()
    with trying("error codes"):
        fails(cursor, "SELECT * FROM no_such", 1146)
        fails(cursor, "SELECT no_such FROM items", 1054)
        fails(cursor, "SELEC 1", 1064)
        fails(cursor, "USE no_such", 1049)
        fails(cursor, "SELECT no_such(1)", 1305)
        cursor.execute("SELECT 1")
        assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
    with trying("a large result"):
        # Without numbers(), so that MariaDB can be asked the same.
        cursor.execute("WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 300) "
                       "SELECT a.n * 1000 + b.n AS n, 'abcdefghijklmnopqrstuvwxyz' AS s FROM t AS a CROSS JOIN t AS b")
        rows = cursor.fetchall()
        assert len(rows) == 90000 and sum(row[0] for row in rows) == 13_558_545_000, len(rows)
    return connection
