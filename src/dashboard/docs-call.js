// One call of the API: its parameters, bodies and answers, and the same as a command.

import { curl } from "./api.js";
import { copyButton, el, table } from "./dom.js";
import { pretty, write } from "./json.js";
import { allBounds, example, inline, prose, resolve, tree, typeOf } from "./docs-schema.js";

const METHODS = ["get", "head", "put", "post", "patch", "delete"];

/// Every call of the document: `{method, path, tag, operation, words}`; `words` is what a search looks at.
export function callsOf(api) {
  return Object.entries(api.paths ?? {}).flatMap(([path, item]) => METHODS.filter((method) => item[method]).map((method) => {
    const operation = item[method];
    const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((parameter) => resolve(api, parameter).schema);
    const words = [method, path, operation.summary, operation.description, operation.operationId,
      ...parameters.flatMap(({ name, description }) => [name, description]),
      ...Object.values(operation.responses ?? {}).map((response) => resolve(api, response).schema.description)];
    return { method, path, tag: operation.tags?.[0] ?? "other", operation, parameters, words: words.filter(Boolean).join(" ").toLowerCase() };
  }));
}

/// The part of the page's address that opens a call.
export function anchorOf({ method, path }) {
  return `${method}${path}`;
}

function parametersOf(api, { parameters }) {
  if (parameters.length === 0) return null;
  const listing = table("Parameters", [
    { name: "Parameter", cell: ({ name }) => el("code", {}, name) },
    { name: "In", cell: (parameter) => `${parameter.in}${parameter.required ? ", required" : ""}` },
    { name: "Type", cell: ({ schema }) => [typeOf(api, schema), allBounds(api, schema)].filter(Boolean).join("; ") },
    { name: "Meaning", class: "both", cell: ({ description }) => el("span", {}, inline(description ?? "")) },
  ], ({ name, in: place }) => `${place} ${name}`);
  listing.update(parameters);
  return [el("h3", {}, "Parameters"), listing.element];
}

function contentOf(api, content) {
  return Object.entries(content ?? {}).map(([type, { schema }]) => el("div", {}, el("p", {}, el("code", {}, type)), schema ? tree(api, schema) : null));
}

function answersOf(api, { operation }) {
  return Object.entries(operation.responses ?? {}).map(([status, response]) => {
    const { schema: found } = resolve(api, response);
    const headers = Object.entries(found.headers ?? {}).map(([name, { description }]) => el("li", {}, el("code", {}, name), " ", inline(description ?? "")));
    const isProblem = Boolean(found.content?.["application/problem+json"]);
    return el("div", { class: "answer" }, el("h4", {}, status === "default" ? "Otherwise" : status), prose(found.description),
      headers.length > 0 ? el("ul", {}, headers) : null, isProblem ? null : contentOf(api, found.content));
  });
}

function textOf(value) {
  return typeof value === "string" ? value : write(value);
}

/// The command that makes the call with example values. Parameters that are not required are left out.
export function commandOf(api, { method, path, parameters, operation }) {
  const valueOf = ({ name, schema, example: given }) => given ?? example(api, schema, name);
  const values = new Map(parameters.filter((parameter) => parameter.in === "path").map((parameter) => [parameter.name, textOf(valueOf(parameter))]));
  const at = path.replace(/^\//, "").replace(/\{([^}]+)\}/g, (_, name) => encodeURIComponent(values.get(name) ?? name));
  const needed = parameters.filter((parameter) => parameter.in === "query" && parameter.required);
  const query = Object.fromEntries(needed.map((parameter) => [parameter.name, textOf(valueOf(parameter))]));
  const types = Object.entries(resolve(api, operation.requestBody ?? {}).schema.content ?? {});
  const [type, media] = types.find(([name]) => name === "application/json") ?? types[0] ?? [];
  if (type === undefined) return curl(method.toUpperCase(), at, { query });
  const body = media.example ?? Object.values(media.examples ?? {})[0]?.value ?? example(api, media.schema ?? {});
  return curl(method.toUpperCase(), at, { query, body, type: type === "*/*" ? "application/octet-stream" : type });
}

/// What is shown below a call's line.
export function details(api, call) {
  const command = commandOf(api, call);
  const body = resolve(api, call.operation.requestBody ?? {}).schema;
  const sample = resolve(api, body.content?.["application/json"]?.schema ?? {}).schema;
  const hasSample = Object.keys(sample).length > 0;
  return [
    prose(call.operation.description),
    el("h3", {}, "As a command"),
    el("pre", { tabindex: "0", "aria-label": "Command" }, command), copyButton("Copy", () => command),
    parametersOf(api, call),
    body.content ? [el("h3", {}, body.required ? "Body, required" : "Body"), prose(body.description), contentOf(api, body.content)] : null,
    hasSample ? el("pre", { tabindex: "0", "aria-label": "Example of a body" },
      pretty(write(example(api, body.content["application/json"].schema))).map(([kind, text]) => el("span", { class: `json-${kind}` }, text))) : null,
    el("h3", {}, "Answers"), answersOf(api, call),
  ];
}
