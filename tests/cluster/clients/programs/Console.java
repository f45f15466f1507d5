// Commands of the pseudo database through pgjdbc as it comes. PGHOST and the like say where.

import java.sql.*;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.postgresql.PGStatement;

public class Console {
    static void say(Object what) {
        System.out.println(what);
    }

    static void types(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("fe list")) {
            ResultSetMetaData columns = rows.getMetaData();
            List<String> seen = new ArrayList<>();
            for (String name : List.of("id", "host", "age", "tls", "connected")) {
                int column = rows.findColumn(name);
                seen.add(name + " " + columns.getColumnTypeName(column));
            }
            say("columns: " + String.join(", ", seen));
            rows.next();
            boolean isNow = Math.abs(rows.getTimestamp("connected").getTime() - System.currentTimeMillis()) < 3600_000;
            say("values: " + (rows.getLong("id") > 0) + " " + (rows.getDouble("age") >= 0) + " " + isNow);
        }
    }

    static void prepared(Connection connection) throws SQLException {
        try (PreparedStatement list = connection.prepareStatement("cmd where command = ? order by command limit ?")) {
            int found = 0;
            for (int time = 0; time < 8; time++) {  // from the fifth on prepared, and its answers binary
                list.setString(1, "pool list");
                list.setInt(2, 5);
                try (ResultSet rows = list.executeQuery()) {
                    while (rows.next()) {
                        found += rows.getString("privilege").equals("watch") ? 1 : 0;
                    }
                }
            }
            say("prepared: " + list.unwrap(PGStatement.class).isUseServerPrepare() + " " + found);
        }
        try (PreparedStatement show = connection.prepareStatement("pool show ?")) {
            boolean isBad = false;
            for (int time = 0; time < 8; time++) {
                show.setInt(1, 1);
                try (ResultSet rows = show.executeQuery()) {
                    while (rows.next()) {
                        isBad |= rows.getLong("pool_id") != 1 || rows.getDouble("age") < 0;
                        isBad |= rows.getTimestamp("started").getTime() > System.currentTimeMillis() + 1000;
                    }
                }
            }
            say("binary values: " + (isBad ? "wrong" : "right"));
        }
    }

    static void failing(Connection connection) throws SQLException {
        for (String text : List.of("pool lst", "pool show 77", "select * from pg_class", "pool add nonsense")) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(text);
                say(text + ": no error");
            } catch (SQLException error) {
                say(text + ": " + error.getSQLState());
            }
        }
    }

    static void parts(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(3);
            int count = 0;
            try (ResultSet rows = statement.executeQuery("cmd")) {
                while (rows.next()) {
                    count++;
                }
            }
            say("with a fetch size: " + (count > 30));
            try {
                statement.execute("reconnect");
            } catch (SQLException error) {
                say("in a transaction: " + error.getSQLState());
            }
            connection.rollback();
        }
        connection.setAutoCommit(true);
    }

    public static void main(String[] arguments) throws SQLException {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        try (Connection connection = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            types(connection);
            prepared(connection);
            failing(connection);
            parts(connection);
            try (Statement statement = connection.createStatement()) {
                say("steering: " + statement.executeUpdate("reconnect"));
            }
            say("valid: " + connection.isValid(5));
        }
    }
}
