"""MySQL's own connector, in Python and over MySQL's C library: prepared statements, resets, changes of user, metadata."""

import datetime
import decimal
import sys

import mysql.connector
from mysql.connector.constants import ClientFlag

port = int(sys.argv[1])
kinds = [True] + ([False] if mysql.connector.HAVE_CEXT else [])


def connect(pure, **more):
    return mysql.connector.connect(
        host="127.0.0.1", port=port, user="root", use_pure=pure, ssl_disabled=True, connection_timeout=10, **more
    )


for pure in kinds:
    connection = connect(pure, database="suite")
    assert connection.is_connected()
    connection.ping(reconnect=False)

    cursor = connection.cursor(prepared=True)
    sql = "SELECT id, k, g, v, d, amt, day, ts, ok FROM facts WHERE id IN (?, ?) ORDER BY id"
    for ids in [(0, 3), (3, 0)]:
        cursor.execute(sql, ids)
        first, second = cursor.fetchall()
        assert first == (0, None, None, None, None, None, None, None, None), first
        assert second[:5] == (3, 3, "d", -40, 0.75), second
        assert second[5] == decimal.Decimal("237.57"), second
        assert second[6:8] == (datetime.date(2024, 1, 4), datetime.datetime(2024, 1, 1, 3, 3)), second
    # Types change from one execution to the next.
    for value in [7, "naïve", 1.5, decimal.Decimal("12.50"), datetime.datetime(2024, 2, 29, 23, 59, 58, 7), None]:
        cursor.execute("SELECT concat('<', ?, '>') AS shown, ? IS NULL AS is_null", (value, value))
        shown, is_null = cursor.fetchone()
        cursor.fetchall()
        assert is_null == (value is None) and (shown is None) == (value is None), (value, shown, is_null)
    long = "x" * 17_000_000
    cursor.execute("SELECT length(?) AS n", (long,))
    assert cursor.fetchall() == [(17_000_000,)]
    cursor.close()

    cursor = connection.cursor()
    cursor.execute("SELECT number AS n FROM numbers(70000)")
    assert sum(n for (n,) in cursor.fetchall()) == 69999 * 35000
    cursor.execute("SELECT 1 / number FROM numbers(2)")
    cursor.fetchall()
    assert cursor.warning_count == 1, cursor.warning_count
    cursor.execute("SET @kept = 5")
    connection.cmd_reset_connection()
    cursor.execute("SELECT @kept, database()")
    assert cursor.fetchall() == [(None, "suite")]
    connection.cmd_change_user(username="eve", password="whatever", database="system")
    cursor = connection.cursor()
    cursor.execute("SELECT substring_index(user(), '@', 1), database()")
    assert cursor.fetchall() == [("eve", "system")]
    connection.close()

    several = connect(pure, client_flags=[ClientFlag.MULTI_STATEMENTS])
    results = several.cmd_query_iter("SELECT 1; SET @x = 2; SELECT @x")
    n_results = 0
    for result in results:
        n_results += 1
        if "columns" in result:
            several.get_rows()
    assert n_results == 3, n_results
    several.close()

    try:
        connect(pure, database="no_such")
        raise AssertionError("connected to a database that does not exist")
    except mysql.connector.Error as raised:
        assert raised.errno == 1049, raised

print("ok")
