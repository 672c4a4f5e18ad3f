"""Tables in an S3 server of its own on loopback: plain files and Delta Lake, read by SheafDB and compared with DuckDB.

Arguments: the server's MySQL port, a folder of its own that the server may read.
"""

import datetime
import decimal
import gzip
import logging
import os
import socket
import sys
import time

import boto3
import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql
from moto.server import ThreadedMotoServer

port, folder = int(sys.argv[1]), sys.argv[2]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
for name in list(os.environ):
    if name.startswith("AWS_"):
        del os.environ[name]

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, s3_port = server.get_host_and_port()
endpoint = f"http://127.0.0.1:{s3_port}"
KEY, SECRET = "who-asks", "hush-hush"
s3 = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
)
s3.create_bucket(Bucket="lake")

connection = pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=10, read_timeout=120)
cursor = connection.cursor()


def ask(sql):
    cursor.execute(sql)
    return [tuple(row) for row in cursor.fetchall()]


def fails(sql, *parts):
    try:
        cursor.execute(sql)
    except pymysql.MySQLError as raised:
        text = str(raised)
        for part in parts:
            assert part in text, (sql, part, text)
        for secret in [SECRET, KEY, "other-secret"]:
            assert secret not in text, text
        return
    raise AssertionError(f"{sql} did not fail")


def options(**more):
    named = {"endpoint": endpoint, "region": "us-east-1", "access_key_id": KEY, "secret_access_key": SECRET} | more
    pairs = ", ".join(f"'s3.{name}' '{value}'" for name, value in named.items())
    return f"OPTIONS ({pairs})"


def same(ours, theirs, what):
    # MySQL has no booleans.
    theirs = [tuple(int(it) if isinstance(it, bool) else it for it in row) for row in theirs]
    assert sorted(map(repr, ours)) == sorted(map(repr, theirs)), (what, ours[:5], theirs[:5])


# Every type that both sides have, with NULLs, over several files.
def rows(start, n):
    ids = list(range(start, start + n))
    hole = lambda it, value: None if it % 7 == 0 else value
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "small": pa.array([hole(it, it % 100) for it in ids], pa.int16()),
            "price": pa.array([hole(it, decimal.Decimal(it) / 4) for it in ids], pa.decimal128(12, 2)),
            "weight": pa.array([hole(it, it / 8) for it in ids], pa.float64()),
            "name": pa.array([hole(it, f"n{it % 13}'ä") for it in ids], pa.string()),
            "day": pa.array([hole(it, datetime.date(2020, 1, 1) + datetime.timedelta(it % 900)) for it in ids], pa.date32()),
            "at": pa.array(
                [hole(it, datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=it)) for it in ids], pa.timestamp("us")
            ),
            "flag": pa.array([hole(it, it % 2 == 0) for it in ids], pa.bool_()),
        }
    )


def upload(name, data):
    s3.put_object(Bucket="lake", Key=name, Body=data)


for part in range(4):
    path = os.path.join(folder, f"part-{part}.parquet")
    pq.write_table(rows(part * 1000, 1000), path, row_group_size=250)
    with open(path, "rb") as file:
        upload(f"plain/k={part % 2}/part-{part}.parquet", file.read())
upload("text/a.csv.gz", gzip.compress(b"a,b\n1,x\n2,y\n"))
upload("text/b.csv.gz", gzip.compress(b"a,b\n3,z\n"))
upload("lines/a.jsonl", b'{"a": 1, "b": "x"}\n{"a": 2}\n')
upload("broken/a.parquet", b"this is no Parquet file")

