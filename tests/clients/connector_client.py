"""MySQL's own connector, in Python and over MySQL's C library: prepared statements, resets, changes of user, metadata."""

import contextlib
import datetime
import decimal
import io

import mysql.connector
from mysql.connector.constants import ClientFlag
from tried import HOST, ca, drive, port, trying

kinds = [True] + ([False] if mysql.connector.HAVE_CEXT else [])


def connect(pure, **more):
    more = {"ssl_disabled": True} | more
    return mysql.connector.connect(host=HOST, port=port, user="root", use_pure=pure, connection_timeout=10, **more)


for pure in kinds:
    way = "in Python" if pure else "over MySQL's C library"
    with trying(f"{way}: everything of a DB-API driver"):
        with contextlib.redirect_stdout(io.StringIO()):
            drive(lambda name: connect(pure, database=name), "%s", mysql.connector.Error).close()

    with trying(f"{way}: prepared statements whose parameters change type"):
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
    with trying(f"{way}: a parameter of 17 MB"):
        cursor.execute("SELECT length(?) AS n", ("x" * 17_000_000,))
        assert cursor.fetchall() == [(17_000_000,)]
        cursor.close()

    with trying(f"{way}: warnings, session variables, resets, changes of user"):
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
        cursor.execute("CREATE USER IF NOT EXISTS eve IDENTIFIED BY 'whatever'")
        connection.cmd_change_user(username="eve", password="whatever", database="system")
        cursor = connection.cursor()
        cursor.execute("SELECT substring_index(user(), '@', 1), database()")
        assert cursor.fetchall() == [("eve", "system")]
        connection.close()

    with trying(f"{way}: several results"):
        several = connect(pure, client_flags=[ClientFlag.MULTI_STATEMENTS])
        n_results = 0
        for result in several.cmd_query_iter("SELECT 1; SET @x = 2; SELECT @x"):
            n_results += 1
            if "columns" in result:
                several.get_rows()
        assert n_results == 3, n_results
        several.close()

    with trying(f"{way}: TLS"):
        secure = connect(pure, ssl_disabled=False, ssl_ca=ca, ssl_verify_cert=True)
        cursor = secure.cursor()
        cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
        assert cursor.fetchone()[1].startswith("TLSv1")
        secure.close()
