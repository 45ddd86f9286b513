// Navigation: which view an address shows, and what every view gets.
//
// A view is a function of a context: `path` and `query` of its address, `main` to fill, `signal` that is aborted when the
// view is left, `title(text)`, `live(place, load, ms)`, which calls `load` now and again while the page is visible, and
// `seesAll(kind)`, whether an empty list of topics or groups means that there are none.

import { Problem, onSignedOut } from "./api.js";
import { watch } from "./banners.js";
import { el, put } from "./dom.js";
import { group } from "./group.js";
import { groups } from "./groups.js";
import { letters } from "./letters.js";
import { explain, repeat } from "./live.js";
import { overview } from "./overview.js";
import { one } from "./record.js";
import { records } from "./records.js";
import { reset } from "./reset.js";
import { seesAll, signIn, who } from "./session.js";
import { topic } from "./topic.js";
import { topics } from "./topics.js";

const main = document.getElementById("main");
let leaving = new AbortController();
/// What the server says about sign-in; null if it could not be asked.
let me = null;

function viewOf([section, name, part, offset]) {
  if (!section) return overview;
  if (section === "topics") return name ? topic : topics;
  if (section === "groups" && part === "reset") return reset;
  if (section === "groups" && part === "dead-letters") return letters;
  if (section === "groups") return name ? group : groups;
  if (section === "records") return offset === undefined ? records : one;
  return null;
}

function addressOf(hash) {
  const [path, query] = hash.replace(/^#?\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { path: parts, query: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

let isFirst = true;

function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  document.querySelectorAll("dialog").forEach((open) => open.close());
  const { path, query } = addressOf(location.hash);
  for (const anchor of document.querySelectorAll("nav [data-section]")) {
    if (anchor.dataset.section === path[0]) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  const heading = el("h1", { tabindex: "-1" });
  put(main, heading);
  const context = {
    path, query, main, signal,
    title(text, ...more) {
      put(heading, text, ...more);
      document.title = text ? `${text} – quipu` : "quipu";
    },
    live: (place, load, ms, what) => repeat(place, load, ms, signal, what),
    seesAll: (kind) => seesAll(me, kind),
  };
  context.title("quipu");
  const view = viewOf(path);
  if (!view) {
    context.title("Nothing is here");
    main.append(el("p", {}, "This address of the page does not exist. ", el("a", { href: "#/" }, "Start page")));
  } else {
    Promise.resolve(view(context)).catch((error) => {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) console.error(error);
      main.append(el("p", { class: "error", role: "alert" }, explain(error)));
    });
  }
  // A screen reader reads the new view from its heading on.
  if (!isFirst) heading.focus({ preventScroll: true });
  if (!isFirst) window.scrollTo(0, 0);
  isFirst = false;
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

onSignedOut(() => {
  if (document.getElementById("sign-in")) return;
  leaving.abort();
  signIn(main, start);
});

async function start() {
  // Who signs out hears nothing more.
  leaving.abort();
  me = null;
  try {
    me = await who(start);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  watch(me);
  if (me?.auth === "tokens" && me.principal === null) signIn(main, start, me.why);
  else show();
}

window.addEventListener("hashchange", show);
start();
