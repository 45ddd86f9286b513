// What the page says when it is open to all, and when the server goes away. And its small parts: JSON without loss.

import http from "node:http";

import { assert, begin, isWell, until } from "./harness.mjs";

const OPEN = "quipu.example";

export default async function run(server) {
  const tools = await begin(server, { hosts: OPEN });
  const page = await tools.open();
  await page.getByRole("heading", { name: "This server is empty" }).waitFor();
  assert.equal(await page.getByText("Open to all.").count(), 0, "no warning on loopback");
  const read = await page.evaluate(async () => {
    const { read, write, pretty, Raw } = await import(new URL("assets/json.js", document.baseURI));
    const { quoted } = await import(new URL("assets/api.js", document.baseURI));
    const format = await import(new URL("assets/format.js", document.baseURI));
    const wrong = [];
    const same = (text) => {
      if (write(read(text, true)) !== text) wrong.push(text);
    };
    same('{"records":[{"offset":9007199254740993,"value":1e400,"headers":{"value":"x","__proto__":"y"}}],"n":-0.5}');
    same('[{"value":{"a":[1.10,2e3, {"value": 3}] }},{"value":null},{"value":"\\u0000\\"\\\\"}]');
    same('{"constructor":1,"toString":"\\u2028"}'.replace("\\u2028", "\u2028"));
    same(`[{"value":${"[".repeat(100000)}${"]".repeat(100000)}}]`);
    same(`[{"value":"${"x".repeat(3000000)}\\n${"y".repeat(3000000)}"}]`);
    const refused = ['', '{', '{"a":1,}', "[1 2]", "01", "1.", '"\n"', "nul", "{}x", "'a'"];
    for (const text of refused) {
      try {
        read(text);
        wrong.push(`taken: ${text}`);
      } catch (error) {
        if (!(error instanceof SyntaxError)) wrong.push(`${text}: ${error}`);
      }
    }
    const raw = read('{"value": {"n":1.0} }', true).value;
    return {
      wrong, escapes: read('"\\u00e9\\n\\/\\ud83d\\ude00"'), isRaw: raw instanceof Raw && raw.text === '{"n":1.0}',
      pretty: pretty('{"a":[1.0,{}],"b":"x: {,}"}').map(([, text]) => text).join(""),
      quoted: [quoted("plain"), quoted("it's a 'b'"), quoted("$(rm)")],
      counts: [0, 99999, 123456, 12345678901n].map(format.count), times: [0, 999, 8400, 192000, 7260000, null].map(format.duration),
    };
  });
  assert.deepEqual(read, {
    wrong: [], escapes: "é\n/😀", isRaw: true,
    pretty: '{\n  "a": [\n    1.0,\n    {}\n  ],\n  "b": "x: {,}"\n}',
    quoted: ["plain", "'it'\\''s a '\\''b'\\'''", "'$(rm)'"],
    counts: ["0", "99,999", "123K", "12.3B"], times: ["0 s", "999 ms", "8.4 s", "3 min 12 s", "2 h 1 min", "–"],
  });
  const port = new URL(server).port;
  await page.goto(`http://${OPEN}:${port}/`);
  await page.getByText("Open to all.").waitFor();

  // A page of this server in a frame of another shows nothing. The other one is of this machine, too: from elsewhere, the
  // browser itself lets no frame reach an address of this machine.
  const other = http.createServer((_, response) => response.setHeader("content-type", "text/html").end("<title>other</title>"));
  await new Promise((ready) => other.listen(0, "127.0.0.1", ready));
  await page.goto(`http://127.0.0.1:${other.address().port}/`);
  await page.evaluate((address) => {
    const frame = document.createElement("iframe");
    frame.src = address;
    document.body.append(frame);
  }, `${server}/`);
  await until(page, "the browser says why", () => page.faults.some((fault) => fault.includes("frame-ancestors 'none'")));
  const frames = page.frames().filter((frame) => frame !== page.mainFrame());
  await until(page, "the frame shows an error", () => frames.every((frame) => frame.url().startsWith("chrome-error:")));
  assert.equal(frames.length, 1);
  other.close();

  const gone = await tools.open();
  await gone.getByRole("heading", { name: "This server is empty" }).waitFor();
  await gone.route("**/health/ready", (route) => route.abort());
  await gone.getByText("The server does not answer").waitFor();
  await gone.unroute("**/health/ready");
  await gone.getByText("The server does not answer").waitFor({ state: "detached" });
  const damage = (damaged_offset) => ({ what: "damage", detail: "offsets 3 to 9 cannot be read", partition: "orders/2", damaged_offset, skipped: false });
  for (const [answer, words] of [
    [{ status: "degraded", degraded: [{ what: "storage-full", detail: "the disk is full: appends go on by themselves" }] }, "The disk is full. Appends go on by themselves when there is space."],
    [{ status: "degraded", degraded: [{ what: "log-failed", detail: "appends stopped after a failed write" }] }, "Appends have stopped. Appends stopped after a failed write."],
    [{ status: "degraded", degraded: [{ what: "partition-failed", detail: "it takes no more appends", partition: "orders/1" }] }, "A partition has failed. orders/1: it takes no more appends."],
    [{ status: "degraded", degraded: [damage(3), damage(12)] }, "Damage. orders/2: offsets 3 to 9 cannot be read. And 1 more. Look"],
    [{ status: "degraded", degraded: [{ what: "damage", detail: "2 damaged place(s)" }] }, "Damage. 2 damaged place(s)."],
  ]) {
    await gone.route("**/health/ready", (route) => route.fulfill({ json: answer }));
    await gone.getByText(words).waitFor();
    await gone.unroute("**/health/ready");
  }
  isWell(gone);
  await tools.close();
}
