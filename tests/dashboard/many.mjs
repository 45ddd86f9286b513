// A server with a thousand topics of six partitions and two hundred groups: lists are paged, no table is long, and what a view
// costs is bounded by what it shows.

import { assert, begin, isWell, until } from "./harness.mjs";

const TOPICS = 1000;
const GROUPS = 200;

/// Runs `make` for each number below `count`, some at the same time.
async function each(count, make) {
  let next = 0;
  await Promise.all(Array.from({ length: 16 }, async () => {
    while (next < count) await make(next++);
  }));
}

export default async function run(server) {
  const tools = await begin(server);
  const { api } = tools;
  const name = (at) => `topic-${String(at).padStart(4, "0")}`;
  await each(TOPICS, (at) => api("PUT", `/v1/topics/${name(at)}`, { partitions: 6 }));
  await each(GROUPS, async (at) => {
    await api("POST", `/v1/topics/${name(at)}/records`, { records: Array.from({ length: at + 1 }, () => ({ value: at, partition: 0 })) });
    const offsets = Array.from({ length: 5 }, (_, of) => ({ topic: name((at + of * 200) % TOPICS), partition: 0, offset: 0 }));
    await api("PUT", `/v1/groups/group-${String(at).padStart(3, "0")}/offsets`, { offsets });
  });
  const page = await tools.open();
  const rows = page.locator("tbody tr");
  // The furthest behind is first.
  await until(page, "the worst group", async () => (await page.locator("tbody tr").first().innerText()).startsWith("group-199"));
  assert.ok((await rows.count()) <= 40, "the start page shows the worst");
  await page.getByRole("link", { name: "All topics" }).click();
  await page.getByText("1 to 100", { exact: true }).waitFor();
  assert.equal(await rows.count(), 100);
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByText("101 to 200").waitFor();
  await page.getByRole("link", { name: name(100), exact: true }).waitFor();
  assert.equal(await rows.count(), 100);
  await page.getByLabel("Name contains").fill("0777");
  await until(page, "one topic", async () => (await rows.count()) === 1);
  await page.getByRole("link", { name: "topic-0777", exact: true }).click();
  await page.getByRole("heading", { name: "topic-0777" }).waitFor();
  await page.getByRole("link", { name: "Groups" }).first().click();
  await until(page, "a page of groups", async () => (await rows.count()) === 100);
  await page.getByLabel("Sorted by").selectOption("name");
  await until(page, "sorted by name", async () => (await rows.first().innerText()).startsWith("group-000"));
  // The records of all topics are those of as many as one stream can have.
  await page.getByRole("link", { name: "Records" }).first().click();
  await page.locator("summary").first().waitFor();
  isWell(page);
  await page.close();
  for (const view of VIEWS) await isBounded(tools, view);
  await tools.close();
}

/// What ten seconds of a view cost at most: `[address, rows, elements, calls, bytes, elements that are made anew]`, and what
/// it must have asked for again and again. With all 200 groups and 1,000 topics instead of a page of them it would be five
/// times that.
const VIEWS = [
  ["#/", [40, 900, 16, 120000, 200], ["lag", "topics"]],
  ["#/topics", [100, 1700, 10, 160000, 50], ["topics"]],
  ["#/groups", [100, 2400, 11, 160000, 500], ["lag"]],
  ["#/groups/group-199", [30, 900, 18, 60000, 400], ["groups/group-199", "groups/group-199/lag"]],
  ["#/topics/topic-0199", [20, 400, 14, 20000, 200], ["topics/topic-0199", "lag"]],
];

/// The page asks for what it shows and draws what has changed, however much the server has. The page's clock is the test's,
/// so that the number of calls does not depend on the machine.
async function isBounded(tools, [hash, most, refreshed]) {
  const running = new Set();
  let asked = [];
  let heard = 0;
  const page = await tools.open(hash, {}, async (one) => {
    one.on("request", (request) => {
      running.add(request);
      asked.push(new URL(request.url()).pathname);
    });
    one.on("requestfinished", async (request) => {
      heard += (await request.sizes()).responseBodySize;
      running.delete(request);
    });
    one.on("requestfailed", (request) => running.delete(request));
    await one.clock.install();
  });
  await until(page, "all answers", () => running.size === 0);
  await page.clock.pauseAt(await page.evaluate(() => Date.now() + 1000));
  // In small steps: what waits for its answer while the clock goes on is for the page a call that takes that long, and such
  // calls it makes less often.
  const second = async () => {
    for (let at = 0; at < 10; at += 1) {
      await page.clock.runFor(100);
      await until(page, "all answers", () => running.size === 0);
    }
  };
  await page.locator("tbody tr").first().waitFor();
  // Once all that refreshes itself has been there.
  for (let at = 0; at < 4; at += 1) await second();
  // So have calls that follow on the answers of others.
  await page.waitForTimeout(200);
  await until(page, "all answers", () => running.size === 0);
  await page.evaluate(() => {
    globalThis.made = 0;
    const seen = (all) => all.forEach(({ addedNodes }) => addedNodes.forEach((node) => {
      if (node instanceof Element) globalThis.made += 1 + node.querySelectorAll("*").length;
    }));
    new MutationObserver(seen).observe(document.body, { childList: true, subtree: true });
  });
  [asked, heard] = [[], 0];
  for (let at = 0; at < 10; at += 1) await second();
  const cost = await page.evaluate(() => [document.querySelectorAll("tbody tr").length, document.querySelectorAll("*").length]);
  cost.push(asked.length, heard, await page.evaluate(() => globalThis.made));
  assert.ok(cost.every((value, at) => value <= most[at]), `${hash} costs ${cost}, at most ${most}`);
  for (const path of refreshed) {
    assert.ok(asked.filter((each) => each.endsWith(`/v1/${path}`)).length >= 2, `${hash} refreshes ${path}: ${asked}`);
  }
  isWell(page);
  await page.close();
}
