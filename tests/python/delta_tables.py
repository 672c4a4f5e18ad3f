"""Managed tables as `deltalake` and DuckDB read them, and what `deltalake` appends as the server reads it."""

import datetime
import decimal
import os
import sys
import urllib.parse

import duckdb
import pyarrow
import pymysql
from deltalake import DeltaTable, write_deltalake

port = int(sys.argv[1])
connection = pymysql.connect(host="127.0.0.1", port=port, user="root", database="default", autocommit=True)
cursor = connection.cursor()


def ask(sql):
    cursor.execute(sql)
    return list(cursor.fetchall())


def run(sql):
    return cursor.execute(sql)


def location(table):
    (row,) = ask(f"SELECT location FROM system.tables WHERE database = 'default' AND name = '{table}'")
    return row[0]


def rows(table):
    """All rows as `deltalake` sees them, and as DuckDB sees the files that it names."""
    delta = DeltaTable(location(table))
    seen = delta.to_pyarrow_table()
    files = [uri.removeprefix("file://") for uri in delta.file_uris()]
    files = [path if os.path.exists(path) else urllib.parse.unquote(path) for path in files]
    n_rows = duckdb.execute(f"SELECT count(*) FROM read_parquet({files!r}, union_by_name = true)").fetchone()[0] if files else 0
    assert n_rows == seen.num_rows, (table, n_rows, seen.num_rows)
    return delta, seen


# Every type.
run("DROP TABLE IF EXISTS types")
run(
    "CREATE TABLE types (id INT NOT NULL, b BOOLEAN, t TINYINT, s SMALLINT, l BIGINT, u INT UNSIGNED, v BIGINT UNSIGNED, "
    "f FLOAT, d DOUBLE, p DECIMAL(38, 10), q DECIMAL(9, 2), x TEXT, y BLOB, day DATE, at DATETIME)"
)
run(
    "INSERT INTO types VALUES (1, true, -128, -32768, -9223372036854775808, 4294967295, 18446744073709551615, 1.5, -2.25, "
    "'1234567890123456789012345678.0123456789', '-1234567.89', 'ä\"''b', x'00ff', '2024-02-29', '2024-02-29 23:59:59.123456')"
)
run("INSERT INTO types (id) VALUES (2)")
delta, seen = rows("types")
first, second = sorted(seen.to_pylist(), key=lambda row: row["id"])
assert first == {
    "id": 1, "b": True, "t": -128, "s": -32768, "l": -(2**63), "u": 2**32 - 1, "v": decimal.Decimal(2**64 - 1),
    "f": 1.5, "d": -2.25, "p": decimal.Decimal("1234567890123456789012345678.0123456789"),
    "q": decimal.Decimal("-1234567.89"), "x": "ä\"'b", "y": b"\x00\xff", "day": datetime.date(2024, 2, 29),
    "at": datetime.datetime(2024, 2, 29, 23, 59, 59, 123456),
}, first
assert all(value is None for name, value in second.items() if name != "id"), second
fields = {field.name: field.nullable for field in delta.schema().fields}
assert fields["id"] is False and fields["x"] is True, fields
assert ask("SELECT p, v, x, at FROM types WHERE id = 1")[0][2] == "ä\"'b"

# Partitions with names that paths do not like, deletes, updates, history.
run("DROP TABLE IF EXISTS parts")
run("CREATE TABLE parts (k VARCHAR(20), day DATE, n BIGINT) PARTITIONED BY (k, day) CLUSTER BY (n)")
values = ["a/b", "100%", "ü=&", "x y", "..", "'"]
for i, value in enumerate(values):
    cursor.execute("INSERT INTO parts VALUES (%s, %s, %s)", (value, f"2026-01-{i + 1:02}", i))
run("INSERT INTO parts VALUES (NULL, NULL, 100)")
assert run("DELETE FROM parts WHERE n = 1") == 1
assert run("UPDATE parts SET n = n + 1000 WHERE k = 'x y'") == 1
_, seen = rows("parts")
expected = {(v, i) for i, v in enumerate(values) if i not in (1, 3)} | {(None, 100), ("x y", 1003)}
assert {(row["k"], row["n"]) for row in seen.to_pylist()} == expected, seen.to_pylist()
assert {(row["k"], row["day"]) for row in seen.to_pylist()} == {
    (k, datetime.date(2026, 1, values.index(k) + 1) if k else None) for k, _ in expected
}
assert set(ask("SELECT k, n FROM parts")) == expected
run("OPTIMIZE parts")
delta, seen = rows("parts")
assert seen.num_rows == len(expected)
operations = [entry["operation"] for entry in delta.history()]
assert operations == [row[3] for row in ask("DESCRIBE HISTORY parts")], operations
assert operations.count("WRITE") == 7 and {"DELETE", "UPDATE", "CREATE TABLE"} <= set(operations), operations
version = delta.version()
old = DeltaTable(location("parts"), version=7).to_pyarrow_table()
assert old.num_rows == 7, old.num_rows

