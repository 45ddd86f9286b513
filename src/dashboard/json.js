// JSON that loses nothing: numbers that JavaScript cannot hold become BigInts, and the values of records stay the text
// that the server sent. Objects have no prototype, so a field may have any name.

/// The text of a JSON value as it was sent.
export class Raw {
  constructor(text) {
    this.text = text;
  }
}

class Reader {
  constructor(text, rawValues) {
    this.text = text;
    this.at = 0;
    this.rawValues = rawValues;
  }

  fail() {
    throw new SyntaxError(`not JSON at character ${this.at + 1}`);
  }

  space() {
    for (;;) {
      const code = this.text.charCodeAt(this.at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.at += 1;
    }
  }

  take(char) {
    if (this.text[this.at] !== char) return false;
    this.at += 1;
    return true;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) this.fail();
    this.at += found[0].length;
    return found[0];
  }

  // `isData`: the names in an object are data (of headers, reasons), so none of them is a record's value.
  value(isData = false) {
    this.space();
    const char = this.text[this.at];
    if (char === "{") return this.object(isData);
    if (char === "[") return this.array();
    if (char === '"') return this.string();
    if (char === "t" || char === "f" || char === "n") return WORDS.get(this.match(WORD));
    return this.number();
  }

  object(isData) {
    const object = Object.create(null);
    this.at += 1;
    this.space();
    if (this.take("}")) return object;
    do {
      this.space();
      if (this.text[this.at] !== '"') this.fail();
      const name = this.string();
      this.space();
      if (!this.take(":")) this.fail();
      if (this.rawValues && !isData && name === "value") {
        const text = this.skipped();
        // A tombstone has no value.
        object[name] = text === "null" ? null : new Raw(text);
      } else {
        object[name] = this.value(DATA.has(name));
      }
      this.space();
    } while (this.take(","));
    if (!this.take("}")) this.fail();
    return object;
  }

  // The text of the next value. It may be nested deeper than a stack is.
  skipped() {
    this.space();
    const start = this.at;
    let depth = 0;
    do {
      this.space();
      const char = this.text[this.at];
      if (char === "{" || char === "[") depth += 1;
      else if (char === "}" || char === "]") depth -= 1;
      if (char === '"') this.match(STRING);
      else if ("{}[]:,".includes(char ?? "?")) this.at += 1;
      else this.match(PLAIN);
    } while (depth > 0);
    return this.text.slice(start, this.at);
  }

  array() {
    const array = [];
    this.at += 1;
    this.space();
    if (this.take("]")) return array;
    do {
      array.push(this.value());
      this.space();
    } while (this.take(","));
    if (!this.take("]")) this.fail();
    return array;
  }

  string() {
    const quoted = this.match(STRING);
    const inner = quoted.slice(1, -1);
    return inner.includes("\\") ? inner.replace(ESCAPE, unescape) : inner;
  }

  number() {
    const text = this.match(NUMBER);
    const number = Number(text);
    return WHOLE.test(text) && !Number.isSafeInteger(number) ? BigInt(text) : number;
  }
}

const DATA = new Set(["headers", "reasons"]);
const WORDS = new Map([["true", true], ["false", false], ["null", null]]);
const WORD = /true|false|null/y;
// Written so that a long text needs no stack.
const STRING = /"[^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\u0000-\u001f]*)*"/y;
const PLAIN = /[^\s{}[\],:"]+/y;
const ESCAPE = /\\(?:u([0-9a-fA-F]{4})|(.))/g;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const WHOLE = /^-?[0-9]+$/;
const ESCAPED = new Map([["b", "\b"], ["f", "\f"], ["n", "\n"], ["r", "\r"], ["t", "\t"]]);

function unescape(_, code, char) {
  return code ? String.fromCharCode(Number.parseInt(code, 16)) : ESCAPED.get(char) ?? char;
}

/// Reads an answer. With `rawValues`, fields `value` outside of headers and reasons are [`Raw`].
export function read(text, rawValues = false) {
  const reader = new Reader(text, rawValues);
  const value = reader.value();
  reader.space();
  if (reader.at !== text.length) reader.fail();
  return value;
}

/// Whether a text is JSON.
export function isJson(text) {
  try {
    read(text);
    return true;
  } catch {
    return false;
  }
}

/// Writes JSON: Raw texts and BigInts as they are.
export function write(value) {
  if (value instanceof Raw) return value.text;
  if (typeof value === "bigint") return String(value);
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const fields = Object.entries(value).filter(([, of]) => of !== undefined);
    return `{${fields.map(([name, of]) => `${JSON.stringify(name)}:${write(of)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/// How deep pretty JSON is indented: what is nested deeper would be mostly spaces.
const DEEPEST = 32;

/// The tokens of a JSON text with the white space of pretty JSON between them: `[kind, text]`. Nothing else changes.
export function pretty(text) {
  const tokens = text.match(TOKEN) ?? [];
  const out = [];
  let depth = 0;
  const line = () => out.push(["space", `\n${"  ".repeat(Math.min(depth, DEEPEST))}`]);
  tokens.forEach((token, at) => {
    const next = tokens[at + 1];
    if (token === "{" || token === "[") {
      out.push(["mark", token]);
      depth += 1;
      if (next !== "}" && next !== "]") line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      const before = tokens[at - 1];
      if (before !== "{" && before !== "[") line();
      out.push(["mark", token]);
    } else if (token === ",") {
      out.push(["mark", token]);
      line();
    } else if (token === ":") {
      out.push(["mark", ": "]);
    } else if (token[0] === '"') {
      out.push([next === ":" ? "name" : "text", token]);
    } else {
      out.push([/^[-0-9]/.test(token) ? "number" : "word", token]);
    }
  });
  return out;
}
