// What an application does with pgjdbc as it comes. `work TABLE` prints what it sees, `idle NUMBER` opens so many
// connections, does the usual things on each and keeps them until its standard input ends. PGHOST and the like say where.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;

public class Jdbc {
    static Connection connect() throws SQLException {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        return DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
    }

    static void say(Object what) {
        System.out.println(what);
    }

    static String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void autocommit(Connection connection, String table) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("insert into " + table + " values (?, ?)")) {
            for (int number = 1; number <= 12; number++) {
                insert.setInt(1, number);
                insert.setString(2, "word " + number);
                insert.executeUpdate();
            }
            say("prepared on the server: " + insert.unwrap(PGStatement.class).isUseServerPrepare());
        }
        say("autocommit: " + one(connection, "select count(*) from " + table));
    }

    static void transactions(Connection connection, String table) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("insert into " + table + " values (20, 'kept')");
            Savepoint before = connection.setSavepoint();
            try {
                statement.executeUpdate("insert into " + table + " values (1, 'twice')");
            } catch (SQLException error) {
                say("in a transaction: " + error.getSQLState());
            }
            connection.rollback(before);
            statement.executeUpdate("insert into " + table + " values (21, 'kept too')");
            connection.commit();
            statement.executeUpdate("delete from " + table);
            connection.rollback();
        }
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        say("isolation: " + one(connection, "show transaction_isolation"));
        connection.commit();
        connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        connection.setReadOnly(true);
        say("read only: " + one(connection, "show transaction_read_only"));
        connection.commit();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
        say("after them: " + one(connection, "select count(*) from " + table));
    }

    static void batches(Connection connection, String table) throws SQLException {
        int sum = 0;
        try (PreparedStatement insert = connection.prepareStatement("insert into " + table + " values (?, ?)")) {
            for (int number = 100; number < 400; number++) {
                insert.setInt(1, number);
                insert.setString(2, null);
                insert.addBatch();
            }
            for (int count : insert.executeBatch())
                sum += count;
            insert.setInt(1, 400);
            insert.setString(2, "not alone");
            insert.addBatch();
            insert.setInt(1, 1);
            insert.addBatch();
            insert.executeBatch();
        } catch (BatchUpdateException error) {
            say("batches: " + sum + ", " + error.getSQLState());
        }
        say("after them: " + one(connection, "select count(*) from " + table));
    }

    static void cursor(Connection connection, String table) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(50);
            int count = 0;
            try (ResultSet rows = statement.executeQuery("select id from " + table + " order by id")) {
                while (rows.next())
                    count++;
            }
            say("with a fetch size: " + count);
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void keysAndCatalog(Connection connection, String table) throws SQLException {
        String insert = "insert into " + table + " values (500, 'with its key')";
        try (PreparedStatement statement = connection.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            statement.executeUpdate();
            try (ResultSet keys = statement.getGeneratedKeys()) {
                keys.next();
                say("generated key: " + keys.getInt("id"));
            }
        }
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = connection.getMetaData().getColumns(null, "public", table, "%")) {
            while (rows.next())
                columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME"));
        }
        say("columns: " + String.join(", ", columns));
    }

    static void copy(PGConnection connection, String table) throws Exception {
        long in = connection.getCopyAPI().copyIn("copy " + table + " from stdin", new StringReader("600\tin\n601\t\\N\n"));
        StringWriter out = new StringWriter();
        connection.getCopyAPI().copyOut("copy (select * from " + table + " where id >= 600 order by id) to stdout", out);
        say("copy: " + in + " " + out.toString().replace("\n", " ").replace("\t", " "));
    }

    static void timeoutAndNotification(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            statement.execute("select pg_sleep(30)");
        } catch (SQLException error) {
            say("query timeout: " + error.getSQLState());
        }
        try (Statement statement = connection.createStatement(); Connection other = connect()) {
            statement.execute("listen jdbc_news");
            other.createStatement().execute("notify jdbc_news, 'hello'");
            PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(10_000);
            say("notification: " + heard[0].getName() + " " + heard[0].getParameter());
            statement.execute("unlisten *");
        }
    }

    static void work(String table) throws Exception {
        try (Connection connection = connect()) {
            say("application_name: " + one(connection, "show application_name"));
            autocommit(connection, table);
            transactions(connection, table);
            batches(connection, table);
            cursor(connection, table);
            keysAndCatalog(connection, table);
            copy(connection.unwrap(PGConnection.class), table);
            timeoutAndNotification(connection);
            say("valid: " + connection.isValid(10));
        }
    }

    static void idle(int number) throws Exception {
        List<Connection> connections = new ArrayList<>();
        for (int each = 0; each < number; each++) {
            Connection connection = connect();
            connections.add(connection);
            try (PreparedStatement statement = connection.prepareStatement("select ? + 1 as usual_work")) {
                for (int turn = 0; turn < 10; turn++) {
                    statement.setInt(1, turn);
                    statement.executeQuery().close();
                }
                connection.setAutoCommit(false);
                statement.executeQuery().close();
                connection.commit();
                connection.setAutoCommit(true);
            }
        }
        say("idle");
        System.in.read();
        for (Connection connection : connections)
            connection.close();
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("work"))
            work(args[1]);
        else
            idle(Integer.parseInt(args[1]));
    }
}
