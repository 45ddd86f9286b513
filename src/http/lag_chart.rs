//! Draws a plot as one SVG without scripts, fonts or links, so that every program that shows images can show it.
//!
//! It is light or dark, as the reader's system is, and has its own background, so that any page can contain it. Colours
//! are plain rules of a style sheet (no variables), because converters to bitmaps support little more. Every name is
//! escaped; characters that XML forbids become U+FFFD.

use std::fmt::Write as _;

use crate::broker::engine::TimestampMs;
use crate::broker::lag::plot::{Metric, Plot, Value};
use crate::broker::lag::window::Status;

/// Adds formatted text.
macro_rules! put {
    ($out:expr, $($text:tt)+) => {
        write!($out, $($text)+).expect("a String takes everything")
    };
}

/// The colours of the chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Theme {
    /// As the reader's system.
    #[default]
    Auto,
    /// Always light.
    Light,
    /// Always dark.
    Dark,
}

/// The content of the chart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picture<'a> {
    /// The subject, as a heading.
    pub title: &'a str,
    /// The unit of a line, as in `by partition`.
    pub each: &'a str,
    /// The metric.
    pub metric: Metric,
    /// The lines.
    pub plot: &'a Plot,
    /// The lines' names, in the order of the plot.
    pub names: &'a [String],
    /// The end of the time axis.
    pub until: TimestampMs,
    /// The current value.
    pub now: Value,
    /// The current status.
    pub status: Status,
    /// The colours.
    pub theme: Theme,
}

/// Lines with a colour of their own.
pub(super) const MAX_LINES: usize = 8;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 28.0;
const LEFT: f64 = 88.0;
const TOP: f64 = 100.0;
const BOTTOM: f64 = 338.0;
/// Where the legend begins, if any.
const LEGEND: f64 = 724.0;
/// The number of a name's characters that fit into the legend.
const NAME_CHARS: usize = 19;

const LIGHT: [&str; MAX_LINES] = [
    "#2f6fed", "#e8710a", "#0f9d72", "#b83fc9", "#b98900", "#0b8fb3", "#d93f4c", "#7a5af5",
];
const DARK: [&str; MAX_LINES] = [
    "#6ea8fe", "#ffa657", "#3fcf9a", "#e07bf0", "#e3b93b", "#4fc3e8", "#ff7b85", "#a99bff",
];
/// Ground, frame, text, faint text, grid, axis, well, warning, wrong.
const LIGHT_GROUND: [&str; 9] = [
    "#ffffff", "#d8dee4", "#1f2328", "#636c76", "#edf0f3", "#c4ccd4", "#1a7f37", "#9a6700", "#cf222e",
];
const DARK_GROUND: [&str; 9] = [
    "#0d1117", "#30363d", "#e6edf3", "#8d96a0", "#1d232b", "#3d444d", "#3fb950", "#d29922", "#f85149",
];

/// Draws the chart.
#[must_use]
pub(super) fn draw(picture: &Picture<'_>) -> String {
    let mut out = String::with_capacity(16 << 10);
    let title = escape(picture.title);
    put!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-labelledby=\"t d\">\n<title id=\"t\">{title}</title>\n<desc id=\"d\">{}, {}</desc>\n",
        what(picture.metric),
        escape(&span_text(picture))
    );
    style(&mut out, picture.theme);
    put!(
        out,
        "<rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n",
        WIDTH - 1.0,
        HEIGHT - 1.0
    );
    heading(&mut out, picture, &title);
    if picture.plot.is_empty() {
        let (x, y) = (WIDTH / 2.0, (TOP + BOTTOM) / 2.0);
        let why = "points are taken from the start of the server on, once the group has committed something";
        text(&mut out, "empty", (x, y), "middle", "no history yet");
        text(&mut out, "faint", (x, y + 24.0), "middle", why);
    } else {
        diagram(&mut out, picture);
    }
    out.push_str("</svg>\n");
    out
}

