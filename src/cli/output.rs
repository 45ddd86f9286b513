//! What commands print: tables and JSON on standard output, notes on standard error, and numbers that people can read.
//!
//! Nothing here panics when a stream is closed: a closed standard output is an [`io::Error`] that ends the command
//! quietly, and a closed standard error has nobody left to tell. Colours and lines are for terminals only, and
//! `NO_COLOR` is honoured.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people: tables, and plain columns where standard output is not a terminal
    #[default]
    Table,
    /// For programs: the JSON of the HTTP API
    Json,
}

/// The flag that chooses the [`Format`].
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// How results are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    output: Format,
}

impl Output {
    /// Whether programs read the result.
    pub(crate) fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Prints one line.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn line(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(named)
}

/// An error of standard output that says so: a full disk could otherwise be the server's.
pub(crate) fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
}

/// Prints JSON: on one line, indented on a terminal.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    if io::stdout().is_terminal() {
        line(format_args!("{value:#}"))
    } else {
        line(value)
    }
}

/// Prints what a command changed: the answer for programs, a sentence for people.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn done(answer: &Value, text: &str, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        json(answer)?
    } else {
        line(text)?
    }
    Ok(())
}

/// Tells the person at the terminal something that is no result.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "quipu: {text}");
}

/// Whether standard output takes colours.
pub(crate) fn colours() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Whether standard output is a terminal that can be drawn over.
pub(crate) fn can_redraw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Columns and rows of the terminal that standard output is; `None` if it is none.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// A table's column.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// Words, to the left.
    Text(&'static str),
    /// Numbers, to the right.
    Number(&'static str),
    /// Words that no row may have; a column of only `-` is left out.
    Optional(&'static str),
}

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As all others.
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Something is wrong.
    Bad,
}

/// Prints rows under their headings; a terminal gets lines and colours, anything else plain columns. Of columns that a
/// terminal has no room for, those named in `spare` are left out, one after the other.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn table(columns: &[Column], rows: Vec<Vec<(String, Tone)>>, spare: &[&str]) -> io::Result<()> {
    line(fitting_table(columns, &rows, spare))
}

/// The same as text.
pub(crate) fn fitting_table(columns: &[Column], rows: &[Vec<(String, Tone)>], spare: &[&str]) -> String {
    let lines = io::stdout().is_terminal();
    let width = terminal_size().map_or(usize::MAX, |(width, _)| width);
    let (columns, rows) = fit(columns, rows, spare, width);
    layout(&columns, rows, lines, colours())
}

/// Leaves out columns of `spare` until the rest is no wider than `width`; what is too wide then has its first column cut.
fn fit(
    columns: &[Column],
    rows: &[Vec<(String, Tone)>],
    spare: &[&str],
    width: usize,
) -> (Vec<Column>, Vec<Vec<(String, Tone)>>) {
    let (mut columns, mut rows) = (columns.to_vec(), rows.to_vec());
    let excess = |columns: &[Column], rows: &[Vec<(String, Tone)>]| {
        let text = layout(columns, rows.to_vec(), true, false);
        let widest = text.lines().map(|line| line.chars().count()).max();
        widest.unwrap_or(0).saturating_sub(width)
    };
    for name in spare {
        if excess(&columns, &rows) == 0 {
            break;
        }
        let is_spare = |column: &Column| {
            let (Column::Text(found) | Column::Number(found) | Column::Optional(found)) = column;
            found == name
        };
        let Some(index) = columns.iter().position(is_spare) else {
            continue;
        };
        columns.remove(index);
        for row in &mut rows {
            row.remove(index);
        }
    }
    let excess = excess(&columns, &rows);
    let first = |row: &Vec<(String, Tone)>| row.first().map_or(0, |(text, _)| text.chars().count());
    let most = rows
        .iter()
        .map(first)
        .max()
        .unwrap_or(0)
        .saturating_sub(excess)
        .max(NARROWEST);
    if excess > 0 {
        for (text, _) in rows.iter_mut().filter_map(|row| row.first_mut()) {
            if text.chars().count() > most {
                *text = text.chars().take(most - 1).chain(['…']).collect();
            }
        }
    }
    (columns, rows)
}

