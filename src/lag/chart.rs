//! A plot as a picture: one SVG without scripts, fonts or links of its own, so that it shows wherever an image does.
//!
//! Light or dark as the reader's system is, on a ground of its own, so that it can be read on any page. Colours are plain
//! rules of a style sheet (no variables): converters that make a bitmap know little more. Every name is escaped; what
//! XML cannot carry at all becomes U+FFFD.

use std::fmt::Write as _;

use quipu_segments::TimestampMs;

use super::plot::{Metric, Plot, Value};
use super::window::Status;

/// Whose colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// As the reader's system is.
    #[default]
    Auto,
    /// Always light.
    Light,
    /// Always dark.
    Dark,
}

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// What it is of, as a heading.
    pub title: &'a str,
    /// What a line is, as in `by partition`.
    pub each: &'a str,
    /// What is shown.
    pub metric: Metric,
    /// The lines.
    pub plot: &'a Plot,
    /// The lines' names, in the order of the plot.
    pub names: &'a [String],
    /// The end of the time axis.
    pub until: TimestampMs,
    /// How it stands now.
    pub now: Value,
    /// How it is doing now.
    pub status: Status,
    /// Whose colours.
    pub theme: Theme,
}

/// Lines that have a colour of their own.
pub const MAX_LINES: usize = 8;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 28.0;
const LEFT: f64 = 88.0;
const TOP: f64 = 100.0;
const BOTTOM: f64 = 338.0;
/// Where the legend begins, if there is one.
const LEGEND: f64 = 724.0;
/// Characters of a name that fit into the legend.
const NAME_CHARS: usize = 21;

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

