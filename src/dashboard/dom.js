// Elements made of text: nothing here, or above, ever reads markup from data.

const SVG = "http://www.w3.org/2000/svg";

/// What of `children`, which may be nested lists, is something.
function flat(children) {
  return children.flat(2).filter((child) => child !== null && child !== undefined && child !== false);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" && "value" in element) element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  // One by one: a large value has more tokens than a call may have arguments.
  for (const child of flat(children)) element.append(child);
  return element;
}

/// An element: `el("a", {href}, "text", child, …)`. `onclick` and the like are listeners.
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/// The same for SVG.
export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/// Sets an element's text if it differs, so that a selection survives a refresh.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/// Replaces an element's children. What is refreshed again and again uses [`keep`].
export function put(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/// Replaces an element's children if they look different, so that focus and selections survive a refresh. If what has the
/// focus is replaced, what has come in its place gets it. Listeners are not compared: it is for links and texts.
export function keep(element, ...children) {
  const made = flat(children);
  const now = [...element.childNodes];
  const same = (one, two) => one.isEqualNode(two instanceof Node ? two : document.createTextNode(two));
  if (now.length === made.length && now.every((child, at) => same(child, made[at]))) return element;
  const focusable = () => [...element.querySelectorAll("a, button, input, select")];
  const focused = focusable().indexOf(document.activeElement);
  element.replaceChildren(...made);
  if (focused >= 0) focusable()[focused]?.focus({ preventScroll: true });
  return element;
}

/// A link within the page. Parts of the path are encoded.
export function link(text, path, query, attributes) {
  return el("a", { href: href(path, query), ...attributes }, text);
}

/// The address of a view: `href(["topics", name], {tab: "settings"})`.
export function href(path, query) {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const tail = pairs.length > 0 ? `?${new URLSearchParams(pairs)}` : "";
  return `#/${path.map(encodeURIComponent).join("/")}${tail}`;
}

/// Goes to a view.
export function go(path, query) {
  location.hash = href(path, query);
}

/// A button.
export function button(text, onclick, attributes) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

/// A button that turns to the next page of a list: `turn` gets what `next` returns, and sets it to null until the answer is
/// there. Pressed twice before that, the button would turn one page and count two; without power, it would lose the focus.
export function nextButton(next, turn) {
  return button("Next", () => {
    const from = next();
    if (from !== null) turn(from);
  });
}

/// A labelled field. `control` is an input, a select or a text area.
export function field(label, control, hint) {
  if (!control.id) control.id = freshId();
  const about = hint ? el("span", { class: "hint", id: `${control.id}-hint` }, hint) : null;
  if (about) control.setAttribute("aria-describedby", about.id);
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, about);
}

/// A choice: `options` are `[value, text]`.
export function select(options, value, attributes) {
  const chosen = el("select", attributes, options.map(([of, text]) => el("option", { value: of, selected: of === value }, text)));
  return chosen;
}

let ids = 0;
export function freshId() {
  ids += 1;
  return `id${ids}`;
}

