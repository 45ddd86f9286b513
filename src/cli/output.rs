//! What commands print: tables and JSON on standard output, notes on standard error, and numbers that people can read.
//!
//! Every function that prints returns an error if standard output is closed or full.
//!
//! Nothing here panics when a stream is closed: a closed standard output is an [`io::Error`] that ends the command
//! quietly, and a closed standard error has nobody left to tell. Colours and lines are for terminals only, and
//! `NO_COLOR` is honoured.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, presets};
use jiff::Timestamp;
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
pub(crate) fn line(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(named)
}

/// Adds "standard output" to an error: otherwise a full disk could be taken for the server's.
pub(crate) fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
}

/// Prints JSON: on one line, indented on a terminal.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    match io::stdout().is_terminal() {
        true => line(format_args!("{value:#}")),
        false => line(value),
    }
}

/// Prints what a command changed: the answer for programs, a sentence for people.
pub(crate) fn done(answer: &Value, text: &str, is_json: bool) -> anyhow::Result<()> {
    Ok(if is_json { json(answer) } else { line(text) }?)
}

/// Prints a note for people on standard error; it is not part of the result.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "quipu: {text}");
}

/// The same, unless it was said before; `said` remembers that.
pub(crate) fn say_once(said: &mut bool, text: impl fmt::Display) {
    if !std::mem::replace(said, true) {
        note(text);
    }
}

/// Whether standard output takes colours.
pub(crate) fn colours() -> bool {
    takes_colours(can_redraw(), std::env::var_os("NO_COLOR").as_deref())
}

/// The same for a standard output that can be drawn over or not, with this value of `NO_COLOR`.
fn takes_colours(can_redraw: bool, no_color: Option<&OsStr>) -> bool {
    can_redraw && no_color.is_none_or(OsStr::is_empty)
}

/// Whether standard output is a terminal that can be drawn over.
pub(crate) fn can_redraw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Columns and rows of the terminal at standard output; `None` if it is no terminal.
pub(crate) fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
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

/// Rows under headings, put together column by column. A terminal gets lines and colours, anything else plain columns.
pub(crate) struct Table<R> {
    rows: Vec<R>,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    is_number: bool,
    cells: Vec<(String, Tone)>,
}

impl Column {
    /// Characters of its widest cell, without the heading.
    fn cells_width(&self) -> usize {
        let cells = self.cells.iter().map(|(text, _)| text.chars().count());
        cells.max().unwrap_or(0)
    }

    /// Characters of its widest cell, or of its heading.
    fn width(&self) -> usize {
        self.cells_width().max(self.name.chars().count())
    }

    /// Cuts what is longer than `most` characters.
    fn cut(&mut self, most: usize) {
        let cells = self.cells.iter_mut().map(|(text, _)| text);
        for text in cells.chain([&mut self.name]) {
            if text.chars().count() > most {
                *text = text.chars().take(most - 1).chain(['…']).collect();
            }
        }
    }
}

impl<R> Table<R> {
    /// A table without columns yet.
    pub(crate) fn of(rows: impl IntoIterator<Item = R>) -> Self {
        let rows = rows.into_iter().collect();
        let columns = Vec::new();
        Self { rows, columns }
    }

    /// Adds a column of words, to the left.
    pub(crate) fn text<D: fmt::Display>(self, name: &'static str, cell: impl Fn(&R) -> D) -> Self {
        self.column(name, false, |row| (cell(row).to_string(), Tone::Plain))
    }

    /// Adds a column of numbers, to the right.
    pub(crate) fn number<D: fmt::Display>(self, name: &'static str, cell: impl Fn(&R) -> D) -> Self {
        self.column(name, true, |row| (cell(row).to_string(), Tone::Plain))
    }

    /// Adds a column of words with a tone each.
    pub(crate) fn toned(self, name: &'static str, cell: impl Fn(&R) -> (String, Tone)) -> Self {
        self.column(name, false, cell)
    }

