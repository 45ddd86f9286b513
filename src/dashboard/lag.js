// How lag is shown everywhere: status, direction, drain and expiry, and the table of groups.

import { at, get, Problem } from "./api.js";
import { spark } from "./chart.js";
import { el, link } from "./dom.js";
import { bytes, count, duration, full, rate } from "./format.js";

const MEANS = {
  ok: "The group keeps up.",
  behind: "The lag grew throughout the last minute.",
  stalled: "There is something to read, and nothing was committed for a minute.",
  losing: "Retention has deleted records that the group had not read.",
};

/// A status as a coloured word.
export function chip(status) {
  return el("span", { class: `chip ${status}`, title: MEANS[status] ?? "" }, status);
}

/// What a status means.
export function meaning(status) {
  return MEANS[status] ?? "";
}

/// A number that is rounded when it is large, with the full number beside it for who points at it.
export function number(value) {
  return el("span", { class: "number", title: full(value) }, count(value));
}

/// Whether the lag grows or shrinks, from the rates of the last ten seconds.
export function direction({ lag, consume_rate: consumed, produce_rate: produced }) {
  const growth = produced - consumed;
  if (lag === 0 && growth <= 0.05) return { word: "caught up", arrow: "✓", kind: "flat" };
  if (growth > 0.05) return { word: "growing", arrow: "↑", kind: "up", pace: rate(growth) };
  if (growth < -0.05) return { word: "shrinking", arrow: "↓", kind: "down", pace: rate(-growth) };
  return { word: "steady", arrow: "→", kind: "flat" };
}

/// The same as an element.
export function trend(row) {
  const { word, arrow, kind, pace } = direction(row);
  return el("span", { class: `trend ${kind}`, title: pace ? `by ${pace} of late` : "" },
    el("span", { "aria-hidden": "true" }, `${arrow} `), word);
}

/// When everything is read if the pace stays.
export function drain({ lag, drain_ms: ms }) {
  if (lag === 0) return "–";
  return ms === null ? el("span", { title: "Not at the pace of the last 10 s" }, "never") : `in ${duration(ms)}`;
}

/// When retention deletes what is not read.
export function expiry({ lag, drain_ms: drains, expires_ms: ms }) {
  if (ms === null || ms === undefined || lag === 0) return "–";
  const isClose = ms < 3600000 || (drains !== null && ms < drains);
  return el("span", { class: isClose ? "warn-text" : "" }, ms === 0 ? "now" : `in ${duration(ms)}`);
}

/// A group's work beyond lag: what is leased, delayed, dead.
export function queueWords(row) {
  const words = [];
  if (row.leased > 0) words.push(`${count(row.leased)} leased`);
  if (row.delayed > 0) words.push(`${count(row.delayed)} delayed`);
  const dead = row.dead_letters > 0
    ? link(`${count(row.dead_letters)} dead letter${row.dead_letters === 1 ? "" : "s"}`, ["groups", row.group, "dead-letters"]) : null;
  return [words.join(", "), words.length > 0 && dead ? ", " : "", dead].filter(Boolean);
}

/// What stands in the place of a list of groups that is empty.
export function noGroups(context) {
  return context.seesAll("groups") ? "No group has read anything yet." : "No group that you may see has read anything yet.";
}

/// The columns of a table of groups. `sparks` maps a group to its past lag.
export function lagColumns(sparks) {
  return [
    { name: "Group", class: "name-cell", cell: ({ group }) => link(group, ["groups", group]) },
    { name: "Status", cell: ({ status }) => chip(status) },
    { name: "Lag", class: "num", title: "Records to read", cell: ({ lag }) => number(lag) },
    { name: "Behind", class: "num", title: "The age of the next record to read", cell: ({ lag_ms: ms }) => duration(ms) },
    { name: "Trend", cell: (row) => trend(row) },
    {
      name: "Past hour", class: "spark-cell",
      cell: ({ group }) => (sparks.has(group) ? spark(sparks.get(group), `Lag of ${group} over the past hour`) : "–"),
    },
    { name: "Drained", cell: (row) => drain(row) },
    { name: "Expires", title: "When retention deletes unread records", cell: (row) => expiry(row) },
    { name: "Read", class: "num", cell: ({ consume_rate: pace }) => rate(pace) },
    { name: "Written", class: "num", cell: ({ produce_rate: pace }) => rate(pace) },
    {
      name: "Members", cell: (row) => {
        const work = queueWords(row);
        return [row.members === 0 ? "none" : `${count(row.members)}${row.state === "rebalancing" ? ", rebalancing" : ""}`, ...(work.length > 0 ? [" · ", ...work] : [])];
      },
    },
  ];
}

/// The past lag of all groups, for the small lines, which `draw` draws. A server without it leaves them empty.
export async function loadSparks(sparks, signal, draw) {
  try {
    const { series } = await get(at("v1", "lag", "history"), { steps: 60 }, { signal });
    sparks.clear();
    for (const { group, lag } of series) sparks.set(group, lag);
    draw();
  } catch (error) {
    if (!(error instanceof Problem && (error.isMissing || error.status === 400))) throw error;
  }
}

/// The figures of a group or of a topic in it.
export function figures(row) {
  return [
    ["Lag", number(row.lag), "records to read"],
    ["Behind", duration(row.lag_ms), "age of the next record"],
    ["Trend", trend(row), direction(row).pace ? `by ${direction(row).pace}` : "over the last 10 s"],
    ["Drained", drain(row), `${rate(row.consume_rate)} read, ${rate(row.produce_rate)} written`],
    ["Expires", expiry(row), row.expires_ms === null ? "no retention by age" : "unread records are deleted"],
    ["Size", bytes(row.lag_bytes), "stored, not read"],
  ];
}

/// Figures as tiles.
export function tiles(all) {
  return el("dl", { class: "tiles" }, all.map(([name, value, about]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, about)))));
}
