// Who looks at the page, signing in and out.

import { at, call, get, Problem, setNeedsToken } from "./api.js";
import { button, el, field, put } from "./dom.js";

const ME = at("v1", "me");
const SESSION = at("v1", "session");

/// Who is signed in; shows it in the head of the page. A server without sign-in is open.
export async function who(restart) {
  let me = { auth: "none", principal: null };
  try {
    me = await get(ME);
  } catch (error) {
    // A certificate that the browser presents may have no rules; a token still has.
    const isStranger = error instanceof Problem && (error.status === 401 || error.code === "forbidden");
    if (!(isStranger || (error instanceof Problem && error.isMissing))) throw error;
    if (isStranger) me = { auth: "tokens", principal: null, rules: [], why: error.status === 401 ? "" : error.message };
  }
  setNeedsToken(me.auth === "tokens");
  const place = document.getElementById("who");
  if (me.principal === null) {
    put(place);
    return me;
  }
  const leave = button("Sign out", async () => {
    await call("DELETE", SESSION).catch(() => {});
    restart();
  }, { class: "small" });
  put(place, el("span", { class: "name" }, me.principal), leave);
  return me;
}

/// Whether somebody sees all `kind` (`topics`, `groups`), so that an empty list means that there are none.
export function seesAll(me, kind) {
  return me?.auth !== "tokens" || me.rules.some(({ allow, [kind]: names }) =>
    allow.includes("admin") || (allow.includes("describe") && names?.includes("*")));
}

/// Asks for a token; `done` runs when a session has begun. `why`: what is wrong with what was presented.
export function signIn(main, done, why = "") {
  document.title = "Sign in – quipu";
  const input = el("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const status = el("p", { class: "error", role: "alert" }, why);
  const submit = async (event) => {
    event.preventDefault();
    status.textContent = "";
    try {
      await call("POST", SESSION, { body: { token: input.value } });
    } catch (error) {
      status.textContent = error.status === 401 ? "This token is not valid here." : error.message;
      input.select();
      return;
    }
    done();
  };
  const form = el("form", { id: "sign-in", class: "card narrow", onsubmit: submit },
    field("Token", input, ["From ", el("code", {}, "quipu token create"), ", or the administrator's first token."]),
    status, el("div", { class: "actions" }, el("button", { type: "submit", class: "primary" }, "Sign in")));
  put(main, el("h1", { tabindex: "-1" }, "Sign in"), form);
  input.focus();
}
