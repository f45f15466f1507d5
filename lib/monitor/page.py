"""The page at /: one self-contained document that asks for /status.json every two seconds and draws it.

Pure. Nothing of the pool is written into the document: names of users and databases come as JSON and become text nodes,
so that there is nothing to escape, and the browser is told to run nothing but the script that is here.
"""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #667; --paper: #f4f5f7; --card: #fff; --line: #dde1e7;
  --good: #1a7f4b; --bad: #c0362c; --warn: #a86a00; --accent: #2a6fb0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --dim: #98a1b0; --paper: #14181e; --card: #1d232c;
  --line: #323a46; --good: #4cc38a; --bad: #ff7b6e; --warn: #e0a83c; --accent: #6cb2f2 } }
* { box-sizing: border-box }
body { margin: 0; padding: 12px; font: 15px/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
main, header { max-width: 1100px; margin: 0 auto }
header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: baseline; margin-bottom: 10px }
h1 { font-size: 20px; margin: 0 } h2 { font-size: 15px; margin: 0 0 6px }
.dim { color: var(--dim) } .good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) }
#figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px }
section, .figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px }
section { margin-top: 10px; overflow-x: auto }
.figure b { display: block; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums }
#charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 10px; margin-top: 10px }
#charts section { margin: 0; overflow: hidden; display: flex; flex-direction: column; justify-content: space-between }
svg { display: block; width: 100%; height: 90px; border-bottom: 1px solid var(--line) }
polyline { fill: none; stroke: var(--accent); stroke-width: 1.5;
  vector-effect: non-scaling-stroke }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500; color: var(--dim); white-space: nowrap }
th, td { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); max-width: 300px; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis }
tr:last-child td { border-bottom: 0 }
@media (max-width: 600px) {
  .heads { display: none }
  tr:not(.heads) { display: flex; flex-wrap: wrap; gap: 0 14px; padding: 4px 0; border-bottom: 1px solid var(--line) }
  tr:last-child { border-bottom: 0 }
  td { border: 0; padding: 0; max-width: 100% }
  td[data-head]:not(:empty)::before { content: attr(data-head) " "; color: var(--dim) }
}
"""

_SCRIPT = """
"use strict";
const $ = id => document.getElementById(id);
const make = (name, text, cls) => {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  if (cls) node.className = cls;
  return node;
};
const number = (value, digits) => value === null || value === undefined ? "\\u2013"
  : value.toLocaleString("en", { maximumFractionDigits: digits === undefined ? 0 : digits });
const seconds = value => value === null || value === undefined ? "\\u2013"
  : value > 0 && value < 1 ? number(value * 1000) + " ms" : value < 120 ? number(value, value < 10 ? 1 : 0) + " s"
  : value < 7200 ? number(value / 60) + " min" : number(value / 3600, 1) + " h";
const sum = list => list.reduce((all, each) => all + each, 0);

function table(id, heads, rows, empty) {
  const place = $(id);
  place.replaceChildren();
  if (!rows.length) { place.append(make("span", empty, "dim")); return; }
  const whole = make("table"), top = make("tr", null, "heads");
  for (const head of heads) top.append(make("th", head));
  if (heads.some(head => head)) whole.append(top);
  for (const row of rows) {
    const line = make("tr");
    row.forEach((cell, index) => {
      const [text, cls] = Array.isArray(cell) ? cell : [cell, ""], place = make("td", text, cls);
      if (heads[index]) place.dataset.head = heads[index];
      line.append(place);
    });
    whole.append(line);
  }
  place.append(whole);
}

function chart(id, values, unit, digits) {
  const known = values.filter(value => value !== null), most = Math.max(...known, 0), scale = 80 / (most || 1);
  const points = [];
  values.forEach((value, index) => {
    if (value !== null) points.push((300 - values.length + index) + "," + (86 - scale * value).toFixed(1));
  });
  $(id).setAttribute("points", points.join(" "));
  const last = known.length ? known[known.length - 1] : null;
  $(id + "-now").textContent = number(last, digits) + unit + ", at most " + number(known.length ? most : null, digits)
    + unit;
}

