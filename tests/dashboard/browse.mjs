// The record browser: every way to begin, every filter, pages to the end and back, a search that is stopped and goes on. What
// a view shows is what its "Copy as curl" command answers in a shell.

import { spawn } from "node:child_process";
import { answerOf, assert, begin, copied, isWell, until } from "./harness.mjs";

const TOTAL = 1000;
const PARTITIONS = 4;
const BEGIN = 1700000000000;
const TYPES = ["order.created", "order.paid", "invoice.paid"];

const isNeedle = (at) => at % 97 === 42;

/// Record `at` of all: one every ten seconds, each partition in turn.
const recordOf = (at) => ({
  partition: at % PARTITIONS, timestamp: BEGIN + at * 10000, key: `customer-${at % 25}`,
  value: { at, note: isNeedle(at) ? "needle" : "hay" }, headers: { type: TYPES[at % 3] },
});
const placeOf = (at) => `${at % PARTITIONS}:${Math.floor(at / PARTITIONS)}`;
const range = (from, to) => Array.from({ length: to - from }, (_, at) => from + at);
const all = range(0, TOTAL);

export default async function run(server) {
  const tools = await begin(server);
  const { api } = tools;
  await api("PUT", "/v1/topics/events", { partitions: PARTITIONS });
  await api("PUT", "/v1/topics/others", { partitions: 1 });
  await api("POST", "/v1/topics/events/records", { records: all.map(recordOf) });
  await api("POST", "/v1/topics/others/records", { records: [{ key: "other", value: 1, timestamp: BEGIN + 5000 }, { key: "last", value: 2, timestamp: BEGIN + 10 * TOTAL * 1000 }] });
  // Times are those of the browser, wherever it is.
  const page = await tools.open("#/nowhere", { timezoneId: "America/St_Johns" });
  const places = () => page.locator(".records .place").allInnerTexts();
  const status = page.locator(".pager [role=status]");
  const command = () => copied(page, page.getByRole("button", { name: "Copy as curl" }).first());
  const shows = async (expected, what) => {
    await until(page, `${what}: ${expected.slice(0, 3)}…`, async () => JSON.stringify(await places()) === JSON.stringify(expected)).catch(async (error) => {
      assert.deepEqual(await places(), expected, what);
      throw error;
    });
  };
  /// The records of the command that the view offers, in the order in which the page shows them.
  const commandAnswers = async (expected, what, newestFirst = false) => {
    const text = await command();
    const { records } = await answerOf(text);
    if (newestFirst) records.sort((one, other) => other.timestamp - one.timestamp);
    assert.deepEqual(records.map(({ partition, offset }) => `${partition}:${offset}`), expected, `${what}: ${text}`);
  };
  const show = () => page.getByRole("button", { name: "Show" }).click();
  const go = async (hash) => {
    await page.goto(`${tools.base}${hash}`);
  };

  // The newest over all partitions, back to the first record of all and forth again: each record once.
  await go("#/records/events");
  const newest = [...all].reverse().map(placeOf);
  await shows(newest.slice(0, 50), "the newest");
  await commandAnswers(newest.slice(0, 50), "the newest", true);
  await page.getByLabel("Records a page").selectOption("200");
  await show();
  const [older, newer] = ["Older", "Newer"].map((name) => page.getByRole("button", { name, exact: true }));
  for (let at = 0; at < TOTAL; at += 200) {
    await shows(newest.slice(at, at + 200), `page ${at / 200}`);
    assert.equal(await newer.isDisabled(), at === 0);
    if (at === 400) await commandAnswers(newest.slice(at, at + 200), "a page in the middle", true);
    // Pressed twice at once, it turns one page.
    await older.evaluate((button) => { button.click(); button.click(); });
  }
  await page.getByText("No records here.").waitFor();
  assert.ok(await older.isDisabled());
  for (const at of [800, 600, 400, 200, 0]) {
    // By keyboard: the button keeps the focus, so that it can be pressed again.
    await newer.focus();
    await page.keyboard.press("Enter");
    await shows(newest.slice(at, at + 200), `back on page ${at / 200}`);
    if (at > 0) assert.ok(await newer.evaluate((button) => button === document.activeElement));
  }
  assert.ok(await newer.isDisabled());

  // From the oldest, by time over all partitions.
  await page.getByLabel("Begin at").selectOption("oldest");
  await show();
  await shows(all.slice(0, 200).map(placeOf), "the oldest");
  await newer.click();
  await shows(all.slice(200, 400).map(placeOf), "the next of them");
  await commandAnswers(all.slice(200, 400).map(placeOf), "the next of the oldest");
  await older.click();
  await shows(all.slice(0, 200).map(placeOf), "the oldest again");

  // From a time, as the clock of this browser shows it.
  const local = new Date(BEGIN + 6000000 - 3.5 * 3600000).toISOString().slice(0, 19);
  await page.getByLabel("Begin at").selectOption("time");
  await page.getByLabel("Time", { exact: true }).fill(local);
  await show();
  await shows(all.slice(600, 800).map(placeOf), `from ${local}`);
  assert.equal(await page.locator(".records time").first().innerText(), `${local.replace("T", " ")}.000`);
  assert.equal(await page.getByLabel("Time", { exact: true }).inputValue(), local, "the form still says it");
  await commandAnswers(all.slice(600, 800).map(placeOf), "from a time");

  // Filters: a key, a pattern of a header, partitions, and all of them together.
  const filtered = async (filters, of) => {
    await go("#/records/events?page=500");
    for (const [label, text] of Object.entries(filters)) await page.getByLabel(label, { exact: true }).fill(text);
    await show();
    const expected = all.filter(of).reverse().map(placeOf).slice(0, 500);
    assert.ok(expected.length > 0);
    await shows(expected, JSON.stringify(filters));
    await status.getByText(`${expected.length} record${expected.length === 1 ? "" : "s"}, the newest first.`).waitFor();
    await commandAnswers(expected, JSON.stringify(filters), true);
  };
  await filtered({ Key: "customer-7" }, (at) => at % 25 === 7);
  await filtered({ Header: "type=order.*" }, (at) => at % 3 !== 2);
  await filtered({ Partitions: "1,3" }, (at) => at % 2 === 1);
  await filtered({ Key: "customer-7", Header: "type=invoice.paid", Partitions: "2" }, (at) => at % 25 === 7 && at % 3 === 2 && at % 4 === 2);
  await page.getByLabel("Key", { exact: true }).fill("nobody");
  await show();
  await page.getByText("No records here.").waitFor();

  // From an offset, with pages in both directions, and out of it.
  await go("#/records/events");
  await page.getByLabel("Begin at").selectOption("offset");
  await page.getByLabel("Partition", { exact: true }).fill("2");
  await page.getByLabel("Offset", { exact: true }).fill("170");
  await show();
  const from = (offset) => range(offset, Math.min(offset + 50, TOTAL / PARTITIONS)).map((at) => `2:${at}`);
  await shows(from(170), "from an offset");
  await page.getByText("Partition 2 has offsets 0 to 250 (exclusive); 50 from 170.").waitFor();
  await commandAnswers(from(170), "from an offset");
  await page.getByRole("button", { name: "After" }).click();
  await shows(from(220), "after it");
  assert.ok(await page.getByRole("button", { name: "After" }).isDisabled());
  await commandAnswers(from(220), "after it");
  for (const offset of [170, 120, 70, 20, 0]) {
    await page.getByRole("button", { name: "Before" }).click();
    await shows(from(offset), `before, at ${offset}`);
  }
  assert.ok(await page.getByRole("button", { name: "Before" }).isDisabled());
  await page.getByLabel("Offset", { exact: true }).fill("999");
  await show();
  await page.getByRole("button", { name: "Go to the newest" }).click();
  await shows(from(200), "the newest of the partition");
  await api("DELETE", "/v1/topics/events/partitions/2/records?before=10");
  await page.getByLabel("Offset", { exact: true }).fill("3");
  await show();
  await page.getByRole("button", { name: "Go to 10" }).click();
  await shows(from(10), "the first that is left");

  // Several topics: each line says of which topic it is.
  await go("#/records/events,others");
  await shows(["others 0:1", ...newest.slice(0, 49).map((place) => `events ${place}`)], "two topics");
  const both = await answerOf(await command());
  assert.deepEqual(both.records.map(({ topic, offset }) => `${topic} ${offset}`).filter((row) => row.startsWith("others")), ["others 1"]);
  await go("#/records");
  await page.getByText("Over 2 topics.").waitFor();
  await shows(["others 0:1", ...newest.slice(0, 49).map((place) => `events ${place}`)], "all topics");

  await searched(tools, page, { shows, status, command });
  await single(tools, page, command);
  isWell(page);
  await tools.close();
}

