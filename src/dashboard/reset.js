// Moves a group's offsets: all topics at once, of live groups too, never without a preview.

import { at, call, curl, get, Problem } from "./api.js";
import { announce, button, confirm, copyButton, el, field, freshId, link, put, select, table } from "./dom.js";
import { count, counted, duration, full, time, wholeNumber } from "./format.js";

const TARGETS = [["earliest", "beginning"], ["latest", "end"], ["time", "a time"], ["offset", "an offset"], ["shift", "a shift"]];
/// The most rows that are shown; all are in the sums.
const SHOWN = 200;

export async function reset(context) {
  const name = context.path[1];
  context.title("Reset ", link(name, ["groups", name]));
  document.title = `Reset ${name} – quipu`;
  const lag = await get(at("v1", "groups", name, "lag"), undefined, { signal: context.signal });
  const state = el("p", { class: "note", hidden: true });
  // Members of Kafka's classic protocol keep their own place, so that no call can move a group that has some.
  let isHeld = false;
  const look = async () => {
    const { type, members } = await get(at("v1", "groups", name), undefined, { signal: context.signal });
    isHeld = type === "classic" && members.length > 0;
    state.hidden = members.length === 0;
    also.hidden = isHeld;
    const who = members.length === 1 ? "One member is" : `${count(members.length)} members are`;
    put(state, ...(isHeld ? [`${who} live, of Kafka's classic protocol: such a group is reset only when nobody reads. Stop the programs, or `,
      link("remove the members", ["groups", name]), " (a program that still runs joins again). Until then a preview works, and nothing else."]
      : [`${who} live. A preview works; the reset needs the box below, or the members stopped.`]));
  };
  const path = at("v1", "groups", name, "offsets", "reset");
  const topics = lag.topics.map(({ topic }) => topic);
  if (topics.length === 0) {
    context.main.append(el("p", {}, "This group has read no topic, so there is nothing to reset."));
    return;
  }
  const boxes = topics.map((topic) => box(topic, true));
  const every = box("All topics", true);
  const list = el("div", { class: "choices" }, boxes.map(({ element }) => element));
  const chosen = el("fieldset", {}, el("legend", {}, "Topics"), every.element, list);
  const partitions = el("input", { pattern: "[0-9]+(,[0-9]+)*", placeholder: "all", autocomplete: "off" });
  const target = select(TARGETS, "earliest");
  const moment = el("input", { type: "datetime-local", step: "1" });
  const number = el("input", { pattern: "-?[0-9]+", inputmode: "numeric", value: "0" });
  const live = el("input", { type: "checkbox", id: "while-active" });
  const also = el("div", { class: "field check" }, live, el("label", { for: "while-active" }, "Also while members are live: they go on from the new offsets"));
  const timeField = field("Time", moment, "In this browser's time zone: the first record at or after it");
  const numberField = field("Offset or shift", number, "A shift may be negative: -100 reads the last hundred again");
  const out = el("div", { "aria-live": "polite" });
  const which = () => {
    timeField.hidden = target.value !== "time";
    numberField.hidden = target.value !== "offset" && target.value !== "shift";
    list.hidden = every.input.checked;
    put(out);
  };
  every.input.addEventListener("change", which);
  target.addEventListener("change", which);
  for (const input of [list, partitions, moment, number, live]) input.addEventListener("change", () => put(out));
  which();

  const request = () => {
    const distance = wholeNumber(number.value);
    const to = { earliest: "earliest", latest: "latest", offset: { offset: distance }, shift: { shift: distance } }[target.value]
      ?? new Date(moment.value || Number.NaN).getTime();
    if (Number.isNaN(to)) throw new Error("Choose a time.");
    if (distance === null && (target.value === "offset" || target.value === "shift")) throw new Error("Give a whole number.");
    const picked = every.input.checked ? topics : topics.filter((_, at) => boxes[at].input.checked);
    if (picked.length === 0) throw new Error("Choose at least one topic.");
    const body = { to };
    if (picked.length < topics.length) body.topics = picked;
    if (partitions.value) body.partitions = partitions.value.split(",").map(Number);
    if (live.checked && !isHeld) body.while_active = true;
    return body;
  };
  const preview = async (isMoving = false) => {
    // Whatever is shown later, of another target too, takes its place, and it says nothing then.
    const looking = el("p", { class: "quiet" }, "Looking…");
    put(out, looking);
    try {
      await look();
      const body = request();
      const answer = await call("POST", path, { body: { ...body, dry_run: true }, signal: context.signal });
      if (looking.isConnected) show(body, answer, isMoving);
    } catch (error) {
      if (looking.isConnected) put(out, el("p", { class: "error", role: "alert" }, wordsOf(error)));
    }
  };
  // `isMoving`: rows have changed between a look and the reset, as those of a busy group always do.
  const show = (body, answer, isMoving) => {
    const rows = answer.offsets;
    const moved = rows.filter(({ old_offset: old, new_offset: now }) => old !== now);
    const sum = (of) => rows.reduce((all, row) => all + Number(of(row)), 0);
    const before = ({ old_lag: lag }) => Number(lag ?? 0);
    const after = ({ new_lag: lag }) => Number(lag ?? 0);
    // Each by itself: what one partition reads again does not make up for what another skips.
    const again = sum((row) => Math.max(0, after(row) - before(row)));
    const skipped = sum((row) => Math.max(0, before(row) - after(row)));
    const words = [`Lag goes from ${full(sum(before))} to ${full(sum(after))}:`,
      [again > 0 || skipped === 0 ? `${full(again)} records are read again` : "",
        skipped > 0 ? `${full(skipped)} records are skipped, the group never reads them` : ""].filter(Boolean).join(", and ")].join(" ") + ".";
    const shown = table("What would change", columns, ({ topic, partition }) => `${topic}/${partition}`);
    shown.update([...moved, ...rows.filter((row) => !moved.includes(row))].slice(0, SHOWN), "Nothing would change.");
    const act = async (isCompared) => {
      const real = { ...body, ...(isCompared ? { preview: answer.preview } : {}) };
      try {
        const done = await call("POST", path, { body: real, signal: context.signal });
        announce("The offsets are reset");
        put(out, el("p", { class: "done", role: "status" }, `Done: ${counted(done.offsets.length, "partition")} ${done.offsets.length === 1 ? "is" : "are"} reset. `, link(`See ${name}`, ["groups", name])));
      } catch (error) {
        if (error instanceof Problem && error.code === "preview-outdated") {
          await preview(true);
          out.prepend(el("p", { class: "error", role: "alert" }, "The group or its topics have moved since the preview. This is the new one: look again."));
          return;
        }
        // Members may have joined since the preview.
        await look();
        throw new Error(wordsOf(error));
      }
    };
    const ask = (isCompared) => confirm({
      title: `Reset ${name}?`,
      content: [el("p", {}, `${counted(moved.length, "partition")} ${moved.length === 1 ? "moves" : "move"}. ${words}`),
        isCompared ? null : el("p", { class: "warn-text" }, "These figures may be others by then: the same rule is applied to whatever is there at that moment.")],
      confirmText: "Reset", act: () => act(isCompared),
    });
    put(out, el("h2", {}, "Preview"), el("p", { class: skipped > 0 ? "note warn" : "note" }, words), shown.element,
      rows.length > SHOWN ? el("p", { class: "quiet" }, `${count(rows.length - SHOWN)} more partitions are in the sums.`) : null,
      el("div", { class: "actions" },
        ...(isHeld ? [el("p", {}, "It cannot be done while members of Kafka's classic protocol are live. When they have stopped, preview again.")] : [
          button(`Reset ${count(moved.length)} partition${moved.length === 1 ? "" : "s"}…`, () => ask(true), { class: "danger", disabled: moved.length === 0 }),
          isMoving ? button("Reset whatever moves…", () => ask(false), { class: "danger" }) : null,
          copyButton("Copy as curl", () => curl("POST", path, { body }))])));
  };
  const form = el("form", { class: "controls card", "aria-label": "Where to", onsubmit: (event) => { event.preventDefault(); preview(); } },
    chosen, field("Partitions", partitions, "Of one topic: numbers with commas"),
    field("Move to", target), timeField, numberField,
    also,
    el("div", { class: "actions" }, el("button", { type: "submit", class: "primary" }, "Preview")));
  await look();
  context.main.append(state, form, out);

  function wordsOf(error) {
    if (error.code !== "group-active") return error.message;
    return isHeld ? "The group has live members of Kafka's classic protocol. Stop the programs, then preview again."
      : "The group has live members. Stop them, or tick the box to reset it all the same.";
  }
}