function show(told) {
  const past = told.history, last = name => past[name].length ? past[name][past[name].length - 1] : null;
  const ready = $("ready");
  ready.textContent = told.not_ready ? "not ready: " + told.not_ready : "ready";
  ready.className = told.not_ready ? "bad" : "good";
  $("about").textContent = told.version + ", up for " + seconds(told.at - told.started_at) + ", failover: " + told.ha
    + (told.switches ? ", " + told.switches + " switchovers" : "");
  const waiting = sum(told.rosters.map(each => each.waiting));
  const workers = sum(told.rosters.map(each => sum(Object.values(each.workers))));
  const idle = sum(told.rosters.map(each => each.workers.idle || 0));
  const figures = [
    ["queries per second", number(last("queries")), ""],
    ["frontends", number(sum(Object.values(told.frontends))), ""],
    ["in transactions", number(told.frontends["in transaction"] || 0), ""],
    ["waiting", number(waiting), waiting ? "warn" : ""],
    ["workers busy", number(workers - idle) + " / " + number(workers), ""],
  ];
  $("figures").replaceChildren(...figures.map(([name, value, cls]) => {
    const box = make("div", null, "figure");
    box.append(make("b", value, cls), make("span", name, "dim"));
    return box;
  }));
  chart("queries", past.queries, "/s");
  chart("waits", past.waiting, "");
  $("run-box").hidden = !past.run_ms.some(value => value !== null);
  chart("run", past.run_ms, " ms", 2);
  chart("busy", past.busy, "");
  const colour = { up: "good", behind: "warn", held: "warn", leaving: "dim", "left out": "dim", down: "bad" };
  table("servers", ["", "server", "role", "state", "behind", "workers", "waiting"], told.pools.map(pool => {
    const own = told.rosters.filter(each => each.pool === pool.number);
    return [pool.number, pool.address, pool.role, [pool.state, colour[pool.state]], seconds(pool.behind_s),
      number(sum(own.map(each => sum(Object.values(each.workers))))), number(sum(own.map(each => each.waiting)))];
  }), "none");
  table("rosters", ["pool", "database", "user", "mode", "workers", "waiting", "oldest"], told.rosters.map(each => [
    each.pool, each.database, each.user, each.kind,
    Object.entries(each.workers).map(([state, count]) => count + " " + state).join(", ")
      + (each.starting ? ", " + each.starting + " starting" : ""),
    [number(each.waiting), each.waiting ? "warn" : ""], each.waiting ? seconds(each.oldest_s) : "",
  ]), "no workers");
  table("waiters", ["frontend", "database", "user", "from", "waits"], told.waiters.map(each => [
    each.frontend, each.database, each.user, each.peer, [seconds(each.wait_s), "warn"],
  ]), "nobody waits for a worker");
  table("frontends", ["", ""], Object.entries(told.frontends).map(([state, count]) =>
    [state, number(count)]), "nobody is here");
  table("logins", ["", ""], Object.entries(told.logins).map(([outcome, count]) =>
    [outcome === "ok" ? "let in" : "refused with " + outcome, number(count)]), "none yet");
}

let answered = Date.now();
async function look() {
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error("answered " + answer.status);
    show(await answer.json());
    answered = Date.now();
    $("alive").textContent = "";
  } catch (error) {
    $("alive").textContent = "no answer for " + seconds((Date.now() - answered) / 1000);
  }
  setTimeout(look, 2000);
}
look();
"""

_BODY = """
<header><h1>pgstmtpool</h1><b id="ready"></b><span id="about" class="dim"></span><b id="alive" class="bad"></b></header>
<main>
<div id="figures"></div>
<div id="charts">
<section><h2>Queries <span id="queries-now" class="dim"></span></h2>
<svg viewBox="0 0 300 90" preserveAspectRatio="none"><polyline id="queries"/></svg></section>
<section id="run-box"><h2>Run time <span id="run-now" class="dim"></span></h2>
<svg viewBox="0 0 300 90" preserveAspectRatio="none"><polyline id="run"/></svg></section>
<section><h2>Waiting <span id="waits-now" class="dim"></span></h2>
<svg viewBox="0 0 300 90" preserveAspectRatio="none"><polyline id="waits"/></svg></section>
<section><h2>Workers busy <span id="busy-now" class="dim"></span></h2>
<svg viewBox="0 0 300 90" preserveAspectRatio="none"><polyline id="busy"/></svg></section>
</div>
<p class="dim">The charts show the last five minutes.</p>
<section><h2>Servers</h2><div id="servers"></div></section>
<section><h2>Workers</h2><div id="rosters"></div></section>
<section><h2>Who waits</h2><div id="waiters"></div></section>
<section><h2>Frontends</h2><div id="frontends"></div></section>
<section><h2>Logins since the start</h2><div id="logins"></div></section>
</main>
<noscript>This page needs JavaScript; /metrics tells the same as text.</noscript>
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HTML = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>pgstmtpool</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    f"<style>{_STYLE}</style></head><body>{_BODY}<script>{_SCRIPT}</script></body></html>\n"
).encode()
