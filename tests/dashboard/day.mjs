// A day's operation: a consumer dies, the alert for that is true, and the operator finds it on the page, resets the group after
// a preview, redrives the dead letters, and is in the audit log with it.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { poll, reject } from "./data.mjs";
import { assert, begin, isWell, until } from "./harness.mjs";

const TOKEN = "the-administrators-token";
const ALERTS = new URL("../../deploy/prometheus/alerts.yml", import.meta.url);
const CONSUMER = { topics: ["orders"], start: "earliest", max_records: 1000, session_timeout_ms: 10000 };

/// The expression of an alert, and the metrics that it is about: those are the rows that a server shows of it.
async function alert(name) {
  const rules = await readFile(ALERTS, "utf8");
  const [, expression] = rules.match(new RegExp(`- alert: ${name}\\n\\s+expr: (.*)\\n`)) ?? [];
  assert.ok(expression, `${name} is no alert`);
  return { expression, metric: expression.match(/^\w+/)[0] };
}

/// The groups for which an alert's expression is true, by what the server measures now. Prometheus' own tool evaluates it
/// where it is installed: a comparison with a number is all that these expressions are.
async function firing(server, name) {
  const { expression, metric } = await alert(name);
  const response = await fetch(`${server}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
  assert.equal(response.status, 200);
  const rows = (await response.text()).split("\n").filter((line) => line.startsWith(`${metric}{`));
  const [, operator, number] = expression.match(/^\w+ (==|>) (\d+)$/) ?? assert.fail(`${expression} is more than a comparison`);
  const found = rows.map((row) => row.match(/^(.*\{group="(.*)"\}) (\d+)$/)).filter((row) => {
    const value = Number(row[3]);
    return operator === "==" ? value === Number(number) : value > Number(number);
  });
  const tool = process.env.QUIPU_TEST_PROMTOOL ?? "promtool";
  const test = {
    rule_files: [], evaluation_interval: "1m",
    tests: [{
      interval: "1m",
      input_series: rows.map((row) => ({ series: row.slice(0, row.lastIndexOf(" ")), values: `${row.slice(row.lastIndexOf(" ") + 1)}+0x3` })),
      promql_expr_test: [{ expr: expression, eval_time: "2m", exp_samples: found.map(([, labels, , value]) => ({ labels, value: Number(value) })) }],
    }],
  };
  const folder = await mkdtemp(path.join(os.tmpdir(), "quipu-alert-"));
  const file = path.join(folder, "test.yml");
  await writeFile(file, JSON.stringify(test));
  try {
    await promisify(execFile)(tool, ["test", "rules", file]);
  } catch (error) {
    if (error.code !== "ENOENT") throw new Error(`promtool: ${error.stdout}${error.stderr}`);
    console.error(`skipped: what promtool says of the alert ${name}, as there is no promtool`);
  } finally {
    await rm(folder, { recursive: true });
  }
  return found.map((row) => row[2]);
}

export default async function run(server, screenshots) {
  const tools = await begin(server);
  const api = (method, at, body) => tools.api(method, at, body, { authorization: `Bearer ${TOKEN}` });
  await api("PUT", "/v1/topics/orders", { partitions: 3 });
  await api("PUT", "/v1/topics/jobs", { partitions: 1 });
  const send = (topic, count) => api("POST", `/v1/topics/${topic}/records`, {
    records: Array.from({ length: count }, (_, at) => ({ key: `k-${at}`, value: { at } })),
  });

  // In the morning all is well: two groups do their work.
  await send("orders", 300);
  await poll(api, "billing", "billing-1", CONSUMER);
  await send("jobs", 3);
  const { records } = await poll(api, "workers", "worker-1", { topics: ["jobs"], type: "shared", start: "earliest", max_records: 10, session_timeout_ms: 600000 });
  assert.deepEqual(await firing(server, "QuipuConsumerStalled"), []);
  assert.deepEqual(await firing(server, "QuipuDeadLetters"), []);

  // The one consumer dies, the other puts its tasks aside; orders keep coming.
  await reject(api, "workers", "worker-1", records);
  assert.deepEqual(await firing(server, "QuipuDeadLetters"), ["workers"]);
  const page = await tools.open();
  await until(page, "the alert of a stalled consumer", async () => {
    await send("orders", 5);
    await page.waitForTimeout(1000);
    return (await firing(server, "QuipuConsumerStalled")).includes("billing");
  }, 180000);

  // The operator signs in, finds the group, and looks.
  await page.getByLabel("Token").fill(TOKEN);
  await page.keyboard.press("Enter");
  const row = page.getByRole("row", { name: /^billing/ });
  await row.getByText("stalled").waitFor();
  await page.screenshot({ path: path.join(screenshots, "day-stalled.png"), fullPage: true });
  await row.getByRole("link", { name: "billing", exact: true }).click();
  await page.getByRole("heading", { name: /^billing/ }).getByText("stalled").waitFor();

  // What waits is of no use any more: the group is set to the newest record, after a look at what that skips.
  const { lag } = await api("GET", "/v1/groups/billing/lag");
  assert.ok(lag > 0);
  await page.getByRole("link", { name: "Reset…" }).click();
  await page.getByLabel("Move to").selectOption("end");
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByText(new RegExp(`Lag goes from ${lag.toLocaleString("en-US")} to 0`)).waitFor();
  await page.getByRole("button", { name: /^Reset \d partitions?…/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
  await page.getByText("Done: 3 partitions are reset.").waitFor();
  assert.equal((await api("GET", "/v1/groups/billing/lag")).lag, 0);

  // The dead letters go back to their queue.
  await page.goto(`${tools.base}#/groups`);
  await page.getByRole("link", { name: "3 dead letters" }).click();
  await page.getByRole("button", { name: "Redrive all…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: /^Redrive 3/ }).click();
  await page.getByText("3 given back to the group.").waitFor();
  assert.deepEqual(await firing(server, "QuipuDeadLetters"), []);

  // Who has done that, and what.
  const { entries } = await api("GET", "/v1/audit");
  const done = entries.filter(({ action }) => action.startsWith("group."));
  assert.deepEqual(done.map(({ principal, action, resource }) => ({ principal, action, resource })), [
    { principal: "admin", action: "group.redrive", resource: "groups/workers/dead-letters" },
    { principal: "admin", action: "group.reset", resource: "groups/billing/offsets" },
  ]);
  assert.ok(done.every(({ address, request_id: id }) => address && id));
  isWell(page);
  await tools.close();
}