fn style(out: &mut String, theme: Theme) {
    out.push_str(
        "<style>\ntext{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",\"Noto Sans\",Arial,sans-serif;\
         font-size:12.5px;font-variant-numeric:tabular-nums}\n\
         .title,.now{font-size:17px;font-weight:600}.empty{font-size:17px}\n\
         .grid,.axis{stroke-width:1;shape-rendering:crispEdges}\
         .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.area{stroke:none;fill-opacity:.13}\
         .others{stroke-dasharray:2 4}\n",
    );
    match theme {
        Theme::Light => colours(out, &LIGHT_GROUND, &LIGHT),
        Theme::Dark => colours(out, &DARK_GROUND, &DARK),
        Theme::Auto => {
            colours(out, &LIGHT_GROUND, &LIGHT);
            out.push_str("@media (prefers-color-scheme:dark){\n");
            colours(out, &DARK_GROUND, &DARK);
            out.push_str("}\n");
        }
    }
    out.push_str("</style>\n");
}

fn colours(out: &mut String, ground: &[&str; 9], lines: &[&str; MAX_LINES]) {
    let [back, frame, text, faint, grid, axis, good, warn, bad] = ground;
    put!(
        out,
        ".ground{{fill:{back};stroke:{frame}}}text{{fill:{text}}}.faint,.empty{{fill:{faint}}}.grid{{stroke:{grid}}}\
             .axis{{stroke:{axis}}}.good{{fill:{good}}}.warn{{fill:{warn}}}.bad{{fill:{bad}}}.ring{{stroke:{back}}}\
             .others{{stroke:{faint}}}\n"
    );
    for (index, colour) in lines.iter().enumerate() {
        put!(out, ".s{index}{{stroke:{colour}}}.f{index}{{fill:{colour}}}");
    }
    out.push('\n');
}

fn heading(out: &mut String, picture: &Picture<'_>, title: &str) {
    let right = WIDTH - MARGIN;
    let (class, status) = match picture.status {
        Status::Ok => ("good", "ok"),
        Status::Behind => ("warn", "falling behind"),
        Status::Stalled => ("bad", "stalled"),
        Status::Losing => ("bad", "losing data"),
    };
    let now = match picture.metric {
        Metric::Lag if picture.now.lag == 1 => "1 record".to_owned(),
        Metric::Lag => format!("{} records", figure(Metric::Lag, picture.now.lag)),
        metric => figure(metric, picture.now.get(metric)),
    };
    let (what, span) = (what(picture.metric), span_text(picture));
    let what = format!("{what}{} · {span}", picture.each);
    text(out, "title", (MARGIN, 38.0), "start", title);
    text(out, "faint", (MARGIN, 59.0), "start", &escape(&what));
    text(out, "now", (right, 38.0), "end", &now);
    text(out, class, (right, 59.0), "end", &format!("● {status}"));
}

