<?php
// What an application does with PHP's PDO as it comes. `work TABLE` prints what it sees, `idle NUMBER` opens so many
// connections, does the usual things on each and keeps them until its standard input ends. PGHOST and the like say where.
declare(strict_types=1);

function connect(array $options = []): PDO {
    $dsn = sprintf('pgsql:host=%s;port=%s;dbname=%s', getenv('PGHOST'), getenv('PGPORT'), getenv('PGDATABASE'));
    return new PDO($dsn, getenv('PGUSER'), getenv('PGPASSWORD'), $options + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function say(string $what, mixed $value): void {
    echo $what, ': ', is_string($value) ? $value : json_encode($value), "\n";
}

function refused(PDO $pdo, string $sql): string {
    try {
        $pdo->exec($sql);
        return 'nothing';
    } catch (PDOException $error) {
        return (string) $error->getCode();
    }
}

function work(string $table): void {
    $pdo = connect();
    $insert = $pdo->prepare("insert into $table values (?, ?)");
    foreach (range(1, 12) as $number)
        $insert->execute([$number, "word $number"]);
    say('error', refused($pdo, "insert into $table values (1, 'again')"));
    $pdo->beginTransaction();
    $pdo->exec("insert into $table values (20, 'kept')");
    $pdo->exec('savepoint before');
    say('in a transaction', refused($pdo, "insert into $table values (1, 'twice')"));
    $pdo->exec('rollback to before');
    $pdo->commit();
    $pdo->beginTransaction();
    $pdo->exec("delete from $table");
    $pdo->rollBack();
    say('after them', $pdo->query("select count(*) from $table")->fetchColumn());

    $emulated = connect([PDO::ATTR_EMULATE_PREPARES => true]);
    $select = $emulated->prepare("select word from $table where id = :id");
    $select->execute(['id' => 7]);
    say('emulated', $select->fetchColumn());

    $select = $pdo->prepare('select generate_series(1, 5) as n', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $pdo->beginTransaction();
    $select->execute();
    $last = $select->fetch(PDO::FETCH_ASSOC, PDO::FETCH_ORI_LAST);
    $prior = $select->fetch(PDO::FETCH_ASSOC, PDO::FETCH_ORI_PRIOR);
    say('with a cursor', [$last['n'], $prior['n']]);
    $select = null;
    $pdo->commit();

    $pdo->pgsqlCopyFromArray($table, ["30\tin", "31\tout"]);
    say('copy', implode('', $pdo->pgsqlCopyToArray("(select * from $table where id >= 30 order by id)")));

    $pdo->exec("drop table if exists php_numbers");
    $pdo->exec("create table php_numbers (id serial primary key)");
    $pdo->beginTransaction();
    $pdo->exec('insert into php_numbers default values');
    say('last insert id', [$pdo->lastInsertId(), $pdo->lastInsertId('php_numbers_id_seq')]);
    $pdo->commit();
    $pdo->exec("drop table php_numbers");

    $pdo->exec('listen php_news');
    connect()->exec("notify php_news, 'hello'");
    $heard = $pdo->pgsqlGetNotify(PDO::FETCH_ASSOC, 10000);
    say('notification', [$heard['message'], $heard['payload']]);
}

function idle(int $number): void {
    $connections = [];
    foreach (range(1, $number) as $each) {
        $connections[] = $pdo = connect();
        $select = $pdo->prepare('select ?::int + 1 as usual_work');
        foreach (range(1, 10) as $turn) {
            $select->execute([$turn]);
            $select->fetchAll();
        }
        $pdo->beginTransaction();
        $pdo->query('select 1')->fetchAll();
        $pdo->commit();
        $select = null;
    }
    echo "idle\n";
    stream_get_contents(STDIN);
}

$argv[1] === 'work' ? work($argv[2]) : idle((int) $argv[2]);
