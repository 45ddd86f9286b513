// Live tail: one stream, none while the page is hidden or paused. A cursor remembers the place, so nothing is lost.

import { curl, events, get, Problem } from "./api.js";
import { announce, button, copyButton, el, put, say } from "./dom.js";
import { count, full } from "./format.js";
import { read } from "./json.js";
import { VALUE_LIMIT, item } from "./record.js";

/// The most records that stay on the page.
const KEPT = 500;
/// How long a broken stream waits.
const AGAIN_MS = 2000;

/// Why records are not there that a tail should have had.
const GAPS = { trimmed: "they were deleted before they were read here", skipped: "they are damaged, and are skipped" };

/// Follows `source` from its end on.
export function tail(context, place, source) {
  const list = el("ol", { class: "records", "aria-label": "Live records, the newest first" });
  const status = el("p", { role: "status", class: "progress" });
  const seen = el("span", { class: "quiet" });
  const query = { ...source.query, search: context.query.search, follow: "true", from: "latest" };
  let cursor = null;
  let total = 0;
  let waiting = [];
  let frame = null;
  let stream = null;
  let again = null;
  let isPaused = false;

  const toggle = button("Pause", () => {
    isPaused = !isPaused;
    toggle.textContent = isPaused ? "Resume" : "Pause";
    announce(isPaused ? "Paused" : "Resumed");
    if (isPaused) close("Paused: it goes on where it stopped.");
    else open();
  }, { class: "primary" });
  const clear = button("Clear", () => { put(list); waiting = []; });
  put(place, el("div", { class: "pager" }, toggle, clear, status, seen,
    copyButton("Copy as curl", () => `${curl("GET", source.path, { query, accept: "text/event-stream" })} -N`)), list);

  const draw = () => {
    frame = null;
    const shown = waiting.slice(-KEPT).reverse();
    total += waiting.length;
    waiting = [];
    list.prepend(...shown.map(({ event, data }) => (event === "gap" ? gap(read(data)) : item(read(data, true), source.shown))));
    // What somebody reads stays, with all that is newer.
    while (list.children.length > KEPT && !list.lastChild.contains(document.activeElement)) list.lastChild.remove();
    if (stream) say(status, "Live.");
    seen.textContent = total > KEPT ? `${count(total)} so far, the newest ${KEPT} shown` : `${count(total)} so far`;
  };
  const heard = (event) => {
    if (event.id) cursor = event.id;
    if (event.event === "error") {
      const fields = read(event.data);
      throw new Problem(Number(fields.status ?? 500), fields);
    }
    if (event.event !== "record" && event.event !== "gap") return;
    waiting.push(event);
    if (waiting.length > 2 * KEPT) {
      total += KEPT;
      waiting.splice(0, KEPT);
    }
    frame ??= requestAnimationFrame(draw);
  };
  const gap = ({ topic, partition, from_offset: from, until_offset: until, reason }) => el("li", { class: "warn-text" },
    `${topic} ${partition}: offsets ${full(from)} to ${full(until)} (exclusive) are missing: ${GAPS[reason] ?? reason}.`);
  function close(words) {
    clearTimeout(again);
    stream?.abort();
    stream = null;
    say(status, words);
  }
  async function open() {
    if (isPaused || document.hidden || stream || context.signal.aborted) return;
    clearTimeout(again);
    const mine = new AbortController();
    stream = mine;
    say(status, "Live: waiting for records.");
    try {
      // The place where the tail begins, so that a pause before the first record loses nothing.
      cursor ??= (await get(source.path, { ...source.query, from: "latest", max_records: 1 }, { signal: mine.signal })).cursor;
      await events(source.path, {
        query: { ...query, from: cursor, value_limit: VALUE_LIMIT }, signal: mine.signal, heard,
      });
      if (stream === mine) close("The stream ended.");
    } catch (error) {
      if (stream !== mine) return;
      // Damage is not gone when the same is asked again; a server that is away, or a quota, is.
      const isRefused = error instanceof Problem && !error.isPassing;
      close(isRefused ? error.message : "The connection broke; it is made again.");
      mine.abort();
      if (error.status === 410) cursor = null;
      if (isRefused && error.status !== 410) return;
    }
    if (!context.signal.aborted && !isPaused) again = setTimeout(open, AGAIN_MS);
  }
  document.addEventListener("visibilitychange", () => {
    if (isPaused) return;
    if (document.hidden) close("Not followed while the page is hidden.");
    else open();
  }, { signal: context.signal });
  context.signal.addEventListener("abort", () => {
    close("");
    cancelAnimationFrame(frame);
  });
  open();
}