fn diagram(out: &mut String, picture: &Picture<'_>) {
    let plot = picture.plot;
    let figure = |value: &Option<Value>| value.map(|value| value.get(picture.metric) as f64);
    let figures = |values: &[Option<Value>]| -> Vec<Option<f64>> { values.iter().map(figure).collect() };
    let lines = plot.lines.iter().take(MAX_LINES);
    let mut curves: Vec<Vec<Option<f64>>> = lines.map(|line| figures(&line.values)).collect();
    let others = (plot.left_out > 0).then(|| figures(&plot.others));
    let has_legend = curves.len() + usize::from(others.is_some()) > 1;
    let right = if has_legend { LEGEND - 26.0 } else { WIDTH - MARGIN };

    let values = curves.iter().chain(&others).flatten().flatten();
    let most = values.fold(0.0, |most: f64, value| most.max(*value));
    let ticks = Ticks::of(picture.metric, most);
    let begin = plot.times.first().map_or(0, |time| time.get());
    let last = plot.times.last().map_or(0, |time| time.get());
    let end = picture.until.get().max(last).max(begin + 1);
    let x = |time: i64| LEFT + (time - begin) as f64 / (end - begin) as f64 * (right - LEFT);
    let y = |value: f64| BOTTOM - value / ticks.top * (BOTTOM - TOP);

    for (value, label) in &ticks.labels {
        let y = y(*value).round();
        let class = if *value == 0.0 { "axis" } else { "grid" };
        line(out, class, (LEFT, y), (right, y));
        text(out, "faint", (LEFT - 10.0, y + 4.5), "end", label);
    }
    text(out, "faint", (MARGIN, TOP - 14.0), "start", ticks.unit);
    for (time, label) in time_ticks(begin, end) {
        let x = x(time).round();
        line(out, "axis", (x, BOTTOM), (x, BOTTOM + 5.0));
        text(out, "faint", (x, BOTTOM + 21.0), "middle", &label);
    }
    text(out, "faint", (right, HEIGHT - 18.0), "end", "time (UTC)");

    let at = |step: usize| plot.times.get(step).map_or(begin, |time| time.get());
    if let Some(others) = &others {
        let path = path(others, |step| x(at(step)), y);
        put!(out, "<path class=\"line others\" d=\"{path}\"/>\n");
    }
    if !has_legend && let Some(only) = curves.first() {
        let area = area(only, |step| x(at(step)), y);
        put!(out, "<path class=\"area f0\" d=\"{area}\"/>\n");
    }
    // Draw the worst line last, above the others.
    for (index, curve) in curves.iter().enumerate().rev() {
        let path = path(curve, |step| x(at(step)), y);
        put!(out, "<path class=\"line s{index}\" d=\"{path}\"/>");
        if let Some((step, value)) = known(curve).last() {
            let (x, y) = (x(at(*step)), y(*value));
            put!(
                out,
                "<circle class=\"ring f{index}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" stroke-width=\"1.5\"/>"
            );
        }
        out.push('\n');
    }
    if has_legend {
        let others = others.map(|others| (plot.left_out, others));
        legend(out, picture, &mut curves, others);
    }
}

/// Names with their latest values, the largest of them first.
fn legend(
    out: &mut String,
    picture: &Picture<'_>,
    curves: &mut [Vec<Option<f64>>],
    others: Option<(usize, Vec<Option<f64>>)>,
) {
    let right = WIDTH - MARGIN;
    let value = |curve: &[Option<f64>]| curve.last().copied().flatten();
    let shown =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| figure(picture.metric, value as u64));
    text(out, "faint", (right, TOP - 14.0), "end", "latest");
    let mut y = TOP + 7.0;
    let mut row = |swatch: &str, name: &str, value: &str| {
        put!(out, "<g><title>{}</title>", escape(name));
        line(
            out,
            &format!("line {swatch}"),
            (LEGEND, y - 4.5),
            (LEGEND + 14.0, y - 4.5),
        );
        text(out, "name", (LEGEND + 22.0, y), "start", &escape(&shorten(name)));
        text(out, "faint", (right, y), "end", value);
        out.push_str("</g>\n");
        y += 25.0;
    };
    let mut order: Vec<usize> = (0..curves.len()).collect();
    let rank = |index: &usize| value(&curves[*index]).unwrap_or(-1.0);
    order.sort_by(|a, b| f64::total_cmp(&rank(b), &rank(a)));
    for index in order {
        let name = picture.names.get(index).map_or("", String::as_str);
        row(&format!("s{index}"), name, &shown(value(&curves[index])));
    }
    if let Some((count, values)) = others {
        let name = format!("{count} other{}", if count == 1 { "" } else { "s" });
        row("others", &name, &shown(value(&values)));
    }
}

/// A curve, with gaps where several steps in a row have no value.
fn path(values: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for stretch in known(values).chunk_by(|a, b| b.0 - a.0 <= 3) {
        for (index, (step, value)) in stretch.iter().enumerate() {
            let (x, y) = (x(*step), y(*value));
            if index == 0 {
                // A single point is a dot: the line's ends are round.
                put!(path, "M{x:.1} {y:.1}h0");
                continue;
            }
            // Leave out points within a flat stretch.
            let next = stretch.get(index + 1).map(|(_, value)| value);
            if stretch[index - 1].1 != *value || next != Some(value) {
                put!(path, "L{x:.1} {y:.1}");
            }
        }
    }
    path
}

