# Perl's DBI over DBD::mysql: text and server-side prepared statements, catalog functions.
use strict;
use warnings;
use utf8;
use DBI;
binmode(STDOUT, ':encoding(UTF-8)');

my ($port, $database) = @ARGV;
my %options = (RaiseError => 1, PrintError => 0, mysql_enable_utf8mb4 => 1);

sub connected { DBI->connect("DBI:mysql:database=$_[0];host=127.0.0.1;port=$port$_[1]", 'root', '', {%options}) }

sub trying {
    my ($what, $run) = @_;
    eval { $run->(); 1 } or do { print "$what: $@\n"; exit 1 };
    print "TRIED $what\n";
}

my $db;
trying('connect', sub {
    my $first = connected('', '');
    $first->do("DROP DATABASE IF EXISTS $database");
    $first->do("CREATE DATABASE $database");
    $db = connected($database, '');
    die unless $db->selectrow_array('SELECT DATABASE()') eq $database && $db->ping;
});
for my $way ('text', 'prepared') {
    my $on = connected($database, $way eq 'prepared' ? ';mysql_server_prepare=1' : '');
    trying("$way: write and read back", sub {
        $on->do('CREATE OR REPLACE TABLE items (id BIGINT NOT NULL, name VARCHAR(40), price DECIMAL(12, 2), made DATETIME)');
        my $insert = $on->prepare('INSERT INTO items VALUES (?, ?, ?, ?)');
        die unless $insert->execute(1, 'naïve 世界', '12.50', '2024-02-29 23:59:58') == 1;
        die unless $insert->execute(2, undef, undef, undef) == 1;
        my $rows = $on->selectall_arrayref('SELECT * FROM items WHERE id < ? ORDER BY id', undef, 10);
        # A prepared statement's times come with the digits of their fraction.
        die join ',', @{$rows->[0]} unless join(',', @{$rows->[0]}) =~ /^1,naïve 世界,12.50,2024-02-29 23:59:58(\.000000)?$/;
        die if defined $rows->[1][1] || @$rows != 2;
    });
}
trying('column information', sub {
    my $statement = $db->prepare('SELECT * FROM items');
    $statement->execute;
    die unless join(',', @{$statement->{NAME}}) eq 'id,name,price,made' && !$statement->{NULLABLE}[0];
    $statement->finish;
    my $columns = $db->column_info(undef, $database, 'items', '%')->fetchall_arrayref({});
    die unless join(',', map { $_->{COLUMN_NAME} } @$columns) eq 'id,name,price,made';
    die unless grep { /items/ } $db->tables;
});
trying('error codes', sub {
    for (['SELECT * FROM no_such', 1146, '42S02'], ['SELECT no_such FROM items', 1054, '42S22'], ['SELEC 1', 1064, '42000']) {
        my ($sql, $code, $state) = @$_;
        eval { $db->do($sql) };
        die "$sql: " . $db->err unless $db->err == $code && $db->state eq $state;
    }
});
trying('transactions', sub {
    $db->begin_work;
    $db->rollback;
    $db->{AutoCommit} = 0;
    $db->commit;
    $db->{AutoCommit} = 1;
});