/// A search in small steps, each of which waits until it is let through.
async function searched(tools, page, { shows, status, command }) {
  const gates = [];
  let isOpen = false;
  let asked = 0;
  await page.route((url) => url.searchParams.has("max_scan_ms"), async (route) => {
    asked += 1;
    const url = new URL(route.request().url());
    url.searchParams.set("max_scan_bytes", "3000");
    url.searchParams.set("max_scan_ms", "60000");
    if (!isOpen) await new Promise((open) => gates.push(open));
    await route.continue({ url: url.href }).catch(() => {});
  });
  const step = async () => {
    await until(page, "a step of the search", () => gates.length > 0);
    gates.shift()();
  };
  const looked = async () => Number((await status.innerText()).match(/Looked at ([\d,]+) records/)?.[1].replace(",", "") ?? 0);
  // The first ten of partition 2 are deleted by now.
  const left = all.filter((at) => !/^2:\d$/.test(placeOf(at)));
  for (const [hash, searched, way] of [["search=needle", [...left].reverse(), "from the newest back"],
    ["search=needle&at=oldest&partitions=2", left.filter((at) => at % PARTITIONS === 2), "from the beginning on"]]) {
    const expected = searched.filter(isNeedle).map(placeOf);
    assert.ok(expected.length > 1);
    isOpen = false;
    asked = 0;
    await page.goto(`${tools.base}#/records/events?${hash}`);
    const stop = page.getByRole("button", { name: "Stop" });
    const on = page.getByRole("button", { name: "Search on" });
    await step();
    await until(page, "what the first step has looked at", async () => (await looked()) > 0);
    await until(page, "a second step", () => gates.length > 0);
    const first = await looked();
    assert.ok(first > 0 && first < searched.length, `${first} records`);
    await page.getByText(/^Searching…/).waitFor();
    assert.ok(await on.isDisabled());
    // Stopped in the middle of a step: what that step would have found does not count.
    await stop.click();
    await page.getByText(/^Stopped\./).waitFor();
    assert.ok((await stop.isDisabled()) && !(await on.isDisabled()));
    gates.splice(0).forEach((open) => open());
    assert.equal(await looked(), first);
    const steps = asked;
    isOpen = true;
    await on.click();
    const end = page.getByText(/^Everything is searched\./);
    await end.waitFor();
    const words = (await end.innerText()).match(/Looked at ([\d,]+) records \(.*\) (.*), found (\d+)\.$/).slice(1);
    assert.deepEqual(words, [String(searched.length), way, String(expected.length)], "each record was looked at once");
    assert.ok(asked > steps + 1, "it took more steps than one");
    await shows(expected, `found ${way}`);
    assert.ok((await stop.isDisabled()) && (await on.isDisabled()));
    const { records } = await answerOf((await command()).replace("max_scan_ms=1000", "max_scan_ms=60000"));
    assert.deepEqual(records.map(({ partition, offset }) => `${partition}:${offset}`).sort(), [...expected].sort());
  }
  await page.unrouteAll({ behavior: "ignoreErrors" });
  // A page of finds at a time.
  await page.goto(`${tools.base}#/records/events?search=hay`);
  await page.getByText(/^A page is full\..* found 50\.$/).waitFor();
  const hay = all.filter((at) => !isNeedle(at)).reverse().map(placeOf);
  await shows(hay.slice(0, 50), "a page of finds");
  await page.getByRole("button", { name: "Search on" }).click();
  await page.getByText(/^A page is full\..* found 100\.$/).waitFor();
  await shows(hay.slice(0, 100), "two pages of finds");
}