/// The steps that have a value.
fn known(values: &[Option<f64>]) -> Vec<(usize, f64)> {
    let steps = values.iter().enumerate();
    steps
        .filter_map(|(step, value)| Some((step, (*value)?)))
        .collect()
}

/// The area below a curve.
fn area(values: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut area = String::new();
    for stretch in known(values).chunk_by(|a, b| b.0 - a.0 <= 3) {
        put!(area, "M{:.1} {BOTTOM}", x(stretch[0].0));
        for (step, value) in stretch {
            put!(area, "L{:.1} {:.1}", x(*step), y(*value));
        }
        put!(area, "L{:.1} {BOTTOM}Z", x(stretch[stretch.len() - 1].0));
    }
    area
}

fn line(out: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    put!(
        out,
        "<line class=\"{class}\" x1=\"{x1}\" x2=\"{x2}\" y1=\"{y1}\" y2=\"{y2}\"/>\n"
    );
}

/// Escaped text whose beginning, middle or end is at a point.
fn text(out: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
    put!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>\n"
    );
}

/// The value axis.
struct Ticks {
    /// The value at its upper end.
    top: f64,
    labels: Vec<(f64, String)>,
    unit: &'static str,
}

impl Ticks {
    /// About five round values that reach to `most`.
    fn of(metric: Metric, most: f64) -> Self {
        const SIXTIES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0];
        // The axis's unit in units of the metric, its name, and its steps.
        let (size, unit, steps): (f64, _, &[f64]) = match metric {
            Metric::Lag => (1.0, "records", &[]),
            Metric::LagBytes if most < 2e3 => (1.0, "bytes", &[]),
            Metric::LagBytes if most < 2e6 => (1e3, "kB", &[]),
            Metric::LagBytes if most < 2e9 => (1e6, "MB", &[]),
            Metric::LagBytes if most < 2e12 => (1e9, "GB", &[]),
            Metric::LagBytes => (1e12, "TB", &[]),
            Metric::LagMs if most < 2e3 => (1.0, "milliseconds", &[]),
            Metric::LagMs if most < 120e3 => (1e3, "seconds", SIXTIES),
            Metric::LagMs if most < 7200e3 => (60e3, "minutes", SIXTIES),
            Metric::LagMs if most < 172_800e3 => (3600e3, "hours", &[0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0]),
            Metric::LagMs => (86_400e3, "days", &[]),
        };
        let most = most / size;
        let least = most / 5.0;
        let step = steps.iter().copied().find(|step| *step >= least);
        let step = step.unwrap_or_else(|| round_step(least));
        // There are no fractions of a record, a byte or a millisecond.
        let step = if size == 1.0 { step.max(1.0) } else { step };
        let count = (most / step).ceil().max(2.0);
        let label = |index: u32| {
            let value = f64::from(index) * step;
            let has_tenths = step < 1.0 && metric != Metric::Lag;
            let text = if has_tenths {
                format!("{value:.1}")
            } else {
                compact(value)
            };
            (value * size, text)
        };
        Self {
            top: count * step * size,
            labels: (0..=count as u32).map(label).collect(),
            unit,
        }
    }
}

/// The least of 1, 2 or 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let mut steps = [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power);
    steps
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

/// Round times within a span, with their labels.
fn time_ticks(begin: i64, end: i64) -> Vec<(i64, String)> {
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    let seconds = [10, 20, 30].map(|seconds| seconds * 1000);
    let minutes = [1, 2, 5, 10, 15, 30].map(|minutes| minutes * MINUTE);
    let hours = [1, 2, 3, 6, 12].map(|hours| hours * HOUR);
    let mut steps = seconds.into_iter().chain(minutes).chain(hours);
    let step = steps.find(|step| (end - begin) / step <= 8).unwrap_or(24 * HOUR);
    let first = begin.div_euclid(step) + i64::from(begin.rem_euclid(step) > 0);
    let pattern = if step < MINUTE { "%H:%M:%S" } else { "%H:%M" };
    let tick = |index: i64| {
        let time = index * step;
        let is_midnight = time.rem_euclid(24 * HOUR) == 0;
        (
            time,
            formatted(time, if is_midnight { "%-d %b" } else { pattern }),
        )
    };
    (first..=end.div_euclid(step)).map(tick).collect()
}

