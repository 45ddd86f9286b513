// Warnings above every view: what is wrong with the server, its disk, and the way it is reached.

import { at, get, Problem } from "./api.js";
import { el, link, put, say } from "./dom.js";
import { byteRate, bytes, count, duration } from "./format.js";
import { repeat } from "./live.js";

const EVERY_MS = 5000;
/// Below this share of free space, or this time until it is full, the disk is a warning.
const LOW = 0.1;
const SOON_MS = 24 * 3600 * 1000;

let stop = null;
/// What is the same for as long as a server runs.
let info = null;

/// Begins to watch. `me`: what the server says about sign-in; null if it could not be asked.
export function watch(me) {
  stop?.abort();
  stop = new AbortController();
  const region = document.getElementById("banners");
  let shown = null;
  const load = async (signal) => {
    const found = await collect(me, signal);
    const key = JSON.stringify(found.map(({ level, title, text }) => [level, title, text]));
    if (key === shown) return;
    shown = key;
    put(region, found.map(({ level, title, text, more }) =>
      el("div", { class: `banner ${level}` }, el("strong", {}, title), " ", text, more ? [" ", more] : null)));
  };
  put(region);
  repeat(region, load, EVERY_MS, stop.signal);
}

/// Whether the page was reached at an address of this machine only.
export function isLoopback(host) {
  return host === "localhost" || host.endsWith(".localhost") || host === "[::1]" || /^127(\.\d+){3}$/.test(host);
}

async function optional(path, signal) {
  try {
    return await get(path, undefined, { signal });
  } catch (error) {
    if (error instanceof Problem && (error.isMissing || error.status === 401 || error.status === 403)) return null;
    throw error;
  }
}

/// The line below every view.
function foot(status) {
  const facts = [`quipu ${info.version}`];
  if (status?.disk?.total_bytes > 0) facts.push(`${bytes(status.disk.free_bytes)} of ${bytes(status.disk.total_bytes)} free`);
  facts.push(...rates(status?.rates));
  say(document.getElementById("foot"), facts.join(" · "));
}

/// The server's rates in words.
function rates(all) {
  if (typeof all?.produce_rate !== "number") return [];
  return [`${count(Math.round(all.produce_rate))} records/s, ${byteRate(all.produce_bytes_rate)} written`, `${byteRate(all.fetch_bytes_rate)} read`];
}

async function collect(me, signal) {
  const found = [];
  if (me?.auth === "none" && !isLoopback(location.hostname)) {
    const text = "Everybody who reaches this address can read, change and delete everything: nobody has to sign in. Set auth=tokens, or listen on loopback only.";
    found.push({ level: "bad", title: "Open to all.", text });
  }
  let status = null;
  let damage = null;
  let ready = null;
  try {
    ready = await get(at("health", "ready"), undefined, { signal });
    status = await optional(at("v1", "status"), signal);
    damage = await optional(at("v1", "damage"), signal);
    info ??= await optional(at("v1", "info"), signal);
    if (info) foot(status);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return found;
    if (error.status === 503) ready = error.fields;
    const title = error.status === 0 ? "No answer." : "Not ready.";
    found.push({ level: "bad", title, text: error.status === 0 ? "The server does not answer; what is shown is old." : error.message });
  }
  const faults = new Map();
  for (const fault of [...list(ready?.degraded), ...list(status?.degraded)]) {
    const what = fault.what ?? String(fault);
    const key = `${what} ${fault.partition ?? ""} ${fault.damaged_offset ?? ""}`;
    if (!faults.has(key)) faults.set(key, { ...fault, what });
  }
  const rows = [...faults.values()];
  for (const fault of rows.filter(({ what }) => what !== "damage")) {
    const [title, text] = WORDS[fault.what] ?? [`${fault.what}.`];
    found.push({ level: "bad", title, text: text ?? sentence(fault) });
  }
  const damaged = rows.filter(({ what, skipped }) => what === "damage" && skipped !== true);
  const ranges = list(damage?.damage ?? damage?.ranges).filter(({ skipped }) => skipped !== true);
  if (damaged.length > 0 || ranges.length > 0) {
    const [first] = damaged;
    const name = first?.partition ?? (ranges[0] ? `${ranges[0].topic}/${ranges[0].partition}` : null);
    const text = first?.detail ? sentence({ partition: name, detail: first.detail }) : `Records of ${name} cannot be read.`;
    const others = Math.max(damaged.length, ranges.length) - 1;
    const more = name ? link("Look", ["topics", name.split("/")[0]]) : null;
    found.push({ level: "bad", title: "Damage.", text: others > 0 ? `${text} And ${count(others)} more.` : text, more });
  }
  const disk = status?.disk;
  if (disk?.total_bytes > 0 && !rows.some(({ what }) => what === "storage-full")) {
    const share = Number(disk.free_bytes) / Number(disk.total_bytes);
    const soon = status.full_in_ms ?? null;
    if (share < LOW || (soon !== null && soon < SOON_MS)) {
      const when = soon === null ? "" : ` At the present pace it is full in ${duration(soon)}.`;
      const text = `${bytes(disk.free_bytes)} of ${bytes(disk.total_bytes)} are free.${when}`;
      const title = share < LOW ? "The disk is nearly full." : "The disk fills up.";
      found.push({ level: share < LOW / 2 ? "bad" : "warn", title, text });
    }
  }
  return found;
}

/// The title of a fault, and what is said of it instead of its detail.
const WORDS = {
  "log-failed": ["Appends have stopped."],
  "storage-full": ["The disk is full.", "Appends go on by themselves when there is space."],
  "partition-failed": ["A partition has failed."],
};

/// A fault's detail, which begins with a small letter and has no full stop.
function sentence({ partition, detail = "" }) {
  const text = partition ? `${partition}: ${detail}` : `${detail.slice(0, 1).toUpperCase()}${detail.slice(1)}`;
  return text === "" || /[.!?]$/.test(text) ? text : `${text}.`;
}

function list(value) {
  return Array.isArray(value) ? value : [];
}
