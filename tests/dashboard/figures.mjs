// Figures are those of the API: lag in records and in time, trend, drain, expiry, members, leases, and sizes and rates of
// topics. The page gets one real answer to each call for good, and at a time that stands still, so that all of it can be compared.

import { answerOf, answers, assert, begin, copied, formats, isWell, rowsOf, tilesOf, until } from "./harness.mjs";
import { poll, reject } from "./data.mjs";

const HOUR = 3600000;
const format = await formats();

/// What a row of lag must look like, whatever it is of: from the fields of the API alone.
function lagWords(row) {
  const growth = row.produce_rate - row.consume_rate;
  const trend = row.lag === 0 && growth <= 0.05 ? "✓ caught up" : growth > 0.05 ? "↑ growing" : growth < -0.05 ? "↓ shrinking" : "→ steady";
  return {
    Status: row.status,
    Lag: row.lag.toLocaleString("en-US"),
    Behind: format.duration(row.lag_ms),
    Trend: trend,
    Drained: row.lag === 0 ? "–" : row.drain_ms === null ? "never" : `in ${format.duration(row.drain_ms)}`,
    Expires: row.lag === 0 || row.expires_ms === null ? "–" : `in ${format.duration(row.expires_ms)}`,
    Read: format.rate(row.consume_rate),
    Written: format.rate(row.produce_rate),
  };
}

function groupWords(row) {
  const work = [row.leased > 0 && `${row.leased} leased`, row.dead_letters > 0 && `${row.dead_letters} dead letters`].filter(Boolean);
  return { Group: row.group, ...lagWords(row), Members: [row.members === 0 ? "none" : String(row.members), work.join(", ")].filter(Boolean).join(" · ") };
}

/// The rows of a table without columns that are looked at elsewhere.
async function without(page, caption, ...names) {
  const rows = await rowsOf(page, caption);
  return rows.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => !names.includes(name))));
}

/// A small world: a group that shrinks, one that grows, one that has read everything, one that does nothing, and a queue.
async function fill(tools) {
  const { api } = tools;
  const made = { orders: 3, payments: 2, busy: 1, quiet: 1, jobs: 1 };
  for (const [topic, partitions] of Object.entries(made)) {
    await api("PUT", `/v1/topics/${topic}`, { partitions, config: topic === "payments" ? { retention_ms: 5 * HOUR } : {} });
  }
  const send = (topic, count, more = {}) => api("POST", `/v1/topics/${topic}/records`, {
    records: Array.from({ length: count }, (_, at) => ({ key: `k-${at}`, value: { at }, ...more })),
  });
  await send("orders", 1500);
  await send("payments", 120, { timestamp: Date.now() - 3 * HOUR });
  await send("jobs", 20);
  const live = { session_timeout_ms: 600000, start: "earliest" };
  const { records } = await poll(api, "workers", "worker-1", { ...live, topics: ["jobs"], type: "shared", max_records: 12, lease_ms: 500000 });
  await reject(api, "workers", "worker-1", records.slice(0, 5));
  await api("PUT", "/v1/groups/archive/offsets", { offsets: [{ topic: "payments", partition: 0, offset: 3 }] });
  await api("PUT", "/v1/groups/done/offsets", { offsets: [0, 1, 2].map((partition) => ({ topic: "orders", partition, offset: 0 })) });
  await api("POST", "/v1/groups/done/offsets/reset", { to: "latest" });
  await poll(api, "slow", "slow-1", { ...live, topics: ["busy"] });
  // One that waits in a poll for what never comes, until the test ends.
  const wait = async () => {
    for (;;) await api("POST", "/v1/groups/waiting/members/waiting-1/poll", { ...live, topics: ["quiet"], client_id: "waits.example", ack: null, wait_ms: 60000 });
  };
  wait().catch(() => {});

  // Two members share the work of one group.
  const acks = {};
  const share = async () => {
    for (const member of ["billing-1", "billing-2"]) {
      const join = { ...live, topics: ["orders", "payments"], client_id: `${member}.example`, wait_ms: 0, max_records: 7 };
      acks[member] = (await api("POST", `/v1/groups/billing/members/${member}/poll`, { ...join, ack: acks[member] ?? null })).poll_id;
    }
    const { state, members } = await api("GET", "/v1/groups/billing");
    return state === "stable" && members.every(({ assignment }) => assignment.length > 1);
  };
  const page = await tools.open("#/groups");
  await until(page, "a share for both", share);
  // A lag shrinks where somebody reads while nobody has written for ten seconds, and grows where it is the other way round.
  let offset = 0;
  const move = async () => {
    offset += 1;
    await api("PUT", "/v1/groups/batch/offsets", { offsets: [0, 1, 2].map((partition) => ({ topic: "orders", partition, offset })) });
    await send("busy", 50);
    await api("GET", "/v1/topics/busy/partitions/0/records?offset=0");
  };
  return { page, move };
}