    /// Adds a column of words, unless all of its cells are `-`.
    pub(crate) fn optional<D: fmt::Display>(self, name: &'static str, cell: impl Fn(&R) -> D) -> Self {
        self.optional_toned(name, |row| (cell(row).to_string(), Tone::Plain))
    }

    /// Adds a column of numbers, unless all of its cells are `-`.
    pub(crate) fn optional_number(self, name: &'static str, cell: impl Fn(&R) -> Option<u64>) -> Self {
        match self.rows.iter().any(|row| cell(row).is_some()) {
            true => self.number(name, |row| count_of(cell(row))),
            false => self,
        }
    }

    /// Adds a column of words with a tone each, unless all of them are `-`.
    pub(crate) fn optional_toned(self, name: &'static str, cell: impl Fn(&R) -> (String, Tone)) -> Self {
        match self.rows.iter().all(|row| cell(row).0 == "-") {
            true => self,
            false => self.toned(name, cell),
        }
    }

    fn column(mut self, name: &'static str, is_number: bool, cell: impl Fn(&R) -> (String, Tone)) -> Self {
        let cells = self.rows.iter().map(cell).collect();
        self.columns.push(Column {
            name: name.to_owned(),
            is_number,
            cells,
        });
        self
    }

    /// Prints it. If the terminal is too narrow, columns of `spare` are left out, one after the other.
    pub(crate) fn print(self, spare: &[&str]) -> anyhow::Result<()> {
        Ok(line(self.into_text(spare))?)
    }

    /// The same as text.
    pub(crate) fn into_text(mut self, spare: &[&str]) -> String {
        fit(&mut self.columns, spare, width());
        layout(&self.columns, io::stdout().is_terminal(), colours())
    }
}

/// Columns of the terminal; no limit where there is none.
fn width() -> usize {
    terminal_size().map_or(usize::MAX, |(width, _)| width)
}

/// Makes a table no wider than `width`: cuts names in the first column to [`NAME`] characters, then leaves out columns
/// of `spare`, then cuts words and headings. Numbers are never cut, as they would be read wrongly.
fn fit(columns: &mut Vec<Column>, spare: &[&str], width: usize) {
    let excess = |columns: &[Column]| {
        let text = layout(columns, true, false);
        let widest = text.lines().map(|line| line.chars().count()).max();
        widest.unwrap_or(0).saturating_sub(width)
    };
    let mut left = excess(columns);
    if let Some(first) = columns.first_mut().filter(|first| left > 0 && !first.is_number) {
        first.cut(first.width().saturating_sub(left).max(NAME));
    }
    for name in spare {
        if excess(columns) == 0 {
            return;
        }
        columns.retain(|column| column.name != *name);
    }
    left = excess(columns);
    for shortest in [SHORT, SHORTEST] {
        let can_shrink = |column: &&mut Column| {
            let cells = match column.is_number {
                true => column.cells_width(),
                false => shortest,
            };
            column.width() > cells.max(SHORTEST)
        };
        while left > 0
            && let Some(widest) = columns
                .iter_mut()
                .filter(can_shrink)
                .max_by_key(|column| column.width())
        {
            widest.cut(widest.width() - 1);
            left -= 1;
        }
    }
}

/// Names are cut to this length before a column is left out.
const NAME: usize = 24;
/// Words are cut to this length before any is cut to [`SHORTEST`].
const SHORT: usize = 8;
/// Nothing is cut to less.
const SHORTEST: usize = 4;

fn layout(columns: &[Column], lines: bool, styled: bool) -> String {
    let mut table = comfy_table::Table::new();
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
    let names = columns.iter().map(|column| Cell::new(&column.name));
    table.set_header(names.map(|name| name.add_attribute(Attribute::Bold)));
    for row in 0..columns.first().map_or(0, |column| column.cells.len()) {
        table.add_row(columns.iter().map(|column| {
            let (text, tone) = &column.cells[row];
            let cell = Cell::new(text);
            match tone {
                Tone::Plain => cell,
                Tone::Good => cell.fg(Color::Green),
                Tone::Warn => cell.fg(Color::Yellow),
                Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            }
        }));
    }
    for (laid, column) in table.column_iter_mut().zip(columns) {
        if column.is_number {
            laid.set_cell_alignment(CellAlignment::Right);
        }
        if !lines {
            laid.set_padding((0, 2));
        }
    }
    table.trim_fmt()
}

