// One group: its lag now and before, partitions, members, leases, settings, and what can be done with it.

import { at, call, curl, get } from "./api.js";
import { chart } from "./chart.js";
import { attempt, button, confirm, copyButton, el, go, keep, link, nextButton, say, select, table } from "./dom.js";
import { ago, bytes, count, counted, duration, full, rate, time } from "./format.js";
import { chip, drain, expiry, figures, meaning, number, queueWords, tiles, trend } from "./lag.js";

/// Rows of partitions on a page, the furthest behind first.
const PAGE = 60;
const WINDOWS = [["300000", "5 minutes"], ["3600000", "1 hour"], ["21600000", "6 hours"], ["86400000", "24 hours"]];
const TYPES = { shared: "a work queue", classic: "Kafka's classic protocol" };
const METRICS = [["lag", "records"], ["lag_ms", "time"], ["lag_bytes", "bytes"]];

export function group(context) {
  const name = context.path[1];
  const path = at("v1", "groups", name);
  const status = el("span", { class: "beside" });
  context.title(name, " ", status);
  document.title = `Group ${name} – quipu`;
  const isQueue = { value: false };

  const summary = el("div");
  const why = el("p", { class: "note", hidden: true });
  const queue = el("p", {});
  const rows = partitionTable();
  const members = table("Members", memberColumns(name, () => again()), ({ member_id: id }) => id);
  const settings = el("dl", { class: "pairs" });
  const past = pastOf(context, path, name);
  const leases = el("section", { "aria-label": "Leases", hidden: true }, el("h2", {}, "Leases"));
  const dead = link("Dead letters", ["groups", name, "dead-letters"], {}, { class: "button", hidden: true });
  const place = el("div", {},
    el("div", { class: "actions" },
      link("Reset…", ["groups", name, "reset"], {}, { class: "button" }),
      dead, button("Delete…", () => attempt(() => deleteGroup(name, path)), { class: "danger" }),
      copyButton("Copy as curl", () => curl("GET", `${path}/lag`))),
    why, summary, queue, past,
    el("section", { "aria-label": "Partitions" }, el("h2", {}, "Partitions"), rows.element),
    el("section", { "aria-label": "Members" }, el("h2", {}, "Members"), members.element), leases,
    el("section", { "aria-label": "Settings" }, el("h2", {}, "Settings"), settings));
  context.main.append(place);

  const again = context.live(place, async (signal) => {
    const [lag, about] = await Promise.all([get(`${path}/lag`, undefined, { signal }), get(path, undefined, { signal })]);
    isQueue.value = about.type === "shared";
    dead.hidden = !isQueue.value;
    keep(status, chip(lag.status));
    say(why, lag.status === "ok" ? "" : meaning(lag.status));
    why.hidden = lag.status === "ok";
    keep(summary, tiles([...figures(lag), ["Members", count(about.members.length), `${about.state}, ${TYPES[about.type] ?? about.type}`]]));
    keep(queue, isQueue.value ? queueLine(lag, about.queue) : null);
    rows.update(lag);
    members.update(about.members, "Nobody reads at the moment; the lag is kept.");
    keep(settings, settingsOf(about).map(([key, value]) => el("div", {}, el("dt", {}, key), el("dd", {}, value))));
  }, 2000);
  showLeases(context, leases, path, isQueue);
}

function queueLine(lag, queue) {
  if (!queue) return queueWords(lag);
  return [`${full(queue.waiting)} wait, ${full(queue.leased)} are leased, ${full(queue.delayed)} are delayed; `,
    link(counted(queue.dead_letters, "dead letter"), ["groups", lag.group, "dead-letters"]),
    queue.full ? el("strong", { class: "warn-text" }, " A bound is reached: settle, release or reject what is leased.") : "."];
}

function settingsOf({ settings, type }) {
  const all = [["Type", type]];
  for (const [key, value] of Object.entries(settings ?? {})) {
    if (value === null && key !== "filter") continue;
    all.push([key, value === null ? "none: all records" : typeof value === "object" ? Object.entries(value).map(([of, what]) => `${of}: ${[what].flat().join(", ")}`).join("; ") : String(value)]);
  }
  return all;
}

