"""aiomysql: asyncio, a pool of connections."""

import asyncio

import aiomysql
from tried import CREATE, HOST, ROWS, database, port, trying

# Its parameters cannot be bytes.
ROWS = [(*row[:6], None, row[7]) for row in ROWS]


async def main():
    with trying("connect"):
        connection = await aiomysql.connect(host=HOST, port=port, user="root", autocommit=True)
        async with connection.cursor() as cursor:
            await cursor.execute(f"DROP DATABASE IF EXISTS {database}")
            await cursor.execute(f"CREATE DATABASE {database}")
        connection.close()
    pool = await aiomysql.create_pool(1, 4, host=HOST, port=port, user="root", db=database, autocommit=True, charset="utf8mb4")

    async def one(sql, arguments=None):
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, arguments)
            return await cursor.fetchall()

    with trying("write and read back every type"):
        await one(CREATE)
        for row in ROWS:
            await one("INSERT INTO items VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", row)
        assert list(await one("SELECT * FROM items ORDER BY id")) == ROWS
    with trying("a pool used by many tasks at a time"):
        answers = await asyncio.gather(*(one("SELECT name, %s FROM items WHERE id = %s", (i, i % 3 + 1)) for i in range(60)))
        assert [rows[0] for rows in answers] == [(ROWS[i % 3][1], i) for i in range(60)]
    with trying("transactions"):
        async with pool.acquire() as connection:
            await connection.begin()
            async with connection.cursor(aiomysql.SSDictCursor) as cursor:
                await cursor.execute("SELECT id FROM items ORDER BY id")
                assert [row["id"] async for row in cursor] == [1, 2, 3]
            await connection.rollback()
    with trying("error codes"):
        for sql, code in [("SELECT * FROM no_such", 1146), ("SELECT no_such FROM items", 1054), ("SELEC 1", 1064)]:
            try:
                await one(sql)
                raise AssertionError(f"{sql} did not fail")
            except aiomysql.MySQLError as raised:
                assert raised.args[0] == code, raised
    pool.close()
    await pool.wait_closed()


asyncio.run(main())
