"""What a filter may leave out: every query with pruning on and off, and by DuckDB, over files made to mislead.

Arguments: the server's MySQL port, a folder of its own that the server may read.
"""

import datetime
import decimal
import os
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql

port, folder = int(sys.argv[1]), sys.argv[2]
connection = pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=10, read_timeout=120, autocommit=True)
cursor = connection.cursor()


def ask(sql):
    cursor.execute(sql)
    return [tuple(row) for row in cursor.fetchall()]


NAN = float("nan")


def part(number, start, **columns):
    n = 40
    ids = list(range(start, start + n))
    hole = lambda it, value: None if it % 5 == number else value
    table = {
        "id": pa.array(ids, pa.int64()),
        "k": pa.array([hole(it, it - 60) for it in ids], pa.int32()),
        "u": pa.array([hole(it, it) for it in ids], pa.uint32()),
        "b": pa.array([it + (1 << 63) - 60 for it in ids], pa.uint64()),
        "f": pa.array([NAN if it % 17 == 0 else hole(it, it / 2 - 20) for it in ids], pa.float64()),
        "d": pa.array([hole(it, decimal.Decimal(it - 60) / 8) for it in ids], pa.decimal128(18, 3)),
        "s": pa.array([hole(it, "ä" * 40 + f"{it:04}") for it in ids], pa.string()),
        "day": pa.array([hole(it, datetime.date(2020, 1, 1) + datetime.timedelta(it)) for it in ids], pa.date32()),
        "empty": pa.array([None] * n, pa.int64()),
    } | columns
    return pa.table(table)


files = {
    "0": (part(0, 0), {}),
    "1": (part(1, 40), {}),
    # Without statistics, and with many small pages.
    "2": (part(2, 80), {"write_statistics": False}),
    "3": (part(3, 120), {"data_page_size": 64, "write_page_index": True}),
    # Of an older shape: a narrower type, and a column that is not there.
    "4": (part(4, 160).drop_columns(["day"]).set_column(0, "id", pa.array(range(160, 200), pa.int32())), {}),
}
os.makedirs(os.path.join(folder, "t"))
for name, (table, options) in files.items():
    pq.write_table(table, os.path.join(folder, "t", f"{name}.parquet"), row_group_size=10, **options)
ask("CREATE DATABASE pruning")
ask("USE pruning")
columns = "id BIGINT, k INT, u INT UNSIGNED, b BIGINT UNSIGNED, f DOUBLE, d DECIMAL(18, 3), s TEXT, day DATE, empty BIGINT"
ask(f"CREATE EXTERNAL TABLE t ({columns}) STORED AS PARQUET LOCATION '{folder}/t'")
# A table of its own: DuckDB prunes files by their bounds too, and loses NaN by it.
duckdb.sql(f"CREATE TABLE theirs AS SELECT * FROM read_parquet('{folder}/t/*.parquet', union_by_name = true)")
theirs = "theirs"

FILTERS = [
    "k > 10", "10 < k", "100 >= k", "k = 0", "k <> 0", "NOT k > 10", "NOT (k > 10 OR u < 5)", "k BETWEEN -5 AND 5",
    "k NOT BETWEEN -50 AND 120", "k IN (1, 2, 139)", "k NOT IN (1, 2)", "k IS NULL", "k IS NOT NULL", "k + 1 > 130", "-k > 30",
    "k > 10 OR empty = 1", "k > 130 OR s LIKE '%0007'", "k > 130 OR id % 50 = 3", "empty IS NULL AND k > 135", "empty > 0",
    "empty IS NOT NULL", "u > -1", "u >= 0 AND u < 3", "-1 < u AND u > 190", "u = -1", "NOT (u > 4)",
    "b > 9223372036854775807", "b < 9223372036854775807", "b >= 9223372036854775800 AND b <= 9223372036854775810", "b > -1",
    "f > 60", "60 < f", "f >= 79.5", "f < -15", "NOT (f < 79)", "f <> 3", "f = 3", "f IS NULL", "f BETWEEN 0 AND 1", "f > 60 AND k > 0",
    "f > 60 OR k < -55", "d > 10.5", "d < -7", "d = 0.125", "d * 2 > 34", "CAST(d AS DOUBLE) > 17", "CAST(k AS DOUBLE) = 5",
    "CAST(id AS VARCHAR) = '199'", "CAST(k AS VARCHAR) > '9'", "s > 'ää'", "s < 'b'", "s = 'nothing'", "s >= 'z'",
    "s LIKE 'ä%0003'", "s LIKE 'b%'", "day > DATE '2020-05-01'", "day IS NULL", "day IS NULL AND id < 165",
    "day = DATE '2020-01-02' OR day IS NULL", "DATE '2020-01-03' > day", "id > 150 AND id < 165", "id = 160", "id >= 195", "id < 0",
    "CASE WHEN k > 0 THEN id ELSE -id END > 190", "COALESCE(k, 1000) > 500", "NULLIF(k, 5) IS NULL", "(k > 10) IS NOT TRUE", "(k > 10) IS NULL",
]
distributed = [("SET min_distribute_bytes = 0", "SET bytes_per_task = 0"), ("SET min_distribute_bytes = 1000000000000",)]
for settings in distributed:
    for setting in settings:
        ask(setting)
    for where in FILTERS:
        expected = duckdb.sql(f"SELECT id FROM {theirs} WHERE {where} ORDER BY id").fetchall()
        for pruning in ["true", "false"]:
            ask(f"SET datafusion.execution.parquet.pruning = {pruning}")
            ours = where.replace("AS VARCHAR", "AS CHAR")
            found = ask(f"SELECT id FROM t WHERE {ours} ORDER BY id")
            assert found == expected, (where, pruning, settings, len(found), len(expected))
            counts = ask(f"SELECT count(*), min(id), max(id), min(k), max(k), count(d) FROM t WHERE {ours}")
            assert counts == duckdb.sql(f"SELECT count(*), min(id), max(id), min(k), max(k), count(d) FROM {theirs} WHERE {where}").fetchall(), (where, counts)
    ask("SET datafusion.execution.parquet.pruning = true")
    everything = "SELECT count(*), min(id), max(id), min(d), max(d), min(day), max(day), count(empty), min(empty), min(b), max(b), min(u), max(u) FROM"
    assert ask(f"{everything} t") == duckdb.sql(f"{everything} {theirs}").fetchall()
    # DuckDB sorts NaN above all numbers, as the engine does.
    assert ask("SELECT id FROM t ORDER BY f DESC, id LIMIT 3") == duckdb.sql(f"SELECT id FROM {theirs} ORDER BY f DESC NULLS LAST, id LIMIT 3").fetchall()
listed = ask("SHOW PARTITIONS FROM t WHERE id > 150 AND id < 165")
assert {os.path.basename(row[0]) for row in listed} <= {"2.parquet", "3.parquet", "4.parquet"}, listed
ask("DROP TABLE t")
print("OK")
