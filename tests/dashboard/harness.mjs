// What the scripts share: a browser, a proxy that puts the server below a path, calls of the API, and checks.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { promisify } from "node:util";

const modules = createRequire(path.join(process.env.QUIPU_TEST_BROWSER, "package.json"));
const { chromium } = modules("playwright-core");
const axePath = modules.resolve("axe-core/axe.min.js");

export const PREFIX = "/some/where";

/// How a page is looked at.
export const MODES = [
  ["light", { colorScheme: "light" }], ["dark", { colorScheme: "dark" }],
  ["narrow", { viewport: { width: 360, height: 740 } }], ["narrow-dark", { colorScheme: "dark", viewport: { width: 360, height: 740 } }],
];

/// A reverse proxy, as in front of a real server: every address of the page must be relative. Counts open streams.
async function proxyTo(server) {
  const target = new URL(server);
  const state = { streams: 0, most: 0, seen: [] };
  const proxy = http.createServer((request, response) => {
    if (!request.url.startsWith(`${PREFIX}/`)) {
      state.seen.push(`outside: ${request.url}`);
      response.writeHead(404).end();
      return;
    }
    const isStream = request.url.includes("follow=true");
    if (isStream) state.most = Math.max(state.most, (state.streams += 1));
    let isOpen = true;
    const headers = { ...request.headers, host: target.host };
    if (headers.origin) headers.origin = target.origin;
    const passed = http.request({
      host: target.hostname, port: target.port, method: request.method, path: request.url.slice(PREFIX.length), headers,
    }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    const close = () => {
      if (isStream && isOpen) state.streams -= 1;
      isOpen = false;
      passed.destroy();
    };
    passed.on("error", () => response.destroy());
    response.on("close", close);
    request.pipe(passed);
  });
  await new Promise((ready) => proxy.listen(0, "127.0.0.1", ready));
  return { ...proxy.address(), state, close: () => proxy.close() };
}

/// Everything that a script needs for one server.
export async function begin(server, { hosts = "" } = {}) {
  const proxy = await proxyTo(server);
  const args = ["--no-sandbox", "--disable-gpu"];
  if (hosts) args.push(`--host-resolver-rules=MAP ${hosts} 127.0.0.1`);
  const browser = await chromium.launch({ executablePath: process.env.QUIPU_TEST_CHROMIUM, args });
  const base = `http://127.0.0.1:${proxy.port}${PREFIX}/`;
  const api = async (method, at, body, headers = {}) => {
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    const response = await fetch(server + at, { method, body: text, headers: { "content-type": "application/json", ...headers } });
    const answer = await response.text();
    assert.ok(response.ok, `${method} ${at}: ${response.status} ${answer}`);
    return answer ? JSON.parse(answer) : null;
  };
  // `prepare` is for what has to be there before the page is.
  const open = async (hash = "", options = {}, prepare = () => {}) => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
    page.setDefaultTimeout(60000);
    page.faults = [];
    page.on("pageerror", (error) => page.faults.push(error.message));
    page.on("console", (message) => {
      // A refused call is a line in the console too; the page says it itself.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.faults.push(message.text());
    });
    await prepare(page);
    await page.goto(base + hash);
    return page;
  };
  const close = async () => {
    await browser.close();
    proxy.close();
    assert.deepEqual(proxy.state.seen, [], "all that the page loads lies below its own path");
  };
  return { api, base, browser, close, open, proxy: proxy.state, server };
}

/// From now on the page gets this answer to a call, so that what it shows can be compared with it.
export async function answers(page, at, answer) {
  await page.route((url) => url.pathname === PREFIX + at, (route) => route.fulfill({ json: answer }));
}

/// The rows of a table: the text of each cell by the name of its column.
export function rowsOf(page, caption) {
  return page.getByRole("table", { name: caption, exact: true }).evaluate((table) =>
    [...table.tBodies[0].rows].map((row) => Object.fromEntries([...row.cells].map((cell) => [cell.dataset.label, cell.innerText.trim()]))));
}

/// The figures of a view: `{name: [value, what is said below it]}`.
export function tilesOf(page) {
  return page.locator(".tiles > div").evaluateAll((all) => Object.fromEntries(all.map((tile) => {
    const below = tile.querySelector("small").innerText.trim();
    return [tile.querySelector("dt").innerText, [tile.querySelector("dd").innerText.replace(below, "").trim(), below]];
  })));
}

/// How the page writes numbers and times. Its results are fixed in `figures.mjs` and `warnings.mjs`.
export async function formats() {
  const text = await readFile(new URL("../../src/dashboard/format.js", import.meta.url), "utf8");
  return import(`data:text/javascript,${encodeURIComponent(text)}`);
}

/// Presses a button that copies, and returns what it has copied.
export async function copied(page, button) {
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.evaluate(() => navigator.clipboard.writeText(""));
  await button.click();
  return until(page, "a copied text", () => page.evaluate(() => navigator.clipboard.readText()));
}

/// Runs a command in a shell, and returns its answer, which is JSON.
export async function answerOf(command, env = {}) {
  assert.match(command, /^curl -s /);
  const { stdout } = await promisify(execFile)("sh", ["-c", command], { env: { ...process.env, ...env }, maxBuffer: 1 << 26 });
  try {
    return JSON.parse(stdout);
  } catch (error) {
    throw new Error(`${command}: ${error.message}: ${stdout.slice(0, 300)}`);
  }
}

/// Waits until `probe` returns something true; Playwright's patience is the bound, unless another is given.
export async function until(page, what, probe, patience = 60000) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await probe();
    if (found) return found;
    assert.ok(Date.now() < end, `${what}: not within ${patience} ms; the page says:\n${await page.locator("body").innerText()}`);
    await page.waitForTimeout(50);
  }
}

/// No serious fault for who uses a keyboard or a screen reader.
export async function isAccessible(page, name) {
  // Not as an element: the page's policy forbids foreign scripts, as it should.
  await page.evaluate(await readFile(axePath, "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const words = bad.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.slice(0, 5).map(({ html, failureSummary }) => `  ${html}\n  ${failureSummary}`).join("\n")}`);
  assert.equal(bad.length, 0, `${name}:\n${words.join("\n")}`);
}

/// Nothing is wider than the screen.
export async function fits(page, name) {
  const [wide, width] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= width, `${name} is ${wide} wide on a screen of ${width}`);
}

/// Looks at a page in these modes, once it shows what `ready` waits for.
export async function inModes(tools, modes, screenshots, name, hash, ready, prepare) {
  for (const [mode, options] of modes) {
    const page = await tools.open(hash, options, prepare);
    await ready(page);
    await page.screenshot({ path: path.join(screenshots, `${name}-${mode}.png`), fullPage: true });
    await isAccessible(page, `${name}, ${mode}`);
    await fits(page, `${name}, ${mode}`);
    isWell(page);
    await page.close();
  }
}

/// What a test of a page ends with.
export function isWell(page) {
  assert.deepEqual(page.faults, []);
}

export { assert };
