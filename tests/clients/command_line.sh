#!/bin/sh
# The mariadb (or mysql) command line, as people and scripts use it.
set -eu
port=$1 database=$2 ca=$3
program=mariadb
command -v mariadb >/dev/null || program=mysql
command -v "$program" >/dev/null || { echo "SKIPPED neither mariadb nor mysql is installed" && exit 0; }
client() { "$program" --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" --user=root "$@"; }
tried() { echo "TRIED $1"; }
expect() { # what it said, what it should say
    [ "$1" = "$2" ] || { printf 'expected:\n%s\nfound:\n%s\n' "$2" "$1" && exit 1; }
}
tab=$(printf '\t')

expect "$(client --batch --execute "SELECT 1 AS x, 'y' AS y, NULL AS z")" "x${tab}y${tab}z
1${tab}y${tab}NULL"
client --execute "DROP DATABASE IF EXISTS $database; CREATE DATABASE $database"
tried "--batch, --execute, several statements"

client "$database" <<'SQL'
/*!40101 SET NAMES utf8mb4 */;
CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40)); -- a comment
INSERT INTO items VALUES (1, 'naïve 世界'), (2, NULL);
DELIMITER //
SELECT count(*) FROM items //
DELIMITER ;
SQL
expect "$(client --skip-column-names "$database" --execute 'SELECT * FROM items ORDER BY id')" "1${tab}naïve 世界
2${tab}NULL"
expect "$(client --table "$database" --execute 'SELECT id FROM items ORDER BY id')" "+----+
| id |
+----+
|  1 |
|  2 |
+----+"
client --vertical "$database" --execute 'SELECT id FROM items WHERE id = 1' | grep -q 'id: 1'
client --xml "$database" --execute 'SELECT id FROM items' | grep -q '<field name="id">1</field>'
client --html "$database" --execute 'SELECT id FROM items' | grep -qi '<td>1</td>'
tried "scripts from standard input; tables, vertical, XML and HTML output"

printf 'use %s\nshow tables;\nstatus\n\\W\nSELECT 1/0;\nhelp\n' "$database" | client --auto-rehash --force >/dev/null
client --execute status | grep -q 'Server version:.*sheafdb\|Server version:.*MariaDB'
tried "USE with completion of names, status, warnings"

! said=$(client --execute 'SELECT * FROM mysql_no_such.no_such' 2>&1) || exit 1
case "$said" in *"ERROR 1146 (42S02)"* | *"ERROR 1049 (42000)"*) ;; *) echo "$said" && exit 1 ;; esac
! said=$(client "$database" --execute 'SELECT * FROM no_such' 2>&1) || exit 1
case "$said" in *"ERROR 1146 (42S02)"*) ;; *) echo "$said" && exit 1 ;; esac
! said=$(client no_such --execute 'SELECT 1' 2>&1) || exit 1
case "$said" in *"ERROR 1049 (42000)"*) ;; *) echo "$said" && exit 1 ;; esac
! said=$(client --user=nobody_at_all --password=wrong --execute 'SELECT 1' 2>&1) || exit 1
case "$said" in *"ERROR 1045 (28000)"* | *"ERROR 1698 (28000)"*) ;; *) echo "$said" && exit 1 ;; esac
tried "error codes and SQLSTATEs"

expect "$(client --quick --skip-column-names --execute "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 300) \
    SELECT a.n * 1000 + b.n FROM t AS a CROSS JOIN t AS b" | wc -l)" 90000
tried "--quick: rows as they come"

admin() { "$program-admin" --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" --user=root "$@"; }
if command -v "$program-admin" >/dev/null; then
    for what in ping status version processlist variables extended-status; do admin "$what" >/dev/null; done
    admin --verbose processlist | grep -qi 'show full processlist'
    tried "mariadb-admin: ping, status, version, processlist, variables, extended-status"
fi
show() { "$program-show" --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" --user=root "$@"; }
if command -v "$program-show" >/dev/null; then
    show | grep -q " $database "
    show "$database" | grep -q ' items '
    show "$database" items | grep -q ' name .*varchar'
    show --status "$database" | grep -q ' items '
    show --count "$database" | grep -q ' items '
    tried "mariadb-show: databases, tables, columns, status"
fi
if [ "$ca" != /dev/null ]; then
    case "$(client --ssl-ca="$ca" --skip-column-names --execute "SHOW STATUS LIKE 'Ssl_version'")" in *TLSv1*) ;; *) exit 1 ;; esac
    tried TLS
fi
