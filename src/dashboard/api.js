// Calls of the public API. All paths are relative to the page, so it works below any path of a proxy.

import { read, write } from "./json.js";

/// A "no" of the server, or of the network (status 0).
export class Problem extends Error {
  constructor(status, fields) {
    super(fields.detail ?? fields.title ?? `status ${status}`);
    this.status = status;
    this.code = fields.code ?? "";
    this.pointer = fields.pointer ?? "";
    this.fields = fields;
  }

  /// The same call may be answered later: there was no answer, the server could not, or it said so.
  get isPassing() {
    return this.fields.retryable ?? (this.status === 0 || this.status >= 500);
  }

  /// The server is too old for this call or this parameter.
  get isMissing() {
    return this.status === 501 || this.status === 406 || this.code === "not-found" || this.code === "method-not-allowed";
  }
}

const listeners = [];
let needsToken = false;

/// Says whether calls from elsewhere need a token.
export function setNeedsToken(needs) {
  needsToken = needs;
}

/// Calls `heard(problem)` whenever a call is refused because nobody is signed in.
export function onSignedOut(heard) {
  listeners.push(heard);
}

/// The path of a call: `at("v1", "topics", name)`.
export function at(...parts) {
  return parts.map((part) => encodeURIComponent(part)).join("/");
}

/// A path with a query; values that are undefined, null or empty are left out.
export function withQuery(path, query) {
  const pairs = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return pairs.length === 0 ? path : `${path}?${new URLSearchParams(pairs)}`;
}

async function problemOf(response) {
  const text = await response.text().catch(() => "");
  let fields = {};
  try {
    fields = read(text);
  } catch {
    fields = { detail: text.slice(0, 300) || `the server answered with status ${response.status}` };
  }
  const problem = new Problem(response.status, fields ?? {});
  if (response.status === 401) listeners.forEach((heard) => heard(problem));
  return problem;
}

/// What a request that has no answer, or only a part of one, throws.
function broken(error) {
  return error.name === "AbortError" ? error : new Problem(0, { detail: "the server does not answer", code: "unreachable" });
}

/// The answer to a request, which is not read yet.
export async function open(method, path, { query, body, accept = "application/json", signal, headers } = {}) {
  const request = { method, headers: { Accept: accept, ...headers }, signal, credentials: "same-origin", cache: "no-cache" };
  if (body !== undefined) {
    request.body = typeof body === "string" ? body : write(body);
    request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(withQuery(path, query), request);
  } catch (error) {
    throw broken(error);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/// Calls and reads the answer; null if it has no body. `records`: the answer has records, whose values stay text.
export async function call(method, path, { records = false, ...options } = {}) {
  const response = await open(method, path, options);
  const text = await response.text().catch((error) => { throw broken(error); });
  return text.trim() === "" ? null : read(text, records);
}

/// GET.
export function get(path, query, options) {
  return call("GET", path, { query, ...options });
}

/// The address of a call, for `curl`.
export function address(path, query) {
  return new URL(withQuery(path, query), document.baseURI).href;
}

/// A word of a shell command.
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/// The command that makes the same call.
export function curl(method, path, { query, body, accept, type = "application/json" } = {}) {
  const words = ["curl", "-s"];
  // Without `-I`, curl waits for the body that an answer to HEAD does not have.
  if (method === "HEAD") words.push("-I");
  else if (method !== "GET") words.push("-X", method);
  words.push(quoted(address(path, query)));
  if (needsToken) words.push("-H", '"authorization: Bearer $QUIPU_TOKEN"');
  if (accept) words.push("-H", quoted(`accept: ${accept}`));
  if (body !== undefined) words.push("-H", quoted(`content-type: ${type}`), type === "application/json" ? "-d" : "--data-binary", quoted(typeof body === "string" ? body : write(body)));
  return words.join(" ");
}

/// Reads Server-Sent Events and calls `heard({event, data, id})` for each. Returns when the stream ends.
export async function events(path, { query, signal, heard }) {
  const response = await open("GET", path, { query, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { event: "message", data: "", id: null };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon === 0) continue;
        const name = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (name === "data") event.data += event.data ? `\n${text}` : text;
        else if (name in event) event[name] = text;
      }
      if (event.data || event.id) heard(event);
    }
  }
}
