//! `quipu lag --watch`: the lag again and again, until Ctrl-C or a closed pipe.
//!
//! On a terminal, the table is redrawn in the alternate screen, whose size is read before each drawing. At the end the
//! terminal shows its earlier contents, and the last table after them. Other outputs get one table after another
//! without escape codes, and `--output json` one document a line. A thread asks the server, so that Ctrl-C never waits.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::report::{GroupLag, Key, Subject};
use super::trend::{TREND, Trend};
use crate::cli::api::group_route;
use crate::cli::client::{Client, Failure};
use crate::cli::output;
use crate::cli::signal::{Interrupt, spawn};

/// The most groups whose past lag is fetched; the trend of others begins with the watch.
const MAX_SEEDED: usize = 50;
/// How often it checks for Ctrl-C, a closed pipe and a resized terminal.
const PATIENCE: Duration = Duration::from_millis(100);

/// Watches until Ctrl-C.
pub(crate) fn run(client: Client, subject: Subject, interval: Duration, is_json: bool) -> anyhow::Result<()> {
    let interrupt = Interrupt::watch()?;
    let (sender, answers) = sync_channel(1);
    let asker = Asker {
        client,
        subject: subject.clone(),
        interval,
        wants_past: !is_json,
    };
    let waiter = interrupt.clone();
    spawn("lag", move || asker.run(&waiter, &sender))?;
    if is_json {
        return print(&answers, &interrupt, |news| Ok(news.answer.to_string()));
    }
    let mut view = View::new(subject, interval);
    if output::can_redraw() {
        redraw(&answers, &interrupt, &mut view)
    } else {
        print(&answers, &interrupt, |news| {
            view.take(news)?;
            Ok(format!("{}\n", view.table()))
        })
    }
}

/// An answer of the server.
struct News {
    at: Instant,
    answer: Value,
    /// Lags from before the watch, with their ages; only in the first news.
    past: Vec<(Key, Duration, u64)>,
}

/// Asks the server each interval.
struct Asker {
    client: Client,
    subject: Subject,
    interval: Duration,
    wants_past: bool,
}

impl Asker {
    fn run(self, interrupt: &Interrupt, sender: &SyncSender<Result<News, Failure>>) {
        let mut is_first = true;
        loop {
            let begin = Instant::now();
            let news = self.subject.ask(&self.client).map(|answer| News {
                at: begin,
                past: match is_first && self.wants_past {
                    true => self.past(&answer),
                    false => Vec::new(),
                },
                answer,
            });
            is_first &= news.is_err();
            let is_unheard = sender.send(news).is_err();
            let rest = self.interval.saturating_sub(begin.elapsed());
            if is_unheard || interrupt.wait(rest).is_some() {
                return;
            }
        }
    }

