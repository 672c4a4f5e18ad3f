"""mysqlclient, that is MySQLdb over MariaDB's C library."""

import MySQLdb
import MySQLdb.cursors
from tried import HOST, ca, database, drive, port, trying


def connect(name, **more):
    more |= {"db": name} if name else {}
    return MySQLdb.connect(host=HOST, port=port, user="root", charset="utf8mb4", connect_timeout=10, **more)


connection = drive(connect, "%s", MySQLdb.Error)
with trying("autocommit, ping, select_db, server information"):
    connection.autocommit(True)
    assert connection.get_autocommit()
    connection.ping()
    connection.select_db(database)
    assert connection.get_server_info()[0] in "581", connection.get_server_info()
    assert connection.thread_id() > 0 and "Uptime" in connection.stat()
with trying("unbuffered and dictionary cursors"):
    cursor = connection.cursor(MySQLdb.cursors.SSDictCursor)
    cursor.execute("SELECT id, name FROM items ORDER BY id")
    assert [row["id"] for row in cursor] == [1, 2]
    cursor.close()
with trying("several results"):
    cursor = connection.cursor()
    cursor.execute("SELECT 1; SELECT 2, 3")
    assert cursor.fetchall() == ((1,),) and cursor.nextset() == 1
    assert cursor.fetchall() == ((2, 3),) and cursor.nextset() is None
with trying("warnings"):
    cursor.execute("SELECT 1 / 0")
    assert cursor.fetchall() == ((None,),) and connection.warning_count() == 1
    assert connection.show_warnings()[0][1] == 1365
with trying("TLS"):
    with connect(database, ssl={"ca": ca}) as secure:
        rows = secure.cursor()
        rows.execute("SHOW STATUS LIKE 'Ssl_version'")
        assert rows.fetchone()[1].startswith("TLSv1")
connection.close()
