"""PyMySQL as an application uses it: connect, chatter, queries, types, errors, cursors that stream."""

import datetime
import decimal

import pymysql
import pymysql.cursors
from tried import HOST, ca, database, drive, port, trying


def connect(name=None, **more):
    return pymysql.connect(host=HOST, port=port, user="root", database=name, connect_timeout=10, read_timeout=60, **more)


drive(connect, "%s", pymysql.MySQLError).close()

with trying("character sets"):
    for charset in ["utf8mb4", "utf8"]:
        with connect("suite", charset=charset) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 'Grüße, 世界' AS greeting, %s AS given", ("it's \\ \"quoted\" 100%",))
            assert cursor.fetchone() == ("Grüße, 世界", "it's \\ \"quoted\" 100%")
            assert [column[0] for column in cursor.description] == ["greeting", "given"]

with trying("autocommit, transactions, ping"):
    connection = connect("suite", autocommit=True)
    assert connection.get_autocommit()
    connection.autocommit(False)
    connection.autocommit(True)
    connection.begin()
    connection.commit()
    connection.rollback()
    connection.ping(reconnect=False)
    assert connection.get_server_info()[0] in "589", connection.get_server_info()
    connection.select_db("suite")
    cursor = connection.cursor()

with trying("external tables"):
    cursor.execute("SELECT id, k, g, v, d, amt, day, ts, ok FROM facts WHERE id IN (0, 3) ORDER BY id")
    first, second = cursor.fetchall()
    assert first == (0, None, None, None, None, None, None, None, None), first
    assert second[:5] == (3, 3, "d", -40, 0.75), second
    assert second[5] == decimal.Decimal("237.57") and isinstance(second[5], decimal.Decimal), second
    assert second[6] == datetime.date(2024, 1, 4), second
    assert second[7] == datetime.datetime(2024, 1, 1, 3, 3), second
    assert second[8] == 1, second
    cursor.execute("SELECT sum(v), count(*), avg(d) FROM facts WHERE k = %s AND g IN %s", (3, ("b", "d")))
    assert cursor.rowcount == 1
    assert cursor.fetchone()[1] > 0

with trying("SHOW DATABASES and TABLES, functions of the session"):
    cursor.execute("SHOW DATABASES")
    assert ("suite",) in cursor.fetchall()
    cursor.execute("SHOW TABLES")
    assert ("facts",) in cursor.fetchall()
    cursor.execute("SELECT DATABASE(), VERSION(), @@version_comment, CONNECTION_ID()")
    current, _, _, connection_id = cursor.fetchone()
    assert current == "suite" and connection_id == connection.thread_id(), (current, connection_id)

with trying("streaming dictionary cursors"):
    with connect("suite", cursorclass=pymysql.cursors.SSDictCursor) as streaming, streaming.cursor() as rows:
        rows.execute("SELECT number FROM numbers(200000)")
        assert sum(row["number"] for row in rows.fetchall_unbuffered()) == 199999 * 100000

with trying("several results"):
    with connect(client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS) as several, several.cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 2, 3")
        assert cursor.fetchall() == ((1,),)
        assert cursor.nextset()
        assert cursor.fetchall() == ((2, 3),)
        assert not cursor.nextset()

with trying("KILL"):
    with connect("suite") as victim:
        killer = connect()
        killer.cursor().execute(f"KILL {victim.thread_id()}")
        try:
            victim.cursor().execute("SELECT 1")
            raise AssertionError("a killed connection still answers")
        except pymysql.MySQLError:
            pass
        victim._force_close()
        killer.close()

with trying("TLS"):
    with connect(ssl={"ca": ca}) as secure, secure.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
        assert cursor.fetchone()[1].startswith("TLSv1")
connection.close()
