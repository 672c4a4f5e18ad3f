// MariaDB's JDBC driver 2.7, the one of Metabase: types, metadata, prepared statements, batches.
import java.math.BigDecimal;
import java.sql.*;
import java.sql.Date;
import java.util.*;

class java_client {
    interface Run { void run() throws Exception; }

    static void trying(String what, Run run) {
        try {
            run.run();
        } catch (Throwable error) {
            System.out.println(what + ": " + error);
            error.printStackTrace(System.out);
            System.exit(1);
        }
        System.out.println("TRIED " + what);
    }

    static void check(boolean holds, Object... seen) {
        if (!holds) throw new AssertionError(Arrays.toString(seen));
    }

    static Connection connection;

    public static void main(String[] args) throws Exception {
        String port = args[0], database = args[1], ca = args[2];
        String url = "jdbc:mariadb://127.0.0.1:" + port + "/";
        trying("connect, as Metabase does", () -> {
            try (Connection first = DriverManager.getConnection(url, "root", ""); Statement statement = first.createStatement()) {
                statement.execute("DROP DATABASE IF EXISTS " + database);
                statement.execute("CREATE DATABASE " + database);
            }
            connection = DriverManager.getConnection(url + database + "?useCompression=true&zeroDateTimeBehavior=convertToNull"
                + "&useUnicode=true&characterEncoding=UTF8&characterSetResults=UTF8&useSSL=false&jdbcCompliantTruncation=true"
                + "&sessionVariables=sql_mode='ANSI_QUOTES,ERROR_FOR_DIVISION_BY_ZERO',time_zone='%2B00:00'".replace("%2B", "+"), "root", "");
            check(connection.getCatalog().equals(database) && connection.isValid(5), connection.getCatalog());
        });
        for (boolean prepared : new boolean[] {false, true}) {
            String way = prepared ? "server-side prepared" : "interpolated";
            trying(way + " statements: write and read back every type", () -> {
                try (Connection on = DriverManager.getConnection(url + database + "?useServerPrepStmts=" + prepared, "root", "")) {
                    on.createStatement().execute("DROP TABLE IF EXISTS items");
                    on.createStatement().execute("CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), "
                        + "weight DOUBLE, made DATETIME, day DATE, raw BLOB, ok BOOLEAN)");
                    PreparedStatement insert = on.prepareStatement("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
                    Timestamp made = Timestamp.valueOf("2024-02-29 23:59:58");
                    for (long id = 1; id <= 3; id++) {
                        insert.setLong(1, id);
                        insert.setString(2, id == 3 ? null : "naïve 世界 '\\");
                        insert.setBigDecimal(3, id == 3 ? null : new BigDecimal("12.50"));
                        insert.setObject(4, id == 3 ? null : 0.5);
                        insert.setTimestamp(5, id == 3 ? null : made);
                        insert.setDate(6, id == 3 ? null : Date.valueOf("2024-02-29"));
                        insert.setBytes(7, id == 3 ? null : new byte[] {0, -1, 39});
                        insert.setObject(8, id == 3 ? null : true);
                        insert.addBatch();
                    }
                    check(insert.executeBatch().length == 3);
                    PreparedStatement select = on.prepareStatement("SELECT * FROM items WHERE id >= ? ORDER BY id");
                    select.setInt(1, 2);
                    ResultSet rows = select.executeQuery();
                    check(rows.next() && rows.getLong("id") == 2 && rows.getString(2).equals("naïve 世界 '\\"), rows.getString(2));
                    check(rows.getBigDecimal(3).equals(new BigDecimal("12.50")) && rows.getDouble(4) == 0.5);
                    check(rows.getTimestamp(5).equals(made) && rows.getDate(6).equals(Date.valueOf("2024-02-29")), rows.getTimestamp(5));
                    check(rows.getBytes(7).length == 3 && rows.getBoolean(8));
                    check(rows.next() && rows.getString(2) == null && rows.getObject(5) == null && rows.getObject(8) == null && !rows.next());
                    ResultSetMetaData meta = rows.getMetaData();
                    check(meta.getColumnType(1) == Types.BIGINT && meta.getColumnType(3) == Types.DECIMAL, meta.getColumnType(3));
                    check(meta.getPrecision(3) == 12 && meta.getScale(3) == 2, meta.getPrecision(3), meta.getScale(3));
                    check(meta.isNullable(1) == ResultSetMetaData.columnNoNulls, meta.getTableName(1));
                }
            });
        }
        trying("DatabaseMetaData: catalogs, tables, columns, keys, indexes, types", () -> {
            DatabaseMetaData meta = connection.getMetaData();
            check(meta.getDatabaseMajorVersion() >= 8 || meta.getDatabaseProductName().equals("MariaDB"), meta.getDatabaseProductVersion());
            check(column(meta.getCatalogs(), "TABLE_CAT").contains(database));
            check(column(meta.getTables(database, null, "%", new String[] {"TABLE"}), "TABLE_NAME").equals(List.of("items")));
            ResultSet columns = meta.getColumns(database, null, "items", "%");
            List<String> names = new ArrayList<>(), kinds = new ArrayList<>();
            while (columns.next()) {
                names.add(columns.getString("COLUMN_NAME"));
                kinds.add(columns.getString("TYPE_NAME"));
            }
            check(names.equals(List.of("id", "name", "price", "weight", "made", "day", "raw", "ok")), names);
            check(kinds.subList(0, 4).equals(List.of("BIGINT", "VARCHAR", "DECIMAL", "DOUBLE")), kinds);
            check(column(meta.getPrimaryKeys(database, null, "items"), "COLUMN_NAME").isEmpty());
            check(column(meta.getImportedKeys(database, null, "items"), "FK_NAME").isEmpty());
            check(column(meta.getExportedKeys(database, null, "items"), "FK_NAME").isEmpty());
            check(column(meta.getIndexInfo(database, null, "items", false, true), "INDEX_NAME").isEmpty());
            check(column(meta.getTypeInfo(), "TYPE_NAME").contains("BIGINT"));
            check(column(meta.getProcedures(database, null, "%"), "PROCEDURE_NAME").isEmpty());
            check(column(meta.getTablePrivileges(database, null, "items"), "TABLE_NAME") != null);
            check(column(meta.getColumnPrivileges(database, null, "items", "%"), "COLUMN_NAME") != null);
            check(column(meta.getTableTypes(), "TABLE_TYPE").contains("TABLE"));
        });
        trying("transactions, read-only connections, warnings", () -> {
            connection.setAutoCommit(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            connection.setReadOnly(true);
            connection.rollback();
            connection.setReadOnly(false);
            connection.setAutoCommit(true);
            Statement statement = connection.createStatement();
            statement.executeQuery("SELECT 1 / 0");
            check(statement.getWarnings() != null);
        });
        trying("rows fetched bit by bit, row limits, time-outs", () -> {
            Statement statement = connection.createStatement();
            statement.setFetchSize(100);
            statement.setQueryTimeout(60);
            String text = "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 300) SELECT a.n * 1000 + b.n AS n FROM t AS a CROSS JOIN t AS b";
            ResultSet rows = statement.executeQuery(text);
            long sum = 0;
            while (rows.next()) sum += rows.getLong(1);
            check(sum == 13558545000L, sum);
            statement.setFetchSize(0);
            statement.setMaxRows(7);
            check(column(statement.executeQuery(text), "n").size() == 7);
        });
        trying("SQLSTATEs", () -> {
            for (String[] it : new String[][] {{"SELECT * FROM no_such", "42S02"}, {"SELECT no_such FROM items", "42S22"}, {"SELEC 1", "42000"}}) {
                try {
                    connection.createStatement().execute(it[0]);
                    check(false, it[0]);
                } catch (SQLException error) {
                    check(error.getSQLState().equals(it[1]), it[0], error);
                }
            }
        });
        if (!ca.equals("/dev/null")) {
            trying("TLS", () -> {
                try (Connection secure = DriverManager.getConnection(url + "?useSSL=true&serverSslCert=" + ca, "root", "")) {
                    check(column(secure.createStatement().executeQuery("SHOW STATUS LIKE 'Ssl_version'"), "Value").get(0).startsWith("TLSv1"));
                }
            });
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> found = new ArrayList<>();
        while (rows.next()) found.add(rows.getString(name));
        return found;
    }
}