/// A first column is not cut to less.
const NARROWEST: usize = 8;

/// A cell without a tone.
pub(crate) fn plain(text: impl fmt::Display) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

fn layout(columns: &[Column], rows: Vec<Vec<(String, Tone)>>, lines: bool, styled: bool) -> String {
    let shown: Vec<bool> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            !matches!(column, Column::Optional(_))
                || rows
                    .iter()
                    .any(|row| row.get(index).is_some_and(|(text, _)| text != "-"))
        })
        .collect();
    let keep = |index: usize| shown.get(index).copied().unwrap_or(true);
    let mut table = Table::new();
    table.load_style(if lines {
        presets::UTF8_BORDERS_ONLY
    } else {
        presets::NOTHING
    });
    // Numbers that wrap are read wrongly, so a table may become wider than the terminal.
    table.set_content_arrangement(ContentArrangement::Disabled);
    if styled {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(
        columns
            .iter()
            .enumerate()
            .filter(|(index, _)| keep(*index))
            .map(|(_, column)| {
                let (Column::Text(name) | Column::Number(name) | Column::Optional(name)) = column;
                if styled {
                    Cell::new(name).add_attribute(Attribute::Bold)
                } else {
                    Cell::new(name)
                }
            }),
    );
    for row in rows {
        table.add_row(row.into_iter().enumerate().filter(|(index, _)| keep(*index)).map(
            |(_, (text, tone))| {
                let cell = Cell::new(text);
                match tone {
                    Tone::Good if styled => cell.fg(Color::Green),
                    Tone::Warn if styled => cell.fg(Color::Yellow),
                    Tone::Bad if styled => cell.fg(Color::Red).add_attribute(Attribute::Bold),
                    _ => cell,
                }
            },
        ));
    }
    let kept = columns.iter().enumerate().filter(|(index, _)| keep(*index));
    for (index, (_, column)) in kept.enumerate() {
        if let (Column::Number(_), Some(column)) = (column, table.column_mut(index)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if let (false, Some(column)) = (lines, table.column_mut(index)) {
            column.set_padding((0, 2));
        }
    }
    table.trim_fmt()
}

/// `20000` as `20,000`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 record`, `20,000 records`.
pub(crate) fn records(number: u64) -> String {
    match number {
        1 => "1 record".to_owned(),
        number => format!("{} records", count(number)),
    }
}

/// Bytes in decimal units: `4.1 MB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span as people say it, and in seconds: `1 h 3 min (3,780 s)`.
pub(crate) fn span_ms(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minute, hour, day, year) = (60, 3600, 86_400, 31_557_600);
    let text = match seconds {
        0 if milliseconds == 0 => return "0 s".to_owned(),
        0 => return format!("{milliseconds} ms"),
        s if s < minute => return format!("{}.{} s", s, milliseconds % 1000 / 100),
        s if s < hour => format!("{} min {} s", s / minute, s % minute),
        s if s < day => format!("{} h {} min", s / hour, s % hour / minute),
        s if s < year => format!("{} d {} h", s / day, s % day / hour),
        s => format!("{:.1} years", s as f64 / year as f64),
    };
    format!("{text} ({} s)", count(seconds))
}

/// A span in one unit: `8.9 s`, `12.5 min`, `3.4 h`, `2.1 d`.
pub(crate) fn brief_ms(milliseconds: u64) -> String {
    let ms = milliseconds as f64;
    match ms {
        ms if ms < 1e3 => format!("{ms:.0} ms"),
        ms if ms < 60e3 => format!("{:.1} s", ms / 1e3),
        ms if ms < 3600e3 => format!("{:.1} min", ms / 60e3),
        ms if ms < 86_400e3 => format!("{:.1} h", ms / 3600e3),
        ms if ms < 31_557_600e3 => format!("{:.1} d", ms / 86_400e3),
        ms => format!("{:.1} years", ms / 31_557_600e3),
    }
}

