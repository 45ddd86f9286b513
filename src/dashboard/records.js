// The record browser: the newest over all partitions, from a time, from an offset, filtered, searched, or live.

import { Problem, at, curl, get } from "./api.js";
import { button, copyButton, el, field, go, put, select } from "./dom.js";
import { bytes, count, counted, full, wholeNumber } from "./format.js";
import { VALUE_LIMIT, item } from "./record.js";
import { tail } from "./tail.js";

const PAGE = "50";
const PAGES = [[PAGE, "50"], ["200", "200"], ["500", "500"]];
/// How long one call searches, so that the page can say how far it is.
const STEP_MS = 1000;

const STARTS = [["newest", "the newest"], ["oldest", "the oldest"], ["time", "a time"], ["offset", "an offset"]];

export async function records(context) {
  const topic = context.path[1] ?? "";
  const { query } = context;
  const page = Number(query.page ?? PAGE);
  context.title(topic ? `Records of ${topic}` : "Records");
  const form = await formOf(context, topic, query);
  const place = el("div");
  context.main.append(form, place);
  const names = topic ? topic.split(",") : await someTopics(context.signal);
  if (names.length === 0) {
    put(place, el("p", { class: "quiet" }, "There is no topic yet."));
    return;
  }
  if (!topic) place.append(el("p", { class: "quiet" }, names.length === 1 ? "The only topic." : `Over ${count(names.length)} topics. Name one to look further.`));
  const source = sourceOf(names, query);
  if (query.at === "offset" && names.length !== 1) throw new Problem(0, { detail: "Offsets are those of one topic: name it." });
  const list = el("div");
  place.append(list);
  if (query.live) tail(context, list, source);
  else if (query.search) await search(context, list, source, query, page);
  else if (query.at === "offset" && names.length === 1) await byOffset(context, list, names[0], query, page);
  else await pages(context, list, source, query, page);
}

/// The topics of the view over all: few enough for one stream of 256 partitions, the busiest first.
async function someTopics(signal) {
  const { topics } = await get(at("v1", "topics"), { sort: "rate", limit: 100, config: "false" }, { signal });
  let partitions = 0;
  const fits = ({ partition_count: of }) => {
    if (partitions + of > 256) return false;
    partitions += of;
    return true;
  };
  return topics.filter(fits).map(({ name }) => name);
}

/// The call that reads these topics, and the filters of its query.
function sourceOf(names, query) {
  const [name, value] = query.header ? splitHeader(query.header) : [null, null];
  const filters = { key: query.key, partitions: names.length === 1 ? query.partitions : undefined };
  if (name) filters[`header.${name}`] = value;
  const one = names.length === 1;
  return {
    names,
    path: one ? at("v1", "topics", names[0], "records") : at("v1", "records"),
    query: one ? filters : { topics: names.join(","), ...filters },
    shown: { topic: one ? names[0] : undefined, showTopic: !one },
    begin: query.at === "time" && query.time ? query.time : "earliest",
  };
}

function splitHeader(text) {
  const at = text.indexOf("=");
  // Left out in silence it would look as if every record had it.
  if (at < 1) throw new Problem(0, { detail: `A header is looked for as name=value, not ${text}.` });
  return [text.slice(0, at).trim(), text.slice(at + 1).trim()];
}