    /// The lags of the last [`TREND`]. Failures are ignored: watching works without the past.
    fn past(&self, answer: &Value) -> Vec<(Key, Duration, u64)> {
        let history = |group: &str, by: &str| {
            let route = group_route(group, &["lag", "history"]).with("window_ms", TREND.as_millis());
            self.client.get::<History>(&route.with("by", by)).ok()
        };
        match &self.subject {
            Subject::Group(group) => history(group, "partition").map_or_else(Vec::new, History::points),
            Subject::All => {
                let groups = answer["groups"].as_array().into_iter().flatten();
                let names = groups.filter_map(|group| group["group"].as_str());
                let seeded = names.take(MAX_SEEDED).flat_map(|name| {
                    let points = history(name, "group").map_or_else(Vec::new, History::points);
                    let of_group = |(_, age, lag)| ((name.to_owned(), None), age, lag);
                    points.into_iter().map(of_group).collect::<Vec<_>>()
                });
                seeded.collect()
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct History {
    step_ms: u64,
    times: Vec<i64>,
    series: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Series {
    #[serde(default)]
    topic: String,
    partition: Option<u32>,
    lag: Vec<Option<u64>>,
}

impl History {
    fn points(self) -> Vec<(Key, Duration, u64)> {
        let steps = self.times.len();
        let mut points = Vec::new();
        for series in self.series {
            for (step, lag) in series.lag.iter().enumerate() {
                let age_ms = self.step_ms.saturating_mul(steps.saturating_sub(step + 1) as u64);
                if let Some(lag) = lag {
                    let key = (series.topic.clone(), series.partition);
                    points.push((key, Duration::from_millis(age_ms), *lag));
                }
            }
        }
        points
    }
}

/// Whether to ask again after this failure. A server that has never answered (`is_known` false) and is not there is more
/// likely a mistyped address.
fn goes_on(failure: &Failure, is_known: &mut bool) -> bool {
    *is_known |= !matches!(failure, Failure::NotSent { .. });
    *is_known && failure.may_pass()
}

/// Prints what `show` makes of each answer until it is interrupted. A server that is away is waited for.
fn print(
    answers: &Receiver<Result<News, Failure>>,
    interrupt: &Interrupt,
    mut show: impl FnMut(News) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let (mut is_known, mut troubled) = (false, false);
    while interrupt.get().is_none() {
        match answers.recv_timeout(PATIENCE) {
            Ok(Ok(news)) => {
                (is_known, troubled) = (true, false);
                output::line(show(news)?)?;
            }
            Ok(Err(failure)) if goes_on(&failure, &mut is_known) => {
                output::say_once(&mut troubled, format_args!("{failure}; trying again"));
            }
            Ok(Err(failure)) => return Err(failure.into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

/// Draws each answer over the one before, until it is interrupted.
fn redraw(
    answers: &Receiver<Result<News, Failure>>,
    interrupt: &Interrupt,
    view: &mut View,
) -> anyhow::Result<()> {
    let mut screen: Option<Screen> = None;
    let mut size = None;
    let (mut is_known, mut troubled) = (false, false);
    while interrupt.get().is_none() {
        match answers.recv_timeout(PATIENCE) {
            Ok(Ok(news)) => view.take(news)?,
            Ok(Err(failure)) if screen.is_some() => view.trouble = Some(failure.to_string()),
            Ok(Err(failure)) if goes_on(&failure, &mut is_known) => {
                output::say_once(&mut troubled, format_args!("{failure}; trying again"));
            }
            // Without a first answer there is nothing to show.
            Ok(Err(failure)) => return Err(failure.into()),
            Err(RecvTimeoutError::Timeout) if size == output::terminal_size() => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if view.latest.is_none() {
            continue;
        }
        size = output::terminal_size();
        if screen.is_none() {
            screen = Some(Screen::enter()?);
        }
        let rows = size.map_or(usize::MAX, |(_, rows)| rows);
        write(&frame(&view.text(), rows))?;
    }
    if screen.take().is_some() {
        output::line(view.table())?;
    }
    Ok(())
}

/// The terminal's alternate screen; dropping it restores the terminal.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        // The alternate screen, no cursor, and long lines are cut and not wrapped.
        write("\x1b[?1049h\x1b[?25l\x1b[?7l").map(|()| Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = write("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// As many of the lines as fit, each drawn over what was there.
fn frame(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = match lines.len() {
        all if all <= rows => all,
        _ => rows.saturating_sub(1),
    };
    let fitting = lines.iter().take(shown);
    let mut drawn: Vec<String> = fitting.map(|line| format!("{line}\x1b[0m\x1b[K")).collect();
    if shown < lines.len() {
        drawn.push(format!("… {} more lines\x1b[K", lines.len() - shown));
    }
    format!("\x1b[H{}\x1b[J", drawn.join("\r\n"))
}

/// The newest lags and their trends.
struct View {
    subject: Subject,
    interval: Duration,
    latest: Option<(Instant, Vec<GroupLag>)>,
    trends: BTreeMap<Key, Trend>,
    trouble: Option<String>,
}

impl View {
    fn new(subject: Subject, interval: Duration) -> Self {
        Self {
            subject,
            interval,
            latest: None,
            trends: BTreeMap::new(),
            trouble: None,
        }
    }

    fn take(&mut self, news: News) -> anyhow::Result<()> {
        let at = news.at;
        for (key, age, lag) in news.past {
            if let Some(then) = at.checked_sub(age) {
                self.trends.entry(key).or_default().push(then, lag);
            }
        }
        let groups = self.subject.groups_of(&news.answer)?;
        // Trends of rows that are gone are dropped.
        let mut trends = std::mem::take(&mut self.trends);
        for (key, lag) in self.subject.lags(&groups) {
            let mut trend = trends.remove(&key).unwrap_or_default();
            trend.push(at, lag);
            self.trends.insert(key, trend);
        }
        self.latest = Some((at, groups));
        self.trouble = None;
        Ok(())
    }

    fn table(&self) -> String {
        match &self.latest {
            None => String::new(),
            Some((_, groups)) if groups.is_empty() => "there are no groups yet".to_owned(),
            Some((at, groups)) => {
                let trend = |key: &Key| self.trends.get(key).map(|trend| trend.sparkline(*at));
                self.subject.table(groups, &trend)
            }
        }
    }

    fn text(&self) -> String {
        let what = match &self.subject {
            Subject::Group(group) => format!("lag of {group}"),
            Subject::All => "lag of all groups".to_owned(),
        };
        let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        let every = output::brief_ms(output::millis(self.interval));
        let head = output::wrapped(&format!("{what} · {time} · every {every} · Ctrl-C ends"));
        let trouble = self.trouble.as_ref().map_or_else(String::new, |trouble| {
            format!("\n{}\n", output::wrapped(&format!("{trouble}; trying again")))
        });
        format!("{head}\n\n{}\n{trouble}", self.table())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_leaves_nothing_of_the_one_before() {
        let text = "a\nb\nc\nd\n";
        assert_eq!(frame(text, 10).matches("\x1b[K").count(), 4);
        assert!(frame(text, 10).ends_with("\x1b[J"));
        let cut = frame(text, 3);
        assert!(cut.contains("b") && !cut.contains("c\x1b"), "{cut:?}");
        assert!(cut.contains("… 2 more lines"), "{cut:?}");
        assert_eq!(cut.matches("\r\n").count(), 2, "no line feed that would scroll");
    }

    #[test]
    fn rows_that_are_gone_take_their_trends_with_them() {
        let mut view = View::new(Subject::All, Duration::from_secs(1));
        let news = |names: &[&str]| News {
            at: Instant::now(),
            answer: json!({"groups": names.iter().map(|name| json!({"group": name, "lag": 3})).collect::<Vec<_>>()}),
            past: vec![(("a".to_owned(), None), Duration::ZERO, 1)],
        };
        view.take(news(&["a", "b"])).unwrap();
        assert_eq!(view.trends.len(), 2);
        view.take(news(&["b"])).unwrap();
        assert_eq!(view.trends.keys().map(|key| &*key.0).collect::<Vec<_>>(), ["b"]);
        assert!(view.text().starts_with("lag of all groups"));
    }
}
