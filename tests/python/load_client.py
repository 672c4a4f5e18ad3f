"""LOAD DATA LOCAL INFILE as PyMySQL sends a file, and what PyMySQL is told of columns and warnings."""

import os
import sys
import tempfile

import pymysql
from pymysql.constants import CLIENT

port = int(sys.argv[1])


def connect(**more):
    return pymysql.connect(
        host="127.0.0.1", port=port, user="root", connect_timeout=10, read_timeout=60, autocommit=True, **more
    )


def error(cursor, sql, code):
    try:
        cursor.execute(sql)
    except pymysql.MySQLError as raised:
        assert raised.args[0] == code, (sql, raised)
        return raised
    raise AssertionError(f"{sql} did not fail")


folder = tempfile.mkdtemp()


def file(name, text):
    path = os.path.join(folder, name)
    with open(path, "wb") as out:
        out.write(text if isinstance(text, bytes) else text.encode())
    return path


admin = connect()
cursor = admin.cursor()
cursor.execute("CREATE DATABASE loads")
cursor.execute("CREATE TABLE loads.t (id INT NOT NULL, name VARCHAR(50), n BIGINT)")

# Both sides have to allow it.
small = file("small.tsv", "1\tone\t10\n2\ttwo\t\\N\n")
load = f"LOAD DATA LOCAL INFILE '{small}' INTO TABLE loads.t"
connection = connect(local_infile=True)
local = connection.cursor()
error(local, load, 3948)
cursor.execute("SET GLOBAL local_infile = ON")
error(cursor, load, 3948)
assert local.execute(load) == 2
# PyMySQL leaves the length before the text.
info = connection._result.message[1:]
assert info == b"Records: 2  Deleted: 0  Skipped: 0  Warnings: 0", info
local.execute("SELECT id, name, n FROM loads.t ORDER BY id")
assert local.fetchall() == ((1, "one", 10), (2, "two", None))

# What does not fit is made to, and told.
odd = file("odd.tsv", "x\tlost\t1\n4\tshort\n5\tlong\t5\tmore\n")
assert local.execute(f"LOAD DATA LOCAL INFILE '{odd}' INTO TABLE loads.t") == 3
assert connection._result.message[1:] == b"Records: 3  Deleted: 0  Skipped: 0  Warnings: 3"
assert connection._result.warning_count == 3
assert [code for _, code, _ in connection.show_warnings()] == [1261, 1262, 1366], connection.show_warnings()

# A statement that is wrong does not ask for the file; the session goes on after one that fails while the file comes.
error(local, f"LOAD DATA LOCAL INFILE '{small}' INTO TABLE loads.no_such", 1146)
error(local, f"LOAD DATA LOCAL INFILE '{small}' INTO TABLE loads.t (no_such)", 1054)
big_bad = file("bad.tsv", b"1\t\xff\t1\n" + b"2\tok\t2\n" * 400_000)
error(local, f"LOAD DATA LOCAL INFILE '{big_bad}' INTO TABLE loads.t", 1300)
local.execute("SELECT count(*) FROM loads.t")
assert local.fetchone() == (5,)

# A file that the client has not.
try:
    local.execute(f"LOAD DATA LOCAL INFILE '{folder}/no_such' INTO TABLE loads.t")
    raise AssertionError("a file that is not there was loaded")
except pymysql.err.OperationalError as raised:
    assert raised.args[0] == 1017, raised
local.execute("SELECT 1")
assert local.fetchone() == (1,)

# More than what is held of it at once, in one commit.
n_rows = 300_000
big = file("big.csv", "".join(f'{n},"name {n}, of many",{n * 7}\n' for n in range(n_rows)))
cursor.execute("CREATE TABLE loads.big (id INT, name VARCHAR(50), n BIGINT)")
sql = f"LOAD DATA LOCAL INFILE '{big}' INTO TABLE loads.big FIELDS TERMINATED BY ',' ENCLOSED BY '\"'"
assert local.execute(sql) == n_rows
cursor.execute("SELECT count(*), sum(n), max(name) FROM loads.big")
assert cursor.fetchone() == (n_rows, 7 * n_rows * (n_rows - 1) // 2, "name 99999, of many")
cursor.execute("DESCRIBE HISTORY loads.big")
operations = [row for row in cursor.fetchall() if "WRITE" in row]
assert len(operations) == 1, operations

# In the midst of several statements.
several = connect(local_infile=True, client_flag=CLIENT.MULTI_STATEMENTS)
chain = several.cursor()
chain.execute(f"SELECT 1; LOAD DATA LOCAL INFILE '{small}' INTO TABLE loads.t; SELECT count(*) FROM loads.t")
assert chain.fetchone() == (1,)
assert chain.nextset() and chain.rowcount == 2
assert chain.nextset() and chain.fetchone() == (7,)

# Which table's column a column is.
cursor.execute("CREATE VIEW loads.v AS SELECT id AS vid, name FROM loads.t")
cursor.execute("SELECT x.id AS number, name, n + 1, v.vid FROM loads.t AS x JOIN loads.v USING (name) LIMIT 1")
fields = [(f.db.decode(), f.table_name, f.org_table, f.name, f.org_name) for f in cursor._result.fields]
assert fields == [
    ("loads", "x", "t", "number", "id"),
    ("loads", "x", "t", "name", "name"),
    ("", "", "", "n + 1", ""),
    ("loads", "v", "v", "vid", "vid"),
], fields
assert [f.flags & 1 for f in cursor._result.fields[:2]] == [1, 0]

# What it speaks, as it said when it logged in.
for charset, collation in [("utf8mb4", "utf8mb4_general_ci"), ("utf8mb3", "utf8mb3_general_ci")]:
    with connect(charset=charset) as other, other.cursor() as asked:
        asked.execute("SELECT @@character_set_client, @@character_set_results")
        assert asked.fetchone() == (charset, charset), charset
