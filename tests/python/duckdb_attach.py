"""DuckDB attaches the server through its mysql extension and reads tables, where the extension can be had."""

import sys

import duckdb

port = int(sys.argv[1])
db = duckdb.connect()
try:
    db.execute("INSTALL mysql")
    db.execute("LOAD mysql")
except Exception as error:
    print("SKIPPED: DuckDB's mysql extension cannot be had here:", str(error).splitlines()[0])
    sys.exit(0)
db.execute(f"ATTACH 'host=127.0.0.1 port={port} user=root database=suite' AS sheaf (TYPE mysql, READ_ONLY)")
tables = {row[0] for row in db.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'sheaf'").fetchall()}
assert {"facts", "dims", "one", "empty"} <= tables, tables
assert db.execute("SELECT count(*), sum(id), count(g) FROM sheaf.facts").fetchone() == (240, 28680, 205)
joined = db.execute("SELECT count(*) FROM sheaf.facts f JOIN sheaf.dims d ON f.k = d.k").fetchone()
assert joined[0] > 0, joined
assert db.execute("SELECT * FROM sheaf.one").fetchone()[:3] == (7, 3, "c")
assert db.execute("SELECT count(*) FROM sheaf.empty").fetchone() == (0,)
print("ok")
