// What refreshes itself takes nothing away from who uses it: the focus stays, a dialog acts on what it was opened for, and
// a call that is never answered is said.

import { assert, begin, isWell, until } from "./harness.mjs";
import { poll, reject } from "./data.mjs";

const LIVE = { session_timeout_ms: 600000, start: "earliest", max_records: 10 };

/// Waits for `count` more answers of calls whose path ends with `end`, so that the page has refreshed itself.
async function refreshed(page, end, count = 2) {
  for (let at = 0; at < count; at += 1) await page.waitForResponse((answer) => new URL(answer.url()).pathname.endsWith(end));
}

const focused = (page) => page.evaluate(() => document.activeElement.textContent);

export default async function run(server) {
  const tools = await begin(server);
  const { api } = tools;
  const send = (topic, count) => api("POST", `/v1/topics/${topic}/records`, { records: Array.from({ length: count }, (_, at) => ({ key: `k${at}`, value: at })) });
  for (let at = 0; at < 25; at += 1) {
    await api("PUT", `/v1/topics/t${at}`, { partitions: 1 });
    await api("PUT", `/v1/groups/g${String(at).padStart(2, "0")}/offsets`, { offsets: [{ topic: `t${at}`, partition: 0, offset: 0 }] });
    await send(`t${at}`, 30 - at);
  }
  await api("PUT", "/v1/topics/jobs", { partitions: 1 });
  await send("jobs", 10);
  const { records } = await poll(api, "queue", "worker", { topics: ["jobs"], type: "shared", ...LIVE });
  await reject(api, "queue", "worker", records.slice(0, 2));

  // By keyboard: a link that has the focus keeps it while lists are refreshed, also when its row moves.
  const page = await tools.open();
  const all = page.getByRole("link", { name: "All groups" });
  await all.focus();
  await refreshed(page, "/v1/lag");
  assert.equal(await focused(page), "All groups");
  const row = page.getByRole("link", { name: "g05", exact: true });
  await row.focus();
  await send("t5", 100);
  await until(page, "the row moves up", async () => (await page.locator("tbody tr").first().innerText()).startsWith("g05"));
  assert.equal(await focused(page), "g05");
  // Also when what it says changes.
  await page.goto(`${tools.base}#/groups/queue`);
  const dead = page.getByRole("link", { name: "2 dead letters" });
  await dead.focus();
  await reject(api, "queue", "worker", records.slice(2, 4));
  await page.getByRole("link", { name: "4 dead letters" }).waitFor();
  assert.equal(await focused(page), "4 dead letters");

  // A topic that was deleted and made again behind an open dialog is another one, and stays.
  const another = async () => {
    await api("DELETE", "/v1/topics/t1");
    await api("PUT", "/v1/topics/t1", { partitions: 1 });
    await send("t1", 3);
  };
  const recordsNow = async () => (await api("GET", "/v1/topics?q=t1&config=false")).topics.find(({ name }) => name === "t1").records;
  await page.goto(`${tools.base}#/topics/t1`);
  await page.getByRole("rowheader", { name: "retention_ms" }).waitFor();
  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "Delete…" }).click();
  await dialog.getByLabel("Type t1 to confirm").fill("t1");
  await another();
  await refreshed(page, "/v1/topics/t1");
  await dialog.getByRole("button", { name: "Delete" }).click();
  await dialog.getByText(/was deleted and made again/).waitFor();
  assert.equal(await recordsNow(), 3);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Delete records of partition 0" }).click();
  await dialog.getByRole("button", { name: "Preview" }).click();
  await dialog.getByText("3 records").waitFor();
  await another();
  await refreshed(page, "/v1/topics/t1");
  await dialog.getByRole("button", { name: "Delete records" }).click();
  await dialog.getByText(/was deleted and made again/).waitFor();
  assert.equal(await recordsNow(), 3);
  await dialog.getByRole("button", { name: "Cancel" }).click();

  // What is wrong with a setting is said before anybody is asked to confirm it.
  await page.getByRole("button", { name: "Change retention_ms" }).click();
  await dialog.getByLabel("Value").fill("soon");
  await dialog.getByRole("button", { name: "Preview" }).click();
  await dialog.getByText(/retention_ms must be a whole number/).waitFor();
  assert.equal(await page.getByRole("button", { name: "Change", exact: true }).count(), 0);
  await dialog.getByRole("button", { name: "Cancel" }).click();

  // Rows of a busy group differ at every look: the preview is refused, and then the rule can be applied all the same.
  await poll(api, "g02", "member", { topics: ["t2"], ...LIVE, max_records: 1 });
  await page.goto(`${tools.base}#/groups/g02/reset`);
  await page.getByLabel("Move to").selectOption("latest");
  await page.getByLabel(/Also while members are live/).check();
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByRole("button", { name: /^Reset 1 partition…/ }).click();
  assert.equal(await page.getByRole("button", { name: "Reset whatever moves…" }).count(), 0);
  await send("t2", 5);
  await dialog.getByRole("button", { name: "Reset" }).click();
  await page.getByText(/moved since the preview/).waitFor();
  await send("t2", 5);
  await page.getByRole("button", { name: "Reset whatever moves…" }).click();
  await dialog.getByText(/These figures may be others by then/).waitFor();
  await dialog.getByRole("button", { name: "Reset" }).click();
  await page.getByText("Done: 1 partition is reset.").waitFor();
  assert.equal((await api("GET", "/v1/groups/g02/lag")).lag, 0);

  // A page of a list is turned once, however often the button is pressed before the answer.
  for (let at = 0; at < 210; at += 1) await api("PUT", `/v1/topics/many-${String(at).padStart(3, "0")}`, { partitions: 1 });
  await page.goto(`${tools.base}#/topics`);
  await page.getByText("1 to 100", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Next" }).evaluate((button) => { button.click(); button.click(); });
  await page.getByText("101 to 200", { exact: true }).waitFor();
  // By keyboard, the button can be pressed again.
  await page.getByRole("button", { name: "Previous" }).click();
  await page.getByText("1 to 100", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Next" }).focus();
  await page.keyboard.press("Enter");
  await page.getByText("101 to 200", { exact: true }).waitFor();
  assert.equal(await focused(page), "Next");
  await page.keyboard.press("Enter");
  await page.getByText(/^201 to /).waitFor();
  isWell(page);
  await page.close();

  // Paused is paused, also when the page was hidden in between.
  const tail = await tools.open("#/records/t3?live=1");
  await tail.getByText("Live: waiting for records.").waitFor();
  await tail.getByRole("button", { name: "Pause" }).click();
  const hide = (hidden) => tail.evaluate((is) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => is });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await hide(false);
  await tail.getByText("Paused: it goes on where it stopped.").waitFor();
  // Another view ends the stream.
  await tail.getByRole("button", { name: "Resume" }).click();
  await until(tail, "a stream", () => tools.proxy.streams === 1);
  await tail.getByRole("link", { name: "Groups" }).first().click();
  await until(tail, "no stream", () => tools.proxy.streams === 0);
  assert.equal(tools.proxy.most, 1, "one stream a tab");
  isWell(tail);
  await tail.close();

  // Damage is still there when the same is asked again: the tail says what it is, and does not ask.
  const damaged = await tools.open();
  const problem = { status: 500, code: "corrupt-data", detail: "offset 3 cannot be read", retryable: false };
  await damaged.route((url) => url.searchParams.has("follow"), (route) => route.fulfill({
    contentType: "text/event-stream", body: `event: error\ndata: ${JSON.stringify(problem)}\n\n`,
  }));
  await damaged.goto(`${tools.base}#/records/t3?live=1`);
  await damaged.getByText("offset 3 cannot be read").waitFor();
  await damaged.close();

  // A server that is away, or whose quota is used up, is asked again; what was deleted meanwhile is said.
  const follow = (url) => url.searchParams.has("follow");
  const away = await tools.open();
  let asked = 0;
  await away.route(follow, (route) => {
    asked += 1;
    if (asked === 1) return route.abort();
    return route.fulfill({ status: 429, contentType: "application/problem+json", body: JSON.stringify({ status: 429, code: "quota-exceeded", detail: "used up", retryable: true }) });
  });
  await away.goto(`${tools.base}#/records/t4?live=1`);
  await until(away, "it asks again", () => asked > 1);
  await away.getByText("The connection broke; it is made again.").waitFor();
  await away.unroute(follow);
  await away.getByText("Live: waiting for records.").waitFor();
  await away.getByRole("button", { name: "Pause" }).click();
  await send("t4", 5);
  await api("DELETE", "/v1/topics/t4/partitions/0/records?before=29");
  await away.getByRole("button", { name: "Resume" }).click();
  const seen = away.getByRole("list", { name: "Live records, the newest first" }).locator("> li");
  await until(away, "what is left, and what is missing", async () => (await seen.count()) === 3);
  assert.equal(await seen.last().innerText(), "t4 0: offsets 26 to 29 (exclusive) are missing: they were deleted before they were read here.");
  isWell(away);
  await away.close();

  // The newest question is answered, whatever becomes of the one before; and a filter ends with its view.
  const quick = await tools.open("#/groups");
  const first = quick.locator("tbody tr").first();
  await first.waitFor();
  const held = (url) => url.searchParams.get("q") === "g1";
  let holds = 0;
  await quick.route(held, () => { holds += 1; });
  const filter = quick.getByLabel("Name contains");
  await filter.fill("g1");
  await until(quick, "a call that is held", () => holds > 0);
  await filter.fill("g07");
  await until(quick, "one group", async () => (await quick.locator("tbody tr").count()) === 1 && (await first.innerText()).startsWith("g07"));
  await filter.evaluate((input) => {
    input.value = "g0";
    input.dispatchEvent(new Event("input"));
    location.hash = "#/topics/t3";
  });
  await quick.getByRole("heading", { name: "t3", exact: true }).waitFor();
  await quick.waitForTimeout(400);
  assert.ok(quick.url().endsWith("#/topics/t3"), quick.url());
  isWell(quick);
  await quick.close();

  // A server that takes a call and never answers it.
  const hung = await tools.open();
  await hung.clock.install();
  await hung.goto(tools.base);
  await hung.getByRole("link", { name: "g05", exact: true }).waitFor();
  let calls = 0;
  await hung.route("**/v1/lag?**", () => { calls += 1; });
  await until(hung, "a call that hangs", async () => {
    await hung.clock.fastForward(1000);
    return calls > 0;
  });
  await hung.clock.fastForward(40000);
  await hung.getByRole("region", { name: "Lag" }).getByText("the server does not answer").waitFor();
  await tools.close();
}