fn formatted(time_ms: i64, pattern: &str) -> String {
    jiff::Timestamp::from_millisecond(time_ms)
        .map_or_else(|_| String::new(), |time| time.strftime(pattern).to_string())
}

/// The labels of the span's ends.
fn span_text(picture: &Picture<'_>) -> String {
    let begin = picture.plot.from.get();
    let end = picture.until.get();
    let day = "%-d %b %Y";
    let is_one_day = formatted(begin, day) == formatted(end, day);
    let shown = if is_one_day { "%H:%M" } else { "%-d %b %Y %H:%M" };
    let day = if is_one_day { ", %-d %b %Y" } else { "" };
    let (begin, day) = (formatted(begin, shown), formatted(end, day));
    format!("{begin} – {} UTC{day}", formatted(end, shown))
}

const fn what(metric: Metric) -> &'static str {
    match metric {
        Metric::Lag => "records to be read",
        Metric::LagMs => "age of the next record",
        Metric::LagBytes => "bytes to be read",
    }
}

/// A value with its unit, in at most seven or so characters.
fn figure(metric: Metric, value: u64) -> String {
    let value = value as f64;
    match metric {
        // To the record, if that is short enough to read.
        Metric::Lag if (1000.0..10_000.0).contains(&value) => {
            format!("{},{:03}", value as u64 / 1000, value as u64 % 1000)
        }
        Metric::Lag => compact(value),
        Metric::LagBytes => scaled(value, &[" B", " kB", " MB", " GB", " TB", " PB"]),
        Metric::LagMs => match value {
            0.0 => "0 s".to_owned(),
            v if v < 1e3 => format!("{v:.0} ms"),
            v if v < 60e3 => format!("{} s", short(v / 1e3)),
            v if v < 3600e3 => format!("{} min", short(v / 60e3)),
            v if v < 172_800e3 => format!("{} h", short(v / 3600e3)),
            v if v < 365.25 * 86_400e3 => format!("{} d", short(v / 86_400e3)),
            v => format!("{} years", short(v / (365.25 * 86_400e3))),
        },
    }
}

/// `950`, `1.2k`, `34k`, `5M`.
fn compact(value: f64) -> String {
    scaled(value, &["", "k", "M", "G", "T", "P", "E"])
}

/// A value with the first unit that makes it less than a thousand; each is a thousand of the one before.
fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", short(value), units[unit])
}

