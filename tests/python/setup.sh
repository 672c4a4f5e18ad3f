#!/bin/sh
# Makes the Python environment with the stock clients that the tests run, and prints its interpreter as the last line.
set -eu
venv="${SHEAF_VENV:-$HOME/.cache/sheafdb/venv}"
python="$venv/bin/python"
if ! "$python" -c 'import duckdb, mysql.connector, pymysql, pyarrow' 2>/dev/null; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check duckdb mysql-connector-python pymysql pyarrow; } >&2; then
        echo "******** CANNOT MAKE $venv: python3 with venv and a way to a package index are needed ********" >&2
        exit 1
    fi
fi
echo "$python"
