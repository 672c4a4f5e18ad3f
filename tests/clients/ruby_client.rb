# Ruby's mysql2 over MariaDB's C library: what Rails' adapter stands on.
require 'bigdecimal'
require 'mysql2'

PORT, DATABASE, CA = ARGV[0].to_i, ARGV[1], ARGV[2]

def connect(**more) = Mysql2::Client.new(host: '127.0.0.1', port: PORT, username: 'root', database_timezone: :utc, **more)

def trying(what)
  yield
  puts "TRIED #{what}"
rescue StandardError => e
  puts "#{what}: #{e.full_message}"
  exit 1
end

def check(holds, *seen) = holds || raise("not as expected: #{seen.inspect}")

db = nil
trying('connect') do
  first = connect
  first.query("DROP DATABASE IF EXISTS #{DATABASE}")
  first.query("CREATE DATABASE #{DATABASE}")
  db = connect(database: DATABASE, encoding: 'utf8mb4', flags: Mysql2::Client::MULTI_STATEMENTS)
  # As Rails' adapter begins.
  db.query("SET @@SESSION.sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), @@SESSION.sql_auto_is_null = 0, @@SESSION.wait_timeout = 2147483")
  check db.query('SELECT DATABASE() AS db').first['db'] == DATABASE
end
trying('write and read back, text and prepared') do
  db.query('CREATE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), weight DOUBLE, made DATETIME, day DATE)')
  insert = db.prepare('INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)')
  insert.execute(1, 'naïve 世界', BigDecimal('12.5'), 0.5, Time.utc(2024, 2, 29, 23, 59, 58), Date.new(2024, 2, 29))
  check insert.affected_rows == 1
  insert.execute(2, nil, nil, nil, nil, nil)
  expected = [1, 'naïve 世界', BigDecimal('12.5'), 0.5, Time.utc(2024, 2, 29, 23, 59, 58), Date.new(2024, 2, 29)]
  [db.query('SELECT * FROM items ORDER BY id'), db.prepare('SELECT * FROM items WHERE id < ? ORDER BY id').execute(10)].each do |rows|
    rows = rows.map(&:values)
    check rows[0] == expected && rows[1] == [2, nil, nil, nil, nil, nil], rows
  end
end
trying('streaming, several results, ping') do
  check db.query('SELECT id FROM items ORDER BY id', stream: true, cache_rows: false).map { |row| row['id'] } == [1, 2]
  check db.query('SELECT 1 AS x; SELECT 2 AS x').first['x'] == 1
  check db.next_result && db.store_result.first['x'] == 2 && !db.next_result
  check db.ping && db.select_db(DATABASE)
end
trying('error codes') do
  { 'SELECT * FROM no_such' => 1146, 'SELECT no_such FROM items' => 1054, 'SELEC 1' => 1064 }.each do |sql, code|
    db.query(sql)
    raise "#{sql} did not fail"
  rescue Mysql2::Error => e
    check e.error_number == code, sql, e.message
  end
end
unless CA == '/dev/null'
  trying('TLS') do
    check connect(sslca: CA, ssl_mode: :required).query("SHOW STATUS LIKE 'Ssl_version'").first['Value'].start_with?('TLSv1')
  end
end