ask("CREATE DATABASE lake")
ask("USE lake")
ask("SET min_distribute_bytes = 0")
ask("SET bytes_per_task = 0")
ask(f"CREATE EXTERNAL TABLE plain STORED AS PARQUET LOCATION 's3://lake/plain/' {options()}")
ask(f"CREATE EXTERNAL TABLE packed STORED AS CSV LOCATION 's3://lake/text/*.csv.gz' {options()}")
ask(f"CREATE EXTERNAL TABLE jsons STORED AS JSON LOCATION 's3://lake/lines' {options()}")
local = f"(SELECT *, (id // 1000 % 2)::VARCHAR AS k FROM read_parquet('{folder}/part-*.parquet'))"
for query in [
    "SELECT count(*), sum(id), sum(price), min(day), max(`at`), count(small) FROM plain",
    "SELECT k, count(*), min(name) FROM plain GROUP BY k",
    "SELECT id, price, name FROM plain WHERE id BETWEEN 995 AND 1005",
    "SELECT count(*) FROM plain WHERE k = '1' AND weight > 100",
    "SELECT count(*) FROM plain WHERE day IS NULL OR NOT (small < 50)",
]:
    theirs = duckdb.sql(query.replace("FROM plain", f"FROM {local}").replace("`", '"')).fetchall()
    same(ask(query), theirs, query)
assert ask("SELECT sum(a), max(b) FROM packed") == [(6, "z")]
assert ask("SELECT sum(a), count(b) FROM jsons") == [(3, 1)]
plan = "\n".join(row[0] for row in ask("EXPLAIN SELECT k, count(*) FROM plain GROUP BY k"))
assert "stage" in plan.lower() and SECRET not in plan and KEY not in plan, plan

# Secrets are kept and not shown.
shown = ask("SHOW CREATE TABLE plain")[0][1]
assert SECRET not in shown and KEY not in shown and endpoint in shown and "***" in shown, shown
for table in ["system.tables", "information_schema.TABLES"]:
    assert SECRET not in repr(ask(f"SELECT * FROM {table}"))

# The same options under a name: a table keeps the name, and reads with what it means now.
def stored(**more):
    return options(**more).replace("OPTIONS", "CONNECTION store OPTIONS")


ask(f"CREATE {stored(secret_access_key='other-secret')}")
by_name = "STORED AS CSV LOCATION 's3://lake/text/*.csv.gz' OPTIONS ('connection' 'store', 'format.has_header' 'true')"
ask(f"CREATE EXTERNAL TABLE named {by_name}")
ask(f"CREATE OR REPLACE {stored()}")
assert ask("SELECT sum(a), max(b) FROM named") == [(6, "z")]
fails(f"CREATE EXTERNAL TABLE wrong {by_name.replace('lake', 'no-such-bucket')}", "s3://no-such-bucket")
for shown in [ask("SHOW CONNECTIONS"), ask("SHOW CREATE TABLE named"), ask("SELECT statement FROM system.queries")]:
    assert "store" in repr(shown) and SECRET not in repr(shown) and "other-secret" not in repr(shown), shown
fails("DROP CONNECTION store", "lake.named")
ask("DROP TABLE named")
ask("DROP CONNECTION store")

# New files are seen once the listing is old.
upload("text/c.csv.gz", gzip.compress(b"a,b\n10,w\n"))
ask("SET listing_ttl_ms = 0")
assert ask("SELECT sum(a) FROM packed") == [(16,)]
# And what was put in the place of a file that the nodes' caches hold.
upload("text/a.csv.gz", gzip.compress(b"a,b\n100,x\n"))
assert ask("SELECT sum(a) FROM packed") == [(113,)]
assert ask("SELECT count(*), sum(id) FROM plain") == [(4000, sum(range(4000)))]
pq.write_table(rows(5000, 1000), path, row_group_size=250)
with open(path, "rb") as file:
    upload("plain/k=0/part-0.parquet", file.read())
assert ask("SELECT count(*), sum(id) FROM plain") == [(4000, sum(range(1000, 4000)) + sum(range(5000, 6000)))]

