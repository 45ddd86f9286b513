//! Lines of the log that somebody outside can cause as often as he likes: they must not fill a disk.
//!
//! Of each kind a [`Sparing`] decides which events get a line of their own: the first [`LINES`] of a [`WINDOW`]. What else
//! happens in it is counted, and one line at its end says how much that was and from which addresses most of it came, so
//! that whoever reads the log still sees an attack, and whose it is. The metrics count everything.
//!
//! The memory is bounded: of more than [`ADDRESSES`] addresses those with the most events are kept (the algorithm
//! "space-saving"), with counts that are too high by at most what the others have together.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::engine::Monotonic;

/// The most lines of a window.
const LINES: u32 = 10;
/// How long a window lasts.
const WINDOW: Duration = Duration::from_secs(10);
/// The most addresses of a window that are counted one by one.
const ADDRESSES: usize = 64;
/// The addresses that are shown, those with the most events first.
const SHOWN: usize = 5;

/// Decides which events of one kind get a line in the log.
#[derive(Debug, Default)]
pub struct Sparing(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// `None`: nothing has happened yet.
    begun: Option<Monotonic>,
    lines: u32,
    left_out: u64,
    addresses: HashMap<Option<IpAddr>, u64>,
}

/// The events of a window that got no line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub events: u64,
    /// Where most of them came from, with how many that were, the most first. `None`: the connection was closed already.
    pub addresses: Vec<(Option<IpAddr>, u64)>,
}

impl LeftOut {
    /// The addresses as they are shown in a line.
    pub fn from(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            for (index, (address, events)) in self.addresses.iter().enumerate() {
                let separator = if index == 0 { "" } else { ", " };
                match address {
                    Some(address) => write!(f, "{separator}{address} ({events})")?,
                    None => write!(f, "{separator}unknown ({events})")?,
                }
            }
            Ok(())
        })
    }
}

impl Sparing {
    /// Whether an event gets a line of its own. If not, it is counted for [`Sparing::left_out`].
    pub fn takes(&self, now: Monotonic, address: Option<IpAddr>) -> bool {
        let mut window = self.0.lock();
        let is_over = window.begun.is_none_or(|begun| now.since(begun) >= WINDOW);
        // What was left out is told before a new window begins.
        if is_over && window.left_out == 0 {
            *window = Window {
                begun: Some(now),
                ..Window::default()
            };
        }
        if window.lines < LINES {
            window.lines += 1;
            return true;
        }
        window.leave_out(address);
        false
    }

    /// What got no line in a window that has ended, once. To be asked often: until then no new window begins.
    pub fn left_out(&self, now: Monotonic) -> Option<LeftOut> {
        let mut window = self.0.lock();
        let is_over = window.begun.is_some_and(|begun| now.since(begun) >= WINDOW);
        if !is_over || window.left_out == 0 {
            return None;
        }
        let window = std::mem::take(&mut *window);
        let mut addresses: Vec<_> = window.addresses.into_iter().collect();
        addresses.sort_by_key(|(address, events)| (std::cmp::Reverse(*events), *address));
        addresses.truncate(SHOWN);
        Some(LeftOut {
            events: window.left_out,
            addresses,
        })
    }
}

impl Window {
    fn leave_out(&mut self, address: Option<IpAddr>) {
        self.left_out += 1;
        if let Some(events) = self.addresses.get_mut(&address) {
            *events += 1;
            return;
        }
        let mut events = 1;
        if self.addresses.len() >= ADDRESSES
            && let Some((least, of_least)) = self.addresses.iter().min_by_key(|(_, events)| **events)
        {
            events += of_least;
            let least = *least;
            self.addresses.remove(&least);
        }
        self.addresses.insert(address, events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic(Duration::from_millis(ms))
    }

    #[test]
    fn a_flood_has_a_few_lines_and_one_that_says_where_it_comes_from() {
        let sparing = Sparing::default();
        let lines = |from: u64, last: u8, count: u64| {
            let taken = (0..count).filter(|_| sparing.takes(at(from), address(last)));
            taken.count()
        };
        assert_eq!(lines(5, 1, 1000), LINES as usize);
        assert_eq!(lines(6, 2, 30), 0);
        assert_eq!(sparing.left_out(at(10_004)), None, "the window goes on");
        let left_out = sparing.left_out(at(10_005)).expect("a window with events");
        assert_eq!(left_out.events, 1020);
        assert_eq!(left_out.from().to_string(), "10.0.0.1 (990), 10.0.0.2 (30)");
        assert_eq!(sparing.left_out(at(10_005)), None, "it is told once");
        assert_eq!(lines(10_006, 2, 3), 3, "a new window has begun");
        assert_eq!(sparing.left_out(at(30_000)), None, "nothing was left out");
        assert_eq!(lines(30_001, 2, 12), LINES as usize);
    }

    #[test]
    fn what_was_left_out_is_told_before_there_are_new_lines() {
        let sparing = Sparing::default();
        for _ in 0..=LINES {
            sparing.takes(at(0), address(1));
        }
        assert!(!sparing.takes(at(60_000), None));
        let left_out = sparing.left_out(at(60_000)).expect("two events");
        assert_eq!(left_out.from().to_string(), "unknown (1), 10.0.0.1 (1)");
        assert!(sparing.takes(at(60_000), None));
    }

    #[test]
    fn whoever_comes_most_is_shown_among_any_number_of_addresses() {
        let sparing = Sparing::default();
        for round in 0..2000_u32 {
            sparing.takes(at(0), Some(IpAddr::from(round.to_be_bytes())));
            if round % 4 == 0 {
                sparing.takes(at(0), address(9));
            }
        }
        assert_eq!(sparing.0.lock().addresses.len(), ADDRESSES);
        let left_out = sparing.left_out(at(10_000)).expect("many events");
        assert_eq!(left_out.addresses.len(), SHOWN);
        assert_eq!(left_out.addresses[0].0, address(9));
    }
}
