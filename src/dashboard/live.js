// Calls that are made again and again while the page is visible, and what is said when they fail.

import { Problem } from "./api.js";
import { el, say } from "./dom.js";

/// How long an answer may take. Without an end, a call that is never answered would stop the refresh in silence.
const PATIENCE_MS = 30000;

/// What a view that a server lacks, or that fails, says in its place.
export function explain(error, what) {
  if (error instanceof Problem && error.isMissing && error.code !== "unknown-topic") {
    return `This server has no ${what ?? "such call"} yet.`;
  }
  return error.message;
}

/// Calls `load` now and every `ms` milliseconds while the page is visible, until `signal`; returns a function that calls
/// it at once, and ends a call under way: its answer would be of an older question. What goes wrong is said in `place`, and
/// taken back when it works again.
export function repeat(place, load, ms, signal, what) {
  const note = el("p", { class: "error", role: "status", hidden: true });
  place.prepend(note);
  let timer = null;
  // The call under way, what ends it, and the one that is to follow. Never two at a time: the older could end last.
  let running = null;
  let patience = null;
  let waiting = null;
  const run = () => {
    clearTimeout(timer);
    timer = null;
    running ??= once().finally(() => { running = null; });
    return running;
  };
  const once = async () => {
    if (signal.aborted || document.hidden) return;
    const begin = performance.now();
    const mine = new AbortController();
    patience = mine;
    const late = setTimeout(() => mine.abort(new DOMException("no answer", "TimeoutError")), PATIENCE_MS);
    try {
      await load(AbortSignal.any([signal, mine.signal]));
      note.hidden = true;
      say(note, "");
    } catch (error) {
      if (signal.aborted || mine.signal.reason?.name === "AbortError") return;
      if (!(error instanceof Problem)) console.error(error);
      note.hidden = false;
      say(note, explain(error, what));
    } finally {
      clearTimeout(late);
    }
    // What takes long is asked for less often.
    if (!signal.aborted && ms) timer = setTimeout(run, Math.max(ms, 5 * (performance.now() - begin)));
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) run();
  }, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return () => {
    patience?.abort();
    waiting ??= Promise.resolve(running).then(() => {
      waiting = null;
      return run();
    });
    return waiting;
  };
}