function box(text, checked) {
  const input = el("input", { type: "checkbox", id: freshId(), checked });
  return { input, element: el("div", { class: "field check" }, input, el("label", { for: input.id }, text)) };
}

const change = (was, is, of) => `${was === null || was === undefined ? "none" : of(was)} → ${of(is)}`;

const columns = [
  { name: "Partition", cell: ({ topic, partition }) => `${topic} ${partition}` },
  { name: "Offset", class: "num", cell: ({ old_offset: was, new_offset: is }) => change(was, is, full) },
  { name: "Moves by", class: "num", cell: ({ old_offset: was, new_offset: is }) => (was === null ? "–" : `${is > was ? "+" : ""}${full(BigInt(is) - BigInt(was))}`) },
  { name: "Lag", class: "num", cell: ({ old_lag: was, new_lag: is }) => (is === undefined ? "–" : change(was, is, full)) },
  { name: "Next record is of", class: "both", cell: ({ old_timestamp: was, new_timestamp: is }) => (is === undefined ? "–" : [span(was), " → ", span(is)]) },
];

function span(ms) {
  const age = ms === null || ms === undefined ? "" : `${duration(Math.max(0, Date.now() - Number(ms)))} ago`;
  return el("span", { title: age }, ms === null || ms === undefined ? "the end" : time(ms));
}
