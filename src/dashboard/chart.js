// Small charts: a line in a cell, and a chart with axes. Both are drawn from the lists that the lag history answers.

import { el, put, svg } from "./dom.js";
import { hour } from "./format.js";

/// The runs of values without nulls: `[[index, value], …]` each.
function runs(values) {
  const found = [];
  let run = null;
  values.forEach((value, index) => {
    if (value === null || value === undefined) {
      run = null;
      return;
    }
    if (!run) found.push((run = []));
    run.push([index, Number(value)]);
  });
  return found;
}

function line(run, x, y) {
  return `M${run.map(([index, value]) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join("L")}`;
}

/// A run as a curve; one value alone is a dot.
function curve(run, x, y) {
  if (run.length > 1) return svg("path", { class: "curve", d: line(run, x, y) });
  const [[index, value]] = run;
  return svg("circle", { class: "dot", cx: x(index), cy: y(value), r: 2 });
}

/// A line without axes, for a cell.
export function spark(values, label) {
  const [width, height] = [96, 24];
  const most = Math.max(1, ...values.map((value) => Number(value ?? 0)));
  const x = (index) => 2 + (index * (width - 4)) / Math.max(1, values.length - 1);
  const y = (value) => height - 2 - (value * (height - 4)) / most;
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    runs(values).map((run) => curve(run, x, y)));
}

/// Round numbers from 0 to at least `most`.
function ticks(most, isTime) {
  if (isTime) {
    const steps = [1, 5, 10, 50, 100, 500, 1e3, 5e3, 15e3, 6e4, 3e5, 9e5, 36e5, 216e5, 864e5, 864e6, 864e7, 864e8];
    const step = steps.find((size) => most / size <= 4) ?? Math.ceil(most / 4);
    return Array.from({ length: Math.max(1, Math.ceil(most / step)) + 1 }, (_, at) => at * step);
  }
  const power = 10 ** Math.floor(Math.log10(Math.max(1, most / 4)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => most / size <= 4) ?? power * 10;
  return Array.from({ length: Math.max(1, Math.ceil(most / step)) + 1 }, (_, at) => at * step);
}

/// A chart with axes: `update({times, values, format, isTime, label})` draws it anew.
export function chart() {
  const [height, left, bottom] = [220, 64, 24];
  const picture = svg("svg", { class: "chart", height, role: "img" });
  let width = 0;
  const readout = el("p", { class: "readout" });
  let now = null;
  const show = (index) => {
    const value = now?.values[index];
    picture.querySelector(".hair")?.remove();
    if (!now || value === undefined) {
      put(readout, now ? now.label : "");
      return;
    }
    put(readout, `${hour(now.times[index], true)}: ${value === null ? "no sample" : now.format(value)}`);
    picture.append(svg("line", { class: "hair", x1: now.x(index), x2: now.x(index), y1: 8, y2: height - bottom }));
  };
  picture.addEventListener("pointermove", (event) => {
    if (!now || now.times.length === 0) return;
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    show(Math.min(now.times.length - 1, Math.max(0, Math.round(((at - left) / (width - left - 8)) * (now.times.length - 1)))));
  });
  picture.addEventListener("pointerleave", () => show(-1));
  let last = null;
  // Drawn at the width that it has, so that its text is as large as the page's.
  new ResizeObserver(() => {
    if (last && picture.clientWidth !== width) update(last);
  }).observe(picture);
  const update = (shown) => {
    const { times, values, format, isTime, label } = (last = shown);
    width = picture.clientWidth || 600;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const marks = ticks(Math.max(1, ...values.map((value) => Number(value ?? 0))), isTime);
    const most = marks[marks.length - 1];
    const x = (index) => left + (index * (width - left - 8)) / Math.max(1, times.length - 1);
    const y = (value) => 8 + ((most - value) * (height - bottom - 8)) / most;
    const grid = marks.map((mark) => [
      svg("line", { class: "grid", x1: left, x2: width - 8, y1: y(mark), y2: y(mark) }),
      svg("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, format(mark)),
    ]);
    const isShort = times.length > 1 && Number(times[times.length - 1]) - Number(times[0]) < 900000;
    const every = Math.max(1, Math.ceil((times.length * 90) / (width - left)));
    const hours = times.map((time, index) => (index % every === 0 && x(index) < width - 36
      ? svg("text", { x: x(index), y: height - 6, "text-anchor": index === 0 ? "start" : "middle" }, hour(time, isShort)) : null));
    const areas = runs(values).filter((run) => run.length > 1).map((run) =>
      svg("path", { class: "area", d: `${line(run, x, y)}L${x(run[run.length - 1][0])},${y(0)}L${x(run[0][0])},${y(0)}Z` }));
    put(picture, grid, hours, areas, runs(values).map((run) => curve(run, x, y)));
    picture.setAttribute("aria-label", label);
    now = { times, values, format, label, x };
    show(-1);
  };
  return { element: el("div", { class: "plot" }, picture, readout), update };
}