# What can be wrong.
create = "CREATE EXTERNAL TABLE wrong STORED AS PARQUET LOCATION"
fails(f"{create} 's3://lake/broken/' {options()}", "s3://lake/broken/a.parquet")
fails(f"{create} 's3://lake/nothing/' {options()}", "does not exist")
fails(f"{create} 's3://no-such-bucket/x/' {options()}", "s3://no-such-bucket")
fails(f"{create} 's3://lake/plain/' {options(no_such='other-secret')}", "s3.no_such")
fails(f"{create} 'ftp://lake/plain/' {options()}", "not")
with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    down = f"http://127.0.0.1:{unused.getsockname()[1]}"
    started = time.monotonic()
    fails(f"{create} 's3://lake/plain/' {options(endpoint=down)}", "s3://lake/plain")
    assert time.monotonic() - started < 100, "an endpoint that is down is given up"

# Delta Lake, written by its own library: partitions, appends, a delete, an added column, history.
storage = {
    "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
}


def check_delta(location, storage, clause):
    def write(table, **more):
        deltalake.write_deltalake(location, table, storage_options=storage, **more)

    def with_key(table):
        keys = [None if it % 11 == 0 else f"k={it % 3}/ä" for it in table["id"].to_pylist()]
        return table.append_column("kind", pa.array(keys, pa.string()))

    write(with_key(rows(0, 500)), partition_by=["kind"])
    write(with_key(rows(500, 500)), mode="append")
    table = deltalake.DeltaTable(location, storage_options=storage)
    table.delete("id % 10 = 3 AND id < 700")
    more = with_key(rows(1000, 200))
    more = more.append_column("extra", pa.array([f"e{it}" for it in range(200)], pa.string()))
    write(more, mode="append", schema_mode="merge")
    ask("DROP TABLE IF EXISTS events")
    ask(f"CREATE EXTERNAL TABLE events STORED AS DELTA LOCATION '{location}' {clause}")
    newest = deltalake.DeltaTable(location, storage_options=storage)
    for version in [None, 0, 1, 2]:
        if version is None:
            source, theirs = "events", newest
        else:
            source = f"events VERSION AS OF {version}"
            theirs = deltalake.DeltaTable(location, version=version, storage_options=storage)
        data = theirs.to_pyarrow_table()  # noqa: F841, DuckDB finds it by its name
        for query in [
            "SELECT count(*), sum(id), sum(price), min(day), max(`at`), count(small), count(kind) FROM T",
            "SELECT kind, count(*), max(name) FROM T GROUP BY kind",
            "SELECT id, flag, weight, small FROM T WHERE id > 690 AND id < 710",
            "SELECT count(*) FROM T WHERE kind = 'k=1/ä' AND price > 50.25",
            "SELECT count(*) FROM T WHERE kind IS NULL",
            "SELECT min(id) FROM T WHERE NOT (id < 600) OR flag",
            "SELECT count(*) FROM T WHERE day > DATE '2021-06-01' OR weight IS NULL",
        ]:
            expected = duckdb.sql(query.replace("FROM T", "FROM data").replace("`", '"')).fetchall()
            same(ask(query.replace("FROM T", f"FROM {source}")), expected, (source, query))
    ask("SELECT * FROM events LIMIT 0")
    assert [it[0] for it in cursor.description] == [it.name for it in newest.schema().fields], cursor.description
    files = ask("SHOW PARTITIONS FROM events WHERE kind = 'k=1/ä'")
    assert files and all(row[4] == "kind=k=1/ä" for row in files), files
    assert sum(row[2] for row in files) == ask("SELECT count(*) FROM events WHERE kind = 'k=1/ä'")[0][0], files
    assert ask("SELECT count(extra), max(extra) FROM events") == [(200, "e99")]
    fails("SELECT * FROM events VERSION AS OF 99", "has no version 99")
    fails("SELECT * FROM events TIMESTAMP AS OF '1999-01-01'", "its log begins later")
    assert ask("SELECT count(*) FROM events TIMESTAMP AS OF '2999-01-01'") == ask("SELECT count(*) FROM events")
    write(with_key(rows(5000, 10)), mode="append", schema_mode="merge")
    assert ask("SELECT max(id) FROM events") == [(5009,)], "a commit of others is seen"


check_delta(os.path.join(folder, "events"), None, "")
check_delta("s3://lake/events", storage, options())
ask("DROP DATABASE lake")
server.stop()
print("OK")
