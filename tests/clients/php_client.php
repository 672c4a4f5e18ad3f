<?php
// PHP's mysqli and PDO over mysqlnd.
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
[, $port, $database, $ca] = $argv;

function trying(string $what, callable $run): void {
    try {
        $run();
    } catch (Throwable $error) {
        echo "$what: $error\n";
        exit(1);
    }
    echo "TRIED $what\n";
}

function check(bool $holds, mixed ...$seen): void {
    if (!$holds) throw new Exception('not as expected: ' . json_encode($seen));
}

$db = null;
trying('mysqli: connect', function () use (&$db, $port, $database) {
    $first = new mysqli('127.0.0.1', 'root', '', '', (int) $port);
    $first->query("DROP DATABASE IF EXISTS $database");
    $first->query("CREATE DATABASE $database");
    $first->close();
    $db = new mysqli('127.0.0.1', 'root', '', $database, (int) $port);
    $db->set_charset('utf8mb4');
    check($db->query('SELECT DATABASE()')->fetch_row()[0] === $database);
    check($db->stat() !== false && $db->server_version >= 80000 && $db->select_db($database));
});
trying('mysqli: write and read back by prepared statements', function () use (&$db) {
    $db->query('CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), weight DOUBLE, made DATETIME)');
    $insert = $db->prepare('INSERT INTO items VALUES (?, ?, ?, ?, ?)');
    [$id, $name, $price, $weight, $made] = [1, 'naïve 世界', '12.50', 0.5, '2024-02-29 23:59:58'];
    $insert->bind_param('issds', $id, $name, $price, $weight, $made);
    check($insert->execute() && $insert->affected_rows === 1);
    [$id, $name, $price, $weight, $made] = [2, null, null, null, null];
    check($insert->execute());
    $rows = $db->execute_query('SELECT * FROM items WHERE id < ? ORDER BY id', [10])->fetch_all(MYSQLI_NUM);
    // A prepared statement's times come with the digits of their fraction.
    $rows[0][4] = substr($rows[0][4], 0, 19);
    check($rows === [[1, 'naïve 世界', '12.50', 0.5, '2024-02-29 23:59:58'], [2, null, null, null, null]], $rows);
});
trying('mysqli: several results, error codes', function () use (&$db) {
    $db->multi_query('SELECT 1; SELECT 2');
    $seen = [];
    do {
        $seen[] = $db->store_result()->fetch_row()[0];
    } while ($db->next_result());
    check($seen == [1, 2], $seen);
    foreach (['SELECT * FROM no_such' => 1146, 'SELECT no_such FROM items' => 1054, 'SELEC 1' => 1064] as $sql => $code) {
        try {
            $db->query($sql);
            check(false, $sql);
        } catch (mysqli_sql_exception $error) {
            check($error->getCode() === $code, $sql, $error->getMessage());
        }
    }
});
foreach (['emulated' => true, 'native' => false] as $way => $emulated) {
    trying("PDO: $way prepared statements, transactions, column information", function () use ($port, $database, $emulated) {
        $options = [PDO::ATTR_EMULATE_PREPARES => $emulated, PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION];
        $pdo = new PDO("mysql:host=127.0.0.1;port=$port;dbname=$database;charset=utf8mb4", 'root', '', $options);
        $select = $pdo->prepare('SELECT id, name FROM items WHERE id = :id OR name = :name');
        $select->execute([':id' => 1, ':name' => 'x']);
        check($select->fetchAll(PDO::FETCH_ASSOC) === [['id' => 1, 'name' => 'naïve 世界']]);
        $meta = $select->getColumnMeta(0);
        check($meta['native_type'] === 'LONGLONG' && in_array('not_null', $meta['flags']), $meta);
        $pdo->beginTransaction();
        check($pdo->query('SELECT count(*) FROM items')->fetchColumn() == 2 && $pdo->inTransaction());
        $pdo->rollBack();
        try {
            $pdo->query('SELECT * FROM no_such');
            check(false);
        } catch (PDOException $error) {
            check($error->getCode() === '42S02', $error->getMessage());
        }
    });
}
if ($ca !== '/dev/null') {
    trying('TLS', function () use ($port, $ca) {
        $secure = mysqli_init();
        $secure->ssl_set(null, null, $ca, null, null);
        $secure->real_connect('127.0.0.1', 'root', '', '', (int) $port, null, MYSQLI_CLIENT_SSL);
        check(str_starts_with($secure->query("SHOW STATUS LIKE 'Ssl_version'")->fetch_row()[1], 'TLSv1'));
    });
}
