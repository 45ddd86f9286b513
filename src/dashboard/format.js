// Numbers, sizes and times as people read them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const rough = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const tenth = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

/// A count: in full below 100,000, else rounded (1.23M).
export function count(value) {
  if (value === null || value === undefined) return "–";
  return value < 100000 ? whole.format(value) : rough.format(value);
}

/// A count in full.
export function full(value) {
  return value === null || value === undefined ? "" : whole.format(value);
}

/// A text as a whole number of any size, as offsets are: JavaScript's own numbers end at 2^53. Null if it is none.
export function wholeNumber(text) {
  return /^-?[0-9]+$/.test(String(text)) ? BigInt(text) : null;
}

/// A count in full and what it counts: `1 dead letter`, `2 dead letters`.
export function counted(value, noun) {
  return `${full(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;
}

/// An average: events a second.
export function rate(value) {
  if (value === null || value === undefined) return "–";
  return `${value < 100 ? tenth.format(value) : count(Math.round(value))}/s`;
}

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number of bytes.
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  let [size, unit] = [Number(value), 0];
  while (size >= 1024 && unit < SIZES.length - 1) [size, unit] = [size / 1024, unit + 1];
  return `${unit === 0 || size >= 100 ? whole.format(size) : tenth.format(size)} ${SIZES[unit]}`;
}

/// Bytes a second.
export function byteRate(value) {
  return value === null || value === undefined ? "–" : `${bytes(Math.round(value))}/s`;
}

const UNITS = [["d", 86400000], ["h", 3600000], ["min", 60000], ["s", 1000]];

/// A length of time in two units: `3 min 12 s`.
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  const length = Number(ms);
  if (length === 0) return "0 s";
  if (length < 1000) return `${Math.round(length)} ms`;
  if (length < 60000) return `${tenth.format(length / 1000)} s`;
  if (length >= 36500 * 86400000) return "over 100 years";
  const at = UNITS.findIndex(([, size]) => length >= size);
  const [name, size] = UNITS[at];
  const [smaller, part] = UNITS[at + 1];
  const rest = Math.floor((length % size) / part);
  return `${whole.format(Math.floor(length / size))} ${name}${rest > 0 ? ` ${rest} ${smaller}` : ""}`;
}

const two = (value) => String(value).padStart(2, "0");

/// A time in this browser's zone: `2026-03-01 12:30:05.250`.
export function time(ms) {
  if (ms === null || ms === undefined) return "–";
  const at = new Date(Number(ms));
  if (Number.isNaN(at.getTime())) return `${ms} ms`;
  const day = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${clock(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

function clock(at) {
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/// The time of day.
export function hour(ms, withSeconds) {
  return clock(new Date(Number(ms))).slice(0, withSeconds ? 8 : 5);
}

/// How long ago a time is.
export function ago(ms) {
  if (ms === null || ms === undefined) return "never";
  const age = Date.now() - Number(ms);
  return age < 1000 ? "now" : `${duration(age).replace(/\.\d/, "")} ago`;
}
