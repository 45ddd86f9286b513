// The page of the API: every call of the OpenAPI document, with a search. It shows the document that this server has.

import { at, get } from "./api.js";
import { announce, el, field, put } from "./dom.js";
import { anchorOf, callsOf, details } from "./docs-call.js";
import { inline, prose, tree } from "./docs-schema.js";
import { explain } from "./live.js";
import { who } from "./session.js";

const main = document.getElementById("main");
const SCHEMA = "schema/";

function line(api, call) {
  const place = el("div", { class: "call" });
  const summary = el("summary", {},
    el("span", { class: `method ${call.method}` }, call.method.toUpperCase()),
    el("code", { class: "path" }, call.path),
    el("span", { class: "said" }, inline(call.operation.summary ?? "")));
  const made = el("details", {
    // A call is drawn when it is first opened: most never are.
    ontoggle: () => {
      if (made.open && place.childElementCount === 0) {
        const about = details(api, call).flat(3).filter(Boolean);
        put(place, el("p", { class: "hint" }, el("a", { href: `#${anchorOf(call)}` }, "Link to this call")), about);
      }
    },
  }, summary, place);
  return { anchor: anchorOf(call), words: call.words, element: el("li", {}, made), details: made, summary };
}

function schemaLine(api, name) {
  const place = el("div", { class: "call" });
  const reference = { $ref: `#/components/schemas/${name.replaceAll("~", "~0").replaceAll("/", "~1")}` };
  const summary = el("summary", {}, el("span", { class: "method" }, "type"), el("code", { class: "path" }, name));
  const made = el("details", {
    ontoggle: () => {
      if (made.open && place.childElementCount === 0) put(place, tree(api, reference));
    },
  }, summary, place);
  return { anchor: SCHEMA + name, words: name.toLowerCase(), element: el("li", {}, made), details: made, summary };
}

function sectionsOf(api) {
  const calls = callsOf(api);
  const told = new Map((api.tags ?? []).map(({ name, description }) => [name, description]));
  const tags = [...new Set([...told.keys(), ...calls.map(({ tag }) => tag)])];
  const sections = tags.map((tag) => ({ title: tag, about: told.get(tag), lines: calls.filter((call) => call.tag === tag).map((call) => line(api, call)) }));
  const schemas = Object.keys(api.components?.schemas ?? {}).sort();
  sections.push({ title: "types", about: "The bodies by name", lines: schemas.map((name) => schemaLine(api, name)) });
  return sections.filter(({ lines }) => lines.length > 0).map((section) => ({
    ...section,
    element: el("section", { "aria-label": section.title }, el("h2", {}, section.title.charAt(0).toUpperCase() + section.title.slice(1)),
      section.about ? el("p", { class: "quiet" }, inline(section.about)) : null, el("ul", { class: "calls" }, section.lines.map(({ element }) => element))),
  }));
}

/// Opens what the page's address names.
function follow(sections) {
  let wanted = location.hash.slice(1);
  try {
    wanted = decodeURIComponent(wanted);
  } catch {
    // Not an address of this page: nothing is opened.
  }
  const found = sections.flatMap(({ lines }) => lines).find(({ anchor }) => anchor === wanted);
  if (!found) return;
  found.element.hidden = false;
  found.element.closest("section").hidden = false;
  found.details.open = true;
  found.summary.scrollIntoView({ block: "start" });
  found.summary.focus({ preventScroll: true });
}

function finder(sections) {
  const all = sections.flatMap(({ lines }) => lines);
  const input = el("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  const count = el("p", { class: "quiet", role: "status" });
  const find = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const each of all) each.element.hidden = !words.every((word) => each.words.includes(word));
    for (const { element, lines } of sections) element.hidden = lines.every((each) => each.element.hidden);
    const shown = all.filter((each) => !each.element.hidden).length;
    count.textContent = words.length === 0 ? `${all.length} entries` : `${shown} of ${all.length} entries`;
  };
  input.addEventListener("input", find);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey;
    if (event.key === "/" && !isTyping) {
      event.preventDefault();
      input.focus();
      input.select();
    }
    if (event.key === "Escape" && event.target === input) {
      input.value = "";
      find();
    }
  });
  find();
  return el("div", { class: "finder", role: "search" }, el("div", { class: "controls" },
    field("Find a call", input, "Words of the path, the parameters and the text. The key / goes here."), count));
}

async function start() {
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  // Only for the commands: whether they need a token. The page itself is open to all.
  await who(() => location.reload()).catch(() => {});
  try {
    const api = await get(at("openapi.json"));
    const sections = sectionsOf(api);
    put(main, el("h1", { tabindex: "-1" }, "API"), prose(api.info?.description),
      el("p", { class: "quiet" }, `Version ${api.info?.version ?? ""}. `, el("a", { href: "openapi.json" }, "openapi.json"), " has all of this for programs."),
      finder(sections), sections.map(({ element }) => element));
    follow(sections);
    window.addEventListener("hashchange", () => follow(sections));
    announce("The calls of the API are listed");
  } catch (error) {
    put(main, el("h1", { tabindex: "-1" }, "API"), el("p", { class: "error", role: "alert" }, explain(error)));
  }
}

start();
