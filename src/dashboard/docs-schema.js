// A schema of the OpenAPI document: what it refers to, its type in words, its fields as a tree, and an example.

import { el } from "./dom.js";
import { write } from "./json.js";

/// A type may contain itself: examples end at this depth. The tree opens one level at a time, so it needs no end.
const DEEPEST = 6;

/// Values that read well, for parameters and fields without an example of their own.
const USUAL = new Map([
  ["topic", "orders"], ["topics", "orders"], ["group", "billing"], ["member", "worker-1"], ["partition", 0], ["offset", 0],
  ["name", "billing"], ["partitions", 4], ["key", "customer-7"], ["value", { order: 1, total: 12.5 }], ["file", "app.js"],
]);

/// The schema that a reference leads to, and its name.
export function resolve(api, schema) {
  let name = null;
  let found = schema;
  for (let steps = 0; found?.$ref && steps < 20; steps += 1) {
    const parts = found.$ref.replace(/^#\//, "").split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
    name = parts.at(-1);
    found = parts.reduce((at, part) => at?.[part], api);
  }
  return { name, schema: found !== null && typeof found === "object" ? found : {} };
}

function isNull(schema) {
  return schema?.type === "null";
}

function alternatives(schema) {
  return schema.oneOf ?? schema.anyOf ?? null;
}

/// The type of a value that a schema lists.
function kindOf(value) {
  return value === null ? "null" : typeof value;
}

/// The type in words, as `string or null`, `Record[]`; names are those of schemas.
export function typeOf(api, schema) {
  if (schema?.$ref) return resolve(api, schema).name;
  if (schema === null || typeof schema !== "object") return "any JSON";
  const others = alternatives(schema);
  if (others) return [...new Set(others.map((other) => typeOf(api, other)))].join(" or ");
  if (schema.allOf) return schema.allOf.length === 1 ? typeOf(api, schema.allOf[0]) : "object";
  const types = schema.type === undefined ? [...new Set((schema.enum ?? []).map(kindOf))] : [schema.type].flat();
  const words = types.map((type) => (type === "array" ? `${typeOf(api, schema.items)}[]` : type));
  if (words.length === 0) return schema.properties ? "object" : "any JSON";
  return words.join(" or ");
}

/// What a value must keep to, in words.
export function bounds(schema) {
  const words = [];
  const add = (name, text) => {
    if (schema[name] !== undefined && schema[name] !== null) words.push(`${text} ${typeof schema[name] === "string" ? schema[name] : write(schema[name])}`);
  };
  if (schema.enum) words.push(`one of ${schema.enum.map((value) => (typeof value === "string" ? value : write(value))).join(", ")}`);
  add("const", "always");
  add("minimum", "at least");
  add("maximum", "at most");
  add("exclusiveMinimum", "above");
  add("exclusiveMaximum", "below");
  add("minLength", "characters at least");
  add("maxLength", "characters at most");
  add("minItems", "items at least");
  add("maxItems", "items at most");
  add("pattern", "pattern");
  add("format", "format");
  add("default", "default");
  return words.join("; ");
}

/// The same, those of a schema's alternatives too.
export function allBounds(api, schema, depth = 0) {
  const { schema: found } = resolve(api, schema);
  if (depth > DEEPEST) return "";
  const others = (alternatives(found) ?? []).map((other) => allBounds(api, other, depth + 1)).filter(Boolean);
  return [bounds(found), others.join(", or ")].filter(Boolean).join("; ");
}

/// Text with `code` between backticks, and a paragraph for each blank line.
export function prose(text) {
  return (text ?? "").split(/\n\s*\n/).filter((part) => part.trim() !== "").map((part) => {
    const lines = part.split("\n");
    if (lines.every((line) => /^\s*[-*] /.test(line))) return el("ul", {}, lines.map((line) => el("li", {}, inline(line.replace(/^\s*[-*] /, "")))));
    return el("p", {}, inline(part.replaceAll("\n", " ")));
  });
}

/// A text with `code` between backticks.
export function inline(text) {
  return text.split("`").map((part, at) => (at % 2 === 1 ? el("code", {}, part) : part));
}

/// The named fields of an object, those of all its parts.
function fieldsOf(api, schema, depth = 0) {
  if (depth > DEEPEST) return [];
  const required = new Set(schema.required ?? []);
  const own = Object.entries(schema.properties ?? {}).map(([name, of]) => ({ name, schema: of, required: required.has(name) }));
  const parts = (schema.allOf ?? []).flatMap((part) => fieldsOf(api, resolve(api, part).schema, depth + 1));
  return [...parts, ...own];
}

/// What can be opened below a schema: fields of an object, of an array's items, of alternatives.
function inner(api, schema) {
  const { schema: found } = resolve(api, schema);
  const fields = fieldsOf(api, found);
  if (fields.length > 0) return fields.map(({ name, schema: of, required }) => () => row(api, name, of, required));
  const others = alternatives(found)?.filter((other) => !isNull(resolve(api, other).schema));
  if (others?.length === 1) return inner(api, others[0]);
  if (others) return others.map((other, at) => () => row(api, `${at === 0 ? "either" : "or"}`, other, false, true));
  if (found.items) return inner(api, found.items);
  const values = found.additionalProperties;
  if (values !== null && typeof values === "object") return [() => row(api, "any name", values, false, true)];
  return [];
}

function row(api, name, schema, required, isWord = false) {
  const { schema: found } = resolve(api, schema);
  const about = bounds(found);
  const text = schema?.description ?? found.description;
  const marks = [typeOf(api, schema), required ? "required" : "", about].filter(Boolean).join("; ");
  return el("li", {}, isWord ? el("i", {}, name) : el("code", {}, name), " ", el("span", { class: "type" }, marks),
    prose(text), more(api, schema, "Fields"));
}

function more(api, schema, word) {
  const rows = inner(api, schema);
  if (rows.length === 0) return null;
  const list = el("ul", { class: "fields" });
  // Made when it is first opened: a type may contain itself.
  return el("details", {
    ontoggle: () => {
      if (list.childElementCount === 0) list.append(...rows.map((make) => make()));
    },
  }, el("summary", {}, word), list);
}

/// A schema with its first level of fields.
export function tree(api, schema) {
  const { schema: found } = resolve(api, schema);
  const about = bounds(found);
  const rows = inner(api, schema);
  return [
    el("p", { class: "type" }, [typeOf(api, schema), about].filter(Boolean).join("; ")),
    schema?.$ref ? prose(found.description) : null,
    rows.length > 0 ? el("ul", { class: "fields" }, rows.map((make) => make())) : null,
  ];
}

/// A value that the schema allows: its own example, else what is required.
export function example(api, schema, name = "", depth = 0) {
  const { schema: found } = resolve(api, schema);
  const given = [schema?.example, found.example, found.examples?.[0], found.const, found.enum?.[0]].find((value) => value !== undefined);
  if (given !== undefined) return given;
  if (depth > DEEPEST) return null;
  const fields = fieldsOf(api, found);
  if (fields.length > 0) {
    const needed = fields.filter((field) => field.required);
    const usual = fields.filter((field) => USUAL.has(field.name));
    const shown = needed.length > 0 ? needed : [...usual, ...fields].slice(0, 1);
    return Object.fromEntries(shown.map((field) => [field.name, example(api, field.schema, field.name, depth + 1)]));
  }
  const other = alternatives(found)?.find((of) => !isNull(resolve(api, of).schema));
  if (other) return example(api, other, name, depth + 1);
  const [type] = [found.type ?? "any"].flat().filter((of) => of !== "null");
  if (type === "array") return [example(api, found.items, name, depth + 1)];
  if (USUAL.has(name) && (type === "any" || type === typeof USUAL.get(name) || (type === "integer" && typeof USUAL.get(name) === "number"))) return USUAL.get(name);
  if (found.default !== undefined && found.default !== null) return found.default;
  if (type === "integer" || type === "number") return found.minimum ?? 1;
  if (type === "boolean") return true;
  if (type === "object") return {};
  return type === "string" ? "text" : { any: "JSON" };
}