/// A time for the input, in this browser's zone, and back.
function localTime(iso) {
  const at = new Date(iso ?? Number.NaN);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

async function formOf(context, topic, query) {
  const options = el("datalist", { id: "topic-names" });
  const name = el("input", { value: topic, list: "topic-names", autocomplete: "off", spellcheck: "false" });
  const start = select(STARTS, query.at ?? "newest");
  const time = el("input", { type: "datetime-local", step: "1", value: localTime(query.time) });
  const partition = el("input", { inputmode: "numeric", pattern: "[0-9]+", value: query.partition ?? "0" });
  const offset = el("input", { inputmode: "numeric", pattern: "[0-9]+", value: query.offset ?? "0" });
  const key = el("input", { value: query.key ?? "", autocomplete: "off", spellcheck: "false" });
  const header = el("input", { value: query.header ?? "", placeholder: "type=order.*", autocomplete: "off", spellcheck: "false" });
  const text = el("input", { type: "search", value: query.search ?? "", autocomplete: "off", spellcheck: "false" });
  const page = select(PAGES, query.page ?? PAGE);
  const partitions = el("input", { value: query.partitions ?? "", placeholder: "all", pattern: "[0-9]+(,[0-9]+)*", autocomplete: "off" });
  const fields = { time: field("Time", time), partition: field("Partition", partition), offset: field("Offset", offset) };
  const others = [field("Key", key), field("Header", header), field("Search", text, "In key, value and headers")];
  const of = field("Partitions", partitions);
  const which = () => {
    fields.time.hidden = start.value !== "time";
    fields.partition.hidden = fields.offset.hidden = start.value !== "offset";
    [...others, of].forEach((one) => { one.hidden = start.value === "offset"; });
  };
  start.addEventListener("change", which);
  which();
  let asked = null;
  const suggest = () => {
    clearTimeout(asked);
    asked = setTimeout(async () => {
      // Names that cannot be had are only suggestions.
      const { topics } = await get(at("v1", "topics"), { q: name.value, limit: 50, config: "false" }, { signal: context.signal })
        .catch(() => ({ topics: [] }));
      put(options, topics.map((one) => el("option", { value: one.name })));
    }, 150);
  };
  name.addEventListener("input", () => suggest());
  name.addEventListener("focus", () => suggest(), { once: true });
  const show = (live) => {
    const isOffset = start.value === "offset" && !live;
    const common = isOffset ? { partition: partition.value, offset: offset.value } : {
      key: key.value, header: header.value, search: text.value, partitions: partitions.value,
      time: start.value === "time" && time.value ? new Date(time.value).toISOString() : "",
    };
    const path = name.value.trim() ? ["records", name.value.trim()] : ["records"];
    const next = { page: page.value === PAGE ? "" : page.value, at: start.value === "newest" ? "" : start.value, live: live ? "1" : "", ...common };
    const before = location.hash;
    go(path, next);
    // The same question again asks anew.
    if (location.hash === before) window.dispatchEvent(new HashChangeEvent("hashchange"));
  };
  return el("form", { class: "controls records-form", "aria-label": "Which records", onsubmit: (event) => { event.preventDefault(); show(false); } },
    field("Topic", name, "Several with commas"), options, field("Begin at", start), fields.time, fields.partition, fields.offset, others, of, field("Records a page", page),
    el("div", { class: "actions" }, el("button", { type: "submit", class: "primary" }, "Show"), button("Live tail", () => show(true))));
}

function listOf(label) {
  return el("ol", { class: "records", "aria-label": label });
}

/// Pages by cursor: back in time from the newest, or on from a beginning.
async function pages(context, place, source, query, most) {
  const isBack = !query.at || query.at === "newest";
  const list = listOf("Records");
  const status = el("p", { class: "quiet", role: "status" });
  // The beginnings of the pages from the first to the one that is shown.
  let trail = [];
  let cursor = null;
  let isEnd = true;
  let isTurning = false;
  const older = button(isBack ? "Older" : "Newer", () => turn([...trail, cursor]));
  const newer = button(isBack ? "Newer" : "Older", () => turn(trail.slice(0, -1)));
  const queryOf = (from) => (isBack
    ? { ...source.query, last: most, until: from }
    : { ...source.query, from: from ?? source.begin, max_records: most, order: "timestamp" });
  const command = copyButton("Copy as curl", () => curl("GET", source.path, { query: queryOf(trail[trail.length - 1]), accept: "application/json" }));
  put(place, el("div", { class: "pager" }, newer, older, status, command), list);
  async function turn(to) {
    // Pressed twice before the answer, a button would turn one page and count two. A button without power would lose
    // the focus, so it keeps that.
    if (isTurning) return;
    isTurning = true;
    try {
      const page = await get(source.path, { ...queryOf(to[to.length - 1]), value_limit: VALUE_LIMIT }, { records: true, signal: context.signal });
      trail = to;
      cursor = page.cursor;
      const shown = isBack ? newestFirst(page.records) : page.records;
      put(list, shown.map((record) => item(record, source.shown)));
      const isPart = page.ended === "time" || page.ended === "bytes";
      isEnd = (page.records.length < most && !isPart) || !cursor;
      const looked = isPart ? ` Looked at ${count(page.scanned_records)} so far.` : "";
      status.textContent = (shown.length === 0 ? "No records here." : `${counted(shown.length, "record")}, ${isBack ? "the newest first" : "the oldest first"}.`) + looked;
    } catch (error) {
      if (!context.signal.aborted) status.textContent = error.message;
    }
    isTurning = false;
    older.disabled = isEnd;
    newer.disabled = trail.length < 2;
  }
  await turn([undefined]);
}

const later = (one, other) => Number(other.timestamp) - Number(one.timestamp) || Number(other.offset > one.offset) - Number(other.offset < one.offset);

function newestFirst(all) {
  return [...all].sort(later);
}

/// Pages of one partition by offset.
async function byOffset(context, place, topic, query, most) {
  const path = at("v1", "topics", topic, "partitions", query.partition ?? "0", "records");
  const list = listOf("Records");
  const status = el("p", { class: "quiet", role: "status" });
  // Some offsets are larger than JavaScript's numbers. What is no number is refused by the server.
  let now = wholeNumber(query.offset ?? 0) ?? query.offset;
  let bounds = null;
  let next = now;
  const back = (start, from) => {
    const at = BigInt(from) - (wholeNumber(most) ?? 0n);
    return at > start ? at : start;
  };
  const before = button("Before", () => step(back(bounds?.start ?? 0, now)));
  const after = button("After", () => step(next));
  const command = copyButton("Copy as curl", () => curl("GET", path, { query: { offset: now, max_records: most } }));
  put(place, el("div", { class: "pager" }, before, after, status, command), list);
  async function step(offset) {
    try {
      const page = await get(path, { offset, max_records: most, value_limit: VALUE_LIMIT }, { records: true, signal: context.signal });
      now = offset;
      next = page.next_offset;
      bounds = { start: page.log_start_offset, end: page.end_offset };
      put(list, page.records.map((record) => item(record, { topic })));
      before.disabled = now <= bounds.start;
      after.disabled = next >= bounds.end;
      status.textContent = `Partition ${query.partition ?? 0} has offsets ${full(bounds.start)} to ${full(bounds.end)} (exclusive); ${count(page.records.length)} from ${full(offset)}.`;
    } catch (error) {
      if (context.signal.aborted) return;
      const { log_start_offset: start, end_offset: end } = error.fields ?? {};
      before.disabled = after.disabled = true;
      put(status, error.message, " ", start === undefined ? null : button(`Go to ${full(start)}`, () => step(start), { class: "small" }),
        end === undefined || end === start ? null : button(`Go to the newest`, () => step(back(start, end)), { class: "small" }));
    }
  }
  await step(now);
}

/// Searches in steps of a second, says how far it has looked, and can be stopped and gone on with.
async function search(context, place, source, query, size) {
  const isBack = !query.at || query.at === "newest";
  const list = listOf("Found records");
  const status = el("p", { role: "status", class: "progress" });
  const stop = button("Stop", () => end("Stopped."));
  const on = button("Search on", () => run());
  const queryOf = (from, most) => ({
    ...source.query, search: query.search, max_scan_ms: STEP_MS, value_limit: VALUE_LIMIT,
    ...(isBack ? { last: most, until: from } : { from: from ?? source.begin, max_records: most, order: "timestamp" }),
  });
  const command = copyButton("Copy as curl", () => curl("GET", source.path, { query: { ...queryOf(undefined, size), value_limit: "" }, accept: "application/json" }));
  put(place, el("div", { class: "pager" }, stop, on, status, command), list);
  let cursor;
  let looked = { records: 0, bytes: 0 };
  const finds = [];
  let running = null;
  const say = (words) => {
    status.textContent = `${words} Looked at ${full(looked.records)} records (${bytes(looked.bytes)}) ${isBack ? "from the newest back" : "from the beginning on"}, found ${full(finds.length)}.`;
  };
  function end(words) {
    running?.abort();
    running = null;
    stop.disabled = true;
    on.disabled = cursor === null;
    say(words);
  }
  async function run() {
    running = new AbortController();
    const mine = running;
    context.signal.addEventListener("abort", () => mine.abort());
    stop.disabled = false;
    on.disabled = true;
    let left = size;
    say("Searching…");
    while (!mine.signal.aborted) {
      let page;
      try {
        page = await get(source.path, queryOf(cursor, left), { records: true, signal: mine.signal });
      } catch (error) {
        if (mine.signal.aborted) return;
        end(error.status === 501 ? "This server cannot search yet." : error.message);
        return;
      }
      if (mine.signal.aborted) return;
      looked = { records: looked.records + Number(page.scanned_records), bytes: looked.bytes + Number(page.scanned_bytes) };
      left -= page.records.length;
      const shown = isBack ? newestFirst(page.records) : page.records;
      for (const record of shown) {
        // A step that ends early has not looked back equally far in every partition: what is found later may belong further up.
        let place = finds.length;
        while (isBack && place > 0 && later(record, finds[place - 1].record) < 0) place -= 1;
        const line = item(record, source.shown);
        list.insertBefore(line, finds[place]?.line ?? null);
        finds.splice(place, 0, { record, line });
      }
      const isEnd = page.ended === "end" || !page.cursor;
      cursor = isEnd ? null : page.cursor;
      if (isEnd) return end("Everything is searched.");
      if (left <= 0) return end("A page is full.");
      say("Searching…");
    }
  }
  await run();
}
