// Every view in light and dark, wide and narrow: nothing serious for axe, nothing wider than the screen, and a screenshot of each.

import path from "node:path";
import { MODES, assert, begin, fits, isAccessible, isWell } from "./harness.mjs";
import { fill } from "./data.mjs";

/// A view, and what is there once it is drawn.
const VIEWS = [
  ["overview", "#/", (page) => page.getByRole("img", { name: "Lag of billing over the past hour" })],
  ["groups", "#/groups", (page) => page.getByRole("img", { name: "Lag of workers over the past hour" })],
  ["topics", "#/topics", (page) => page.getByRole("link", { name: "payments", exact: true })],
  ["group", "#/groups/billing", (page) => page.getByRole("row", { name: /^payments 0/ })],
  ["queue", "#/groups/workers", (page) => page.getByRole("table", { name: "Leased records" })],
  ["dead-letters", "#/groups/workers/dead-letters", (page) => page.getByText("invalid: no such account").nth(1)],
  ["reset", "#/groups/billing/reset", async (page) => {
    await page.getByRole("button", { name: "Preview" }).click();
    return page.getByRole("table", { name: "What would change" });
  }],
  ["reset-asks", "#/groups/billing/reset", async (page) => {
    await page.getByRole("button", { name: "Preview" }).click();
    await page.getByRole("button", { name: /^Reset \d+ partitions…/ }).click();
    return page.getByRole("dialog");
  }],
  ["topic", "#/topics/orders", (page) => page.getByRole("rowheader", { name: "retention_ms" })],
  ["delete-asks", "#/topics/orders", async (page) => {
    await page.getByRole("rowheader", { name: "retention_ms" }).waitFor();
    await page.getByRole("button", { name: "Delete…" }).click();
    return page.getByRole("dialog");
  }],
  ["records", "#/records/orders", async (page) => {
    await page.locator("summary").first().click();
    return page.getByRole("button", { name: "Copy value" });
  }],
  ["records-of-all", "#/records", (page) => page.locator("summary").first()],
  ["search", "#/records/orders?search=paid&at=oldest", (page) => page.getByText(/found 50/)],
  ["offset", "#/records/orders?at=offset&partition=1&offset=3", (page) => page.locator("summary").first()],
  ["record", "#/records/orders/1/3", (page) => page.getByRole("button", { name: "Copy as curl" })],
  ["tail", "#/records/orders?live=1", (page) => page.getByText("Live: waiting")],
  ["produce", "#/topics/orders", async (page) => {
    await page.getByRole("rowheader", { name: "retention_ms" }).waitFor();
    await page.getByRole("button", { name: "Send a record…" }).click();
    return page.getByRole("dialog");
  }],
  ["missing", "#/nowhere", (page) => page.getByText("does not exist")],
];

export default async function run(server, screenshots) {
  const tools = await begin(server);
  await fill(tools.api);
  const faults = [];
  for (const [mode, options] of MODES) {
    for (const [name, hash, ready] of VIEWS) {
      const page = await tools.open(hash, options);
      await (await ready(page)).first().waitFor();
      await page.screenshot({ path: path.join(screenshots, `${name}-${mode}.png`), fullPage: true });
      try {
        await isAccessible(page, `${name}, ${mode}`);
        await fits(page, `${name}, ${mode}`);
        isWell(page);
      } catch (error) {
        // All views are looked at before the test fails.
        faults.push(`${name}, ${mode}: ${error.message}`);
      }
      await page.close();
    }
  }
  await tools.close();
  assert.equal(faults.length, 0, faults.join("\n\n"));
}
