"""DuckDB attaches the server through its mysql extension, of the version that the extension was published for."""

import glob
import os
import sys

packages = os.path.join(sys.prefix, "duckdb-mysql")
sys.path.insert(0, packages)

import duckdb
from tried import CREATE, HOST, ROWS, database, port, trying

files = glob.glob(os.path.join(packages, "duckdb_extension_mysql_scanner", "**", "*.duckdb_extension"), recursive=True)
if not files:
    print("SKIPPED DuckDB's mysql extension is not installed")
    sys.exit(0)
db = duckdb.connect()
db.execute(f"LOAD '{files[0]}'")

with trying("attach, write"):
    db.execute(f"ATTACH 'host={HOST} port={port} user=root' AS server (TYPE mysql)")
    db.execute(f"CALL mysql_execute('server', 'DROP DATABASE IF EXISTS {database}')")
    db.execute(f"CALL mysql_execute('server', 'CREATE DATABASE {database}')")
    db.execute(f"CALL mysql_execute('server', 'CREATE TABLE {database}.{CREATE.removeprefix('CREATE TABLE ')}')")
    db.execute("DETACH server")
    db.execute(f"ATTACH 'host={HOST} port={port} user=root database={database}' AS sheaf (TYPE mysql)")
    db.executemany("INSERT INTO sheaf.items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ROWS)
with trying("tables and columns are found"):
    tables = db.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'sheaf'").fetchall()
    assert ("items",) in tables, tables
    # Other clients' databases have tables of that name too.
    columns = db.execute(
        "SELECT column_name, data_type FROM duckdb_columns() "
        f"WHERE database_name = 'sheaf' AND schema_name = '{database}' AND table_name = 'items'"
    )
    found = columns.fetchall()
    assert found[:4] == [("id", "BIGINT"), ("name", "VARCHAR"), ("price", "DECIMAL(12,2)"), ("weight", "DOUBLE")], found
with trying("read every type"):
    rows = db.execute("SELECT * FROM sheaf.items ORDER BY id").fetchall()
    assert rows == ROWS, rows
with trying("filters, joins with local tables"):
    assert db.execute("SELECT name FROM sheaf.items WHERE id = 1 AND price > 5").fetchone() == (ROWS[0][1],)
    db.execute("CREATE TABLE memory.local AS SELECT range AS id, range * 10 AS tenfold FROM range(3)")
    joined = "SELECT i.id, l.tenfold FROM sheaf.items i JOIN memory.local l ON i.id = l.id ORDER BY 1"
    assert db.execute(joined).fetchall() == [(1, 10), (2, 20)]
with trying("mysql_query, transactions"):
    assert db.execute("SELECT * FROM mysql_query('sheaf', 'SELECT 1 AS x, ''y'' AS y')").fetchall() == [(1, "y")]
    db.execute("BEGIN")
    assert db.execute("SELECT count(*) FROM sheaf.items").fetchone() == (3,)
    db.execute("ROLLBACK")
with trying("attach read-only"):
    db.execute(f"ATTACH 'host={HOST} port={port} user=root database={database}' AS reader (TYPE mysql, READ_ONLY)")
    assert db.execute("SELECT count(*), max(made) FROM reader.items").fetchone()[0] == 3
