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
/// it at once. What goes wrong is said in `place`, and taken back when it works again.
export function repeat(place, load, ms, signal, what) {
  const note = el("p", { class: "error", role: "status", hidden: true });
  place.prepend(note);
  let timer = null;
  let running = null;
  const run = async () => {
    clearTimeout(timer);
    timer = null;
    if (signal.aborted || document.hidden) return;
    const begin = performance.now();
    const patience = new AbortController();
    const late = setTimeout(() => patience.abort(new DOMException("no answer", "TimeoutError")), PATIENCE_MS);
    try {
      running = load(AbortSignal.any([signal, patience.signal]));
      await running;
      note.hidden = true;
      say(note, "");
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) console.error(error);
      note.hidden = false;
      say(note, explain(error, what));
    } finally {
      clearTimeout(late);
      running = null;
    }
    // What takes long is asked for less often.
    if (!signal.aborted && ms) timer = setTimeout(run, Math.max(ms, 5 * (performance.now() - begin)));
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !running) run();
  }, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return () => Promise.resolve(running).catch(() => {}).then(run);
}