/// A moment in milliseconds since the Unix epoch as RFC 3339, `-` for none.
pub(crate) fn time_ms(milliseconds: Option<i64>) -> String {
    let Some(milliseconds) = milliseconds else {
        return "-".to_owned();
    };
    match Timestamp::from_millisecond(milliseconds) {
        Ok(time) => time.to_string(),
        Err(_) => milliseconds.to_string(),
    }
}

/// A rate per second, `-` where no time has passed.
pub(crate) fn rate(number: u64, elapsed: Duration) -> String {
    if elapsed.is_zero() {
        return "-".to_owned();
    }
    count((number as f64 / elapsed.as_secs_f64()) as u64)
}

/// How long something took: `0.412 s`.
pub(crate) fn took(elapsed: Duration) -> String {
    match SignedDuration::try_from(elapsed) {
        Ok(elapsed) if elapsed.as_secs() >= 60 => {
            span_ms(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
        }
        _ => format!("{:.3} s", elapsed.as_secs_f64()),
    }
}

/// A number as JSON gave it, grouped; `-` for none.
pub(crate) fn count_of(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(4_102_452), "4.1 MB");
        assert_eq!(bytes(999_990_000), "1.0 GB");
        assert_eq!(span_ms(0), "0 s");
        assert_eq!(span_ms(12), "12 ms");
        assert_eq!(span_ms(8_400), "8.4 s");
        assert_eq!(span_ms(3_780_000), "1 h 3 min (3,780 s)");
        assert_eq!(span_ms(13 * 31_557_600_000), "13.0 years (410,248,800 s)");
        assert_eq!(
            (brief_ms(8_880), brief_ms(3_600_000)),
            ("8.9 s".to_owned(), "1.0 h".to_owned())
        );
        assert_eq!(time_ms(Some(1_357_035_420_000)), "2013-01-01T10:17:00Z");
    }

    #[test]
    fn a_table_in_a_pipe_is_plain_columns_without_trailing_blanks() {
        let columns = [Column::Text("TOPIC"), Column::Number("LAG")];
        let rows = vec![
            vec![plain("flights"), ("1,200".to_owned(), Tone::Bad)],
            vec![plain("a"), plain("7")],
        ];
        assert_eq!(
            layout(&columns, rows, false, false),
            "TOPIC      LAG\nflights  1,200\na            7"
        );
    }

    #[test]
    fn a_column_that_says_nothing_is_left_out() {
        let columns = [Column::Text("A"), Column::Optional("B"), Column::Number("C")];
        let rows = |b| vec![vec![plain("a"), plain(b), plain(10)]];
        assert_eq!(layout(&columns, rows("-"), false, false), "A   C\na  10");
        assert_eq!(layout(&columns, rows("b"), false, false), "A  B   C\na  b  10");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_then_a_shorter_first_one() {
        let columns = [
            Column::Text("NAME"),
            Column::Number("A"),
            Column::Number("B"),
            Column::Number("C"),
        ];
        let rows = vec![vec![plain("n"), plain(1_000_000), plain(2_000_000), plain(3)]];
        let kept = |width| fit(&columns, &rows, &["B", "A", "?"], width).1[0].len();
        assert_eq!((kept(80), kept(30), kept(20), kept(1)), (4, 3, 2, 2));
        let rows = [vec![plain("a-very-long-name"), plain(7)]];
        let (_, cut) = fit(&columns[..2], &rows, &[], 20);
        assert_eq!(cut[0], [plain("a-very-long…"), plain(7)]);
    }

    #[test]
    fn long_numbers_never_wrap() {
        let long = "1".repeat(300);
        assert!(layout(&[Column::Number("N")], vec![vec![plain(&long)]], true, false).contains(&long));
    }
}
