// First steps on an empty server, and the dialog that creates a topic.

import { at, call, curl } from "./api.js";
import { button, copyButton, dialog, el, field, go } from "./dom.js";

function form(done) {
  const name = el("input", { required: true, maxlength: "249", pattern: "[A-Za-z0-9._\\-]+", autocomplete: "off", spellcheck: "false", value: "" });
  const partitions = el("input", { type: "number", min: "1", max: "100000", value: "4", required: true });
  const status = el("p", { class: "error", role: "alert" });
  return el("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      status.textContent = "";
      try {
        await call("PUT", at("v1", "topics", name.value), { body: { partitions: Number(partitions.value) } });
        done(name.value);
      } catch (error) {
        status.textContent = error.message;
      }
    },
  },
  el("div", { class: "controls" },
    field("Name", name, "Letters, digits, and . _ -"),
    field("Partitions", partitions, "So many consumers can share the work. More can be added later."),
    el("button", { type: "submit", class: "primary" }, "Create")),
  status);
}

/// Asks for a name and creates a topic.
export function createTopic() {
  const made = dialog("Create a topic", [form((name) => {
    made.close();
    go(["topics", name]);
  })], [button("Cancel", () => made.close())]);
}

/// What to do first on a server without topics.
export function firstSteps() {
  const command = (title, text) => el("li", {}, el("p", {}, title),
    el("pre", { tabindex: "0", "aria-label": title }, text), copyButton("Copy", () => text));
  const topic = at("v1", "topics", "orders");
  const record = { records: [{ key: "customer-7", value: { order: 1, total: 12.5 } }] };
  return el("section", { class: "card", "aria-label": "First steps" }, el("h2", {}, "This server is empty"),
    el("p", {}, "Create a topic here: producers append records to it, and groups of consumers read them."),
    form((name) => go(["topics", name])),
    el("h3", {}, "Or from a shell"),
    el("ol", { class: "steps" },
      command("Create a topic with four partitions.", curl("PUT", topic, { body: { partitions: 4 } })),
      command("Append a record.", curl("POST", `${topic}/records`, { body: record })),
      command("Read it back.", curl("GET", `${topic}/records`)),
      command("Read as a group: from now on its lag is on this page.",
        curl("POST", at("v1", "groups", "billing", "members", "me", "poll"), { body: { topics: ["orders"], start: "earliest" } }))));
}