export default async function run(server) {
  assert.deepEqual([0, 12.34, 99.96, 123.4, 123456].map(format.rate), ["0/s", "12.3/s", "100/s", "123/s", "123K/s"]);
  assert.deepEqual([0, 1023, 1536, 150000, 5368709120].map(format.bytes), ["0 B", "1,023 B", "1.5 KiB", "146 KiB", "5 GiB"]);
  const tools = await begin(server);
  const { api } = tools;
  const { page: waits, move } = await fill(tools);

  // What the server says now, while everything moves as it is to.
  const calls = [
    "/v1/lag", "/v1/topics", "/v1/groups/billing", "/v1/groups/billing/lag", "/v1/groups/waiting", "/v1/groups/waiting/lag",
    "/v1/groups/workers", "/v1/groups/workers/lag", "/v1/groups/workers/leases", "/v1/topics/payments",
  ];
  const queries = { "/v1/lag": "?sort=lag", "/v1/topics": "?config=false" };
  let said = {};
  const group = (name) => said["/v1/lag"].groups.find((row) => row.group === name);
  await until(waits, "a lag that shrinks and one that grows", async () => {
    await waits.waitForTimeout(1000);
    await move();
    await until(waits, "one that waits", async () => (await api("GET", "/v1/groups/waiting")).members.some(({ polling }) => polling));
    said = Object.fromEntries(await Promise.all(calls.map(async (at) => [at, await api("GET", at + (queries[at] ?? ""))])));
    const busy = said["/v1/topics"].topics.find(({ name }) => name === "busy");
    return group("batch").produce_rate === 0 && group("batch").drain_ms > 0 && group("slow").produce_rate > 0 && group("slow").drain_ms === null
      && busy.produce_bytes_rate > 0 && busy.fetch_bytes_rate > 0;
  }, 240000);
  await waits.close();
  const now = Date.now();
  const ago = (ms) => (ms === null ? "never" : now - ms < 1000 ? "now" : `${format.duration(now - ms).replace(/\.\d/, "")} ago`);
  const asked = [];
  const open = (hash) => tools.open(hash, {}, async (page) => {
    page.on("request", (request) => asked.push(request.url()));
    await page.clock.setFixedTime(now);
    for (const at of calls) await answers(page, at, said[at]);
  });

  // The rest of the world is the one that was to be made, too: else the comparison would be of dashes.
  const billing = said["/v1/groups/billing/lag"];
  assert.ok(group("batch").lag > 0 && group("batch").consume_rate > 0);
  assert.ok(billing.lag_ms > 0 && billing.expires_ms > HOUR && billing.expires_ms <= 2 * HOUR, `payments of three hours ago are kept for five: ${billing.expires_ms}`);
  assert.ok(group("archive").lag > 0 && group("archive").lag_ms >= 3 * HOUR && group("done").lag === 0);
  assert.deepEqual([group("workers").leased, group("workers").dead_letters], [7, 5]);

  // All groups.
  const groups = await open("#/groups");
  await groups.getByRole("link", { name: "billing" }).waitFor();
  assert.deepEqual(await without(groups, "Groups with their lag", "Past hour"), said["/v1/lag"].groups.map(groupWords));
  const trendOf = (name) => groups.getByRole("row", { name: new RegExp(`^${name} `) }).locator(".trend");
  assert.equal(await trendOf("slow").innerText(), "↑ growing");
  assert.equal(await trendOf("batch").innerText(), "↓ shrinking");
  assert.equal(await trendOf("done").innerText(), "✓ caught up");
  assert.equal(await trendOf("archive").innerText(), "→ steady");
  assert.equal(await trendOf("slow").getAttribute("title"), `by ${format.rate(group("slow").produce_rate)} of late`);
  isWell(groups);
  await groups.close();

  // What no small world has, in the form that the API gives it.
  const rare = [
    { ...group("billing"), group: "a-million", lag: 1234567, lag_ms: 7260000, status: "stalled" },
    { ...group("billing"), group: "dying", expires_ms: 1800000, status: "behind" },
    { ...group("billing"), group: "lost", expires_ms: 0, status: "losing", state: "rebalancing" },
  ];
  const rares = await tools.open("#/groups", {}, (page) => answers(page, "/v1/lag", { groups: rare }));
  await rares.getByRole("link", { name: "a-million" }).waitFor();
  const shown = await rowsOf(rares, "Groups with their lag");
  assert.deepEqual(shown.map(({ Status, Lag, Behind, Expires, Members }) => [Status, Lag, Behind, Expires, Members]), [
    ["stalled", "1.23M", "2 h 1 min", `in ${format.duration(billing.expires_ms)}`, "2"],
    ["behind", format.count(rare[1].lag), format.duration(rare[1].lag_ms), "in 30 min", "2"],
    ["losing", format.count(rare[2].lag), format.duration(rare[2].lag_ms), "now", "2, rebalancing"],
  ]);
  assert.equal(await rares.getByText("1.23M").getAttribute("title"), "1,234,567");
  assert.deepEqual(await rares.locator(".warn-text").allInnerTexts(), ["in 30 min", "now"], "what expires within the hour stands out");
  await rares.close();

  // One group: its figures, its partitions with the largest lag first, and its members with what they have.
  const one = await open("#/groups/billing");
  await one.getByRole("row", { name: /^payments 0/ }).waitFor();
  const words = lagWords(billing);
  const about = said["/v1/groups/billing"];
  assert.deepEqual(await tilesOf(one), {
    Lag: [words.Lag, "records to read"],
    Behind: [words.Behind, "age of the next record"],
    Trend: [words.Trend, billing.consume_rate > 0.05 ? `by ${format.rate(billing.consume_rate)}` : "over the last 10 s"],
    Drained: [words.Drained, `${words.Read} read, ${words.Written} written`],
    Expires: [words.Expires, "unread records are deleted"],
    Size: [format.bytes(billing.lag_bytes), "stored, not read"],
    Members: ["2", "stable, ordered"],
  });
  const partitions = billing.topics.flatMap(({ topic, partitions: all }) => all.map((row) => ({ topic, ...row })));
  partitions.sort((a, b) => b.lag - a.lag || a.topic.localeCompare(b.topic) || a.partition - b.partition);
  assert.deepEqual(await rowsOf(one, "Lag by partition, the largest first"), partitions.map((row) => ({
    Partition: `${row.topic} ${row.partition}`, ...lagWords(row),
    Committed: row.committed_offset === null ? "nothing" : String(row.committed_offset), End: String(row.end_offset),
    Member: row.member_id ?? "–", "Last commit": ago(row.last_commit),
  })));
  const had = (assignment) => Object.entries(Object.groupBy?.(assignment, ({ topic }) => topic) ?? assignment.reduce((all, row) => ({ ...all, [row.topic]: [...(all[row.topic] ?? []), row] }), {}))
    .map(([topic, rows]) => `${topic} ${rows.map(({ partition }) => partition).join(", ")}`).join("; ");
  assert.equal(about.members.flatMap(({ assignment }) => assignment).length, 5, "five partitions are shared");
  assert.deepEqual(await without(one, "Members", ""), about.members.map((member) => ({
    Member: member.member_id, Client: `${member.member_id}.example`, Address: member.address, "Last contact": ago(member.last_contact), Has: had(member.assignment),
  })));
  isWell(one);
  await one.close();
  const waiting = await open("#/groups/waiting");
  await waiting.getByRole("row", { name: /^waiting-1/ }).waitFor();
  const [{ Client, "Last contact": contact, Has }] = await rowsOf(waiting, "Members");
  assert.deepEqual([Client, contact, Has], ["waits.example", "waits in a poll", "quiet 0"]);
  await waiting.close();

  // A queue: what it holds, and who holds which record until when.
  const queue = await open("#/groups/workers");
  const { leases } = said["/v1/groups/workers/leases"];
  const { queue: held } = said["/v1/groups/workers"];
  assert.deepEqual([leases.length, held.waiting, held.leased, held.dead_letters], [7, 8, 7, 5]);
  await queue.getByText("8 wait, 7 are leased, 0 are delayed; 5 dead letters.").waitFor();
  await queue.getByRole("row", { name: /^jobs 0:/ }).first().waitFor();
  assert.deepEqual(await rowsOf(queue, "Leased records"), leases.map((lease) => ({
    Record: `${lease.topic} ${lease.partition}:${lease.offset}`, Member: "worker-1", Delivery: "1",
    "Lease ends": `in ${format.duration(Math.round((lease.lease_expires - now) / 1000) * 1000)}`,
  })));
  assert.equal((await rowsOf(queue, "Members"))[0].Has, "7 leased");
  const command = () => copied(queue, queue.getByRole("button", { name: "Copy as curl" }).first());
  const { group: name, lag, topics: of } = await answerOf(await command());
  assert.deepEqual([name, lag, of.length], ["workers", group("workers").lag, 1]);
  await queue.getByRole("link", { name: "Dead letters", exact: true }).click();
  await queue.getByText("5 shown, with 2 reasons.").waitFor();
  await queue.getByLabel("Reason").selectOption({ label: "invalid: no such account (3)" });
  await queue.getByText("3 shown of 5, with 2 reasons.").waitFor();
  const { dead_letters: letters } = await answerOf(await command());
  assert.deepEqual(letters.map(({ state, reason }) => [state, reason]), letters.map(() => ["waiting", "invalid: no such account"]));
  assert.deepEqual(await queue.locator(".letters .place").allInnerTexts(), letters.map(({ partition, offset }) => `${partition}:${offset}`));
  isWell(queue);
  await queue.close();

  // Topics: sizes and rates, all of them and one by partition.
  const topics = await open("#/topics");
  await topics.getByRole("link", { name: "payments", exact: true }).waitFor();
  const rows = said["/v1/topics"].topics;
  assert.deepEqual(await without(topics, "Topics with their sizes and rates", ""), rows.map((row) => ({
    Topic: row.name, Partitions: String(row.partition_count), Records: format.count(row.records), Size: format.bytes(row.size_bytes),
    Written: format.rate(row.produce_rate), "Bytes in": format.byteRate(row.produce_bytes_rate), "Bytes out": format.byteRate(row.fetch_bytes_rate),
    Groups: String(row.groups.length), Newest: row.last_timestamp === null ? "–" : ago(row.last_timestamp),
  })));
  await topics.close();
  const topic = await open("#/topics/payments");
  await topic.getByRole("rowheader", { name: "retention_ms" }).waitFor();
  const described = said["/v1/topics/payments"];
  const sum = (of) => described.partitions.reduce((all, row) => all + of(row), 0);
  assert.deepEqual(await tilesOf(topic), {
    Records: ["120", "in 2 partitions"], Size: [format.bytes(sum((row) => row.size_bytes)), "on disk"],
    Written: [format.rate(described.produce_rate), format.byteRate(described.produce_bytes_rate)],
    Read: [format.byteRate(described.fetch_bytes_rate), "by all readers"], Kept: ["5 h", "retention by age"],
  });
  assert.deepEqual(await without(topic, "Partitions", ""), described.partitions.map((row) => ({
    Partition: String(row.partition), Records: String(row.end_offset - row.log_start_offset), Offsets: `${row.log_start_offset} to ${row.end_offset}`,
    Size: format.bytes(row.size_bytes), Segments: String(row.segments), Oldest: ago(row.first_timestamp), Newest: ago(row.last_timestamp),
  })));
  await topic.getByRole("link", { name: "archive" }).waitFor();
  assert.deepEqual(await rowsOf(topic, "Groups that read this topic"), said["/v1/lag"].groups.map(groupWords));
  assert.ok(asked.some((url) => url.includes("/v1/lag?topic=payments&")), "it asks for those of this topic");
  const settings = await rowsOf(topic, "Settings");
  assert.deepEqual(settings.map(({ Setting, "Set by": by }) => [Setting, by]), Object.entries(described.config).map(([key, { source }]) => [key, source]));
  assert.deepEqual(settings.find(({ Setting }) => Setting === "retention_ms").Value, "18000000 (5 h)");
  isWell(topic);
  await tools.close();
}
