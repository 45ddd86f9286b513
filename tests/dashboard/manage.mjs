// What an operator changes on the page is changed, as it was said beforehand: settings, partitions, deleted records, removed
// members, and resets of several topics, of a live group, and of a group of Kafka's clients, which has to wait for them.

import path from "node:path";
import { answerOf, assert, begin, copied, isAccessible, isWell, rowsOf, until } from "./harness.mjs";
import { poll } from "./data.mjs";
import { join } from "./kafka.mjs";

const HOUR = 3600000;
const LIVE = { session_timeout_ms: 600000, start: "earliest" };

export default async function run(server, screenshots) {
  const tools = await begin(server);
  const { api } = tools;
  const page = await tools.open();
  await settings(api, tools, page);
  await resets(api, tools, page);
  await members(api, tools, page);
  await classic(api, tools, page, screenshots);
  isWell(page);
  await tools.close();
}

const send = (api, topic, partitions, each, more = {}) => api("POST", `/v1/topics/${topic}/records`, {
  records: Array.from({ length: partitions * each }, (_, at) => ({ partition: at % partitions, key: `k-${at}`, value: { at }, ...more })),
});

async function settings(api, tools, page) {
  await api("PUT", "/v1/topics/orders", { partitions: 2, config: { segment_bytes: 1048576 } });
  await send(api, "orders", 2, 50, { timestamp: Date.now() - 3 * HOUR });
  await page.goto(`${tools.base}#/topics/orders`);
  const dialog = page.getByRole("dialog");
  const topic = () => api("GET", "/v1/topics/orders");
  const row = async (key) => (await rowsOf(page, "Settings")).find(({ Setting }) => Setting === key);
  const change = async (key, value, says) => {
    await page.getByRole("button", { name: `Change ${key}`, exact: true }).click();
    await dialog.getByLabel("Value").fill(value);
    await dialog.getByRole("button", { name: "Preview" }).click();
    await dialog.getByText(says).waitFor();
    await dialog.getByRole("button", { name: "Change", exact: true }).click();
    await dialog.waitFor({ state: "detached" });
  };
  await page.getByRole("rowheader", { name: "retention_ms", exact: true }).waitFor();
  await change("max_record_bytes", "4096", "From 1048576 (1 MiB) to 4096.");
  assert.equal((await topic()).config.max_record_bytes.value, 4096);
  await until(page, "the new setting", async () => (await row("max_record_bytes")).Value === "4096 (4 KiB)" && (await row("max_record_bytes"))["Set by"] === "topic");
  // A word is a text, nothing is the default again.
  await change("timestamp_type", "log_append_time", "No records would go.");
  assert.equal((await topic()).config.timestamp_type.value, "log_append_time");
  await change("timestamp_type", "", "to the default.");
  assert.equal((await topic()).config.timestamp_type.source, "default");
  // A retention that deletes says how many records that would be.
  const { records } = await api("PATCH", "/v1/topics/orders?dry_run=true", { config: { retention_ms: HOUR } });
  assert.equal(records, 100);
  await change("retention_ms", String(HOUR), "100 records (");
  assert.equal((await topic()).config.retention_ms.value, HOUR);
  await until(page, "the kept time", async () => (await page.locator(".tiles").innerText()).includes("1 h"));
  await change("retention_ms", "null", "No records would go.");

  // Two more partitions.
  await page.getByRole("button", { name: "Add partitions…" }).click();
  assert.equal(await dialog.getByLabel("Partitions in all").inputValue(), "3");
  await dialog.getByLabel("Partitions in all").fill("4");
  await dialog.getByRole("button", { name: "Add", exact: true }).click();
  await until(page, "four partitions", async () => (await rowsOf(page, "Partitions")).length === 4);
  assert.equal((await topic()).partition_count, 4);
  await api("PATCH", "/v1/topics/orders", { partitions: 5 });
  // What is refused is said, and nothing is changed.
  await page.getByRole("button", { name: "Add partitions…" }).click();
  await dialog.getByLabel("Partitions in all").fill("3");
  await dialog.getByRole("button", { name: "Add", exact: true }).click();
  await dialog.locator(".error").getByText(/./).waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await topic()).partition_count, 5);

  // Records before an offset go, those of one partition, and as many as the preview has said.
  await send(api, "orders", 2, 30);
  const before = (await topic()).partitions;
  const last = before[1].end_offset;
  await until(page, "all records", async () => (await rowsOf(page, "Partitions"))[1].Offsets === `${before[1].log_start_offset} to ${last}`);
  await page.getByRole("button", { name: "Delete records of partition 1" }).click();
  assert.equal(await dialog.getByLabel("Before offset").inputValue(), String(last), "all of them, unless another is chosen");
  await dialog.getByLabel("Before offset").fill(String(last - 10));
  // What is typed after that, another press, and a dialog that was closed, ask for nothing else.
  const looks = (url) => url.pathname.endsWith("/partitions/1/records") && url.searchParams.has("dry_run");
  await page.route(looks, async (route) => {
    await dialog.getByLabel("Before offset").fill("1");
    await dialog.getByRole("button", { name: "Preview" }).click();
    await route.continue();
  });
  await dialog.getByRole("button", { name: "Preview" }).click();
  await dialog.getByText(`All records of partition 1 before offset ${last - 10} go.`).waitFor();
  await dialog.getByText(`${last - 10 - before[1].log_start_offset} records (`).waitFor();
  assert.equal(await dialog.count(), 1);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.unroute(looks);
  await page.route(looks, async (route) => {
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await route.continue();
  });
  await page.getByRole("button", { name: "Delete records of partition 1" }).click();
  const looked = page.waitForResponse((answer) => looks(new URL(answer.url())));
  await dialog.getByRole("button", { name: "Preview" }).click();
  await (await looked).finished();
  await page.waitForTimeout(200);
  assert.equal(await dialog.count(), 0);
  await page.unroute(looks);
  await page.getByRole("button", { name: "Delete records of partition 1" }).click();
  await dialog.getByLabel("Before offset").fill(String(last - 10));
  await dialog.getByRole("button", { name: "Preview" }).click();
  await dialog.getByText(`All records of partition 1 before offset ${last - 10} go.`).waitFor();
  assert.equal((await topic()).partitions[1].log_start_offset, before[1].log_start_offset, "a preview deletes nothing");
  await dialog.getByRole("button", { name: "Delete records" }).click();
  await dialog.waitFor({ state: "detached" });
  const after = (await topic()).partitions;
  assert.deepEqual(after.map((row) => row.log_start_offset), before.map((row) => (row.partition === 1 ? last - 10 : row.log_start_offset)));
  await until(page, "what is left", async () => {
    const [, { Records, Offsets }] = await rowsOf(page, "Partitions");
    return Records === "10" && Offsets === `${last - 10} to ${last}`;
  });
}

