// The page of the API: every call is listed and can be opened, and shows what the document says of it; the search finds, and
// the commands work. Nothing comes from another address than the server's.

import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { assert, begin, fits, isAccessible, isWell } from "./harness.mjs";

// All that OpenAPI has: a call that the page leaves out is a fault.
const METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// The bounds that a schema, or one of its alternatives, has.
function boundsIn(document, schema, depth = 0) {
  if (schema.$ref) return boundsIn(document, schema.$ref.slice(2).split("/").reduce((at, part) => at[part], document), depth);
  const own = ["pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "format"].filter((word) => word in schema).map((word) => schema[word]);
  const others = depth < 4 ? (schema.oneOf ?? schema.anyOf ?? []).flatMap((other) => boundsIn(document, other, depth + 1)) : [];
  return [...own, ...(schema.enum ?? []), ...others].map(String);
}

export default async function run(server, screenshots) {
  const tools = await begin(server);
  // Bounds of 64 bits are no numbers of JavaScript: they stay text here, as they do on the page.
  const text = await (await fetch(`${server}/openapi.json`)).text();
  const document = JSON.parse(text.replace(/([:[,])(\d{16,})(?=[,\]}])/g, '$1"$2"'));
  const calls = Object.entries(document.paths).flatMap(([at, item]) => METHODS.filter((method) => item[method]).map((method) => `${method.toUpperCase()} ${at}`));
  assert.ok(calls.length > 40, `${calls.length} calls`);

  // From the start page, by its link.
  const page = await tools.open();
  const asked = new Set();
  page.on("request", (request) => asked.add(new URL(request.url()).origin));
  await page.getByRole("link", { name: "API" }).click();
  await page.getByRole("heading", { name: "API", level: 1 }).waitFor();
  await page.getByText(`entries`).first().waitFor();
  const lines = page.locator(".calls > li > details > summary");
  const listed = (await lines.evaluateAll((all) => all.map((line) => [...line.children].slice(0, 2).map((part) => part.textContent).join(" ")))).sort();
  const types = Object.keys(document.components.schemas).map((name) => `type ${name}`);
  assert.deepEqual(listed, [...calls, ...types].sort(), "every call and every type is listed once");

  // Everything can be opened, and the nested fields too; nothing is left undefined.
  await page.evaluate(() => document.querySelectorAll(".calls > li > details").forEach((each) => { each.open = true; }));
  await page.waitForFunction(() => [...document.querySelectorAll(".calls .call")].every((place) => place.childElementCount > 0));
  for (let deep = 0; deep < 2; deep += 1) {
    await page.evaluate(() => document.querySelectorAll(".fields details:not([open])").forEach((each) => { each.open = true; }));
    await page.waitForFunction(() => [...document.querySelectorAll(".fields details[open] > .fields")].every((list) => list.childElementCount > 0));
  }
  const words = await page.locator("main").innerText();
  for (const wrong of ["undefined", "[object", "NaN"]) assert.ok(!words.includes(wrong), `${wrong} near: ${words.split(wrong)[0].slice(-200)}`);
  const commands = await page.locator('pre[aria-label="Command"]').allInnerTexts();
  assert.equal(commands.length, calls.length);
  assert.ok(commands.every((command) => command.startsWith("curl -s ") && command.includes(tools.base)), commands.join("\n"));

  // What the document says is there: parameters with their bounds, types of bodies, answers, and fields.
  const entries = await page.evaluate(() => [...document.querySelectorAll(".calls > li > details")].map((entry) => ({
    name: [...entry.querySelector("summary").children].slice(0, 2).map((part) => part.textContent).join(" "),
    parameters: [...entry.querySelectorAll("tbody > tr")].map((row) => [row.querySelector("th").textContent, row.textContent]),
    answers: [...entry.querySelectorAll(".answer > h4")].map((head) => head.textContent),
    words: [...entry.querySelectorAll("code")].map((code) => code.textContent),
  })));
  const shownOf = new Map(entries.map((entry) => [entry.name, entry]));
  let checked = 0;
  for (const call of calls) {
    const [method, at] = call.split(" ");
    const operation = document.paths[at][method.toLowerCase()];
    const shown = shownOf.get(call);
    assert.deepEqual(shown.parameters.map(([name]) => name), (operation.parameters ?? []).map(({ name }) => name), call);
    for (const [index, { name, schema }] of (operation.parameters ?? []).entries()) {
      const text = shown.parameters[index][1];
      for (const bound of boundsIn(document, schema)) {
        assert.ok(text.includes(bound), `${call}: ${name} does not show ${bound}, but ${text}`);
        checked += 1;
      }
    }
    assert.deepEqual(shown.answers, Object.keys(operation.responses), call);
    const successes = Object.entries(operation.responses).filter(([status]) => !/^[45]/.test(status)).map(([, answer]) => answer);
    for (const type of [operation.requestBody, ...successes].flatMap((part) => Object.keys(part?.content ?? {}))) {
      assert.ok(shown.words.includes(type), `${call} does not show ${type}`);
    }
  }
  assert.ok(checked > 300, `${checked} bounds of parameters`);
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    for (const field of Object.keys(schema.properties ?? {})) assert.ok(shownOf.get(`type ${name}`).words.includes(field), `type ${name} does not show ${field}`);
  }

  // By keyboard: / goes to the search, which looks at all words; Escape shows everything again.
  await page.goto(`${tools.base}docs`);
  await page.getByText("entries").first().waitFor();
  await page.keyboard.press("/");
  const input = page.getByLabel("Find a call");
  assert.ok(await input.evaluate((element) => element === document.activeElement), "/ goes to the search");
  await page.keyboard.type("topics put PARTITIONS");
  const shown = () => lines.evaluateAll((all) => all.filter((line) => line.checkVisibility()).map((line) => [...line.children].slice(0, 2).map((part) => part.textContent).join(" ")));
  assert.ok((await shown()).includes("PUT /v1/topics/{topic}"), (await shown()).join("\n"));
  assert.ok((await shown()).length < 10, "the search leaves out the rest");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "SUMMARY");
  await page.locator('details[open] pre[aria-label="Command"]').waitFor();
  await input.fill("xyzzy plugh");
  await page.getByText(/^0 of /).waitFor();
  await input.press("Escape");
  assert.equal((await shown()).length, listed.length);

  // An address of the page opens a call, and its command does what it says.
  const command = async (call) => {
    await page.goto(`${tools.base}docs#${call}`);
    await page.reload();
    const place = page.locator("details[open]").filter({ has: page.getByRole("link", { name: "Link to this call" }) });
    const text = await place.locator('pre[aria-label="Command"]').innerText();
    const { stdout } = await promisify(execFile)("sh", ["-c", text.replace("curl -s", "curl -s -w '%{http_code}'")]);
    return { text, answer: stdout };
  };
  const made = await command("put/v1/topics/{topic}");
  assert.match(made.answer, /201$/, made.text);
  const stored = await command("post/v1/topics/{topic}/records");
  assert.match(stored.answer, /20[01]$/, stored.text);
  const listing = await command("get/v1/topics");
  assert.match(listing.answer, /"orders"[^]*200$/, listing.text);
  assert.deepEqual([...asked], [new URL(tools.base).origin], "everything comes from the server");
  await page.screenshot({ path: path.join(screenshots, "docs-light.png") });
  await isAccessible(page, "docs");
  isWell(page);

  for (const [mode, options] of [["dark", { colorScheme: "dark" }], ["narrow", { viewport: { width: 360, height: 740 } }]]) {
    const other = await tools.open("docs#post/v1/groups/{group}/members/{member}/poll", options);
    await other.locator('details[open] pre[aria-label="Command"]').waitFor();
    await other.screenshot({ path: path.join(screenshots, `docs-${mode}.png`) });
    await isAccessible(other, `docs, ${mode}`);
    await fits(other, `docs, ${mode}`);
    isWell(other);
    await other.close();
  }
  await tools.close();
}
