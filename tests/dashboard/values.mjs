// Values, keys and headers of every kind: shown as text, never markup, changed by nothing, and none of them stops the page.

import { assert, begin, fits, isWell } from "./harness.mjs";

const NESTED = `${"[".repeat(500)}${"1,".repeat(49000)}1${"]".repeat(500)}`;
const LONG = JSON.stringify("x".repeat(1000000));
const MARKUP = "<img src=x onerror=document.title='bad'><script>document.title='bad'</script>";

/// A record's body, what its line must show, and what its value must be.
const RECORDS = [
  ['{"key":"number","value":123456789012345678901234567890.10}', "123456789012345678901234567890.10"],
  ['{"key":"exponent","value":1e400}', "1e400"],
  [`{"key":${JSON.stringify(MARKUP)},"value":${JSON.stringify(MARKUP)},"headers":{${JSON.stringify(MARKUP)}:${JSON.stringify(MARKUP)}}}`, JSON.stringify(MARKUP)],
  ['{"key":"prototype","value":{"__proto__":1,"constructor":2,"toString":3}}', '{"__proto__":1,"constructor":2,"toString":3}'],
  ['{"key":"escaped","value":"\\u0000\\u202e\\ud83d\\ude00"}', '"\\u0000\\u202e\\ud83d\\ude00"'],
  ['{"key":"null","value_base64":"bnVsbA=="}', "null"],
  ['{"key":"broken","value_base64":"/wD+"}', "/wD+"],
  [`{"key":"nested","value":${NESTED}}`, NESTED],
  [`{"key":"long","value":${LONG}}`, LONG],
];

