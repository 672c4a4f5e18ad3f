#!/bin/sh
# mariadb-dump (or mysqldump): a database dumped, loaded into another, compared; and what its options send.
set -eu
port=$1 database=$2
program=mariadb dump=mariadb-dump
command -v mariadb >/dev/null || program=mysql
command -v mariadb-dump >/dev/null || dump=mysqldump
command -v "$dump" >/dev/null || { echo "SKIPPED neither mariadb-dump nor mysqldump is installed" && exit 0; }
client() { "$program" --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" --user=root "$@"; }
dumped() { "$dump" --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" --user=root "$@"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
copy="${database}_copy"
client <<SQL
DROP DATABASE IF EXISTS $database; DROP DATABASE IF EXISTS $copy; CREATE DATABASE $database; USE $database;
CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40) DEFAULT 'x''y' COMMENT 'its name', price DECIMAL(12, 2), weight DOUBLE,
    made DATETIME, day DATE, raw BLOB, ok BOOLEAN, tiny SMALLINT, \`odd name\` INT) COMMENT 'what there is';
INSERT INTO items VALUES (1, 'naïve 世界 ''"\\\\', 12.50, 0.1, '2024-02-29 23:59:58', '2024-02-29', x'00ff27', 1, -5, 6),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE empty_one (id INT);
SQL
rows() { client --skip-column-names "$1" --execute 'SELECT id, name, price, weight, made, day, hex(raw), ok, tiny, `odd name` FROM items ORDER BY id'; }
# BOOLEAN is dumped as what it is in MySQL, TINYINT(1).
columns() { client --skip-column-names --execute "SELECT table_name, column_name, data_type, numeric_precision > 3, numeric_scale, is_nullable, column_default, column_comment
    FROM information_schema.columns WHERE table_schema = '$1' ORDER BY table_name, ordinal_position"; }

round_trip() { # what was tried, options of the dump
    what=$1
    shift
    dumped "$@" "$database" >"$folder/dump.sql"
    client --execute "DROP DATABASE IF EXISTS $copy; CREATE DATABASE $copy"
    client "$copy" <"$folder/dump.sql"
    [ "$(rows "$database")" = "$(rows "$copy")" ] || { echo "$what: other rows" && rows "$copy" && exit 1; }
    [ "$(columns "$database")" = "$(columns "$copy")" ] || { echo "$what: other columns" && columns "$copy" && exit 1; }
    echo "TRIED $what"
}
round_trip "dump and load again, as it is by default"
round_trip "--single-transaction --hex-blob --complete-insert" --single-transaction --hex-blob --complete-insert
round_trip "--skip-opt --skip-lock-tables" --skip-opt --skip-lock-tables --default-character-set=utf8mb4
round_trip "--routines --triggers --events --order-by-primary" --routines --triggers --events --order-by-primary --hex-blob

dumped --no-data --databases "$database" >"$folder/schema.sql"
grep -q 'CREATE DATABASE' "$folder/schema.sql" && grep -q 'CREATE TABLE `items`' "$folder/schema.sql"
dumped --no-create-info --where='id = 1' "$database" items >"$folder/data.sql"
[ "$(grep -c 'INSERT INTO `items`' "$folder/data.sql")" = 1 ]
dumped --xml "$database" items | grep -q '<field name="id">1</field>'
echo "TRIED --no-data --databases, --no-create-info --where, --xml"