const offsetsOf = async (api, group) => Object.fromEntries((await api("GET", `/v1/groups/${group}/offsets`)).offsets.map(({ topic, partition, offset }) => [`${topic} ${partition}`, offset]));

/// Every row of a preview, as the API has it.
const previewWords = ({ offsets }) => offsets.filter((row) => row.old_offset !== row.new_offset)
  .map((row) => [`${row.topic} ${row.partition}`, `${row.old_offset} → ${row.new_offset}`, `${row.old_lag} → ${row.new_lag}`]);

async function previewed(page) {
  return (await rowsOf(page, "What would change")).map((row) => [row.Partition, row.Offset, row.Lag]);
}

async function resets(api, tools, page) {
  for (const topic of ["a", "b", "c"]) {
    await api("PUT", `/v1/topics/${topic}`, { partitions: 2 });
    await send(api, topic, 2, 20);
  }
  const all = ["a", "b", "c"].flatMap((topic) => [0, 1].map((partition) => ({ topic, partition, offset: 15 })));
  await api("PUT", "/v1/groups/reports/offsets", { offsets: all });
  await page.goto(`${tools.base}#/groups/reports/reset`);
  const form = page.getByRole("form", { name: "Where to" });
  // Two topics of three, back by five.
  await form.getByLabel("All topics").uncheck();
  await form.getByLabel("b", { exact: true }).uncheck();
  await form.getByLabel("Move to").selectOption("shift");
  await form.getByLabel("Offset or shift").fill("-5");
  await form.getByRole("button", { name: "Preview" }).click();
  await page.getByText("Lag goes from 20 to 40: 20 records are read again.").waitFor();
  const asked = { topics: ["a", "c"], to: { shift: -5 }, dry_run: true };
  const expected = previewWords(await api("POST", "/v1/groups/reports/offsets/reset", asked));
  assert.equal(expected.length, 4);
  assert.deepEqual(await previewed(page), expected);
  assert.deepEqual([...new Set((await rowsOf(page, "What would change")).map((row) => row["Moves by"]))], ["-5"]);
  const command = await copied(page, page.getByRole("button", { name: "Copy as curl" }));
  await page.getByRole("button", { name: "Reset 4 partitions…" }).click();
  await page.getByRole("dialog").getByText("4 partitions move.").waitFor();
  assert.deepEqual(new Set(Object.values(await offsetsOf(api, "reports"))), new Set([15]), "nothing has moved yet");
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText("Done: 4 partitions are reset.").waitFor();
  assert.deepEqual(await offsetsOf(api, "reports"), { "a 0": 10, "a 1": 10, "b 0": 15, "b 1": 15, "c 0": 10, "c 1": 10 });
  // Its command does the same once more.
  await answerOf(command);
  assert.deepEqual(await offsetsOf(api, "reports"), { "a 0": 5, "a 1": 5, "b 0": 15, "b 1": 15, "c 0": 5, "c 1": 5 });

  // One partition to an offset; what is skipped is said as that.
  await page.getByLabel("Partitions", { exact: true }).fill("1");
  await form.getByLabel("c", { exact: true }).uncheck();
  await form.getByLabel("Move to").selectOption("offset");
  await form.getByLabel("Offset or shift").fill("19");
  await form.getByRole("button", { name: "Preview" }).click();
  await page.getByText("Lag goes from 15 to 1: 14 records are skipped, the group never reads them.").waitFor();
  await page.getByRole("button", { name: "Reset 1 partition…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText("Done: 1 partition is reset.").waitFor();
  assert.equal((await offsetsOf(api, "reports"))["a 1"], 19);

  // What one partition reads again does not make up for what another skips.
  await page.getByLabel("Partitions", { exact: true }).fill("");
  await form.getByLabel("Offset or shift").fill("12");
  await form.getByRole("button", { name: "Preview" }).click();
  await page.locator(".note.warn").getByText("Lag goes from 16 to 16: 7 records are read again, and 7 records are skipped, the group never reads them.").waitFor();
  // A preview that comes when the form says something else is not shown.
  const looks = (url) => url.pathname.endsWith("/offsets/reset");
  await page.route(looks, async (route) => {
    await form.getByLabel("Move to").selectOption("earliest");
    await route.continue();
  });
  const looked = page.waitForResponse((answer) => looks(new URL(answer.url())));
  await form.getByRole("button", { name: "Preview" }).click();
  await (await looked).finished();
  await page.waitForTimeout(200);
  assert.equal(await page.getByRole("heading", { name: "Preview" }).count(), 0);
  await page.unroute(looks);

  // Nobody deletes a group who could not be told what goes with it.
  const committed = (url) => url.pathname.endsWith("/v1/groups/reports/offsets");
  await page.route(committed, (route) => route.fulfill({ status: 429, contentType: "application/problem+json", body: JSON.stringify({ status: 429, code: "quota-exceeded", detail: "the quota is used up", retryable: true }) }));
  await page.goto(`${tools.base}#/groups/reports`);
  await page.getByRole("button", { name: "Delete…" }).click();
  await page.getByRole("dialog").getByText("the quota is used up").waitFor();
  assert.equal(await page.getByRole("dialog").getByRole("button", { name: "Delete" }).count(), 0);
  await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await page.unroute(committed);
  await page.getByRole("button", { name: "Delete…" }).click();
  await page.getByRole("dialog").getByText("Its 6 committed offsets in 3 topics go").waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
}

async function members(api, tools, page) {
  // A group that reads is reset only when the operator says so; then its member goes on from there.
  await poll(api, "live", "live-1", { ...LIVE, topics: ["a"], max_records: 1000 });
  assert.equal((await api("GET", "/v1/groups/live/lag")).lag, 0);
  await page.goto(`${tools.base}#/groups/live/reset`);
  await page.getByText("One member is live.").waitFor();
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByText("Lag goes from 0 to 40: 40 records are read again.").waitFor();
  await page.getByRole("button", { name: "Reset 2 partitions…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByRole("dialog").getByText("The group has live members. Stop them, or tick the box").waitFor();
  await page.keyboard.press("Escape");
  assert.equal((await api("GET", "/v1/groups/live/lag")).lag, 0, "nothing was changed");
  await page.getByLabel("Also while members are live").check();
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByRole("button", { name: "Reset 2 partitions…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText("Done: 2 partitions are reset.").waitFor();
  const next = await api("POST", "/v1/groups/live/members/live-1/poll", { ack: null, wait_ms: 0, max_records: 1000 });
  assert.deepEqual(next.lost, [0, 1].map((partition) => ({ topic: "a", partition })));
  assert.equal(next.records.length, 40);

  // A member is removed, and what it has goes to the other one.
  const join = { ...LIVE, topics: ["b"], max_records: 5 };
  const acks = {};
  await until(page, "a partition for each", async () => {
    for (const member of ["one", "two"]) acks[member] = (await api("POST", `/v1/groups/pair/members/${member}/poll`, { ...join, ack: acks[member] ?? null, wait_ms: 0 })).poll_id;
    return (await api("GET", "/v1/groups/pair")).members.every(({ assignment }) => assignment.length === 1);
  });
  await page.goto(`${tools.base}#/groups/pair`);
  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "Remove two" }).click();
  await dialog.getByText("What it has (1 partition) goes to the other members.").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await api("GET", "/v1/groups/pair")).members.length, 2);
  await page.getByRole("button", { name: "Remove two" }).click();
  await dialog.getByRole("button", { name: "Remove", exact: true }).click();
  await until(page, "one member", async () => (await rowsOf(page, "Members")).length === 1);
  const { members: left } = await api("GET", "/v1/groups/pair");
  assert.deepEqual(left.map(({ member_id: id, assignment }) => [id, assignment.length]), [["one", 2]]);
  // One of a queue: its leases end.
  const queue = { ...LIVE, topics: ["c"], type: "shared", max_records: 7, lease_ms: 600000 };
  await poll(api, "queue", "worker", queue);
  await page.goto(`${tools.base}#/groups/queue`);
  await page.getByRole("table", { name: "Leased records" }).waitFor();
  await page.getByRole("button", { name: "Remove worker" }).click();
  await dialog.getByText("Its leases end (7 records)").waitFor();
  await dialog.getByRole("button", { name: "Remove", exact: true }).click();
  await page.getByText("Nothing is leased at the moment.").waitFor();
  await page.getByText("Nobody reads at the moment; the lag is kept.").waitFor();
  const { members: none, queue: held } = await api("GET", "/v1/groups/queue");
  assert.deepEqual([none.length, held.leased], [0, 0]);
}

async function classic(api, tools, page, screenshots) {
  const member = await join(process.env.QUIPU_TEST_KAFKA, "kafka", { a: 2 });
  await member.commit("a", 0, 12);
  await page.goto(`${tools.base}#/groups/kafka`);
  await page.getByText("stable, Kafka's classic protocol").waitFor();
  const [row] = await rowsOf(page, "Members");
  assert.deepEqual([row.Member, row.Client, row.Has], [member.member, "kafka.example", "a 0, 1"]);
  // Such a group cannot be reset while somebody reads: the page says so, says what to do, and offers nothing else.
  await page.getByRole("link", { name: "Reset…" }).click();
  const note = page.getByText("One member is live, of Kafka's classic protocol");
  await note.waitFor();
  assert.equal(await page.getByLabel("Also while members are live").count(), 1);
  assert.ok(!(await page.getByLabel("Also while members are live").isVisible()), "a box that does not help");
  const preview = page.getByRole("button", { name: "Preview" });
  await preview.click();
  await page.getByText("It cannot be done while members of Kafka's classic protocol are live.").waitFor();
  await page.getByText("Lag goes from 28 to 40: 12 records are read again.").waitFor();
  assert.equal(await page.getByRole("button", { name: /^Reset|^Copy/ }).count(), 0);
  await page.screenshot({ path: path.join(screenshots, "reset-classic-light.png"), fullPage: true });
  await isAccessible(page, "a reset that has to wait");
  // Its members have stopped: the same preview can be carried out. If one has come since, that is said.
  await member.leave();
  await preview.click();
  const reset = page.getByRole("button", { name: /^Reset \d partitions?…/ });
  await reset.waitFor();
  assert.ok(!(await note.isVisible()));
  const again = await join(process.env.QUIPU_TEST_KAFKA, "kafka", { a: 2 });
  await reset.click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByRole("dialog").getByText("The group has live members of Kafka's classic protocol. Stop the programs, then preview again.").waitFor();
  await page.keyboard.press("Escape");
  assert.equal((await offsetsOf(api, "kafka"))["a 0"], 12);
  // The other way: the member is removed on the page.
  await note.getByRole("link", { name: "remove the members" }).click();
  await page.getByRole("button", { name: `Remove ${again.member}` }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
  await page.getByText("Nobody reads at the moment; the lag is kept.").waitFor();
  await page.getByRole("link", { name: "Reset…" }).click();
  await preview.click();
  await reset.click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText(/^Done: \d partitions? (is|are) reset\./).waitFor();
  assert.equal((await offsetsOf(api, "kafka"))["a 0"], 0);
  assert.equal((await api("GET", "/v1/groups/kafka/lag")).lag, 40);
}