/// All partitions of all topics, a page of them.
function partitionTable() {
  const rows = table("Lag by partition, the largest first", [
    { name: "Partition", cell: ({ topic, partition }) => [link(topic, ["topics", topic]), ` ${partition}`] },
    { name: "Status", cell: (row) => chip(row.status) },
    { name: "Lag", class: "num", cell: ({ lag }) => number(lag) },
    { name: "Behind", class: "num", cell: ({ lag_ms: ms }) => duration(ms) },
    { name: "Trend", cell: (row) => trend(row) },
    {
      name: "Committed", class: "num", cell: ({ topic, partition, committed_offset: at, lag }) => (at === null ? "nothing"
        : lag > 0 ? link(full(at), ["records", topic, String(partition), String(at)], {}, { title: "The next record to read" }) : full(at)),
    },
    { name: "End", class: "num", cell: ({ end_offset: end }) => full(end) },
    { name: "Drained", cell: (row) => drain(row) },
    { name: "Expires", cell: (row) => expiry(row) },
    { name: "Read", class: "num", cell: ({ consume_rate: pace }) => rate(pace) },
    { name: "Written", class: "num", cell: ({ produce_rate: pace }) => rate(pace) },
    { name: "Member", cell: ({ member_id: id }) => id ?? "–" },
    { name: "Last commit", cell: ({ last_commit: when }) => ago(when) },
  ], ({ topic, partition }) => `${topic}/${partition}`);
  let first = 0;
  let all = [];
  const words = el("span", { class: "quiet", role: "status" });
  const back = button("Previous", () => { first -= PAGE; draw(); });
  const on = button("Next", () => { first += PAGE; draw(); });
  const pager = el("div", { class: "pager" }, back, words, on);
  const draw = () => {
    first = Math.max(0, Math.min(first, all.length - 1));
    const shown = all.slice(first, first + PAGE);
    rows.update(shown, "The group has subscribed to nothing and committed nothing.");
    back.disabled = first === 0;
    on.disabled = first + PAGE >= all.length;
    pager.hidden = all.length <= PAGE;
    say(words, `${full(first + 1)} to ${full(first + shown.length)} of ${full(all.length)}`);
  };
  return {
    element: el("div", {}, rows.element, pager),
    update(lag) {
      all = lag.topics.flatMap(({ topic, partitions }) => partitions.map((row) => ({ ...row, topic })));
      all.sort((one, other) => Number(other.lag) - Number(one.lag) || (one.topic < other.topic ? -1 : one.topic > other.topic ? 1 : one.partition - other.partition));
      draw();
    },
  };
}

function memberColumns(group, changed) {
  const kick = (member) => confirm({
    title: `Remove ${member.member_id}?`,
    content: el("p", {}, member.leased === undefined
      ? `What it has (${counted(member.assignment.length, "partition")}) goes to the other members. If the program still runs, it joins again.`
      : `Its leases end (${counted(member.leased, "record")}), and other members get the records. If the program still runs, it joins again.`),
    confirmText: "Remove",
    act: async () => {
      await call("DELETE", at("v1", "groups", group, "members", member.member_id));
      await changed();
    },
  });
  return [
    { name: "Member", class: "name-cell", cell: ({ member_id: id }) => id },
    { name: "Client", cell: ({ client_id: id }) => id ?? "–" },
    { name: "Address", cell: ({ address }) => address ?? "–" },
    { name: "Last contact", cell: ({ last_contact: when, polling }) => (polling ? "waits in a poll" : ago(when)) },
    {
      name: "Has", cell: ({ assignment, leased }) => (leased !== undefined ? `${count(leased)} leased`
        : assignment.length === 0 ? "nothing" : el("span", { title: assignmentText(assignment) }, assignmentText(assignment.slice(0, 8)), assignment.length > 8 ? ` and ${count(assignment.length - 8)} more` : "")),
    },
    { name: "", class: "links", cell: (member, cell) => cell.firstChild ?? button("Remove…", () => kick(cell.member), { class: "small", "aria-label": `Remove ${member.member_id}` }) },
  ].map((column) => ({ ...column, cell: (member, cell) => { cell.member = member; return column.cell(member, cell); } }));
}