/// One decimal below a hundred, unless it is 0.
fn short(value: f64) -> String {
    let tenths = (value * 10.0).round() / 10.0;
    if tenths < 100.0 && tenths.fract() != 0.0 {
        format!("{tenths:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A name shortened to fit the legend: its end tells more than its middle.
fn shorten(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= NAME_CHARS {
        return name.to_owned();
    }
    let tail = NAME_CHARS / 2;
    let head = NAME_CHARS - tail - 1;
    let (head, tail) = (&chars[..head], &chars[chars.len() - tail..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(' '),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::broker::engine::TopicId;

    use super::*;
    use crate::broker::lag::plot::Line;

    const HOUR: i64 = 3_600_000;

    fn plot(lines: usize, steps: usize) -> Plot {
        let values = |line: u64| -> Vec<Option<Value>> {
            let value = |step: u64| Value {
                lag: line * step,
                lag_ms: line * step * 1000,
                lag_bytes: line * step * 700,
            };
            (0..steps as u64).map(|step| Some(value(step))).collect()
        };
        let time = |step: i64| TimestampMs(1_700_000_000_000 + step * 10_000);
        let line = |line: usize| Line {
            topic: Some(TopicId(1)),
            partition: Some(line as u32),
            values: values(line as u64 + 1),
        };
        Plot {
            from: time(0),
            step_ms: 10_000,
            times: (0..steps as i64).map(time).collect(),
            lines: (0..lines).map(line).collect(),
            left_out: 0,
            others: Vec::new(),
            total: values(9),
        }
    }

    fn picture(plot: &Plot, title: &str, names: &[String], metric: Metric) -> String {
        draw(&Picture {
            title,
            each: ", by partition",
            metric,
            plot,
            names,
            until: plot.times.last().copied().unwrap_or_default(),
            now: Value::default(),
            status: Status::Stalled,
            theme: Theme::Auto,
        })
    }

    /// Checks that every element is closed where it must be, and that no text or attribute breaks out.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag ends");
            assert!(!text.contains('>') || open.contains(&"style"), "{part}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag.split([' ', '/']).next().unwrap();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed));
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            let escapes = ["amp;", "lt;", "gt;", "quot;", "#39;"];
            let mut after = text.split('&').skip(1);
            let holds = after.all(|rest| escapes.iter().any(|escape| rest.starts_with(escape)));
            assert!(holds, "{text}");
        }
        assert!(open.is_empty(), "{open:?}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn every_picture_is_well_formed() {
        let names: Vec<String> = (0..8).map(|n| format!("orders/{n}")).collect();
        for metric in [Metric::Lag, Metric::LagMs, Metric::LagBytes] {
            for (lines, steps) in [(0, 0), (1, 1), (1, 360), (3, 2), (8, 100)] {
                let mut plot = plot(lines, steps);
                plot.left_out = usize::from(lines == 8) * 4;
                plot.others = plot.total.clone();
                assert_well_formed(&picture(&plot, "Lag of g", &names, metric));
            }
        }
    }

    #[test]
    fn nothing_in_a_name_becomes_a_part_of_the_picture() {
        let bad = "</text><script>alert('&\"')</script>\u{1}\n]]>";
        let svg = picture(&plot(2, 9), bad, &[bad.to_owned(), "b".to_owned()], Metric::Lag);
        assert_well_formed(&svg);
        let holds = !svg.contains("<script") && svg.contains("&lt;script&gt;");
        assert!(holds, "{svg}");
    }

    #[test]
    fn without_points_it_says_so() {
        assert!(picture(&plot(0, 0), "Lag of g", &[], Metric::Lag).contains("no history yet"));
    }

    #[test]
    fn one_line_needs_no_legend_and_gets_the_room() {
        let names = ["a-line", "b-line"].map(str::to_owned);
        let svg = picture(&plot(1, 9), "Lag of g", &names[..1], Metric::Lag);
        assert!(!svg.contains("a-line") && svg.contains("class=\"area f0\""));
        let svg = picture(&plot(2, 9), "Lag of g", &names, Metric::Lag);
        assert!(svg.contains("a-line") && !svg.contains("class=\"area f0\""));
    }

    #[test]
    fn the_value_axis_has_a_few_round_values_in_the_unit_that_suits() {
        let axis = |metric, most| {
            let ticks = Ticks::of(metric, most);
            let labels: Vec<String> = ticks.labels.into_iter().map(|(_, label)| label).collect();
            (labels.join(" "), ticks.unit)
        };
        for (metric, most, labels, unit) in [
            (Metric::Lag, 0.0, "0 1 2", "records"),
            (Metric::Lag, 4.0, "0 1 2 3 4", "records"),
            (Metric::Lag, 2162.0, "0 500 1k 1.5k 2k 2.5k", "records"),
            (Metric::Lag, 9_400_000.0, "0 2M 4M 6M 8M 10M", "records"),
            (Metric::LagMs, 900.0, "0 200 400 600 800 1k", "milliseconds"),
            (Metric::LagMs, 70_000.0, "0 15 30 45 60 75", "seconds"),
            (Metric::LagMs, 3_600_000.0, "0 15 30 45 60", "minutes"),
            (Metric::LagMs, 20.0 * 3_600_000.0, "0 6 12 18 24", "hours"),
            (Metric::LagMs, 4750.0 * 86_400_000.0, "0 1k 2k 3k 4k 5k", "days"),
            (Metric::LagBytes, 310_022.0, "0 100 200 300 400", "kB"),
        ] {
            assert_eq!(axis(metric, most), (labels.to_owned(), unit), "{most}");
        }
        for exponent in 0..64 {
            let most = 2f64.powi(exponent) * 1.01;
            for metric in [Metric::Lag, Metric::LagMs, Metric::LagBytes] {
                let Ticks { top, labels, .. } = Ticks::of(metric, most);
                assert!(top >= most && top <= most * 2.5 + 2.0, "{most}: {top}");
                assert!((3..=8).contains(&labels.len()), "{most}: {labels:?}");
            }
        }
    }

    #[test]
    fn the_time_axis_has_a_few_round_times() {
        let labels = |begin: i64, length: i64| -> Vec<String> {
            let ticks = time_ticks(begin, begin + length).into_iter();
            ticks.map(|(_, label)| label).collect()
        };
        let midnight = 1_700_006_400_000;
        let hour = labels(midnight - HOUR, HOUR).join(" ");
        assert_eq!(hour, "23:00 23:10 23:20 23:30 23:40 23:50 15 Nov");
        assert_eq!(labels(midnight + 1000, 60_000)[0], "00:00:10");
        for length in [1, 60_000, HOUR, 5 * HOUR, 24 * HOUR] {
            let count = labels(midnight - 12_345, length).len();
            assert!(count <= 9, "{length}: {count}");
        }
    }

    #[test]
    fn a_curve_leaves_out_what_lies_on_a_flat_stretch_and_breaks_off_where_nothing_is_known() {
        let draw = |values: &[Option<f64>]| path(values, |step| step as f64, |value| value);
        let some = |values: &[f64]| -> Vec<Option<f64>> { values.iter().copied().map(Some).collect() };
        assert_eq!(draw(&some(&[1.0, 2.0, 3.0])), "M0.0 1.0h0L1.0 2.0L2.0 3.0");
        assert_eq!(draw(&some(&[1.0, 1.0, 1.0, 1.0])), "M0.0 1.0h0L3.0 1.0");
        assert_eq!(draw(&some(&[1.0, 1.0, 1.0, 5.0])), "M0.0 1.0h0L2.0 1.0L3.0 5.0");
        let gap = [some(&[1.0, 1.0]), vec![None; 5], some(&[2.0])].concat();
        assert_eq!(draw(&gap), "M0.0 1.0h0L1.0 1.0M7.0 2.0h0");
        assert_eq!(draw(&[Some(1.0), None, Some(2.0)]), "M0.0 1.0h0L2.0 2.0");
        assert_eq!(draw(&[None, None]), "");
    }

    #[test]
    fn figures_are_short_and_have_their_unit() {
        for (metric, value, text) in [
            (Metric::Lag, 950, "950"),
            (Metric::Lag, 1012, "1,012"),
            (Metric::Lag, 12_345, "12.3k"),
            (Metric::Lag, u64::MAX, "18.4E"),
            (Metric::LagMs, 0, "0 s"),
            (Metric::LagMs, 12, "12 ms"),
            (Metric::LagMs, 8400, "8.4 s"),
            (Metric::LagMs, 90_000, "1.5 min"),
            (Metric::LagMs, 13 * 31_557_600_000, "13 years"),
            (Metric::LagBytes, 310_022, "310 kB"),
            (Metric::LagBytes, 999, "999 B"),
        ] {
            assert_eq!(figure(metric, value), text);
        }
    }

    #[test]
    fn a_long_name_keeps_its_begin_and_its_end() {
        let name = shorten(&format!("{}/17", "very-long-name".repeat(5)));
        assert_eq!(name.chars().count(), NAME_CHARS);
        assert!(name.starts_with("very-long") && name.ends_with("/17"), "{name}");
        assert_eq!(shorten("short"), "short");
    }
}
