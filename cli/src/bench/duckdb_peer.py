"""DuckDB as a peer of `sheaf bench`: statements in, answers out, one line of JSON each. See peer.rs."""

import glob
import json
import os
import sys

import duckdb

folder, cores = os.environ["BENCH_TABLES"], int(os.environ["BENCH_CORES"])
db = duckdb.connect()
db.execute(f"SET threads = {cores}")
settings = [f"threads = {cores}"]
try:
    # Footers are read once, as the other systems do; not every version has the setting.
    db.execute("SET parquet_metadata_cache = true")
    settings.append("parquet_metadata_cache = true")
except duckdb.Error:
    pass
for table in ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]:
    files = sorted(glob.glob(os.path.join(folder, table, "*.parquet"))) or [os.path.join(folder, table + ".parquet")]
    db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files!r})")


def kind(column):
    name = str(column[1]).upper()
    if name.startswith(("FLOAT", "DOUBLE", "REAL")):
        return "float"
    return "decimal" if name.startswith("DECIMAL") else "exact"


def text(cell):
    return None if cell is None else repr(cell) if isinstance(cell, float) else str(cell)


def answer(sql):
    cursor = db.execute(sql)
    kinds = [kind(column) for column in cursor.description]
    return {"kinds": kinds, "rows": [[text(cell) for cell in row] for row in cursor.fetchall()]}


def write(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


write({"ready": f"DuckDB {duckdb.__version__}, {', '.join(settings)}"})
for line in sys.stdin:
    try:
        write(answer(json.loads(line)["sql"]))
    except duckdb.Error as error:
        write({"error": str(error)})
