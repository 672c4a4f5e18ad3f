#!/usr/bin/env bash
# Short prepared statements, here and of MariaDB on the same machine, one after the other: SELECT 1, and a row of a table of
# 1,000 by its key, from 1 connection and from 64.
#   tests/bench/short_statements.sh [path of sheaf] [seconds for each]
# MariaDB is left out where it is not installed. Both servers listen on this machine only and end with the script.
set -euo pipefail
sheaf="${1:-sheaf}"
seconds="${2:-10}"
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$folder"' EXIT

"$sheaf" server --data-dir "$folder/sheaf" --mysql-listen 127.0.0.1:0 --flight-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 >"$folder/sheaf.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do [ -e "$folder/sheaf/node.json" ] && break || sleep 0.1; done
ours=$(sed -n 's/.*"mysql": *"[^"]*:\([0-9]*\)".*/\1/p' "$folder/sheaf/node.json")
servers=("SheafDB:$ours")

if command -v mariadbd >/dev/null; then
    mariadb-install-db --no-defaults --datadir="$folder/mariadb" --user="$(id -un)" --auth-root-authentication-method=normal --skip-test-db >/dev/null
    theirs=$((20000 + $$ % 20000))
    mariadbd --no-defaults --datadir="$folder/mariadb" --user="$(id -un)" --bind-address=127.0.0.1 --port="$theirs" \
        --socket="$folder/socket" --skip-log-bin --max-connections=200 2>"$folder/mariadb.log" &
    pids+=($!)
    servers+=("MariaDB:$theirs")
fi

load() { "$sheaf" bench load --port "$1" --database bench --prepared --warmup 2s --duration "${seconds}s" "${@:2}" 2>/dev/null; }
client() { mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --user=root --port="$1" "${@:2}"; }
for server in "${servers[@]}"; do
    port="${server#*:}"
    for _ in $(seq 100); do client "$port" --execute 'SELECT 1' >/dev/null 2>&1 && break || sleep 0.1; done
    key=$([ "${server%:*}" = MariaDB ] && echo ' PRIMARY KEY' || true)
    client "$port" --execute "CREATE DATABASE bench; CREATE TABLE bench.keyed (id BIGINT NOT NULL$key, v VARCHAR(40)); \
        INSERT INTO bench.keyed WITH RECURSIVE t (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < 999) SELECT n, concat('value ', n) FROM t"
done
for statement in 'SELECT 1' 'SELECT v FROM keyed WHERE id = ?'; do
    for connections in 1 64; do
        printf '\n## %s, connections: %s\n' "$statement" "$connections"
        for server in "${servers[@]}"; do
            printf '%s' "${server%:*}"
            load "${server#*:}" --concurrency "$connections" --keys 1000 --statement "$statement" | sed -n '/statement\|s1/p' | sed '1s/^/\n/'
        done
    done
done
