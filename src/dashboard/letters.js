// Dead letters of a work queue: why they died, what they are, and giving them back or discarding them.

import { at, call, curl, get } from "./api.js";
import { announce, button, confirm, copyButton, el, field, link, nextButton, put, say, select } from "./dom.js";
import { ago, count, counted, full, time } from "./format.js";
import { VALUE_LIMIT, item } from "./record.js";

const STATES = [["waiting", "waiting"], ["redriven", "redriven"], ["discarded", "discarded"]];
const LIMIT = 100;
/// The most dead letters that are discarded at once.
const MOST = 10000;

export function letters(context) {
  const name = context.path[1];
  context.title("Dead letters of ", link(name, ["groups", name]));
  document.title = `Dead letters of ${name} – quipu`;
  const path = at("v1", "groups", name, "dead-letters");
  const redrive = at("v1", "groups", name, "redrive");
  const state = select(STATES, "waiting");
  const reason = select([["", "every reason"]], "");
  const list = el("ol", { class: "records letters", "aria-label": "Dead letters" });
  const status = el("p", { class: "quiet", role: "status" });
  const selected = new Map();
  // The reasons by the values of their options, and the chosen one: a reason may be empty, too.
  let whys = [];
  let why = null;
  let shown = [];
  let trail = [undefined];
  let next = null;

  const read = async (signal) => {
    const query = { state: state.value, reason: why ?? "", limit: LIMIT, after: trail[trail.length - 1], value_limit: VALUE_LIMIT };
    const page = await get(path, query, { records: true, signal });
    next = page.next ?? null;
    const found = page.dead_letters.filter(isChosen);
    const reasons = Object.entries(page.reasons ?? {});
    const options = reasons.map(([one, number]) => [one, `${nameOf(one).slice(0, 100)} (${full(number)})`]);
    if (JSON.stringify(options) !== reason.dataset.options) {
      whys = options.map(([one]) => one);
      if (!whys.includes(why)) why = null;
      put(reason, el("option", { value: "", selected: why === null }, "every reason"),
        options.map(([one, text], at) => el("option", { value: String(at), selected: one === why }, text)));
      reason.dataset.options = JSON.stringify(options);
    }
    const keys = found.map(keyOf).join(" ") + state.value;
    if (keys !== list.dataset.keys) {
      // What somebody has opened or chosen stays while the list has not changed.
      list.dataset.keys = keys;
      shown = found;
      for (const key of selected.keys()) if (!shown.some((one) => keyOf(one) === key)) selected.delete(key);
      put(list, shown.map(line));
    }
    const others = Number(page.other_reasons ?? 0);
    const total = reasons.reduce((all, [, number]) => all + Number(number), others);
    say(status, shown.length === 0 ? (next === null ? "None." : "None on this page.")
      : `${count(shown.length)} shown${state.value === "waiting" && total > shown.length ? ` of ${full(total)}` : ""}, with ${others > 0 ? "more than " : ""}${counted(reasons.length, "reason")}.`);
    back.disabled = trail.length < 2;
    on.disabled = next === null;
    back.hidden = on.hidden = back.disabled && on.disabled;
    enable();
  };
  const nameOf = (one) => one || "no reason given";
  /// The server finds those whose reason begins with the chosen one: with an empty one, that is all of them.
  const isChosen = (letter) => why !== "" || letter.reason === "";
  const keyOf = (letter) => `${letter.dead_letter_topic}/${letter.partition}/${letter.offset}`;
  const line = (letter) => {
    const made = item({ ...letter.record, topic: letter.dead_letter_topic, partition: letter.partition, offset: letter.offset });
    const box = el("input", {
      type: "checkbox", "aria-label": `Choose ${keyOf(letter)}`, checked: selected.has(keyOf(letter)),
      onchange: (event) => {
        if (event.target.checked) selected.set(keyOf(letter), letter);
        else selected.delete(keyOf(letter));
        enable();
      },
    });
    const { origin } = letter;
    const about = el("p", { class: "why" },
      state.value === "waiting" ? box : null,
      el("strong", {}, nameOf(letter.reason)), ` · delivered ${letter.deliveries === 1 ? "once" : `${count(letter.deliveries)} times`} · died `,
      el("span", { title: time(letter.died_at) }, ago(letter.died_at)), " · from ",
      link(`${origin.topic} ${origin.partition}:${origin.offset}`, ["records", origin.topic, String(origin.partition), String(origin.offset)]), " ",
      state.value === "waiting" ? [
        button("Redrive", () => ask([letter], false), { class: "small", "aria-label": `Redrive ${keyOf(letter)}` }), " ",
        button("Discard…", () => ask([letter], true), { class: "small", "aria-label": `Discard ${keyOf(letter)}` })] : null);
    made.prepend(about);
    return made;
  };

  /// Acts on these letters, and on no others: ones that die meanwhile have not been looked at.
  const act = async (chosen, discard) => {
    let [done, passedOver] = [0, 0];
    for (const [topic, all] of Map.groupBy(chosen, (letter) => letter.dead_letter_topic)) {
      const body = { dead_letter_topic: topic, discard, offsets: all.map(({ partition, offset }) => ({ partition, offset })) };
      const answer = await call("POST", redrive, { body, signal: context.signal });
      done += Number(discard ? answer.discarded : answer.redriven);
      passedOver += Number(answer.passed_over ?? 0);
    }
    await finish(done, passedOver, discard);
  };
  /// Redrives this many, the oldest first. None is named, so the server passes over those that it has not made, and copies.
  const redriveOldest = async (number, body) => {
    const answer = await call("POST", redrive, { body: { ...body, max_records: number }, signal: context.signal });
    await finish(Number(answer.redriven), Number(answer.passed_over ?? 0), false);
  };
  const finish = async (done, passedOver, discard) => {
    selected.clear();
    list.dataset.keys = "";
    trail = [undefined];
    announce(`${full(done)} ${discard ? "discarded" : "redriven"}`);
    const others = passedOver > 0 ? ` ${full(passedOver)} passed over: this server has not made ${passedOver === 1 ? "it, or it is a copy" : "them, or they are copies"}; whoever redrives must choose ${passedOver === 1 ? "it" : "them"} and may write to the topic of origin.` : "";
    put(result, `${full(done)} ${discard ? "discarded" : "given back to the group"}.${others}`);
    await again();
  };
  /// Asks before it acts on these letters; without them, on those that wait now with the chosen reason.
  const ask = async (picked, discard) => {
    put(result);
    let chosen = picked;
    let number = picked?.length;
    let more = "";
    const body = why ? { reason: why } : {};
    try {
      if (picked && !discard && picked.length === 1) {
        await act(picked, false);
        return;
      }
      if (!picked && discard) {
        const query = { state: "waiting", reason: why ?? "", limit: MOST, value_limit: 0 };
        let page = null;
        do {
          page = await get(path, { ...query, after: page?.next }, { records: true, signal: context.signal });
          chosen = page.dead_letters.filter(isChosen);
        } while (chosen.length === 0 && page.next);
        number = chosen.length;
        more = page.next ? " More wait: do the same again for them." : "";
      } else if (!picked) {
        const answer = await call("POST", redrive, { body: { ...body, dry_run: true }, signal: context.signal });
        number = Number(answer.redriven);
        more = answer.at_end ? "" : " More wait: do the same again for them.";
        if (number === 0) {
          await finish(0, Number(answer.passed_over ?? 0), false);
          return;
        }
      }
    } catch (error) {
      put(result, error.message);
      return;
    }
    const records = counted(number, "record");
    const which = picked || why === null ? "" : why === "" ? " without a reason" : ` whose reason begins with “${why}”`;
    confirm({
      title: discard ? "Discard dead letters?" : "Redrive dead letters?",
      content: [
        el("p", {}, discard ? `${records}${which} are settled: the group never gets them again. They stay readable in the topic of dead letters.${more}`
          : `${records}${which} go back to the group ${name}, and to nobody else, with a delivery count from 1 again.${more}`),
        chosen && chosen.length > 1 ? el("ul", {}, chosen.slice(0, 10).map((letter) => el("li", {}, `${keyOf(letter)}: ${nameOf(letter.reason)}`)),
          chosen.length > 10 ? el("li", {}, `and ${count(chosen.length - 10)} more`) : null) : null],
      confirmText: discard ? `Discard ${records}` : `Redrive ${records}`,
      act: () => (chosen ? act(chosen, discard) : redriveOldest(number, body)),
    });
  };
  const redriveChosen = button("Redrive chosen…", () => ask([...selected.values()], false));
  const discardChosen = button("Discard chosen…", () => ask([...selected.values()], true));
  const redriveAll = button("Redrive all…", () => ask(null, false), { class: "primary" });
  const discardAll = button("Discard all…", () => ask(null, true), { class: "danger" });
  const enable = () => {
    redriveChosen.disabled = discardChosen.disabled = selected.size === 0;
    discardAll.disabled = state.value !== "waiting" || shown.length === 0;
    // The server cannot be asked for those without a reason alone, and naming each would give back those that it has not made.
    redriveAll.disabled = discardAll.disabled || why === "";
  };
  const result = el("p", { class: "done", role: "status" });
  const back = button("Previous", () => { trail.pop(); again(); });
  const on = nextButton(() => next, (from) => { next = null; trail.push(from); again(); });
  const place = el("div", {},
    el("div", { class: "controls" }, field("State", state), field("Reason", reason),
      el("div", { class: "actions" }, redriveAll, discardAll, redriveChosen, discardChosen,
        copyButton("Copy as curl", () => curl("GET", path, { query: { state: state.value, reason: why ?? "" } })))),
    result, el("div", { class: "pager" }, back, status, on), list);
  context.main.append(place);
  const again = context.live(place, read, 5000, "dead letters");
  const changed = () => {
    why = reason.value === "" ? null : whys[Number(reason.value)];
    trail = [undefined];
    selected.clear();
    again();
  };
  state.addEventListener("change", changed);
  reason.addEventListener("change", changed);
}
