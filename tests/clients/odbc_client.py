"""ODBC: MariaDB's driver under unixODBC, through pyodbc."""

import sys

import pyodbc
from tried import CREATE, HOST, ROWS, ca, database, port, trying

if "MariaDB Unicode" not in pyodbc.drivers():
    print("SKIPPED MariaDB's ODBC driver is not installed (odbc-mariadb)")
    sys.exit(0)


def connect(**more):
    parts = {"DRIVER": "{MariaDB Unicode}", "SERVER": HOST, "PORT": port, "UID": "root", "CHARSET": "utf8mb4"} | more
    return pyodbc.connect(";".join(f"{name}={value}" for name, value in parts.items()), autocommit=True)


with trying("connect"):
    connection = connect()
    connection.execute(f"DROP DATABASE IF EXISTS {database}")
    connection.execute(f"CREATE DATABASE {database}")
    connection.close()
    connection = connect(DATABASE=database)
    assert connection.getinfo(pyodbc.SQL_DBMS_NAME), "a name"
    assert connection.getinfo(pyodbc.SQL_DATABASE_NAME) == database
with trying("write and read back every type"):
    connection.execute(CREATE)
    cursor = connection.cursor()
    for row in ROWS:
        cursor.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        assert cursor.rowcount == 1
    rows = [tuple(row) for row in cursor.execute("SELECT * FROM items ORDER BY id")]
    assert rows == ROWS, rows
with trying("parameters"):
    assert cursor.execute("SELECT name FROM items WHERE id = ? AND price = ?", 1, ROWS[0][2]).fetchval() == ROWS[0][1]
    assert [row[0] for row in cursor.execute("SELECT id FROM items WHERE name = ?", ROWS[1][1])] == [2]
with trying("catalog functions: tables, columns, keys, types"):
    assert ("items", "TABLE") in [(row.table_name, row.table_type) for row in cursor.tables(catalog=database)]
    assert [row.column_name for row in cursor.columns(table="items", catalog=database)][:3] == ["id", "name", "price"]
    assert cursor.primaryKeys(table="items", catalog=database).fetchall() == []
    assert cursor.statistics(table="items", catalog=database) is not None and cursor.fetchall() is not None
    assert cursor.foreignKeys(table="items", catalog=database).fetchall() == []
    assert cursor.procedures().fetchall() is not None
    assert len(cursor.getTypeInfo().fetchall()) > 10
with trying("SQLSTATEs"):
    for sql, state in [("SELECT * FROM no_such", "42S02"), ("SELECT no_such FROM items", "42S22"), ("SELEC 1", "42000")]:
        try:
            cursor.execute(sql)
            raise AssertionError(f"{sql} did not fail")
        except pyodbc.Error as raised:
            assert raised.args[0] == state, raised
with trying("commit and rollback"):
    connection.autocommit = False
    cursor.execute("SELECT count(*) FROM items").fetchval()
    connection.rollback()
    connection.autocommit = True
with trying("a large result"):
    cursor.execute("WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 300) "
                   "SELECT a.n * 1000 + b.n AS n FROM t AS a CROSS JOIN t AS b")
    assert sum(row[0] for row in cursor) == 13_558_545_000
with trying("TLS"):
    with connect(SSLCA=ca) as secure:
        assert secure.execute("SHOW STATUS LIKE 'Ssl_version'").fetchone()[1].startswith("TLSv1")
connection.close()
