// A server with a thousand topics of six partitions and two hundred groups: lists are paged, and no table is long.

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
  await tools.close();
}
