// Warnings above every view, each in light, dark and narrow: damage that is really there, and, in the words that a server has
// for them, a disk that fills up and appends that have stopped. `full.mjs` fills a disk.

import { MODES, answers, assert, begin, formats, inModes, isWell, until } from "./harness.mjs";

const format = await formats();
const GIB = 2 ** 30;
const banners = (page) => page.getByRole("region", { name: "Warnings" }).locator(".banner");

export default async function run(server, screenshots) {
  const tools = await begin(server);
  const { api } = tools;
  // A byte of a file of orders/2 is wrong: who reads that finds it, and from then on the page says so.
  // This machine's own disk may be full, too.
  const status = await api("GET", "/v1/status");
  assert.ok(status.disk.total_bytes > 0 && status.disk.free_bytes > 0 && "full_in_ms" in status);
  const disk = (free, soon) => ({ ...status, degraded: [], full_in_ms: soon, disk: { ...status.disk, free_bytes: free * GIB, total_bytes: 100 * GIB } });
  const healthy = (one) => answers(one, "/v1/status", disk(50, null));
  const page = await tools.open("#/records/orders/2/3", {}, healthy);
  const error = page.getByRole("alert");
  await error.getByText(/cannot be read|damaged/).waitFor();
  const { damage } = await api("GET", "/v1/damage");
  assert.equal(damage.length, 1);
  const [{ damaged_offset: from, damaged_until_offset: until_ }] = damage;
  assert.deepEqual([damage[0].topic, damage[0].partition, from <= 3 && until_ > 3], ["orders", 2, true]);
  const banner = banners(page).filter({ hasText: "Damage." });
  await banner.getByText("orders/2").waitFor();
  assert.match(await banner.getAttribute("class"), /\bbad\b/);
  assert.equal(await banners(page).count(), 1);
  await banner.getByRole("link", { name: "Look" }).click();
  await page.getByText(`Partition 2 cannot be read from offset ${from} to ${until_} (exclusive).`).waitFor();
  await page.getByText("quipu topic skip orders").waitFor();
  await page.getByRole("link", { name: "Topics" }).first().click();
  await page.getByRole("row", { name: /^orders ?damaged/ }).waitFor();
  isWell(page);
  await inModes(tools, MODES, screenshots, "damage", "#/topics/orders", async (one) => {
    await banners(one).getByText("orders/2").waitFor();
    await one.getByText("Partition 2 cannot be read").waitFor();
  }, healthy);
  // What was skipped on purpose is no warning any more.
  await api("POST", "/v1/topics/orders/partitions/2/damage/skip", { damaged_offset: from, damaged_until_offset: until_ });
  await until(page, "no warning", async () => (await banners(page).count()) === 0);

  // The disk: what the server says of it, with other numbers.
  const faulty = (fault) => ({ ...disk(50, null), degraded: [fault] });
  const full = { what: "storage-full", detail: "the disk is full: appends go on by themselves" };
  const stopped = { what: "log-failed", detail: "appends stopped after a failed write" };
  const cases = [
    [disk(50, null), []],
    [disk(8, null), [["warn", "The disk is nearly full. 8 GiB of 100 GiB are free."]]],
    [disk(4, 5400000), [["bad", "The disk is nearly full. 4 GiB of 100 GiB are free. At the present pace it is full in 1 h 30 min."]]],
    [disk(50, 7200000), [["warn", "The disk fills up. 50 GiB of 100 GiB are free. At the present pace it is full in 2 h."]]],
    [disk(50, 90000000), []],
    // Who hears that it is full needs no figures any more.
    [{ ...disk(0, 0), degraded: [full] }, [["bad", "The disk is full. Appends go on by themselves when there is space."]]],
    [faulty(stopped), [["bad", "Appends have stopped. Appends stopped after a failed write."]]],
    [faulty({ what: "partition-failed", detail: "it takes no more appends", partition: "orders/1" }), [["bad", "A partition has failed. orders/1: it takes no more appends."]]],
    [{ ...disk(3, null), degraded: [stopped] }, [["bad", "Appends have stopped. Appends stopped after a failed write."], ["bad", "The disk is nearly full. 3 GiB of 100 GiB are free."]]],
  ];
  const shown = (one) => banners(one).evaluateAll((all) => all.map((each) => [each.classList[1], each.innerText]));
  for (const [answer, expected] of cases) {
    const watched = await tools.open("#/topics", {}, async (one) => {
      await answers(one, "/v1/status", answer);
      await answers(one, "/health/ready", { status: answer.degraded.length > 0 ? "degraded" : "ready", degraded: answer.degraded });
    });
    await watched.getByText(`${format.bytes(answer.disk.free_bytes)} of 100 GiB free`).waitFor();
    await until(watched, JSON.stringify(expected), async () => JSON.stringify(await shown(watched)) === JSON.stringify(expected));
    isWell(watched);
    await watched.close();
  }
  const warned = (one) => answers(one, "/v1/status", { ...disk(3, 5400000), degraded: [stopped] });
  await inModes(tools, MODES, screenshots, "warnings", "#/topics", async (one) => {
    await banners(one).getByText("The disk is nearly full.").waitFor();
    assert.equal(await banners(one).count(), 2);
  }, warned);
  await tools.close();
}