/// Draws it.
#[must_use]
pub fn draw(picture: &Picture<'_>) -> String {
    let mut out = String::with_capacity(16 << 10);
    let title = escape(picture.title);
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-labelledby=\"t d\">\n<title id=\"t\">{title}</title>\n<desc id=\"d\">{}, {}</desc>\n",
            what(picture.metric),
            escape(&span_text(picture)),
        ),
    );
    style(&mut out, picture.theme);
    put(
        &mut out,
        format_args!(
            "<rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n",
            WIDTH - 1.0,
            HEIGHT - 1.0
        ),
    );
    heading(&mut out, picture, &title);
    if picture.plot.is_empty() {
        let (x, y) = (WIDTH / 2.0, (TOP + BOTTOM) / 2.0);
        put(
            &mut out,
            format_args!(
                "<text class=\"empty\" x=\"{x}\" y=\"{y}\">no history yet</text>\n<text class=\"faint\" x=\"{x}\" y=\"{}\" \
                 text-anchor=\"middle\">points are taken from the start of the server on, once the group has committed \
                 something</text>\n",
                y + 24.0
            ),
        );
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
         .title{font-size:17px;font-weight:600}.now{font-size:17px;font-weight:600;text-anchor:end}\
         .empty{font-size:17px;text-anchor:middle}\n\
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
    put(
        out,
        format_args!(
            ".ground{{fill:{back};stroke:{frame}}}text{{fill:{text}}}.faint,.empty{{fill:{faint}}}.grid{{stroke:{grid}}}\
             .axis{{stroke:{axis}}}.good{{fill:{good}}}.warn{{fill:{warn}}}.bad{{fill:{bad}}}.ring{{stroke:{back}}}\
             .others{{stroke:{faint}}}\n"
        ),
    );
    for (index, colour) in lines.iter().enumerate() {
        put(
            out,
            format_args!(".s{index}{{stroke:{colour}}}.f{index}{{fill:{colour}}}"),
        );
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
    put(
        out,
        format_args!(
            "<text class=\"title\" x=\"{MARGIN}\" y=\"38\">{title}</text>\n\
             <text class=\"faint\" x=\"{MARGIN}\" y=\"59\">{} · {}</text>\n\
             <text class=\"now\" x=\"{right}\" y=\"38\">{now}</text>\n\
             <text class=\"{class}\" x=\"{right}\" y=\"59\" text-anchor=\"end\">● {status}</text>\n",
            escape(&format!("{}{}", what(picture.metric), picture.each)),
            escape(&span_text(picture)),
        ),
    );
}

fn diagram(out: &mut String, picture: &Picture<'_>) {
    let plot = picture.plot;
    let figures = |values: &[Option<Value>]| -> Vec<Option<f64>> {
        values
            .iter()
            .map(|value| value.map(|value| value.get(picture.metric) as f64))
            .collect()
    };
    let mut curves: Vec<Vec<Option<f64>>> = plot
        .lines
        .iter()
        .take(MAX_LINES)
        .map(|line| figures(&line.values))
        .collect();
    let others = (plot.left_out > 0).then(|| figures(&plot.others));
    let has_legend = curves.len() + usize::from(others.is_some()) > 1;
    let right = if has_legend { LEGEND - 26.0 } else { WIDTH - MARGIN };

    let most = curves
        .iter()
        .chain(&others)
        .flatten()
        .flatten()
        .fold(0.0, |most: f64, value| most.max(*value));
    let ticks = Ticks::of(picture.metric, most);
    let begin = plot.times.first().map_or(0, |time| time.get());
    let last = plot.times.last().map_or(0, |time| time.get());
    let end = picture.until.get().max(last).max(begin + 1);
    let x = |time: i64| LEFT + (time - begin) as f64 / (end - begin) as f64 * (right - LEFT);
    let y = |value: f64| BOTTOM - value / ticks.top * (BOTTOM - TOP);

    for (value, label) in &ticks.labels {
        let y = y(*value).round();
        let class = if *value == 0.0 { "axis" } else { "grid" };
        put(
            out,
            format_args!(
                "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y}\" y2=\"{y}\"/>\
                 <text class=\"faint\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\n",
                LEFT - 10.0,
                y + 4.5
            ),
        );
    }
    put(
        out,
        format_args!(
            "<text class=\"faint\" x=\"{MARGIN}\" y=\"{}\">{}</text>\n",
            TOP - 14.0,
            ticks.unit
        ),
    );
    for (time, label) in time_ticks(begin, end) {
        let x = x(time).round();
        put(
            out,
            format_args!(
                "<line class=\"axis\" x1=\"{x}\" x2=\"{x}\" y1=\"{BOTTOM}\" y2=\"{}\"/>\
                 <text class=\"faint\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\n",
                BOTTOM + 5.0,
                BOTTOM + 21.0
            ),
        );
    }
    put(
        out,
        format_args!(
            "<text class=\"faint\" x=\"{right}\" y=\"{}\" text-anchor=\"end\">time (UTC)</text>\n",
            HEIGHT - 18.0
        ),
    );

    let at = |step: usize| plot.times.get(step).map_or(begin, |time| time.get());
    if let Some(others) = &others {
        let path = path(others, |step| x(at(step)), y);
        put(out, format_args!("<path class=\"line others\" d=\"{path}\"/>\n"));
    }
    if !has_legend && let Some(only) = curves.first() {
        let area = area(only, |step| x(at(step)), y);
        put(out, format_args!("<path class=\"area f0\" d=\"{area}\"/>\n"));
    }
    // The worst is drawn last, above the others.
    for (index, curve) in curves.iter().enumerate().rev() {
        let path = path(curve, |step| x(at(step)), y);
        put(out, format_args!("<path class=\"line s{index}\" d=\"{path}\"/>"));
        if let Some((step, value)) = latest(curve) {
            put(
                out,
                format_args!(
                    "<circle class=\"ring f{index}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" stroke-width=\"1.5\"/>",
                    x(at(step)),
                    y(value)
                ),
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
    let text =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| figure(picture.metric, value as u64));
    put(
        out,
        format_args!(
            "<text class=\"faint\" x=\"{right}\" y=\"{}\" text-anchor=\"end\">now</text>\n",
            TOP - 14.0
        ),
    );
    let mut y = TOP + 7.0;
    let mut row = |swatch: &str, name: &str, value: &str| {
        put(
            out,
            format_args!(
                "<g><title>{}</title><line class=\"line {swatch}\" x1=\"{LEGEND}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" \
                 stroke-width=\"3\"/><text x=\"{}\" y=\"{y}\">{}</text>\
                 <text class=\"faint\" x=\"{right}\" y=\"{y}\" text-anchor=\"end\">{value}</text></g>\n",
                escape(name),
                LEGEND + 14.0,
                y - 4.5,
                y - 4.5,
                LEGEND + 22.0,
                escape(&shorten(name)),
            ),
        );
        y += 25.0;
    };
    let mut order: Vec<usize> = (0..curves.len()).collect();
    order.sort_by(|a, b| {
        f64::total_cmp(
            &value(&curves[*b]).unwrap_or(-1.0),
            &value(&curves[*a]).unwrap_or(-1.0),
        )
    });
    for index in order {
        let name = picture.names.get(index).map_or("", String::as_str);
        row(&format!("s{index}"), name, &text(value(&curves[index])));
    }
    if let Some((count, values)) = others {
        let name = if count == 1 {
            "1 other".to_owned()
        } else {
            format!("{count} others")
        };
        row("others", &name, &text(value(&values)));
    }
}

/// A curve; it breaks off where several steps in a row have no value.
fn path(values: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut last = None;
    let mut flat: Option<(usize, f64)> = None;
    for (step, value) in values.iter().enumerate() {
        let Some(value) = *value else { continue };
        let is_begin = last.is_none_or(|last| step - last > 3);
        // What lies within a straight stretch says nothing new.
        if let Some((held, before)) = flat.take() {
            if is_begin || before != value {
                put(&mut path, format_args!("L{:.1} {:.1}", x(held), y(before)));
            } else {
                flat = Some((step, value));
            }
        }
        if is_begin {
            put(&mut path, format_args!("M{:.1} {:.1}", x(step), y(value)));
            // A point by itself is a dot: the line's ends are round.
            path.push_str("h0");
            flat = None;
        } else if flat.is_none() {
            let before = last.and_then(|last| values[last]);
            if before == Some(value) {
                flat = Some((step, value));
            } else {
                put(&mut path, format_args!("L{:.1} {:.1}", x(step), y(value)));
            }
        }
        last = Some(step);
    }
    if let Some((held, value)) = flat {
        put(&mut path, format_args!("L{:.1} {:.1}", x(held), y(value)));
    }
    path
}

/// What lies below a curve.
fn area(values: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut area = String::new();
    let known: Vec<(usize, f64)> = values
        .iter()
        .enumerate()
        .filter_map(|(step, value)| Some((step, (*value)?)))
        .collect();
    for stretch in known.chunk_by(|a, b| b.0 - a.0 <= 3) {
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else {
            continue;
        };
        put(&mut area, format_args!("M{:.1} {BOTTOM}", x(first.0)));
        for (step, value) in stretch {
            put(&mut area, format_args!("L{:.1} {:.1}", x(*step), y(*value)));
        }
        put(&mut area, format_args!("L{:.1} {BOTTOM}Z", x(last.0)));
    }
    area
}

fn latest(values: &[Option<f64>]) -> Option<(usize, f64)> {
    let step = values.iter().rposition(Option::is_some)?;
    Some((step, values[step]?))
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
        // How many of the metric's own unit one of the axis's is, its name, and the steps that suit it.
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
        let step = steps
            .iter()
            .copied()
            .find(|step| *step >= least)
            .unwrap_or_else(|| round_step(least));
        // Parts of a record, a byte or a millisecond are nothing.
        let step = if size == 1.0 { step.max(1.0) } else { step };
        let count = (most / step).ceil().max(2.0);
        let label = |index: u32| {
            let value = f64::from(index) * step;
            let text = match metric {
                Metric::Lag => compact(value),
                _ if step < 1.0 => format!("{value:.1}"),
                _ => compact(value),
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
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

/// Round times in a stretch, with what to call them.
fn time_ticks(begin: i64, end: i64) -> Vec<(i64, String)> {
    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    let steps = [
        10 * SECOND,
        20 * SECOND,
        30 * SECOND,
        MINUTE,
        2 * MINUTE,
        5 * MINUTE,
        10 * MINUTE,
        15 * MINUTE,
        30 * MINUTE,
        HOUR,
        2 * HOUR,
        3 * HOUR,
        6 * HOUR,
        12 * HOUR,
    ];
    let step = steps
        .into_iter()
        .find(|step| (end - begin) / step <= 8)
        .unwrap_or(24 * HOUR);
    let first = begin.div_euclid(step) + i64::from(begin.rem_euclid(step) > 0);
    let pattern = if step < MINUTE { "%H:%M:%S" } else { "%H:%M" };
    (first..=end.div_euclid(step))
        .map(|index| {
            let time = index * step;
            let is_midnight = time.rem_euclid(24 * HOUR) == 0;
            (
                time,
                formatted(time, if is_midnight { "%-d %b" } else { pattern }),
            )
        })
        .collect()
}

fn formatted(time_ms: i64, pattern: &str) -> String {
    jiff::Timestamp::from_millisecond(time_ms)
        .map_or_else(|_| String::new(), |time| time.strftime(pattern).to_string())
}

/// When the stretch begins and ends.
fn span_text(picture: &Picture<'_>) -> String {
    let begin = picture.plot.from.get();
    let end = picture.until.get();
    let day = "%-d %b %Y";
    if formatted(begin, day) == formatted(end, day) {
        format!(
            "{} – {} UTC, {}",
            formatted(begin, "%H:%M"),
            formatted(end, "%H:%M"),
            formatted(end, day)
        )
    } else {
        let both = "%-d %b %Y %H:%M";
        format!("{} – {} UTC", formatted(begin, both), formatted(end, both))
    }
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
        Metric::Lag => compact(value),
        Metric::LagBytes => {
            const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
            let (mut value, mut unit) = (value, 0);
            while value >= 999.5 && unit + 1 < UNITS.len() {
                value /= 1000.0;
                unit += 1;
            }
            format!("{} {}", short(value), UNITS[unit])
        }
        Metric::LagMs => match value {
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
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let (mut value, mut unit) = (value, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", short(value), UNITS[unit])
}

/// One decimal below ten, unless it is 0.
fn short(value: f64) -> String {
    let tenths = (value * 10.0).round() / 10.0;
    if tenths < 10.0 && tenths.fract() != 0.0 {
        format!("{tenths:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A name that fits into the legend: its end tells more than its middle.
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

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}
