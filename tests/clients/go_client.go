// Go's database/sql over go-sql-driver/mysql: prepared statements, interpolated ones, types, contexts, TLS.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-sql-driver/mysql"
)

var port, database, ca = os.Args[1], os.Args[2], os.Args[3]

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func assert(holds bool, seen ...interface{}) {
	if !holds {
		panic(fmt.Sprint(seen...))
	}
}

func open(name, options string) *sql.DB {
	db, err := sql.Open("mysql", fmt.Sprintf("root@tcp(127.0.0.1:%s)/%s?%s", port, name, options))
	check(err)
	check(db.Ping())
	return db
}

func trying(what string, run func()) {
	defer func() {
		if failed := recover(); failed != nil {
			fmt.Println(what+":", failed)
			os.Exit(1)
		}
		fmt.Println("TRIED", what)
	}()
	run()
}

func main() {
	made := time.Date(2024, 2, 29, 23, 59, 58, 0, time.UTC)
	var db *sql.DB
	trying("connect", func() {
		db = open("", "")
		_, err := db.Exec("DROP DATABASE IF EXISTS " + database)
		check(err)
		_, err = db.Exec("CREATE DATABASE " + database)
		check(err)
		db = open(database, "parseTime=true&collation=utf8mb4_general_ci&maxAllowedPacket=0&time_zone=%27%2B00%3A00%27&sql_mode=ANSI")
		var mode, zone string
		check(db.QueryRow("SELECT @@sql_mode, @@time_zone").Scan(&mode, &zone))
		assert(zone == "+00:00" && len(mode) > 3, mode, zone)
	})
	trying("write and read back by server-side prepared statements", func() {
		_, err := db.Exec("CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), weight DOUBLE, made DATETIME, raw BLOB, ok BOOLEAN)")
		check(err)
		insert, err := db.Prepare("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)")
		check(err)
		result, err := insert.Exec(1, "naïve 世界", "12.50", 0.5, made, []byte{0, 255}, true)
		check(err)
		n, err := result.RowsAffected()
		check(err)
		assert(n == 1, n)
		_, err = insert.Exec(2, nil, nil, nil, nil, nil, nil)
		check(err)
		check(insert.Close())
		rows, err := db.Query("SELECT * FROM items WHERE id < ? ORDER BY id", 10)
		check(err)
		names, err := rows.Columns()
		check(err)
		assert(len(names) == 7 && names[4] == "made", names)
		var id int64
		var name, price sql.NullString
		var weight sql.NullFloat64
		var at sql.NullTime
		var raw []byte
		var ok sql.NullBool
		assert(rows.Next())
		check(rows.Scan(&id, &name, &price, &weight, &at, &raw, &ok))
		assert(id == 1 && name.String == "naïve 世界" && price.String == "12.50" && weight.Float64 == 0.5 && ok.Bool, id, name, price)
		assert(at.Time.Equal(made) && len(raw) == 2 && raw[1] == 255, at, raw)
		assert(rows.Next())
		check(rows.Scan(&id, &name, &price, &weight, &at, &raw, &ok))
		assert(id == 2 && !name.Valid && !price.Valid && !at.Valid && raw == nil, name, price, at)
		assert(!rows.Next())
		check(rows.Err())
	})
	trying("column types", func() {
		rows, err := db.Query("SELECT id, name, price FROM items")
		check(err)
		types, err := rows.ColumnTypes()
		check(err)
		nullable, known := types[0].Nullable()
		assert(types[0].DatabaseTypeName() == "BIGINT" && types[2].DatabaseTypeName() == "DECIMAL" && known && !nullable, types[0].DatabaseTypeName(), nullable)
		precision, scale, _ := types[2].DecimalSize()
		assert(precision == 12 && scale == 2, precision, scale)
		check(rows.Close())
	})
	trying("interpolated parameters, several statements", func() {
		several := open(database, "interpolateParams=true&multiStatements=true")
		var name string
		check(several.QueryRow("SELECT name FROM items WHERE id = ? AND ok = ?", 1, true).Scan(&name))
		assert(name == "naïve 世界", name)
		rows, err := several.Query("SELECT 1; SELECT 2")
		check(err)
		assert(rows.Next() && rows.NextResultSet() && rows.Next())
		var two int
		check(rows.Scan(&two))
		assert(two == 2 && !rows.NextResultSet(), two)
		check(rows.Close())
	})
	trying("transactions", func() {
		tx, err := db.Begin()
		check(err)
		var n int
		check(tx.QueryRow("SELECT count(*) FROM items").Scan(&n))
		assert(n == 2, n)
		check(tx.Rollback())
		tx, err = db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		check(err)
		check(tx.Commit())
	})
	trying("error codes", func() {
		for text, code := range map[string]uint16{"SELECT * FROM no_such": 1146, "SELECT no_such FROM items": 1054, "SELEC 1": 1064} {
			_, err := db.Exec(text)
			var failed *mysql.MySQLError
			assert(errors.As(err, &failed) && failed.Number == code, text, err)
		}
		_, err := sql.Open("mysql", "root@tcp(127.0.0.1:"+port+")/no_such")
		check(err)
	})
	trying("a pool of 20 connections", func() {
		db.SetMaxOpenConns(20)
		done := make(chan error)
		for i := 0; i < 200; i++ {
			go func(i int) {
				var n int
				err := db.QueryRow("SELECT ? + 1", i).Scan(&n)
				if err == nil && n != i+1 {
					err = fmt.Errorf("%d + 1 is %d", i, n)
				}
				done <- err
			}(i)
		}
		for i := 0; i < 200; i++ {
			check(<-done)
		}
	})
	trying("a context that is cancelled", func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_, err := db.ExecContext(ctx, "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 900) SELECT count(*) FROM t AS a, t AS b, t AS c, t AS d WHERE a.n + b.n + c.n + d.n = 7")
		assert(errors.Is(err, context.DeadlineExceeded), err)
		check(db.Ping())
	})
	if ca != "/dev/null" {
		trying("TLS", func() {
			pem, err := os.ReadFile(ca)
			check(err)
			roots := x509.NewCertPool()
			assert(roots.AppendCertsFromPEM(pem))
			check(mysql.RegisterTLSConfig("ca", &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}))
			var name, version string
			check(open("", "tls=ca").QueryRow("SHOW STATUS LIKE 'Ssl_version'").Scan(&name, &version))
			assert(version[:5] == "TLSv1", version)
		})
	}
}
