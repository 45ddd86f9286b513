// Long lists, one page at a time: the server filters, sorts and cuts, so a thousand rows cost as much as a hundred.

import { button, el, field, href, nextButton, say, select, table } from "./dom.js";
import { count } from "./format.js";

/// A paged list with a box to filter by name: its element, and `draw()`, which draws the same items anew. `load({q, sort,
/// after, limit})` answers `{items, next}`.
export function pagedList(context, { caption, columns, keyOf, sorts, sort, load, nothing, what, every = 3000 }) {
  const state = { q: context.query.q ?? "", sort: context.query.sort ?? sort, trail: [] };
  const rows = table(caption, columns, keyOf);
  const filter = el("input", { type: "search", value: state.q, autocomplete: "off", spellcheck: "false" });
  const order = select(sorts, state.sort);
  const where = el("span", { role: "status", class: "quiet" });
  const back = button("Previous", () => { state.trail.pop(); again(); });
  const on = nextButton(() => next, (from) => { next = null; state.trail.push(from); again(); });
  const pager = el("div", { class: "pager" }, back, where, on);
  let next = null;
  let shown = null;
  const draw = () => shown && rows.update(shown, state.q ? `No name contains “${state.q}”.` : nothing);
  const place = el("div", {},
    el("form", { class: "controls", role: "search", onsubmit: (event) => event.preventDefault() },
      field("Name contains", filter), field("Sorted by", order)),
    rows.element, pager);
  const read = async (signal) => {
    const page = await load({ q: state.q, sort: state.sort, after: state.trail[state.trail.length - 1], limit: 100 }, signal);
    next = page.next ?? null;
    shown = page.items;
    draw();
    back.disabled = state.trail.length === 0;
    on.disabled = next === null;
    pager.hidden = back.disabled && on.disabled;
    const first = state.trail.length * 100;
    say(where, page.items.length === 0 ? "" : `${count(first + 1)} to ${count(first + page.items.length)}`);
  };
  const again = context.live(place, read, every, what);
  let typing = null;
  context.signal.addEventListener("abort", () => clearTimeout(typing));
  const changed = () => {
    state.q = filter.value;
    state.sort = order.value;
    state.trail = [];
    history.replaceState(null, "", href(context.path, { q: state.q, sort: state.sort === sort ? "" : state.sort }));
    again();
  };
  filter.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(changed, 200);
  });
  order.addEventListener("change", changed);
  return { element: place, draw };
}
