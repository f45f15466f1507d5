# What an application does with Perl's DBD::Pg as it comes. `work TABLE` prints what it sees, `idle NUMBER` opens so many
# connections, does the usual things on each and keeps them until its standard input ends. PGHOST and the like say where.
use strict;
use warnings;
use DBI;

$| = 1;

sub connected {
    my ($options) = @_;
    return DBI->connect('dbi:Pg:', '', '', { RaiseError => 1, PrintError => 0, AutoCommit => 1, %{ $options || {} } });
}

sub refused {
    my ($dbh, $sql) = @_;
    eval { $dbh->do($sql) };
    return $dbh->state;
}

sub work {
    my ($table) = @_;
    my $dbh = connected();
    my $insert = $dbh->prepare("insert into $table values (?, ?)");
    $insert->execute($_, "word $_") for 1 .. 12;
    print 'error: ', refused($dbh, "insert into $table values (1, 'again')"), "\n";
    $dbh->begin_work;
    $dbh->do("insert into $table values (20, 'kept')");
    $dbh->pg_savepoint('before');
    print 'in a transaction: ', refused($dbh, "insert into $table values (1, 'twice')"), "\n";
    $dbh->pg_rollback_to('before');
    $dbh->commit;
    my $manual = connected({ AutoCommit => 0 });
    $manual->do("delete from $table");
    $manual->rollback;
    $manual->disconnect;
    print 'after them: ', $dbh->selectrow_array("select count(*) from $table"), "\n";
    my $select = $dbh->prepare("select word from $table where id = ?");
    print 'each by its id: ', join(' ', map { ($dbh->selectrow_array($select, undef, $_))[0] } 3, 5, 7), "\n";
    print 'array: ', join(',', @{ ($dbh->selectrow_array('select ?::int[]', undef, [1, 2, 3]))[0] }), "\n";

    $dbh->do("copy $table from stdin");
    $dbh->pg_putcopydata("30\tin\n");
    $dbh->pg_putcopydata("31\t\\N\n");
    $dbh->pg_putcopyend;
    $dbh->do("copy (select id from $table where id >= 30 order by id) to stdout");
    my ($line, @lines);
    push @lines, $line =~ s/\n//r while $dbh->pg_getcopydata($line) >= 0;
    print "copy: @lines\n";

    print 'columns: ', join(', ', map { $_->[3] } @{ $dbh->column_info(undef, 'public', $table, '%')->fetchall_arrayref }), "\n";
    $dbh->do('listen perl_news');
    my $other = connected();
    $other->do("notify perl_news, 'hello'");
    my $heard;
    for (1 .. 1000) {
        last if $heard = $dbh->pg_notifies;
        select(undef, undef, undef, 0.01);
    }
    print "notification: $heard->[0] $heard->[2]\n";
    $dbh->do('select pg_sleep(30)', { pg_async => 1 });
    print 'canceled: ', ($dbh->pg_cancel ? 'yes' : 'no'), "\n";
    print 'ping: ', ($dbh->ping > 0 ? 'alive' : 'dead'), "\n";
    $other->disconnect;
    $dbh->disconnect;
}

sub idle {
    my ($number) = @_;
    my @connections;
    for (1 .. $number) {
        my $dbh = connected();
        push @connections, $dbh;
        my $select = $dbh->prepare('select ?::int + 1 as usual_work');
        $dbh->selectrow_array($select, undef, $_) for 1 .. 10;
        $dbh->begin_work;
        $dbh->do('select 1');
        $dbh->commit;
    }
    print "idle\n";
    my @rest = <STDIN>;
    $_->disconnect for @connections;
}

$ARGV[0] eq 'work' ? work($ARGV[1]) : idle($ARGV[1]);