/// Text with line breaks between words, so that no line is wider than the terminal.
pub(crate) fn wrapped(text: &str) -> String {
    wrap(text, width())
}

fn wrap(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                *line = format!("{line} {word}");
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// `20000` as `20,000`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// `1 record`, `20,000 records`.
pub(crate) fn records(number: u64) -> String {
    counted(number, "record")
}

/// A number of things, named in the singular: `1 record`, `2 records`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        number => format!("{} {thing}s", count(number)),
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
    match milliseconds / 1000 {
        0 if milliseconds == 0 => "0 s".to_owned(),
        0 => format!("{milliseconds} ms"),
        s if s < 60 => format!("{s}.{} s", milliseconds % 1000 / 100),
        s => format!("{} ({} s)", span_s(s), count(s)),
    }
}

/// A span in whole seconds, in the two largest units: `2 min 5 s`.
pub(crate) fn span_s(seconds: u64) -> String {
    let (minute, hour, day, year) = (60, 3600, 86_400, 31_557_600);
    match seconds {
        s if s < minute => format!("{s} s"),
        s if s < hour => format!("{} min {} s", s / minute, s % minute),
        s if s < day => format!("{} h {} min", s / hour, s % hour / minute),
        s if s < year => format!("{} d {} h", s / day, s % day / hour),
        s => format!("{:.1} years", s as f64 / year as f64),
    }
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
    let time = Timestamp::from_millisecond(milliseconds).map(|time| time.to_string());
    time.unwrap_or_else(|_| milliseconds.to_string())
}

/// A rate per second, `-` where no time has passed.
pub(crate) fn rate(number: u64, elapsed: Duration) -> String {
    match elapsed.as_secs_f64() {
        0.0 => "-".to_owned(),
        seconds => match number as f64 / seconds {
            few @ ..10.0 => format!("{few:.1}"),
            many => count(many as u64),
        },
    }
}

/// How long something took: `0.412 s`.
pub(crate) fn took(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        60.. => span_ms(millis(elapsed)),
        _ => format!("{:.3} s", elapsed.as_secs_f64()),
    }
}

/// Whole milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A number as JSON gave it, grouped; `-` for none.
pub(crate) fn count_of(value: Option<u64>) -> String {
    or_none(value.map(count))
}

