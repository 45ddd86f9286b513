// Sends a record: a test, or one that is there already once more.

import { at, call } from "./api.js";
import { announce, button, dialog, el, field, link, put, select } from "./dom.js";
import { Raw, isJson } from "./json.js";

/// A text as base64 of its UTF-8 bytes.
function base64(text) {
  let binary = "";
  for (const byte of new TextEncoder().encode(text)) binary += String.fromCharCode(byte);
  return btoa(binary);
}

function headersFrom(text) {
  const headers = Object.create(null);
  for (const line of text.split("\n").filter((one) => one.trim() !== "")) {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`a header is written as name: value, not ${line}`);
    const name = line.slice(0, colon).trim();
    const value = line.slice(colon + 1).trim();
    if (name in headers) headers[name] = [headers[name]].flat().concat(value);
    else headers[name] = value;
  }
  return headers;
}

/// The text of headers that can be edited as lines; null if they have bytes or line breaks, and are sent as they are.
function linesOf(headers) {
  const lines = [];
  for (const [name, value] of Object.entries(headers ?? {})) {
    for (const one of [value].flat()) {
      if (typeof one !== "string" || /[\r\n]/.test(one) || one !== one.trim() || /[:\r\n]/.test(name)) return null;
      lines.push(`${name}: ${one}`);
    }
  }
  return lines.join("\n");
}

/// Asks for a record and sends it to `topic`. `record`: one to begin with.
export function produceDialog(topic, record = {}) {
  const isAgain = record.offset !== undefined;
  // A field for one line has no line breaks, and an empty one means no key: such keys are sent as they are.
  const isKeyFixed = record.key_base64 !== undefined || (typeof record.key === "string" && /^$|[\r\n\0]/.test(record.key));
  const bytesValue = record.value_base64 ?? null;
  const lines = linesOf(record.headers);
  const key = el("input", { autocomplete: "off", spellcheck: "false", value: record.key ?? "", disabled: isKeyFixed });
  const kinds = [["json", "JSON"], ["text", "text"], ["none", "none (a tombstone)"], ...(bytesValue === null ? [] : [["bytes", "the bytes of the record"]])];
  const first = bytesValue !== null ? "bytes" : isAgain && !(record.value instanceof Raw) ? "none" : "json";
  const kind = select(kinds, first);
  const value = el("textarea", { rows: "8", spellcheck: "false", class: "code" });
  const begun = record.value instanceof Raw ? record.value.text : isAgain ? "" : '{\n  "hello": "quipu"\n}';
  value.value = begun;
  // A text area has line breaks of its own: a value that nobody has changed is sent as it was.
  const untouched = value.value;
  const headers = el("textarea", { rows: "3", spellcheck: "false", class: "code", disabled: lines === null });
  headers.value = lines ?? "";
  const partition = el("input", { inputmode: "numeric", pattern: "[0-9]*", autocomplete: "off" });
  const status = el("p", { role: "status" });
  const whichValue = () => { value.disabled = kind.value === "none" || kind.value === "bytes"; };
  kind.addEventListener("change", whichValue);
  whichValue();
  const send = async (event) => {
    event.preventDefault();
    status.className = "error";
    put(status);
    try {
      const sent = { headers: lines === null ? record.headers : headersFrom(headers.value) };
      if (isKeyFixed) Object.assign(sent, record.key_base64 === undefined ? { key: record.key } : { key_base64: record.key_base64 });
      else if (key.value !== "") sent.key = key.value;
      if (partition.value !== "") sent.partition = Number(partition.value);
      if (kind.value === "json") {
        const text = value.value === untouched ? begun : value.value;
        if (!isJson(text)) throw new Error("The value is not JSON. Choose text to send it as it is.");
        // Null as JSON would be a tombstone.
        if (text.trim() === "null") sent.value_base64 = base64(text);
        else sent.value = new Raw(text);
      } else if (kind.value === "text") sent.value_base64 = base64(value.value);
      else if (kind.value === "bytes") sent.value_base64 = bytesValue;
      const { offsets: [placed] } = await call("POST", at("v1", "topics", topic, "records"), { body: { records: [sent] } });
      status.className = "done";
      put(status, "Stored as ", link(`${placed.partition}:${placed.offset}`, ["records", topic, String(placed.partition), String(placed.offset)]));
      announce(`Stored in partition ${placed.partition} at offset ${placed.offset}`);
    } catch (error) {
      put(status, error.message);
    }
  };
  const form = el("form", { onsubmit: send },
    field("Key", key, isKeyFixed ? "The record's key, as it is" : "Empty: no key"),
    field("Value is", kind), field("Value", value),
    field("Headers", headers, lines === null ? "The record's headers, as they are" : "One on each line, as name: value"),
    field("Partition", partition, "Empty: by the key"), status,
    el("div", { class: "actions" }, button("Close", () => made.close()), el("button", { type: "submit", class: "primary" }, "Send")));
  const made = dialog(isAgain ? `Send again to ${topic}` : `Send a record to ${topic}`, [form], []);
}
