"""The 22 TPC-H queries over the same Parquet files on the server and in DuckDB: equal, or it says where not."""

import decimal
import glob
import os
import sys

import duckdb
import pymysql

port, data, queries = int(sys.argv[1]), sys.argv[2], sys.argv[3]
db = duckdb.connect()
for table in ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]:
    files = glob.glob(os.path.join(data, table, "*.parquet")) or [os.path.join(data, table + ".parquet")]
    db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet({files!r})")
connection = pymysql.connect(host="127.0.0.1", port=port, user="root", database="sf1", read_timeout=600)
cursor = connection.cursor()
cursor.execute("SET min_distribute_bytes = 0")


def key(row):
    return tuple(str(cell) for cell in row if not isinstance(cell, (float, decimal.Decimal)))


def agree(ours, theirs):
    if isinstance(ours, decimal.Decimal):
        unit = decimal.Decimal(1).scaleb(ours.as_tuple().exponent)
        return abs(ours - decimal.Decimal(str(theirs))) <= unit
    if isinstance(ours, float):
        return abs(ours - float(theirs)) <= 1e-9 * abs(float(theirs))
    return str(ours) == str(theirs)


wrong = 0
for number in range(1, 23):
    with open(os.path.join(queries, f"q{number}.sql")) as file:
        sql = file.read().strip().rstrip(";")
    theirs = sorted(db.execute(sql).fetchall(), key=key)
    cursor.execute(sql)
    ours = sorted(cursor.fetchall(), key=key)
    same = len(ours) == len(theirs) and all(
        len(a) == len(b) and all(agree(x, y) for x, y in zip(a, b)) for a, b in zip(ours, theirs)
    )
    print(f"q{number}: {len(ours)} rows {'equal' if same else 'DIFFERENT'}")
    if not same:
        wrong += 1
        for a, b in zip(ours, theirs):
            if not all(agree(x, y) for x, y in zip(a, b)):
                print("  ours  ", a, "\n  theirs", b)
                break
sys.exit(1 if wrong else 0)
