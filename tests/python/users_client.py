"""Accounts, roles and TLS as stock clients meet them: PyMySQL, MySQL's connector in Python and over MySQL's C library."""

import sys

import mysql.connector
import pymysql

port, ca = int(sys.argv[1]), sys.argv[2]


def with_pymysql(user, password, **more):
    if "ssl_ca" not in more:
        # It takes TLS wherever it is offered.
        more["ssl_disabled"] = True
    return pymysql.connect(host="127.0.0.1", port=port, user=user, password=password, connect_timeout=10, **more)


def with_connector(pure):
    def connect(user, password, **more):
        if "ssl_ca" not in more:
            more["ssl_disabled"] = True
        else:
            more["ssl_verify_identity"] = more.pop("ssl_verify_identity", False)
        return mysql.connector.connect(
            host="127.0.0.1", port=port, user=user, password=password, use_pure=pure, connection_timeout=10, **more
        )

    return connect


def refused(connect, code, user, password, **more):
    try:
        connect(user, password, **more)
    except (pymysql.err.MySQLError, mysql.connector.Error) as error:
        assert error.args[0] == code, error
        return str(error)
    raise AssertionError(f"{user} was let in")


def rows(connection, sql):
    cursor = connection.cursor()
    cursor.execute(sql)
    found = cursor.fetchall() if cursor.description else []
    cursor.close()
    return [tuple(row) for row in found]


root = with_pymysql("root", "")
for sql in [
    "CREATE USER IF NOT EXISTS ann@localhost IDENTIFIED BY 'pass of ann', old IDENTIFIED WITH mysql_native_password BY 'pass of old'",
    "CREATE USER IF NOT EXISTS safe IDENTIFIED BY 'pass of safe' REQUIRE SSL",
    "CREATE ROLE IF NOT EXISTS readers",
    "GRANT SELECT ON suite.* TO readers",
    "GRANT readers TO ann@localhost, old, safe",
    "SET DEFAULT ROLE ALL TO ann@localhost",
]:
    rows(root, sql)

connects = [with_pymysql, with_connector(True)]
if mysql.connector.HAVE_CEXT:
    connects.append(with_connector(False))
else:
    print("SKIPPED: MySQL Connector/Python's C extension is not there: only its Python half was tested")
for connect in connects:
    # With and without TLS, by both plugins.
    for more in [{}, {"ssl_ca": ca}]:
        ann = connect("ann", "pass of ann", **more)
        cipher = dict(rows(ann, "SHOW STATUS LIKE 'Ssl%'"))["Ssl_cipher"]
        assert bool(cipher) == bool(more), (connect, cipher)
        assert rows(ann, "SELECT CURRENT_USER(), CURRENT_ROLE()") == [("ann@localhost", "`readers`@`%`")]
        assert rows(ann, "SELECT count(*) FROM suite.facts") == [(240,)]
        assert rows(ann, "SHOW GRANTS FOR CURRENT_USER()") == [
            ("GRANT USAGE ON *.* TO `ann`@`localhost`",),
            ("GRANT SELECT ON `suite`.* TO `ann`@`localhost`",),
            ("GRANT `readers`@`%` TO `ann`@`localhost`",),
        ]
        ann.close()
        old = connect("old", "pass of old", **more)
        try:
            rows(old, "SELECT count(*) FROM suite.facts")
            raise AssertionError("a role that is not on gave a right")
        except (pymysql.err.MySQLError, mysql.connector.Error) as error:
            assert error.args[0] == 1142, error
        rows(old, "SET ROLE readers")
        assert rows(old, "SELECT count(*) FROM suite.facts") == [(240,)]
        old.close()
        refused(connect, 1045, "ann", "wrong", **more)
        refused(connect, 1045, "nobody", "pass of ann", **more)
    refused(connect, 1045, "safe", "pass of safe")
    connect("safe", "pass of safe", ssl_ca=ca).close()

# A password that changes, a lock, an account that goes.
rows(root, "SET PASSWORD FOR old = 'another'")
refused(with_pymysql, 1045, "old", "pass of old")
with_pymysql("old", "another").close()
rows(root, "ALTER USER old ACCOUNT LOCK")
assert "locked" in refused(with_pymysql, 3118, "old", "another")
refused(with_pymysql, 1045, "old", "wrong")
rows(root, "DROP USER old")
refused(with_pymysql, 1045, "old", "another")
rows(root, "SET GLOBAL require_secure_transport = ON")
refused(with_pymysql, 3159, "ann", "pass of ann")
with_pymysql("ann", "pass of ann", ssl_ca=ca).close()
rows(root, "SET GLOBAL require_secure_transport = OFF")
root.close()

print("ok")
