//! The two text formats of Prometheus: the classic one (0.0.4) and OpenMetrics (1.0). They differ in the names of
//! counters' families, in the unit lines, and in the end mark.
//!
//! A family has its lines of help and type even if it has no rows now, so that the list of metrics is always whole.

use std::fmt::{Display, Write as _};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Classic,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// The content type of an answer.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A label's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label<'a> {
    Text(&'a str),
    Number(u32),
}

impl<'a> From<&'a str> for Label<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u32> for Label<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

/// A label: its name and its value.
pub(super) type Pair<'a> = (&'static str, Label<'a>);

/// The text, as far as it is written.
#[derive(Debug)]
pub(super) struct Text {
    out: String,
    format: Format,
}

impl Text {
    pub(super) fn new(format: Format) -> Self {
        let out = String::with_capacity(64 << 10);
        Self { out, format }
    }

    /// A counter without labels; `name` is without `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.counters(name, help, [([], value)]);
    }

    /// A counter with labels; `name` is without `_total`.
    pub(super) fn counters<'a, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([Pair<'a>; N], V)>,
    ) {
        self.head("counter", name, help);
        for (labels, value) in rows {
            self.row(name, "_total", &labels, value);
        }
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauges(name, help, [([], value)]);
    }

    /// A gauge with labels.
    pub(super) fn gauges<'a, const N: usize, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([Pair<'a>; N], V)>,
    ) {
        self.head("gauge", name, help);
        for (labels, value) in rows {
            self.row(name, "", &labels, value);
        }
    }

    /// The lines before the rows of a family.
    pub(super) fn head(&mut self, kind: &str, name: &str, help: &str) {
        let is_classic = self.format == Format::Classic;
        let suffix = if is_classic && kind == "counter" {
            "_total"
        } else {
            ""
        };
        self.line(format_args!("# HELP {name}{suffix} {help}."));
        self.line(format_args!("# TYPE {name}{suffix} {kind}"));
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| name.ends_with(*unit));
        if let Some(unit) = unit.filter(|_| !is_classic) {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
    }

    /// One row of a family.
    pub(super) fn row(&mut self, name: &str, suffix: &str, labels: &[Pair<'_>], value: impl Display) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.out.push(if at == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            match value {
                Label::Number(number) => self.write(format_args!("{number}")),
                Label::Text(text) => self.escaped(text),
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                c => self.out.push(c),
            }
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.write(text);
        self.out.push('\n');
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a String takes everything");
    }
}

/// Writes families, a line each: the method of [`Text`], the name, the value or the rows, and the help.
macro_rules! families {
    ($out:ident: $($kind:ident $name:literal, $value:expr, $help:literal;)+) => {
        $($out.$kind($name, $help, $value);)+
    };
}
pub(super) use families;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format) -> String {
        let mut out = Text::new(format);
        families! { out:
            counter "a_bytes", 1, "Bytes";
            gauges "b", [([("name", "x\\\"\n".into()), ("n", 7.into())], 0.5)], "Things";
        }
        out.finish()
    }

    #[test]
    fn the_classic_format_names_a_counter_by_its_rows() {
        let expected = "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total 1\n\
            # HELP b Things.\n# TYPE b gauge\nb{name=\"x\\\\\\\"\\n\",n=\"7\"} 0.5\n";
        assert_eq!(text(Format::Classic), expected);
    }

    #[test]
    fn openmetrics_names_the_unit_and_has_an_end() {
        let expected = "# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total 1\n\
            # HELP b Things.\n# TYPE b gauge\nb{name=\"x\\\\\\\"\\n\",n=\"7\"} 0.5\n# EOF\n";
        assert_eq!(text(Format::OpenMetrics), expected);
    }
}
