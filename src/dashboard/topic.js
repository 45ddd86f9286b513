// One topic: partitions, rates, settings, the groups that read it, and what can be done with it.

import { at, call, curl, get, Problem } from "./api.js";
import { attempt, button, confirm, copyButton, el, field, go, keep, link, preview, say, table } from "./dom.js";
import { ago, byteRate, bytes, count, duration, full, rate, time } from "./format.js";
import { write } from "./json.js";
import { lagColumns, number, tiles } from "./lag.js";
import { produceDialog } from "./produce.js";

const PAGE = 100;

export function topic(context) {
  const name = context.path[1];
  const path = at("v1", "topics", name);
  context.title(name);
  document.title = `Topic ${name} – quipu`;
  const summary = el("div");
  const damage = el("p", { class: "error", hidden: true });
  let described = null;
  const partitions = table("Partitions", [
    { name: "Partition", cell: ({ partition }) => link(String(partition), ["records", name], { partitions: partition }) },
    { name: "Records", class: "num", cell: ({ log_start_offset: start, end_offset: end }) => number(end - start) },
    { name: "Offsets", class: "num", cell: ({ log_start_offset: start, end_offset: end }) => `${full(start)} to ${full(end)}` },
    { name: "Size", class: "num", cell: ({ size_bytes: size }) => bytes(size) },
    { name: "Segments", class: "num", cell: ({ segments }) => count(segments) },
    { name: "Oldest", cell: ({ first_timestamp: when }) => el("span", { title: time(when) }, when === null ? "–" : ago(when)) },
    { name: "Newest", cell: ({ last_timestamp: when }) => el("span", { title: time(when) }, when === null ? "–" : ago(when)) },
    { name: "", class: "links", cell: ({ partition }, cell) => cell.firstChild ?? button("Delete records…", () => trim(partition), { class: "small", "aria-label": `Delete records of partition ${partition}` }) },
  ], ({ partition }) => String(partition));
  const groups = table("Groups that read this topic", lagColumns(new Map()).filter((column) => column.name !== "Past hour"), ({ group }) => group);
  const settings = table("Settings", [
    { name: "Setting", cell: ({ key }) => key },
    { name: "Value", cell: ({ key, value }) => words(key, value) },
    { name: "Default", cell: ({ key, default: of }) => words(key, of) },
    { name: "Set by", cell: ({ source }) => source },
    { name: "", class: "links", cell: ({ key }, cell) => cell.firstChild ?? button("Change…", () => change(key), { class: "small", "aria-label": `Change ${key}` }) },
  ], ({ key }) => key);
  let first = 0;
  const where = el("span", { class: "quiet", role: "status" });
  const back = button("Previous", () => { first -= PAGE; draw(); });
  const on = button("Next", () => { first += PAGE; draw(); });
  const pager = el("div", { class: "pager" }, back, where, on);
  const draw = () => {
    const all = described.partitions;
    partitions.update(all.slice(first, first + PAGE));
    back.disabled = first === 0;
    on.disabled = first + PAGE >= all.length;
    pager.hidden = all.length <= PAGE;
    say(where, `${full(first)} to ${full(Math.min(first + PAGE, all.length) - 1)} of ${full(all.length)}`);
  };
  const place = el("div", {},
    el("div", { class: "actions" },
      link("Records", ["records", name], {}, { class: "button primary" }),
      link("Live tail", ["records", name], { live: "1" }, { class: "button" }),
      button("Send a record…", () => produceDialog(name)),
      button("Add partitions…", () => grow()),
      button("Delete…", () => remove(), { class: "danger" }),
      copyButton("Copy as curl", () => curl("GET", path))),
    damage, summary,
    el("section", { "aria-label": "Partitions" }, el("h2", {}, "Partitions"), partitions.element, pager));
  const groupSection = el("section", { "aria-label": "Groups" }, el("h2", {}, "Groups"), groups.element);
  context.main.append(place, groupSection, el("section", { "aria-label": "Settings" }, el("h2", {}, "Settings"), settings.element));

  const again = context.live(place, async (signal) => {
    described = await get(path, undefined, { signal });
    const all = described.partitions;
    const sum = (of) => all.reduce((total, one) => total + Number(of(one) ?? 0), 0);
    keep(summary, tiles([
      ["Records", number(sum((one) => one.end_offset - one.log_start_offset)), `in ${count(all.length)} partition${all.length === 1 ? "" : "s"}`],
      ["Size", bytes(sum((one) => one.size_bytes)), "on disk"],
      ...(described.produce_rate === undefined ? [] : [["Written", rate(described.produce_rate), byteRate(described.produce_bytes_rate)], ["Read", byteRate(described.fetch_bytes_rate), "by all readers"]]),
      ["Kept", described.config.retention_ms?.value === null ? "for ever" : duration(described.config.retention_ms?.value), "retention by age"],
    ]));
    const broken = all.filter((one) => one.damaged_offset !== undefined);
    damage.hidden = broken.length === 0;
    if (broken.length > 0) {
      const [one] = broken;
      keep(damage, `Partition ${one.partition} cannot be read from offset ${full(one.damaged_offset)} to ${full(one.damaged_until_offset)} (exclusive)${broken.length > 1 ? `, and ${count(broken.length - 1)} more partitions have damage` : ""}. Restore the file from a backup, or skip the range: `,
        el("code", {}, `quipu topic skip ${name}`));
    }
    draw();
    settings.update(Object.entries(described.config).map(([key, setting]) => ({ key, ...setting })));
  }, 3000);
  context.live(groupSection, async (signal) => {
    const { groups: found } = await get(at("v1", "lag"), { topic: name, limit: 100 }, { signal });
    groups.update(found, "No group reads this topic.");
  }, 3000, "list of lags by topic");

  /// The query of a change: it is refused if the topic that was looked at has been deleted, and another has its name.
  const asShown = () => ({ if_id: described.id });

  /// What a call would take, in words; a server that cannot say so leaves the numbers of the page.
  async function wouldGo(method, of, options) {
    try {
      const { records, size_bytes: size, groups: readers } = await call(method, of, { ...options, query: { ...options?.query, dry_run: "true" } });
      return { records, size, readers: (readers ?? []).map((one) => (typeof one === "string" ? one : one.group)) };
    } catch (error) {
      if (error instanceof Problem && error.status === 501) return null;
      throw error;
    }
  }
  const lost = (gone) => (gone === null ? el("p", { class: "warn-text" }, "This server cannot say beforehand how much that is.")
    : [el("p", {}, el("strong", {}, `${full(gone.records)} records (${bytes(gone.size)}) would go.`)),
      gone.readers?.length > 0 ? el("p", {}, `Groups that read it: ${gone.readers.slice(0, 20).join(", ")}${gone.readers.length > 20 ? ` and ${count(gone.readers.length - 20)} more` : ""}.`) : null]);

  function remove() {
    return attempt(async () => {
      const query = asShown();
      const gone = await wouldGo("DELETE", path, { query });
      confirm({
        title: `Delete the topic ${name}?`, typed: name, confirmText: "Delete",
        content: [el("p", {}, "The topic goes with all its records and with what groups have committed in it. This cannot be undone."), lost(gone)],
        act: async () => {
          await call("DELETE", path, { query });
          go(["topics"]);
        },
      });
    });
  }

  function trim(partition) {
    const row = described.partitions.find((one) => one.partition === partition);
    const shown = asShown();
    const before = el("input", { inputmode: "numeric", pattern: "[0-9]+", value: String(row.end_offset), required: true });
    const of = `${path}/partitions/${partition}/records`;
    preview(`Delete records of ${name} ${partition}`, [
      field("Before offset", before, `It has offsets ${full(row.log_start_offset)} to ${full(row.end_offset)} (exclusive).`),
    ], async () => {
      const query = { before: before.value, ...shown };
      const gone = await wouldGo("DELETE", of, { query });
      return {
        title: `Delete records of ${name} ${partition}?`, confirmText: "Delete records",
        content: [el("p", {}, `All records of partition ${partition} before offset ${full(BigInt(query.before))} go. This cannot be undone.`), lost(gone)],
        act: async () => {
          await call("DELETE", of, { query });
          await again();
        },
      };
    });
  }

  function grow() {
    const now = described.partition_count;
    const query = asShown();
    const wanted = el("input", { type: "number", min: String(now + 1), value: String(now + 1) });
    confirm({
      title: `Add partitions to ${name}?`, confirmText: "Add",
      content: [el("p", {}, `It has ${count(now)}. Partitions are never taken away again, and keys are placed anew: a key's later records may go to another partition.`),
        field("Partitions in all", wanted)],
      act: async () => {
        await call("PATCH", path, { query, body: { partitions: Number(wanted.value) } });
        await again();
      },
    });
  }

  function change(key) {
    const setting = described.config[key];
    const query = asShown();
    const value = el("input", { value: write(setting.value), autocomplete: "off", spellcheck: "false", class: "code" });
    preview(`Change ${key}`, [field("Value", value, `null means the default, ${words(key, setting.default)}`)], async () => {
      const typed = value.value.trim();
      // A word without quotes is a text.
      let wanted = typed === "" ? "null" : typed;
      if (!/^(-?\d+(\.\d+)?|true|false|null|".*")$/.test(wanted)) wanted = JSON.stringify(wanted);
      const body = `{"config":{${JSON.stringify(key)}:${wanted}}}`;
      const gone = await wouldGo("PATCH", path, { query, body });
      return {
        title: `Change ${key} of ${name}?`, confirmText: "Change",
        content: [el("p", {}, `From ${words(key, setting.value)} to ${typed || "the default"}.`), gone === null || gone.records > 0 ? lost(gone) : el("p", {}, "No records would go.")],
        act: async () => {
          await call("PATCH", path, { query, body });
          await again();
        },
      };
    });
  }
}

/// A setting's value, with a unit for people beside it.
function words(key, value) {
  const text = write(value);
  if (typeof value !== "number") return text;
  if (key.endsWith("_ms")) return `${text} (${duration(value)})`;
  return key.endsWith("_bytes") ? `${text} (${bytes(value)})` : text;
}
