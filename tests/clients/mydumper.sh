#!/bin/sh
# mydumper: a database dumped by several threads over a consistent snapshot.
set -eu
port=$1 database=$2
command -v mydumper >/dev/null || { echo "SKIPPED mydumper is not installed" && exit 0; }
client() { mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --port="$port" --user=root "$@"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
client <<SQL
DROP DATABASE IF EXISTS $database; CREATE DATABASE $database; USE $database;
CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40));
INSERT INTO items VALUES (1, 'one'), (2, NULL);
SQL
mydumper --host=127.0.0.1 --port="$port" --user=root --database="$database" --outputdir="$folder" --threads=2 --no-locks --verbose=3 2>"$folder/log" ||
    { cat "$folder/log" && exit 1; }
! grep -qi 'critical\|error' "$folder/log" || { cat "$folder/log" && exit 1; }
grep -q "INSERT INTO \`items\`" "$folder"/*.sql || { cat "$folder/log" && ls "$folder" && exit 1; }
grep -q 'CREATE TABLE' "$folder"/*items-schema.sql
echo "TRIED a dump by two threads"