/// A table whose rows are kept: `columns` are `{name, text, class, cell(item, td)}`. `update(items)` changes only what
/// differs, so focus and selections stay. The roles are written out because narrow screens show rows as cards, and a
/// table that is not displayed as one loses its meaning in some browsers.
export function table(caption, columns, keyOf, attributes) {
  const head = columns.map((column) =>
    el("th", { scope: "col", role: "columnheader", class: column.class, title: column.title }, column.name),
  );
  const body = el("tbody", { role: "rowgroup" });
  const empty = el("p", { class: "quiet" });
  const element = el("table", { role: "table", ...attributes },
    el("caption", {}, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head)),
    body);
  const rows = new Map();
  const make = (key) => {
    const cells = columns.map((column, at) =>
      el(at === 0 ? "th" : "td", {
        role: at === 0 ? "rowheader" : "cell", scope: at === 0 ? "row" : null, class: column.class, "data-label": column.name,
      }),
    );
    const row = { tr: el("tr", { role: "row" }, cells), cells, key };
    rows.set(key, row);
    return row;
  };
  const update = (items, nothing = "") => {
    const seen = new Set();
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    let place = body.firstChild;
    for (const item of items) {
      const key = keyOf(item);
      seen.add(key);
      const row = rows.get(key) ?? make(key);
      columns.forEach((column, at) => {
        const made = column.cell(item, row.cells[at]);
        if (typeof made === "string" || typeof made === "number") say(row.cells[at], String(made));
        else if (made) keep(row.cells[at], made);
      });
      if (row.tr === place) place = place.nextSibling;
      else body.insertBefore(row.tr, place);
    }
    for (const [key, row] of rows) {
      if (seen.has(key)) continue;
      row.tr.remove();
      rows.delete(key);
    }
    // A row that is moved loses the focus.
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
    say(empty, items.length === 0 ? nothing : "");
    element.hidden = items.length === 0 && nothing !== "";
    empty.hidden = !element.hidden;
  };
  return { element: el("div", { class: "table" }, element, empty), update, table: element };
}

/// Says something to screen readers.
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/// Copies a text; where the browser does not allow it, shows it for copying by hand.
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    announce(`${what} copied`);
    return true;
  } catch {
    const area = el("textarea", { readonly: true, rows: "6", "aria-label": what }, text);
    const closing = dialog(what, [area], [button("Close", () => closing.close())]);
    area.select();
    return false;
  }
}

/// A button that copies what `textOf` returns.
export function copyButton(label, textOf, attributes) {
  const made = button(label, async () => {
    if (!(await copy(await textOf(), label.replace(/^Copy (as )?/, "")))) return;
    made.textContent = "Copied";
    setTimeout(() => { made.textContent = label; }, 1500);
  }, { class: "small", ...attributes });
  return made;
}

/// A modal dialog; it goes with the view.
export function dialog(title, content, actions) {
  const heading = el("h2", { id: freshId() }, title);
  const made = el("dialog", { "aria-labelledby": heading.id, onclose: () => made.remove() },
    heading, ...content, el("div", { class: "actions" }, ...actions));
  document.body.append(made);
  made.showModal();
  return made;
}

/// Runs what a button asks for, and says on the page if it cannot even begin.
export async function attempt(run) {
  try {
    await run();
  } catch (error) {
    const made = dialog("That did not work", [el("p", { class: "error" }, error.message)], [button("Close", () => made.close())]);
  }
}

/// A form before a question: `look()` finds out what would go, and returns what [`confirm`] asks then. What is typed
/// meanwhile changes nothing of it, and a dialog that was closed asks nothing.
export function preview(title, content, look) {
  const status = el("p", { class: "error", role: "alert" });
  let isLooking = false;
  const run = async () => {
    if (isLooking) return;
    isLooking = true;
    status.textContent = "";
    try {
      const question = await look();
      if (!made.open) return;
      made.close();
      confirm(question);
    } catch (error) {
      status.textContent = error.message;
    } finally {
      isLooking = false;
    }
  };
  const made = dialog(title, [...content, status],
    [button("Cancel", () => made.close()), button("Preview", run, { class: "primary" })]);
}

/// Shows what would go and asks. `act` runs when it is confirmed; if it fails, the dialog stays and says why. Names that
/// must be typed protect what cannot be had back.
export function confirm({ title, content, confirmText, typed, act }) {
  const status = el("p", { role: "alert", class: "error" });
  const input = typed ? el("input", { autocomplete: "off", spellcheck: "false" }) : null;
  const run = async () => {
    yes.disabled = true;
    try {
      await act();
      made.close();
    } catch (error) {
      status.textContent = error.message;
      yes.disabled = false;
    }
  };
  const yes = button(confirmText, run, { class: "danger", disabled: Boolean(typed) });
  input?.addEventListener("input", () => { yes.disabled = input.value !== typed; });
  const made = dialog(title, [content, input && field(`Type ${typed} to confirm`, input), status].filter(Boolean),
    [button("Cancel", () => made.close()), yes]);
  return made;
}
