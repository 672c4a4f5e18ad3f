// Node's mysql package: text protocol, types, streams, pools, errors.
'use strict';
const assert = require('assert');
const fs = require('fs');
const mysql = require('mysql');
const [port, database, ca] = [Number(process.argv[2]), process.argv[3], process.argv[4]];

const connect = (more) => mysql.createConnection({ host: '127.0.0.1', port, user: 'root', charset: 'utf8mb4', timezone: 'Z', ...more });
const query = (on, sql, values) =>
  new Promise((resolve, reject) => on.query(sql, values, (error, rows, fields) => (error ? reject(error) : resolve([rows, fields]))));
const trying = async (what, run) => {
  try {
    await run();
  } catch (error) {
    console.log(`${what}: ${error.stack}`);
    process.exit(1);
  }
  console.log(`TRIED ${what}`);
};

(async () => {
  let connection;
  const made = new Date('2024-02-29T23:59:58Z');
  await trying('connect', async () => {
    const first = connect();
    await query(first, `DROP DATABASE IF EXISTS ${database}`);
    await query(first, `CREATE DATABASE ${database}`);
    first.destroy();
    connection = connect({ database, multipleStatements: true });
    const [[{ db }]] = await query(connection, 'SELECT DATABASE() AS db');
    assert.strictEqual(db, database);
  });
  await trying('write and read back every type', async () => {
    await query(connection, 'CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), weight DOUBLE, made DATETIME, raw BLOB, ok BOOLEAN)');
    const row = [1, 'naïve 世界 \'"\\', '12.50', 0.5, made, Buffer.from([0, 255, 39]), true];
    const [result] = await query(connection, 'INSERT INTO items VALUES (?)', [row]);
    assert.strictEqual(result.affectedRows, 1);
    await query(connection, 'INSERT INTO items SET ?', { id: 2 });
    const [rows, fields] = await query(connection, 'SELECT * FROM items ORDER BY id');
    assert.deepStrictEqual(Object.values(rows[0]).slice(0, 4), [1, row[1], 12.5, 0.5]);
    assert.strictEqual(rows[0].made.getTime(), made.getTime());
    assert.deepStrictEqual([rows[0].raw, rows[0].ok, rows[1].name, rows[1].made], [row[5], 1, null, null]);
    assert.deepStrictEqual(fields.map((it) => it.name), ['id', 'name', 'price', 'weight', 'made', 'raw', 'ok']);
  });
  await trying('placeholders for values and names', async () => {
    const [rows] = await query(connection, 'SELECT ?? FROM ?? WHERE id IN (?) AND made = ?', ['id', 'items', [1, 2], made]);
    assert.deepStrictEqual(rows.map((it) => it.id), [1]);
  });
  await trying('several results', async () => {
    const [results] = await query(connection, 'SELECT 1 AS x; SELECT 2 AS y');
    assert.deepStrictEqual([results[0][0].x, results[1][0].y], [1, 2]);
  });
  await trying('error codes', async () => {
    for (const [sql, code] of [['SELECT * FROM no_such', 'ER_NO_SUCH_TABLE'], ['SELECT no_such FROM items', 'ER_BAD_FIELD_ERROR'], ['SELEC 1', 'ER_PARSE_ERROR']]) {
      await assert.rejects(query(connection, sql), { code });
    }
  });
  await trying('rows as a stream', async () => {
    let sum = 0;
    const text = 'WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 300) SELECT a.n * 1000 + b.n AS n FROM t AS a CROSS JOIN t AS b';
    await new Promise((resolve, reject) => connection.query(text).on('result', (row) => { sum += row.n; }).on('error', reject).on('end', resolve));
    assert.strictEqual(sum, 13558545000);
  });
  await trying('transactions, ping, changeUser', async () => {
    for (const act of ['beginTransaction', 'commit', 'beginTransaction', 'rollback', 'ping']) {
      await new Promise((resolve, reject) => connection[act]((error) => (error ? reject(error) : resolve())));
    }
    await new Promise((resolve, reject) => connection.changeUser({ user: 'root', database }, (error) => (error ? reject(error) : resolve())));
    const [[{ n }]] = await query(connection, 'SELECT count(*) AS n FROM items');
    assert.strictEqual(n, 2);
  });
  await trying('a pool', async () => {
    const pool = mysql.createPool({ connectionLimit: 8, host: '127.0.0.1', port, user: 'root', database });
    const answers = await Promise.all([...Array(60).keys()].map((i) => query(pool, 'SELECT ? + 1 AS n', [i])));
    answers.forEach(([[{ n }]], i) => assert.strictEqual(n, i + 1));
    await new Promise((resolve) => pool.end(resolve));
  });
  if (ca !== '/dev/null') {
    await trying('TLS', async () => {
      const secure = connect({ ssl: { ca: fs.readFileSync(ca) } });
      const [[{ Value }]] = await query(secure, "SHOW STATUS LIKE 'Ssl_version'");
      assert.ok(Value.startsWith('TLSv1'), Value);
      secure.destroy();
    });
  }
  connection.destroy();
})();