# What another engine appends, with partitions, and a column that it adds.
run("DROP TABLE IF EXISTS shared")
run("CREATE TABLE shared (k INT, s VARCHAR(9)) PARTITIONED BY (k)")
run("INSERT INTO shared VALUES (1, 'ours')")
more = pyarrow.table({"k": pyarrow.array([1, 2, None], pyarrow.int32()), "s": ["a", "b", "c"]})
write_deltalake(location("shared"), more, mode="append")
assert sorted(ask("SELECT s FROM shared")) == [("a",), ("b",), ("c",), ("ours",)]
assert ask("SELECT s FROM shared WHERE k = 2") == [("b",)]
assert ask("SELECT s FROM shared WHERE k IS NULL") == [("c",)]
assert run("DELETE FROM shared WHERE k = 1") == 2
wide = more.append_column("z", pyarrow.array([1.5, 2.5, 3.5]))
write_deltalake(location("shared"), wide, mode="append", schema_mode="merge")
assert sorted(ask("SELECT s, z FROM shared WHERE k = 2"), key=str) == [("b", 2.5), ("b", None)]
assert run("INSERT INTO shared (k, s) VALUES (7, 'again')") == 1
_, seen = rows("shared")
assert seen.num_rows == 6, seen.to_pylist()

# Constraints stand in the table.
run("DROP TABLE IF EXISTS checked")
run("CREATE TABLE checked (a INT NOT NULL DEFAULT 7, b INT, CONSTRAINT low CHECK (b < 10)) COMMENT 'it''s'")
run("INSERT INTO checked (b) VALUES (1)")
delta, seen = rows("checked")
assert seen.to_pylist() == [{"a": 7, "b": 1}]
assert delta.metadata().configuration["delta.constraints.low"] == "b < 10", delta.metadata().configuration
assert delta.metadata().description == "it's"

# MERGE and COPY.
run("DROP TABLE IF EXISTS merged")
run("CREATE TABLE merged (id INT NOT NULL, k VARCHAR(9), n BIGINT DEFAULT 7) PARTITIONED BY (k)")
run("INSERT INTO merged SELECT number, concat('k', number % 3), number FROM numbers(100)")
changes = "SELECT number * 2 AS id, number AS n FROM numbers(60)"
sql = (
    f"MERGE INTO merged AS t USING ({changes}) AS s ON t.id = s.id WHEN MATCHED AND s.n < 10 THEN DELETE "
    "WHEN MATCHED THEN UPDATE SET n = 0 - CAST(s.n AS SIGNED) WHEN NOT MATCHED THEN INSERT (id, k) VALUES (s.id, 'new') "
    "WHEN NOT MATCHED BY SOURCE AND t.id = 99 THEN UPDATE SET k = NULL"
)
assert run(sql) == 61
delta, seen = rows("merged")
expected = {(i, f"k{i % 3}", -(i // 2) if i % 2 == 0 else i) for i in range(100) if i % 2 or i >= 20} - {(99, "k0", 99)}
expected |= {(i, "new", 7) for i in range(100, 120, 2)} | {(99, None, 99)}
assert {tuple(row.values()) for row in seen.to_pylist()} == expected
metrics = delta.history(1)[0]["operationMetrics"]
assert delta.history(1)[0]["operation"] == "MERGE" and metrics["numTargetRowsDeleted"] == "10", delta.history(1)

folder = os.path.join(os.path.dirname(location("merged").removeprefix("file://").rstrip("/")), "copied")
run(f"COPY merged TO '{folder}/parts/' STORED AS PARQUET PARTITIONED BY (k)")
found = duckdb.execute(
    f"SELECT id, k, n FROM read_parquet('{folder}/parts/**/*.parquet', hive_partitioning = true)"
).fetchall()
assert set(found) == expected, set(found) ^ expected
run(f"COPY (SELECT id, n FROM merged) TO '{folder}/all.csv'")
assert duckdb.execute(f"SELECT count(*), sum(n) FROM '{folder}/all.csv'").fetchone() == (100, sum(row[2] for row in expected))
duckdb.execute(f"COPY (SELECT i::INTEGER AS id, 'duck' AS k FROM range(1000, 1010) t(i)) TO '{folder}/duck.parquet'")
for status, n_rows in [("LOADED", 10), ("SKIPPED", 0)]:
    ((_, found_status, found_rows, _, _),) = ask(f"COPY INTO merged FROM '{folder}/duck.parquet'")
    assert (found_status, found_rows) == (status, n_rows), (found_status, found_rows)
_, seen = rows("merged")
assert seen.num_rows == 110
print("ok")
