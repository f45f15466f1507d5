// What an application does with postgres.js as it comes. `work TABLE` prints what it sees, `idle NUMBER` opens so many
// connections, does the usual things on each and keeps them until its standard input ends. PGHOST and the like say where.
"use strict";
const postgres = require("postgres");
const { pipeline } = require("node:stream/promises");
const { Readable } = require("node:stream");
const say = console.log;

async function work(name) {
  const sql = postgres({ max: 5 });
  const table = sql(name);
  const answers = await Promise.all(
    [...Array(40).keys()].map((number) => sql`select ${number}::int as number, ${`w${number}`}::text as word`),
  );
  say("forty at once:", answers.every(([row], number) => row.number === number && row.word === `w${number}`));
  for (let number = 1; number <= 12; number++) await sql`insert into ${table} values (${number}, ${`word ${number}`})`;
  await sql`insert into ${table} values (1, 'again')`.catch((error) => say("error:", error.code));
  await sql.begin(async (sql) => {
    await sql`insert into ${table} values (20, 'kept')`;
    await sql.savepoint((sql) => sql`insert into ${table} values (1, 'twice')`).catch((error) => say("in a transaction:", error.code));
  });
  await sql.begin(async (sql) => {
    await sql`delete from ${table}`;
    throw new Error("the application changed its mind");
  }).catch((error) => say("rolled back:", error.message));
  say("after them:", (await sql`select count(*)::int from ${table}`)[0].count);
  const [row] = await sql`select ${sql.json({ deep: [1] })}::jsonb as j, ${[1, 2, 3]}::int[] as a, ${new Date(0)}::timestamptz as t`;
  say("types:", JSON.stringify(row.j), JSON.stringify(row.a), row.t.toISOString());
  let seen = 0;
  for await (const rows of sql`select generate_series(1, 100)`.cursor(30)) seen += rows.length;
  say("with a cursor:", seen);
  await pipeline(Readable.from(["30\tin\n", "31\t\\N\n"]), await sql`copy ${table} from stdin`.writable());
  let out = "";
  for await (const chunk of await sql`copy (select * from ${table} where id >= 30 order by id) to stdout`.readable()) out += chunk;
  say("copy:", JSON.stringify(out));
  let tell;
  const heard = new Promise((resolve) => { tell = resolve; });
  await sql.listen("postgres_js_news", tell);
  await sql.notify("postgres_js_news", "hello");
  say("notification:", await heard);
  const slow = sql`select pg_sleep(30)`;
  setTimeout(() => slow.cancel(), 100);
  await slow.catch((error) => say("canceled:", error.code));
  await sql.end();
}

async function idle(number) {
  const sql = postgres({ max: number });
  const reserved = [];
  for (let each = 0; each < number; each++) {
    const connection = await sql.reserve();
    reserved.push(connection);
    for (let turn = 0; turn < 10; turn++) await connection`select ${turn}::int + 1 as usual_work`;
    await connection`begin`;
    await connection`select 1`;
    await connection`commit`;
  }
  say("idle");
  await new Promise((resolve) => process.stdin.on("end", resolve).resume());
  for (const connection of reserved) connection.release();
  await sql.end();
}

const [what, argument] = process.argv.slice(2);
(what === "work" ? work(argument) : idle(Number(argument))).catch((error) => {
  console.error(error);
  process.exit(1);
});
