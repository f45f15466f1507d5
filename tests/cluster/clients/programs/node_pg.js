// What an application does with node-postgres as it comes. `work TABLE` prints what it sees, `idle NUMBER` opens so many
// connections, does the usual things on each and keeps them until its standard input ends. PGHOST and the like say where.
"use strict";
const { Client, Pool } = require("pg");
const say = console.log;

async function transactions(pool, table) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query(`insert into ${table} values (20, 'kept')`);
    await client.query("SAVEPOINT before");
    await client.query(`insert into ${table} values (1, 'twice')`).catch((error) => say("in a transaction:", error.code));
    await client.query("ROLLBACK TO before");
    await client.query("COMMIT");
    await client.query("BEGIN");
    await client.query(`delete from ${table}`);
    await client.query("ROLLBACK");
  } finally {
    client.release();
  }
  say("after them:", (await pool.query(`select count(*)::int from ${table}`)).rows[0].count);
}

async function work(table) {
  const pool = new Pool({ max: 5 });
  const answers = await Promise.all(
    [...Array(40).keys()].map((number) => pool.query("select $1::int as number, $2::text as word", [number, `w${number}`])),
  );
  say("forty at once:", answers.every(({ rows }, number) => rows[0].number === number && rows[0].word === `w${number}`));
  for (let number = 1; number <= 12; number++)
    await pool.query({ name: "insert-word", text: `insert into ${table} values ($1, $2)`, values: [number, `word ${number}`] });
  await pool.query(`insert into ${table} values ($1, $2)`, [1, "again"]).catch((error) => say("error:", error.code));
  await transactions(pool, table);
  const types = "select $1::jsonb as j, $2::int[] as a, $3::timestamptz as t, $4::bytea as b";
  const { rows } = await pool.query(types, [{ deep: [1] }, [1, null, 3], new Date(0), Buffer.from([0, 255])]);
  say("types:", JSON.stringify(rows[0].j), JSON.stringify(rows[0].a), rows[0].t.toISOString(), rows[0].b.toString("hex"));
  const several = await pool.query("select 1 as one; select 2 as two");
  say("several:", several.map((each) => JSON.stringify(each.rows[0])).join(" "));
  const listener = new Client();
  await listener.connect();
  const heard = new Promise((resolve) => listener.on("notification", resolve));
  await listener.query("LISTEN node_news");
  await pool.query("select pg_notify('node_news', 'hello')");
  const { channel, payload } = await heard;
  say("notification:", channel, payload);
  await listener.end();
  await pool.end();
}

async function idle(number) {
  const clients = [];
  for (let each = 0; each < number; each++) {
    const client = new Client();
    clients.push(client);
    await client.connect();
    for (let turn = 0; turn < 10; turn++) await client.query("select $1::int + 1 as usual_work", [turn]);
    for (let turn = 0; turn < 10; turn++)
      await client.query({ name: "named", text: "select $1::int + 2 as usual_work", values: [turn] });
    await client.query("BEGIN");
    await client.query("select 1");
    await client.query("COMMIT");
  }
  say("idle");
  await new Promise((resolve) => process.stdin.on("end", resolve).resume());
  for (const client of clients) await client.end();
}

const [what, argument] = process.argv.slice(2);
(what === "work" ? work(argument) : idle(Number(argument))).catch((error) => {
  console.error(error);
  process.exit(1);
});