/// One record, and the live tail: their commands.
async function single(tools, page, command) {
  await page.goto(`${tools.base}#/records/events/1/7`);
  await page.getByRole("heading", { name: "events 1:7" }).waitFor();
  await page.getByRole("button", { name: "Copy as curl" }).waitFor();
  const { records: [record] } = await answerOf(await command());
  const { partition, timestamp, key, value, headers } = record;
  assert.deepEqual({ partition, timestamp, key, value, headers }, recordOf(29));
  const shown = await page.locator(".pairs > div").evaluateAll((rows) => Object.fromEntries(rows.map((row) => [...row.children].map((cell) => cell.innerText))));
  assert.deepEqual({ ...shown, Time: undefined }, { Time: undefined, Key: "customer-4", Partition: "1", Offset: "7", type: "invoice.paid" });
  assert.deepEqual(JSON.parse(await page.getByLabel("Value", { exact: true }).innerText()), value);
  assert.equal(await copied(page, page.getByRole("button", { name: "Copy value" })), JSON.stringify(value));

  await page.goto(`${tools.base}#/records/events?live=1&key=customer-3`);
  await page.getByText("Live: waiting for records.").waitFor();
  const text = await command();
  const curl = spawn("sh", ["-c", `exec ${text}`]);
  try {
    let said = "";
    curl.stdout.on("data", (part) => { said += part; });
    await until(page, "two streams, of the page and of curl", () => tools.proxy.streams === 2);
    // The server's first line: the stream of curl has begun.
    await until(page, "the beginning of curl's stream", () => said !== "");
    await tools.api("POST", "/v1/topics/events/records", { records: [{ key: "customer-2", value: "not this one" }, { key: "customer-3", value: "this one" }] });
    await page.getByText("this one").waitFor();
    await until(page, `the record from ${text}`, () => /event: record\n(.*\n)*data: .*"this one"/.test(said));
    assert.ok(!said.includes("not this one"), said);
    assert.equal(await page.locator("summary").count(), 1);
  } finally {
    curl.kill();
  }
}
