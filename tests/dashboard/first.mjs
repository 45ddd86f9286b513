// An empty server: the first steps lead to a record on the page. Then the same by keyboard alone.

import path from "node:path";
import { assert, begin, fits, isAccessible, isWell } from "./harness.mjs";

export default async function run(server, screenshots) {
  const tools = await begin(server);
  const page = await tools.open();
  await page.getByRole("heading", { name: "This server is empty" }).waitFor();
  const commands = await page.locator("pre").allInnerTexts();
  assert.ok(commands.every((command) => command.startsWith("curl ") && command.includes(tools.base)), commands.join("\n"));
  await page.screenshot({ path: path.join(screenshots, "first-light.png"), fullPage: true });
  await isAccessible(page, "first steps");
  const narrow = await tools.open("", { viewport: { width: 360, height: 740 }, colorScheme: "dark" });
  await narrow.getByRole("heading", { name: "This server is empty" }).waitFor();
  await narrow.screenshot({ path: path.join(screenshots, "first-narrow.png"), fullPage: true });
  await isAccessible(narrow, "first steps, narrow and dark");
  await fits(narrow, "first steps");
  await narrow.close();

  await page.getByLabel("Name").fill("orders");
  await page.getByRole("button", { name: "Create" }).click();
  await page.getByRole("heading", { name: "orders", level: 1 }).waitFor();
  await page.getByRole("button", { name: "Send a record…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Key").fill("customer-7");
  await dialog.getByLabel("Value", { exact: true }).fill('{"order": 10000000000000000001}');
  await dialog.getByLabel("Headers").fill("type: order.created\nnote: a: b");
  await dialog.getByRole("button", { name: "Send" }).click();
  await dialog.getByText("Stored as").waitFor();
  await dialog.getByRole("link").click();
  await page.getByText("10000000000000000001").waitFor();
  await page.getByText("a: b", { exact: true }).waitFor();

  // What is no JSON is not sent as JSON, and can be sent as it is.
  await page.getByRole("button", { name: "Send again…" }).click();
  await dialog.getByLabel("Value", { exact: true }).fill("no json");
  await dialog.getByRole("button", { name: "Send" }).click();
  await dialog.getByText("The value is not JSON").waitFor();
  await dialog.getByLabel("Value is").selectOption("text");
  await dialog.getByRole("button", { name: "Send" }).click();
  await dialog.getByText("Stored as").waitFor();
  await page.keyboard.press("Escape");
  const { records } = await tools.api("GET", `/v1/topics/orders/partitions/${(await page.url()).split("/").at(-2)}/records?offset=earliest`);
  assert.equal(Buffer.from(records.at(-1).value_base64, "base64").toString(), "no json");
  assert.equal(records.at(-1).headers.note, "a: b");

  // By keyboard: past the navigation, to the records, one opened and closed.
  await page.goto(`${tools.base}#/records/orders`);
  await page.locator("summary").first().waitFor();
  await page.reload();
  await page.locator("summary").first().waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  for (let at = 0; at < 40 && (await page.evaluate(() => document.activeElement.tagName)) !== "SUMMARY"; at += 1) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Copy value" }).first().waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Copy value" }).first().waitFor({ state: "hidden" });

  // A dialog takes the focus, Escape closes it and gives it back. A new view is read from its heading on.
  await page.goto(`${tools.base}#/topics/orders`);
  const remove = page.getByRole("button", { name: "Delete…" });
  await page.getByRole("rowheader", { name: "retention_ms" }).waitFor();
  await remove.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.ok(await page.evaluate(() => document.querySelector("dialog").contains(document.activeElement)));
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.ok(await remove.evaluate((button) => button === document.activeElement));
  await page.getByRole("link", { name: "Groups" }).click();
  await page.getByRole("heading", { name: "Groups", level: 1 }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");

  // Deleting asks for the name, and goes.
  await page.goto(`${tools.base}#/topics/orders`);
  await page.getByRole("rowheader", { name: "retention_ms" }).waitFor();
  await remove.click();
  const yes = page.getByRole("dialog").getByRole("button", { name: "Delete" });
  assert.ok(await yes.isDisabled());
  await page.getByRole("dialog").getByText("2 records").waitFor();
  await page.getByRole("dialog").getByRole("textbox").fill("orders");
  await yes.click();
  await page.getByText("There is no topic yet.").waitFor();
  isWell(page);
  await tools.close();
}