function assignmentText(assignment) {
  const topics = Map.groupBy(assignment, ({ topic }) => topic);
  return [...topics].map(([topic, all]) => `${topic} ${all.map(({ partition }) => partition).join(", ")}`).join("; ");
}

/// The chart of the past lag.
function pastOf(context, path, name) {
  const picture = chart();
  const metric = select(METRICS, "lag", { "aria-label": "What the chart shows" });
  const range = select(WINDOWS, "3600000", { "aria-label": "How far back" });
  const place = el("section", { class: "card", "aria-label": "Lag over time" },
    el("div", { class: "pager" }, el("h2", {}, "Lag over time"), metric, range), picture.element);
  const load = async (signal) => {
    const history = await get(`${path}/lag/history`, { window_ms: range.value, by: "group" }, { signal });
    const values = history.total[metric.value];
    const format = { lag: count, lag_ms: duration, lag_bytes: bytes }[metric.value];
    const known = values.filter((value) => value !== null);
    const label = known.length === 0 ? "No samples: the first come within seconds, unless the server has more partitions of groups than it keeps a history of."
      : `Lag of ${name}: now ${format(known[known.length - 1])}, at most ${format(known.reduce((most, value) => (value > most ? value : most)))}.`;
    picture.update({ times: history.times, values, format, isTime: metric.value === "lag_ms", label });
  };
  const again = context.live(place, load, 5000, "history of lag");
  metric.addEventListener("change", () => again());
  range.addEventListener("change", () => again());
  return place;
}

/// Who holds which record; the section is there for queues only.
function showLeases(context, place, path, isQueue) {
  const rows = table("Leased records", [
    { name: "Record", cell: ({ topic, partition, offset }) => link(`${topic} ${partition}:${offset}`, ["records", topic, String(partition), String(offset)]) },
    { name: "Member", cell: ({ member_id: id }) => id },
    { name: "Delivery", class: "num", cell: ({ delivery_count: times }) => count(times) },
    { name: "Lease ends", cell: ({ lease_expires: when }) => {
      const left = Number(when) - Date.now();
      return el("span", { title: time(when) }, left <= 0 ? "ended" : `in ${duration(Math.round(left / 1000) * 1000)}`);
    } },
  ], ({ topic, partition, offset }) => `${topic}/${partition}/${offset}`);
  const trail = [undefined];
  let next = null;
  const back = button("Previous", () => { trail.pop(); again(); });
  const on = nextButton(() => next, (from) => { next = null; trail.push(from); again(); });
  const pager = el("div", { class: "pager" }, back, on);
  place.append(rows.element, pager);
  const again = context.live(place, async (signal) => {
    if (!isQueue.value) return;
    const page = await get(`${path}/leases`, { limit: PAGE, after: trail[trail.length - 1] }, { signal });
    next = page.next ?? null;
    place.hidden = false;
    rows.update(page.leases, "Nothing is leased at the moment.");
    back.disabled = trail.length < 2;
    on.disabled = next === null;
    pager.hidden = back.disabled && on.disabled;
  }, 2000, "list of leases");
}

async function deleteGroup(name, path) {
  const [{ offsets }, { queue = null }] = await Promise.all([get(`${path}/offsets`), get(path)]);
  const topics = new Set(offsets.map(({ topic }) => topic));
  confirm({
    title: `Delete the group ${name}?`,
    content: [
      el("p", {}, `Its ${full(offsets.length)} committed offsets in ${full(topics.size)} topics go: a group made again under this name begins anew. Records stay. It must have no members.`),
      queue && Number(queue.dead_letters) > 0 ? el("p", { class: "warn-text" }, `${counted(queue.dead_letters, "dead letter")} ${Number(queue.dead_letters) === 1 ? "waits" : "wait"}: nobody can ever redrive ${Number(queue.dead_letters) === 1 ? "it" : "them"} then, only read the topic.`) : null,
      queue ? el("p", {}, `What is not settled is forgotten with the group: ${full(queue.leased)} leased, ${full(queue.delayed)} delayed, ${full(queue.waiting)} waiting.`) : null],
    confirmText: "Delete", typed: name,
    act: async () => {
      await call("DELETE", path);
      go(["groups"]);
    },
  });
}
