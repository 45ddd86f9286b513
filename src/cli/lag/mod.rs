//! `quipu lag`: how far groups are behind, the worst first ([`report`]); `--watch` keeps looking ([`watch`]).

pub(crate) mod report;
mod trend;
mod watch;

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use quipu::formats::units;

use self::report::{GroupLag, Subject};
use super::connect::Connect;
use super::output::{self, brief_ms, millis, records};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quipu lag billing --watch
  quipu lag --fail-above 1000 --fail-above-time 5m    # ends with 1 if a group is further behind")]
pub(crate) struct Args {
    /// Show this group's partitions instead of all groups
    #[arg(value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Show the lag repeatedly, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Exit with 1 if a group is more than this many records behind
    #[arg(long, value_name = "N", conflicts_with = "watch")]
    fail_above: Option<u64>,
    /// Exit with 1 if a group's next record is older than this, as 5m or 1h
    #[arg(long, value_name = "SPAN", conflicts_with = "watch", value_parser = span)]
    fail_above_time: Option<Duration>,
    /// How often --watch asks the server, as 2s, 500ms or 1m
    #[arg(long, value_name = "SPAN", default_value = "2s", requires = "watch", value_parser = interval)]
    interval: Duration,
}

pub(crate) fn run(args: Args, connect: &Connect, is_json: bool) -> anyhow::Result<()> {
    let client = connect.client()?;
    let subject = args.group.map_or(Subject::All, Subject::Group);
    if args.watch {
        return watch::run(client, subject, args.interval, is_json);
    }
    let answer = subject.ask(&client)?;
    let groups = subject.groups_of(&answer)?;
    if is_json {
        output::json(&answer)?;
    } else {
        output::line(subject.table(&groups, &|_| None))?;
    }
    check(&groups, args.fail_above, args.fail_above_time)
}

/// Fails, and names the groups, if some are behind by more than the limits.
fn check(groups: &[GroupLag], records_most: Option<u64>, time_most: Option<Duration>) -> anyhow::Result<()> {
    let time_most = time_most.map(millis);
    let behind = groups.iter().filter_map(|group| {
        let (lag, lag_ms) = group.lag();
        let by = [
            records_most.filter(|most| lag > *most).map(|_| records(lag)),
            time_most.filter(|most| lag_ms > *most).map(|_| brief_ms(lag_ms)),
        ];
        let by: Vec<String> = by.into_iter().flatten().collect();
        (!by.is_empty()).then(|| format!("{} by {}", group.group, by.join(", ")))
    });
    let behind: Vec<String> = behind.collect();
    if behind.is_empty() {
        return Ok(());
    }
    let mosts = [records_most.map(records), time_most.map(brief_ms)];
    let most: Vec<String> = mosts.into_iter().flatten().collect();
    let (most, behind) = (most.join(" or "), behind.join("; "));
    anyhow::bail!("too far behind (more than {most}): {behind}")
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = || text.parse().ok().map(Duration::from_secs);
    match units::parse_duration(text).or_else(seconds) {
        None => Err("give it as 2s, 500ms or 1m".to_owned()),
        Some(span) if (100..=3_600_000).contains(&span.as_millis()) => Ok(span),
        Some(_) => Err("it is from 100ms to 60m".to_owned()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| format!("{text:?} is not a span like 90s, 5m or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_bounds() {
        for (text, ms) in [
            ("2s", 2000),
            ("2", 2000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("1m", 60_000),
        ] {
            assert_eq!(interval(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in [
            "", "s", "0", "10ms", "2h", "-1s", "61m", "NaN", "inf", "1e9", "ein s",
        ] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_check_names_the_groups_that_are_further_behind() {
        let group = |name, lag_ms| report::tests::group(name, "ok", lag_ms);
        let groups = [group("a", 5_000), group("b", 60_000)];
        let minute = Duration::from_secs(60);
        assert!(check(&groups, Some(1), Some(minute)).is_ok() && check(&groups, None, None).is_ok());
        let half = Some(minute / 2);
        let both = "0 records or 30.0 s): a by 1 record; b by 1 record, 1.0 min";
        for (records, time, text) in [
            (Some(0), None, "0 records): a by 1 record; b by 1 record"),
            (None, half, "30.0 s): b by 1.0 min"),
            (Some(0), half, both),
        ] {
            let error = check(&groups, records, time).unwrap_err().to_string();
            assert_eq!(error, format!("too far behind (more than {text}"));
        }
    }
}