/// What is there; `-` for none.
pub(crate) fn or_none(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (text, expected) in [
            (count(0), "0"),
            (count(999), "999"),
            (count(1_234_567), "1,234,567"),
            (bytes(999), "999 B"),
            (bytes(4_102_452), "4.1 MB"),
            (bytes(999_990_000), "1.0 GB"),
            (span_ms(0), "0 s"),
            (span_ms(12), "12 ms"),
            (span_ms(8_400), "8.4 s"),
            (span_ms(3_780_000), "1 h 3 min (3,780 s)"),
            (span_ms(13 * 31_557_600_000), "13.0 years (410,248,800 s)"),
            (brief_ms(8_880), "8.9 s"),
            (brief_ms(3_600_000), "1.0 h"),
            (time_ms(Some(1_357_035_420_000)), "2013-01-01T10:17:00Z"),
        ] {
            assert_eq!(text, expected);
        }
    }

    fn plain(text: &str) -> (String, Tone) {
        (text.to_owned(), Tone::Plain)
    }

    #[test]
    fn a_table_in_a_pipe_is_plain_columns_without_trailing_blanks() {
        let table = Table::of([("flights", "1,200", Tone::Bad), ("a", "7", Tone::Plain)])
            .text("TOPIC", |row| row.0)
            .number("LAG", |row| row.1)
            .toned("STATUS", |row| ("s".to_owned(), row.2));
        let text = layout(&table.columns, false, false);
        assert_eq!(
            text,
            "TOPIC      LAG  STATUS\nflights  1,200  s\na            7  s"
        );
    }

    #[test]
    fn a_column_that_says_nothing_is_left_out() {
        for (b, expected) in [("-", "A   C\na  10"), ("b", "A  B   C\na  b  10")] {
            let table = Table::of([b]).text("A", |_| "a");
            let table = table.optional("B", |b| *b).number("C", |_| 10);
            assert_eq!(layout(&table.columns, false, false), expected);
        }
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_then_a_shorter_first_one() {
        for (width, kept) in [(80, 4), (30, 3), (20, 2), (1, 2)] {
            let table = Table::of(["n"]).text("NAME", |name| *name);
            let table = table.number("A", |_| 1_000_000).number("B", |_| 2_000_000);
            let mut table = table.number("C", |_| 3);
            fit(&mut table.columns, &["B", "A", "?"], width);
            assert_eq!(table.columns.len(), kept, "{width}");
        }
        let mut table = Table::of(["a-very-long-name"]).text("NAME", |name| *name);
        fit(&mut table.columns, &[], 16);
        assert_eq!(table.columns[0].cells, [plain("a-very-long…")]);
    }

    #[test]
    fn a_table_fits_the_terminal_and_shows_its_numbers_whole() {
        let long = "a-name-that-has-as-many-as-fifty-letters-in-a-row";
        let lag = |name| {
            let table = Table::of([name]).text("TOPIC", |name| *name);
            let table = table.number("PARTITION", |_| 0).number("LAG", |_| "3,516");
            table
                .number("BEHIND BY", |_| "2 h 1 min (7,260 s)")
                .text("STATUS", |_| "stalled")
        };
        let contexts = Table::of([long])
            .text("CONTEXT", |name| *name)
            .text("CURRENT", |_| "*")
            .text("SERVER", |_| "http://quipu.example:7420")
            .text("TOKEN", |_| "yes");
        let wide = "a-name-that-has-as-many… 3,516 7,260 stalled";
        for (mut table, spare, width, shown) in [
            (lag("flights"), "BEHIND BY", 40, "flights  3,516 stalled"),
            (lag(long), "BEHIND BY", 40, "a-name-… 3,516 stalled"),
            (lag(long), "BEHIND BY", 80, wide),
            (contexts, "TOKEN", 40, "a-name- http:// *"),
        ] {
            fit(&mut table.columns, &[spare], width);
            let text = layout(&table.columns, true, false);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
            assert!(shown.split_whitespace().all(|part| text.contains(part)), "{text}");
        }
    }

    #[test]
    fn no_color_and_a_stream_that_is_no_terminal_have_no_colours() {
        for (can_redraw, no_color, expected) in [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (false, None, false),
        ] {
            let found = takes_colours(can_redraw, no_color.map(OsStr::new));
            assert_eq!(found, expected, "{can_redraw} {no_color:?}");
        }
    }

    #[test]
    fn long_numbers_never_wrap() {
        let long = "1".repeat(300);
        let table = Table::of([&long]).number("N", |long| *long);
        assert!(layout(&table.columns, true, false).contains(&long));
    }

    #[test]
    fn a_sentence_is_no_wider_than_the_terminal() {
        let text = "group g: 7 records behind, 310.0 kB; the oldest is 1 h 3 min (3,780 s) old";
        let wrapped = wrap(text, 40);
        let fits = wrapped.lines().all(|line| line.chars().count() <= 40);
        assert!(fits, "{wrapped}");
        assert_eq!(wrapped.lines().count(), 2, "{wrapped}");
        assert_eq!(wrapped.replace('\n', " "), text);
        assert_eq!(wrap(text, usize::MAX), text);
        assert_eq!(wrap("unbreakable a", 3), "unbreakable\na");
    }
}
