// The pictures of the past lag: each point lies where the API's value belongs, gaps are gaps, and axes and words say the same.

import path from "node:path";
import { PREFIX, answers, assert, begin, formats, isWell, until } from "./harness.mjs";
import { poll } from "./data.mjs";

const format = await formats();

/// What is drawn: axes, words, and each curve as its points.
function chartOf(page) {
  return page.locator("svg.chart").evaluate((svg) => ({
    label: svg.getAttribute("aria-label"),
    width: svg.viewBox.baseVal.width,
    ticks: [...svg.querySelectorAll("text[text-anchor=end]")].map((text) => [text.textContent, Number(text.getAttribute("y")) - 4]),
    hours: [...svg.querySelectorAll("text:not([text-anchor=end])")].map((text) => [text.textContent, Number(text.getAttribute("x"))]),
    grid: [...svg.querySelectorAll(".grid")].map((line) => Number(line.getAttribute("y1"))),
    curves: [...svg.querySelectorAll(".curve, .dot")].map((curve) => (curve.matches(".dot")
      ? [[Number(curve.getAttribute("cx")), Number(curve.getAttribute("cy"))]]
      : curve.getAttribute("d").slice(1).split("L").map((point) => point.split(",").map(Number)))),
    areas: svg.querySelectorAll(".area").length,
  }));
}

function sparkOf(page, group) {
  return page.getByRole("img", { name: `Lag of ${group} over the past hour` }).evaluate((svg) =>
    [...svg.querySelectorAll(".curve, .dot")].map((curve) => (curve.matches(".dot")
      ? [[Number(curve.getAttribute("cx")), Number(curve.getAttribute("cy"))]]
      : curve.getAttribute("d").slice(1).split("L").map((point) => point.split(",").map(Number)))));
}

/// The runs of values without gaps, as points.
function runs(values, x, y) {
  const found = [[]];
  values.forEach((value, at) => {
    if (value === null) found.push([]);
    else found.at(-1).push([x(at), y(value)]);
  });
  return found.filter((run) => run.length > 0);
}

function near(drawn, expected, what) {
  assert.deepEqual(drawn.map((run) => run.length), expected.map((run) => run.length), `${what}: as many curves and points`);
  drawn.forEach((run, of) => run.forEach((point, at) => point.forEach((place, axis) => {
    assert.ok(Math.abs(place - expected[of][at][axis]) <= 0.1, `${what}: point ${at} is at ${point}, not at ${expected[of][at]}`);
  })));
}

/// The chart shows these values: points on the scale that its own axis says.
function agrees(chart, times, values, words, what) {
  const [left, right, top, bottom] = [64, chart.width - 8, 8, 196];
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known);
  assert.deepEqual([chart.ticks[0][1], chart.ticks.at(-1)[1]], [bottom, top], `${what}: the axis begins at 0 and ends at the top`);
  assert.deepEqual(chart.grid, chart.ticks.map(([, y]) => y), `${what}: a line for each word`);
  // The scale, as the highest point has it; then the words of the axis must fit to it.
  const highest = Math.min(...chart.curves.flat().map(([, y]) => y));
  const rough = (most * (bottom - top)) / (bottom - highest) / (chart.ticks.length - 1);
  const step = Number(rough.toPrecision(2));
  assert.ok(Math.abs(step - rough) < rough / 100, `${what}: a step of ${rough} is no round number`);
  const scale = step * (chart.ticks.length - 1);
  assert.ok(scale >= most, `${what}: ${most} fits below ${scale}`);
  assert.deepEqual(chart.ticks.map(([text]) => text), chart.ticks.map((_, at) => words(step * at)), `${what}: the axis`);
  const x = (at) => left + (at * (right - left)) / Math.max(1, times.length - 1);
  const expected = runs(values, x, (value) => bottom - (value * (bottom - top)) / scale);
  near(chart.curves, expected, what);
  assert.equal(chart.areas, expected.filter((run) => run.length > 1).length);
  assert.ok(chart.hours.length > 0);
  const isShort = times.at(-1) - times[0] < 900000;
  for (const [text, place] of chart.hours) {
    const at = times.findIndex((_, index) => Math.abs(x(index) - place) < 0.1);
    assert.equal(text, format.hour(times[at], isShort), `${what}: the time below ${place}`);
  }
  assert.equal(chart.label, `Lag of billing: now ${words(known.at(-1))}, at most ${words(most)}.`);
}

