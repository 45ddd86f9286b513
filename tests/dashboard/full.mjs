// A disk that is really full (the server may write no larger files): the page says so, and what the operator deletes on the
// page makes room again.

import { MODES, assert, begin, inModes, isWell, until } from "./harness.mjs";

export default async function run(server, screenshots) {
  const tools = await begin(server);
  await tools.api("PUT", "/v1/topics/large", { partitions: 1 });
  await tools.api("PUT", "/v1/topics/other", { partitions: 1 });
  const page = await tools.open("#/topics/large");
  await page.getByRole("rowheader", { name: "retention_ms" }).waitFor();
  const value = new Uint8Array(500000);
  const send = (topic) => fetch(`${server}/v1/topics/${topic}/records`, { method: "POST", body: value, headers: { "content-type": "application/octet-stream" } });
  let status = 200;
  for (let at = 0; at < 200 && status === 200; at += 1) ({ status } = await send("large"));
  assert.equal(status, 507);
  assert.equal((await fetch(`${server}/health/ready`)).status, 200, "reads go on");
  // As a producer does, it tries again: the disk counts as full for as long as the last append met it, and entries of
  // the audit log still find room.
  let isTrying = true;
  const tries = (async () => {
    while (isTrying) {
      assert.equal((await send("large")).status, 507);
      await page.waitForTimeout(20);
    }
  })();
  await until(page, "not ready for writes", async () => {
    const writes = await fetch(`${server}/health/ready?for=writes`);
    return writes.status === 507 && (await writes.json()).code === "storage-full";
  });
  const banner = page.getByRole("region", { name: "Warnings" });
  await banner.getByText("The disk is full.").waitFor();
  await inModes(tools, [MODES[0], MODES[3]], screenshots, "full", "#/topics/large", async (one) => {
    await one.getByRole("region", { name: "Warnings" }).getByText("Appends go on by themselves when there is space.").waitFor();
    await one.getByRole("rowheader", { name: "retention_ms" }).waitFor();
  });
  isTrying = false;
  await tries;
  await page.getByRole("button", { name: "Delete…" }).click();
  await page.getByRole("dialog").getByLabel("Type large to confirm").fill("large");
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.getByRole("heading", { name: "Topics", level: 1 }).waitFor();
  assert.equal((await send("other")).status, 200);
  await banner.getByText("The disk is full.").waitFor({ state: "detached" });
  assert.equal((await fetch(`${server}/health/ready?for=writes`)).status, 200);
  isWell(page);
  await tools.close();
}
