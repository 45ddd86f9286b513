// Dead letters by their reasons: one may be empty, another is called as a field of a record.

import { assert, begin, isWell } from "./harness.mjs";

export default async function run(server) {
  const tools = await begin(server);
  const { api } = tools;
  await api("PUT", "/v1/topics/jobs", { partitions: 1 });
  await api("POST", "/v1/topics/jobs/records", { records: [1, 2, 3, 4].map((value) => ({ value })) });
  const poll = { topics: ["jobs"], type: "shared", max_records: 10, lease_ms: 600000, session_timeout_ms: 600000, wait_ms: 0 };
  await api("POST", "/v1/groups/workers/members/w/poll", poll);
  const reject = [0, 1, 2, 3].map((offset) => ({ topic: "jobs", partition: 0, offset, reason: offset === 1 ? "" : "value" }));
  await api("POST", "/v1/groups/workers/members/w/settle", { reject });

  const page = await tools.open("#/groups/workers/dead-letters");
  await page.getByText("4 shown, with 2 reasons.").waitFor();
  const reason = page.getByLabel("Reason");
  const said = () => reason.evaluate((select) => select.selectedOptions[0].textContent);
  assert.equal(await said(), "every reason");
  const texts = await reason.evaluate((select) => [...select.options].map((option) => option.textContent));
  assert.deepEqual(texts.toSorted(), ["every reason", "no reason given (1)", "value (3)"]);
  await reason.selectOption({ label: "value (3)" });
  await page.getByText(/^3 shown/).waitFor();
  await reason.selectOption({ label: "no reason given (1)" });
  await page.getByText(/^1 shown/).waitFor();
  assert.equal(await said(), "no reason given (1)");
  assert.deepEqual(await page.locator(".letters .place").allInnerTexts(), ["0:1"]);
  assert.ok(await page.getByRole("button", { name: "Redrive all…" }).isDisabled());
  await page.getByRole("button", { name: "Discard all…" }).click();
  await page.getByRole("dialog").getByText(/^1 record without a reason/).waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Discard 1 record" }).click();
  await page.getByText("1 discarded.").waitFor();
  const { dead_letters: waiting } = await api("GET", "/v1/groups/workers/dead-letters");
  assert.deepEqual(waiting.map((letter) => letter.reason), ["value", "value", "value"]);
  isWell(page);
  await tools.close();
}
