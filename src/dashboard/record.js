// How a record looks: a line that opens to its value, headers and what can be done with it; and the page of one record.

import { address, at, curl, get } from "./api.js";
import { button, copyButton, el, link, put } from "./dom.js";
import { bytes, time, wholeNumber } from "./format.js";
import { Raw, isJson, pretty } from "./json.js";
import { produceDialog } from "./produce.js";

/// How much of a value lists ask for, and how much is shown before somebody asks for all of it.
export const VALUE_LIMIT = 2000;
const SHOWN = 100000;

/// The value as text: of JSON its own text, else what its bytes are.
export function valueOf(record) {
  if (record.value instanceof Raw) return { kind: "json", text: record.value.text };
  if (typeof record.value_text === "string") return { kind: "cut", text: record.value_text, bytes: record.value_bytes };
  if (typeof record.value_base64 === "string") return decoded(record.value_base64);
  return { kind: "tombstone", text: "" };
}

function decoded(base64) {
  const binary = atob(base64);
  const all = Uint8Array.from(binary, (char) => char.charCodeAt(0));
  try {
    return { kind: "text", text: new TextDecoder("utf-8", { fatal: true }).decode(all), bytes: all.length };
  } catch {
    return { kind: "bytes", text: base64, bytes: all.length };
  }
}

const KINDS = { json: "JSON", cut: "beginning of the value", text: "text", bytes: "bytes, as base64", tombstone: "no value (a tombstone)" };

/// A key, or a word for what it is.
export function keyText(record) {
  if (typeof record.key === "string") return record.key;
  if (typeof record.key_base64 === "string") return `base64 ${record.key_base64}`;
  return null;
}

/// A text for one line: control characters have signs there, so that two different keys never look the same.
function visible(text) {
  return text.replace(/[\0-\x1f\x7f]/g, (char) => String.fromCharCode(char === "\x7f" ? 0x2421 : 0x2400 + char.charCodeAt(0)));
}

/// Headers as `[name, value]`; a name may repeat.
export function headersOf(record) {
  const text = (value) => (typeof value === "string" ? value : `base64 ${value?.base64 ?? ""}`);
  return Object.entries(record.headers ?? {}).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((one) => [name, text(one)]));
}

/// The path of the call that reads this record alone.
function pathOf({ topic, partition }) {
  return at("v1", "topics", topic, "partitions", partition, "records");
}

async function whole({ topic, partition, offset }) {
  const page = await get(pathOf({ topic, partition }), { offset, max_records: 1 }, { records: true });
  const found = page.records.find((record) => record.offset === offset);
  if (!found) throw new Error("This record is no longer there.");
  return { ...found, topic };
}

/// Pretty JSON: its tokens as elements, and between them plain text, which is cheap.
function coloured(json) {
  const parts = [];
  let plain = "";
  for (const [kind, token] of pretty(json)) {
    if (kind === "space" || kind === "mark") {
      plain += token;
      continue;
    }
    parts.push(plain, el("span", { class: `json-${kind}` }, token));
    plain = "";
  }
  return [...parts, plain];
}

function valueView(record) {
  const value = valueOf(record);
  const text = value.kind === "json" && value.text.length <= SHOWN ? coloured(value.text) : [value.text.slice(0, SHOWN)];
  const box = el("pre", { class: "value", tabindex: "0", "aria-label": "Value" }, text);
  const size = value.bytes === undefined ? "" : `, ${bytes(value.bytes)}`;
  const isCut = value.text.length > SHOWN;
  return [
    el("p", { class: "quiet" }, `Value: ${KINDS[value.kind]}${size}${isCut ? `; the first ${SHOWN} characters` : ""}`),
    value.kind === "tombstone" ? null : box,
    isCut ? button("Show all of it", (event) => {
      put(box, value.text);
      event.currentTarget.remove();
    }, { class: "small" }) : null,
  ];
}

/// All of a record: value, headers, and what can be done with it.
export function details(record) {
  const place = el("div", { class: "details" });
  const draw = (shown) => {
    const headers = headersOf(shown);
    const query = { offset: shown.offset, max_records: 1 };
    put(place,
      valueView(shown),
      headers.length === 0 ? el("p", { class: "quiet" }, "No headers") : el("dl", { class: "pairs" },
        headers.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
      el("div", { class: "actions" },
        copyButton("Copy as curl", () => curl("GET", pathOf(shown), { query })),
        copyButton("Copy value", async () => valueOf(shown.truncated ? await whole(shown) : shown).text),
        button("Send again…", async () => produceDialog(shown.topic, shown.truncated ? await whole(shown) : shown), { class: "small" }),
        link("Open", ["records", shown.topic, String(shown.partition), String(shown.offset)], {}, { class: "button small" }),
        el("a", { class: "button small", href: address(pathOf(shown), query) }, "JSON")));
  };
  draw(record);
  if (record.truncated) {
    whole(record).then(draw, (error) => place.prepend(el("p", { class: "error" }, error.message)));
  }
  return place;
}

/// A record as a line of a list. `topic`: of a list over one topic.
export function item(record, { topic, showTopic = false, extra = null } = {}) {
  const known = { topic, ...record };
  const value = valueOf(known);
  const key = keyText(known);
  const summary = el("summary", {},
    el("time", {}, time(known.timestamp)),
    el("span", { class: "place" }, showTopic ? `${known.topic} ` : "", `${known.partition}:${known.offset}`),
    el("span", { class: "key" }, key === null ? el("i", {}, "no key") : visible(key.slice(0, 200))),
    el("span", { class: "snippet" }, value.kind === "tombstone" ? el("i", {}, "tombstone") : visible(value.text.slice(0, 300))),
    extra);
  const box = el("details", { class: "record" }, summary);
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) box.append(details(known));
  });
  return el("li", {}, box);
}

/// The page of one record.
export async function one(context) {
  const [, topic, partition, text] = context.path;
  // What is no number is refused by the server.
  const offset = wholeNumber(text);
  context.title(`${topic} ${partition}:${text}`);
  const neighbours = el("nav", { class: "actions", "aria-label": "Neighbours" },
    offset > 0n ? link("Before", ["records", topic, partition, String(offset - 1n)], {}, { class: "button small" }) : null,
    offset === null ? null : link("After", ["records", topic, partition, String(offset + 1n)], {}, { class: "button small" }),
    link("From here on", ["records", topic], { at: "offset", partition, offset: text }, { class: "button small" }),
    link(`Topic ${topic}`, ["topics", topic], {}, { class: "button small" }));
  context.main.append(neighbours);
  const page = await get(at("v1", "topics", topic, "partitions", partition, "records"), { offset: text, max_records: 1 },
    { records: true, signal: context.signal });
  const [record] = page.records;
  if (!record) {
    context.main.append(el("p", {}, "There is no such record yet. ", link("Look again", context.path)));
    return;
  }
  if (String(record.offset) !== String(offset)) {
    context.main.append(el("p", { class: "note" }, `No record has this offset; the next one is ${record.offset}.`));
  }
  const shown = { ...record, topic };
  const key = keyText(shown);
  context.main.append(el("section", { class: "card", "aria-label": "Record" },
    el("dl", { class: "pairs" }, [["Time", time(shown.timestamp)], ["Key", key === null ? "no key" : visible(key)], ["Partition", shown.partition], ["Offset", shown.offset]]
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))))),
    details(shown)));
}

/// Whether a text can be sent as a JSON value as it is.
export function canBeJson(text) {
  return text.trim() !== "" && isJson(text);
}