export default async function run(server) {
  const tools = await begin(server);
  const { api } = tools;
  await api("PUT", "/v1/topics/values", { partitions: 1, config: { max_record_bytes: 2000000 } });
  for (const [record] of RECORDS) await api("POST", "/v1/topics/values/records", `{"records":[${record}]}`);
  const page = await tools.open("", { viewport: { width: 360, height: 740 } });
  for (const [offset, [record, value]] of RECORDS.entries()) {
    await page.goto(`${tools.base}#/records/values/0/${offset}`);
    await page.getByRole("heading", { name: `values 0:${offset}` }).waitFor();
    const shown = page.getByLabel("Value", { exact: true });
    await shown.waitFor();
    const more = page.getByRole("button", { name: "Show all of it" });
    if (await more.count()) await more.click();
    const text = await shown.evaluate((element) => element.textContent);
    assert.equal(text.replace(/\s/g, ""), value.replace(/\s/g, ""), record.slice(0, 60));
    assert.ok(text.length < 10000000, `${record.slice(0, 30)} is ${text.length} characters long on the page`);
    assert.equal(await page.locator("main img, main script").count(), 0, "never markup");
    await fits(page, record.slice(0, 30));
  }
  await page.goto(`${tools.base}#/records/values`);
  await page.getByText(`${RECORDS.length} records, the newest first.`).waitFor();
  await fits(page, "a list of values");
  assert.equal(await page.locator("main img, main script").count(), 0);
  assert.notEqual(await page.title(), "bad");

  // Two keys that differ in what cannot be seen do not look the same; sent again they are the same keys.
  await api("PUT", "/v1/topics/keys", { partitions: 1 });
  const keys = ["a\u0000b", "ab", "line\nbreak", ""];
  await api("POST", "/v1/topics/keys/records", { records: keys.map((key) => ({ key, value: key.length })) });
  await api("POST", "/v1/topics/keys/records", '{"records":[{"key":"spaces","value":[1,\r\n2 ]}]}');
  await page.goto(`${tools.base}#/records/keys`);
  await page.getByText("5 records, the newest first.").waitFor();
  const texts = await page.locator(".record .key").allInnerTexts();
  assert.equal(new Set(texts).size, 5, JSON.stringify(texts));
  const said = () => page.getByRole("dialog").getByText("Stored as");
  for (let offset = 0; offset < 5; offset += 1) {
    await page.goto(`${tools.base}#/records/keys/0/${offset}`);
    await page.getByRole("heading", { name: `keys 0:${offset}` }).waitFor();
    await page.getByRole("button", { name: "Send again…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Send", exact: true }).click();
    await said().waitFor();
    await page.getByRole("button", { name: "Close" }).click();
  }
  const lines = async (offset) => {
    const answer = await fetch(`${server}/v1/topics/keys/partitions/0/records?offset=${offset}&max_records=5`);
    return (await answer.text()).match(/"key":.*?,"headers"/gs).slice(0, 5);
  };
  assert.deepEqual(await lines(5), await lines(0));

  // Offsets that JavaScript's numbers cannot hold are asked for, shown and sent as they are.
  const huge = 9007199254740993n;
  const asked = [];
  await page.route("**/v1/topics/values/partitions/0/records?*", (route) => {
    const offset = BigInt(new URL(route.request().url()).searchParams.get("offset"));
    asked.push(offset);
    const record = `{"partition":0,"offset":${offset},"timestamp":1,"key":"k","value":1}`;
    const body = `{"topic":"values","partition":0,"records":[${record}],"next_offset":${offset + 1n},"log_start_offset":5,"end_offset":${huge + 9n}}`;
    return route.fulfill({ body, contentType: "application/json" });
  });
  await page.goto(`${tools.base}#/records/values/0/${huge}`);
  await page.getByText("Offset", { exact: true }).waitFor();
  assert.equal(await page.getByText("No record has this offset").count(), 0);
  for (const [name, offset] of [["Before", huge - 1n], ["After", huge + 1n]]) {
    assert.match(await page.getByRole("link", { name, exact: true }).getAttribute("href"), new RegExp(`/${offset}$`));
  }
  await page.getByRole("link", { name: "From here on" }).click();
  await page.getByText("1 from 9,007,199,254,740,993.").waitFor();
  await page.getByRole("button", { name: "After", exact: true }).click();
  await page.getByText("1 from 9,007,199,254,740,994.").waitFor();
  await page.getByRole("button", { name: "Before", exact: true }).click();
  await page.getByText("1 from 9,007,199,254,740,944.").waitFor();
  assert.deepEqual(asked, [huge, huge, huge + 1n, huge - 49n]);
  await page.unroute("**/v1/topics/values/partitions/0/records?*");
  await api("PUT", "/v1/groups/reader/offsets", { offsets: [{ topic: "values", partition: 0, offset: 2 }] });
  const sent = [];
  await page.route("**/offsets/reset", (route) => {
    sent.push(route.request().postData());
    const row = `{"topic":"values","partition":0,"old_offset":2,"new_offset":${huge},"old_timestamp":1,"new_timestamp":null,"old_lag":1,"new_lag":0}`;
    return route.fulfill({ body: `{"dry_run":true,"preview":"p","offsets":[${row}]}`, contentType: "application/json" });
  });
  await page.goto(`${tools.base}#/groups/reader/reset`);
  await page.getByLabel("Move to").selectOption("offset");
  await page.getByLabel("Offset or shift").fill(String(huge));
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByText("+9,007,199,254,740,991").waitFor();
  assert.deepEqual(sent, [`{"to":{"offset":${huge}},"dry_run":true}`]);
  await page.getByLabel("Offset or shift").fill("");
  await page.getByRole("button", { name: "Preview" }).click();
  await page.getByText("Give a whole number.").waitFor();
  assert.equal(sent.length, 1);

  // A filter that is not one is said, and never left out in silence.
  await page.goto(`${tools.base}#/records/keys?header=type`);
  await page.getByText("A header is looked for as name=value").waitFor();
  await page.goto(`${tools.base}#/records/keys,values?at=offset&offset=1`);
  await page.getByText("Offsets are those of one topic").waitFor();
  assert.equal(await page.locator("summary").count(), 0);
  isWell(page);
  await tools.close();
}