export default async function run(server, screenshots) {
  const tools = await begin(server);
  const { api } = tools;
  await api("PUT", "/v1/topics/orders", { partitions: 1 });
  const send = (count) => api("POST", "/v1/topics/orders/records", { records: Array.from({ length: count }, (_, at) => ({ value: { at } })) });
  await poll(api, "billing", "billing-1", { topics: ["orders"], start: "earliest", session_timeout_ms: 600000 });
  const page = await tools.open("#/nowhere");

  // A real history: a lag that falls. It has the largest value of every ten seconds.
  const at = "/v1/groups/billing/lag/history";
  const real = () => api("GET", `${at}?window_ms=300000&by=group`);
  const sampled = (value) => until(page, `a sample of ${value}`, async () => (await real()).total.lag.includes(value));
  await send(120);
  await sampled(120);
  const { poll_id: ack } = await api("POST", "/v1/groups/billing/members/billing-1/poll", { ack: null, max_records: 100, wait_ms: 0 });
  await api("POST", "/v1/groups/billing/members/billing-1/poll", { ack, wait_ms: 0, max_records: 1 });
  await sampled(20);
  const history = await real();
  const lags = history.total.lag.filter((value, index, all) => value !== null && value !== all[index - 1]);
  assert.deepEqual(lags.slice(-2), [120, 20], "the history says what has happened");
  assert.equal(history.times.length, history.total.lag.length);
  await answers(page, at, history);
  const windows = [];
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.pathname === PREFIX + at) windows.push(url.searchParams.get("window_ms"));
  });
  await page.goto(`${tools.base}#/groups/billing`);
  const metric = page.getByLabel("What the chart shows");
  for (const [name, words] of [["lag", format.count], ["lag_ms", format.duration], ["lag_bytes", format.bytes]]) {
    await metric.selectOption(name);
    const values = history.total[name];
    const now = `now ${words(values.filter((value) => value !== null).at(-1))},`;
    await until(page, `the chart of ${name}`, async () => (await page.locator(".readout").innerText()).includes(now));
    agrees(await chartOf(page), history.times, values, words, `the real ${name}`);
  }
  await metric.selectOption("lag");
  assert.deepEqual([...new Set(windows)], ["3600000"]);
  await page.getByLabel("How far back").selectOption("300000");
  await until(page, "five minutes are asked for", () => windows.includes("300000"));
  isWell(page);
  await page.close();

  // A longer one, with gaps, a sample alone, and numbers that are rounded.
  const times = Array.from({ length: 120 }, (_, index) => 1700000000000 + index * 30000);
  const shape = times.map((_, index) => {
    if ((index > 30 && index < 40) || index === 79 || index === 81) return null;
    return index < 60 ? index * 4000 : 240000 - (index - 60) * 3900;
  });
  for (const [mode, options] of [["light", {}], ["narrow-dark", { colorScheme: "dark", viewport: { width: 360, height: 740 } }]]) {
    const total = { lag: shape, lag_ms: shape, lag_bytes: shape };
    const long = await tools.open("#/groups/billing", options, (one) => answers(one, at, { ...history, times, total }));
    await long.getByText("Lag of billing: now 9,900, at most 240K.").waitFor();
    const drawn = await chartOf(long);
    agrees(drawn, times, shape, format.count, `a long history, ${mode}`);
    assert.equal(drawn.curves.length, 4, "two gaps of samples, and one sample between two that are missing");
    // Who points at it reads the value of that time.
    const picture = long.locator("svg.chart");
    await picture.scrollIntoViewIfNeeded();
    const box = await picture.boundingBox();
    for (const index of [0, 35, 59, 80, 119]) {
      const place = 64 + (index * (drawn.width - 72)) / 119;
      await long.mouse.move(box.x + (place * box.width) / drawn.width, box.y + 100);
      const value = shape[index] === null ? "no sample" : format.count(shape[index]);
      await long.getByText(`${format.hour(times[index], true)}: ${value}`, { exact: true }).waitFor();
    }
    await picture.screenshot({ path: path.join(screenshots, `chart-${mode}.png`) });
    isWell(long);
    await long.close();
  }

  // The lines of all groups: the real ones, and ones with a shape.
  const lag = await api("GET", "/v1/lag?sort=lag");
  const past = await api("GET", "/v1/lag/history?steps=60");
  assert.deepEqual(past.series.map(({ group }) => group), ["billing"]);
  const rows = ["growing", "falling", "gaps"].map((group) => ({ ...lag.groups[0], group }));
  const made = {
    growing: Array.from({ length: 60 }, (_, index) => index * 7),
    falling: Array.from({ length: 60 }, (_, index) => 1000000 - index * 10000),
    gaps: [null, 5, null, 0, 10, 20, null],
  };
  const series = Object.entries(made).map(([group, values]) => ({ group, lag: values, lag_ms: values, lag_bytes: values }));
  for (const [groups, all] of [[lag.groups, past.series], [rows, series]]) {
    const list = await tools.open("#/groups", {}, async (one) => {
      await answers(one, "/v1/lag", { groups });
      await answers(one, "/v1/lag/history", { ...past, series: all });
    });
    await until(list, "a line for each group", async () => (await list.locator("svg.spark").count()) === groups.length);
    for (const { group, lag: values } of all) {
      const most = Math.max(1, ...values);
      near(await sparkOf(list, group), runs(values, (index) => 2 + (index * 92) / Math.max(1, values.length - 1), (value) => 22 - (value * 20) / most), group);
    }
    isWell(list);
    await list.close();
  }
  await tools.close();
}
