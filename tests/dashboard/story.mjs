// A day of an operator: a group falls behind, is found on the page, its next record is looked at, searched for, followed
// live; the group is reset after a preview, and a dead letter is redriven.

import { assert, begin, isWell, until } from "./harness.mjs";
import { poll, reject, TRICKY } from "./data.mjs";

const BILLING = { topics: ["orders"], start: "earliest", max_records: 1000, session_timeout_ms: 600000 };

export default async function run(server) {
  const tools = await begin(server);
  const { api } = tools;
  await api("PUT", "/v1/topics/orders", { partitions: 3 });
  const send = (records) => api("POST", "/v1/topics/orders/records", { records });
  const many = (from, to) => Array.from({ length: to - from }, (_, at) => ({ key: `customer-${(from + at) % 17}`, value: { order: from + at } }));
  await send(many(0, 300));
  await poll(api, "billing", "billing-1", BILLING);
  await api("DELETE", "/v1/groups/billing/members/billing-1");

  // It keeps up; then it does not.
  const page = await tools.open();
  const row = page.getByRole("row", { name: /^billing/ });
  await until(page, "a lag of 0", async () => (await row.innerText()).includes("caught up"));
  await send(many(300, 1500));
  await api("POST", "/v1/topics/orders/records", `{"records":[{"partition":1,"key":"needle","value":${TRICKY},"headers":{"type":"order.paid"}}]}`);
  await row.getByText("1,201").waitFor();
  // A lag grows for as long as more comes than is read, of another group here: this one's figures stay as they are.
  await api("PUT", "/v1/topics/busy", { partitions: 1 });
  await poll(api, "slow", "slow-1", { ...BILLING, topics: ["busy"] });
  const slow = page.getByRole("row", { name: /^slow/ });
  await until(page, "a lag that grows", async () => {
    await api("POST", "/v1/topics/busy/records", { records: [{ value: 1 }, { value: 2 }] });
    return (await slow.count()) === 1 && (await slow.innerText()).includes("growing");
  });

  // The group's page: by partition, and the record that is read next.
  await row.getByRole("link", { name: "billing" }).click();
  await page.getByRole("heading", { name: /^billing/ }).waitFor();
  const { topics: [{ partitions }] } = await api("GET", "/v1/groups/billing/lag");
  for (const { partition, lag, committed_offset: committed } of partitions) {
    const line = page.getByRole("row", { name: new RegExp(`^orders ${partition} `) });
    await line.getByText(String(lag), { exact: true }).first().waitFor();
    await line.getByRole("link", { name: String(committed), exact: true }).waitFor();
  }
  await page.getByRole("link", { name: String(partitions[0].committed_offset), exact: true }).first().click();
  await page.getByRole("button", { name: "Send again…" }).waitFor();
  assert.match(page.url(), /#\/records\/orders\/\d\/\d+$/);

  // The newest are shown at once, pages lead back, and filters hold.
  await page.goto(`${tools.base}#/records/orders`);
  await page.getByText("50 records, the newest first.").waitFor();
  const first = await page.locator(".place").first().innerText();
  await page.getByRole("button", { name: "Older" }).click();
  await until(page, "another page", async () => (await page.locator(".place").first().innerText()) !== first);
  await page.getByRole("button", { name: "Newer" }).click();
  await until(page, "the first page again", async () => (await page.locator(".place").first().innerText()) === first);
  await page.getByLabel("Header").fill("type=order.paid");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("1 record, the newest first.").waitFor();

  // Search says how far it has looked; what is found is shown as it was sent.
  await page.getByLabel("Header").fill("");
  await page.getByLabel("Search").fill("onerror");
  await page.getByLabel("Begin at").selectOption("oldest");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText(/Everything is searched\. Looked at 1,501 records .* found 1\./).waitFor();
  await page.locator("summary").click();
  const value = page.getByLabel("Value", { exact: true });
  const shown = await value.innerText();
  assert.ok(shown.includes('"id": 12345678901234567890,') && shown.includes('"price": 12.50,'), shown);
  assert.equal(shown.replace(/\s/g, ""), TRICKY.replace(/\s/g, ""));
  assert.equal(await page.locator("main img, main b").count(), 0, "values are never markup");

  // Live, paused, and on from where it stopped: nothing is lost and nothing comes twice.
  await page.goto(`${tools.base}#/records/orders?live=1`);
  await page.getByText("Live: waiting for records.").waitFor();
  await until(page, "a stream", () => tools.proxy.streams === 1);
  await send([{ key: "live-1", value: 1 }]);
  await page.getByText("live-1").waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await until(page, "no stream", () => tools.proxy.streams === 0);
  await send([{ key: "live-2", value: 2 }, { key: "live-3", value: 3 }]);
  await page.getByRole("button", { name: "Resume" }).click();
  for (const key of ["live-2", "live-3"]) await page.getByText(key).waitFor();
  assert.equal(await page.locator("summary").count(), 3);
  // While the page is hidden nothing is followed; then the tail goes on.
  const hide = (hidden) => page.evaluate((is) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => is });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await until(page, "no stream while hidden", () => tools.proxy.streams === 0);
  await send([{ key: "live-4", value: 4 }]);
  await hide(false);
  await page.getByText("live-4").waitFor();
  assert.equal(await page.locator("summary").count(), 4);
  assert.equal(tools.proxy.most, 1, "one stream");

  // The group is reset, after a look at what that means; an outdated preview is refused.
  await page.goto(`${tools.base}#/groups/billing`);
  await page.getByRole("link", { name: "Reset…" }).click();
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByText("Lag goes from 1,205 to 1,505: 300 records are read again.").waitFor();
  await send([{ key: "customer-1", value: 1, partition: 0 }]);
  await poll(api, "billing", "billing-2", { ...BILLING, max_records: 1 });
  await page.getByRole("button", { name: /^Reset 3 partitions/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText(/tick the box|moved since the preview/).first().waitFor();
  await page.keyboard.press("Escape");
  await page.getByLabel(/Also while members are live/).check();
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByText(/Lag goes from 1,20\d to 1,506/).waitFor();
  await page.getByRole("button", { name: /^Reset 3 partitions/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText("Done: 3 partitions are reset.").waitFor();
  const { lag } = await api("GET", "/v1/groups/billing/lag");
  assert.equal(lag, 1506);

  // A dead letter: why, what, and back to the queue.
  await api("PUT", "/v1/topics/jobs", { partitions: 1 });
  await api("POST", "/v1/topics/jobs/records", { records: [{ key: "job-1", value: { job: 1 } }, { key: "job-2", value: { job: 2 } }, { key: "job-3", value: { job: 3 } }] });
  const { records } = await poll(api, "workers", "worker-1", { topics: ["jobs"], type: "shared", start: "earliest", max_records: 10, lease_ms: 600000, session_timeout_ms: 600000 });
  await reject(api, "workers", "worker-1", records);
  await page.goto(`${tools.base}#/groups`);
  await page.getByRole("link", { name: "3 dead letters" }).click();
  const letter = page.getByRole("listitem").filter({ hasText: "timeout: the bank did not answer" });
  await letter.getByText("job-2").click();
  await letter.getByText("dlq_reason").waitFor();
  await letter.getByRole("button", { name: /^Redrive/ }).click();
  await page.getByText("1 given back to the group.").waitFor();
  assert.equal((await api("GET", "/v1/groups/workers/dead-letters?state=redriven")).dead_letters.length, 1);
  // Discarding says how many, and asks.
  await page.getByRole("button", { name: "Discard all…" }).click();
  await page.getByRole("dialog").getByText(/^2 records are settled/).waitFor();
  // What dies while the question stands was not part of it.
  await api("POST", "/v1/topics/jobs/records", { records: [{ key: "job-4", value: { job: 4 } }] });
  let late = [];
  await until(page, "job-4", async () => {
    const answer = await api("POST", "/v1/groups/workers/members/worker-1/poll", { ack: null, max_records: 10 });
    late = answer.records.filter(({ key }) => key === "job-4");
    return late.length === 1;
  });
  await reject(api, "workers", "worker-1", late);
  await page.getByRole("dialog").getByRole("button", { name: "Discard 2 records" }).click();
  await page.getByText("2 discarded.").waitFor();
  const waiting = (await api("GET", "/v1/groups/workers/dead-letters?state=waiting")).dead_letters;
  assert.deepEqual(waiting.map(({ record }) => record.key), ["job-4"]);
  // A queue is not deleted before one has seen what goes with it: job-2 is leased again.
  await page.goto(`${tools.base}#/groups/workers`);
  await page.getByRole("button", { name: "Delete…" }).click();
  await page.getByRole("dialog").getByText("1 dead letter waits: nobody can ever redrive it then, only read the topic.").waitFor();
  await page.getByRole("dialog").getByText("What is not settled is forgotten with the group: 1 leased, 0 delayed, 0 waiting.").waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  isWell(page);
  await tools.close();
}
