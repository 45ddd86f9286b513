//! A producer that retries: every request has an `Idempotency-Key`. When the server is back, a request with an unknown
//! result is sent again before anything new. In between, the producer repeats requests that were answered long ago.
//!
//! A retry must end with every record stored once, whatever happened to earlier tries: the check after the next restart
//! finds records that are there twice or not at all. A repeated request must get the same answer.

use std::collections::VecDeque;

use crate::history::{Counts, Cuts, Sent};
use crate::load::{Client, Gone, OWNED, Role, TOPICS, UNIT_LINES, placed};
use crate::records;
use crate::support::Answer;

/// Answered requests that a client goes on repeating.
const REMEMBERED: usize = 8;

/// A request with a key.
#[derive(Clone, Debug)]
pub struct Keyed {
    request: u64,
    topic: &'static str,
    partitions: Vec<u32>,
    padding: usize,
    /// It is a stream of lines instead of a list.
    is_stream: bool,
    /// How often it was sent.
    tries: u32,
    /// The ends of its partitions when it was first sent: its records lie behind these.
    since: Vec<u64>,
}

/// What a client remembers from round to round.
#[derive(Default)]
pub struct Retries {
    /// Sent and not answered: it is sent next.
    in_doubt: Option<Keyed>,
    answered: VecDeque<(Keyed, Vec<u8>)>,
}

impl Keyed {
    fn cuts(&self) -> Cuts {
        if self.is_stream {
            Cuts::Every(UNIT_LINES)
        } else {
            Cuts::Whole
        }
    }

    fn count(&self) -> u32 {
        self.partitions.len() as u32
    }
}

impl Client<'_> {
    pub fn retry(&mut self) -> Result<(), Gone> {
        while !self.is_over() {
            let in_doubt = self.retries(|retries| retries.in_doubt.clone());
            let answered = self.retries(|retries| retries.answered.len() as u64);
            if let Some(keyed) = in_doubt {
                self.send_once(keyed)?;
            } else if answered > 0 && self.rng.below(3) == 0 {
                let place = self.rng.below(answered) as usize;
                self.repeat(place)?;
            } else {
                let keyed = self.new_request();
                self.send_once(keyed)?;
            }
            let _ = self.events.send(Role::Retrying);
        }
        Ok(())
    }

    fn retries<R>(&self, change: impl FnOnce(&mut Retries) -> R) -> R {
        change(self.history.state().retries.entry(self.number).or_default())
    }

    fn new_request(&mut self) -> Keyed {
        let topic = TOPICS[self.rng.below(2) as usize];
        // Now and then so many lines that they are several units.
        let (is_stream, count, padding) = match self.rng.below(8) {
            0 => (true, UNIT_LINES + 500, 0),
            1 | 2 => (true, 1 + self.rng.below(200) as u32, self.rng.below(2000)),
            _ => (false, 1 + self.rng.below(8) as u32, self.rng.below(3000)),
        };
        let partitions: Vec<u32> = (0..count).map(|_| self.owned()).collect();
        let end = |partition| self.history.held(topic, partition, |held| held.checked_end);
        let since = (0..OWNED).map(end).collect();
        let sent = Sent {
            may: 0,
            ..Sent::new(topic, &partitions, Cuts::Whole)
        };
        let request = self.history.send(self.number, sent);
        Keyed {
            request,
            topic,
            partitions,
            padding: padding as usize,
            is_stream,
            tries: 0,
            since,
        }
    }

    /// Sends a request whose result is unknown; once it is answered, every record is there once.
    fn send_once(&mut self, mut keyed: Keyed) -> Result<(), Gone> {
        keyed.tries += 1;
        self.retries(|retries| retries.in_doubt = Some(keyed.clone()));
        let count = keyed.count();
        let since = Some(keyed.since.clone());
        let sent = Sent {
            since,
            ..Sent::new(keyed.topic, &keyed.partitions, keyed.cuts())
        };
        self.history.state().requests.insert(keyed.request, sent);
        let answer = self.send_keyed(&keyed)?;
        // Refused because of a fault: an earlier try may be stored all the same, so the result stays unknown.
        if self.refused(&answer, &[200]).is_some() {
            return Ok(());
        }
        let placed = placed(&answer.json(), keyed.request, &keyed.partitions);
        self.history.note(keyed.topic, placed);
        self.history.settle(keyed.request, count, count);
        if keyed.tries > 1 {
            Counts::add(&self.history.counts.retried_requests, 1);
        }
        self.retries(|retries| {
            retries.in_doubt = None;
            retries.answered.push_back((keyed, answer.body));
            if retries.answered.len() > REMEMBERED {
                retries.answered.pop_front();
            }
        });
        Ok(())
    }

    /// Sends an answered request again.
    fn repeat(&mut self, place: usize) -> Result<(), Gone> {
        let (keyed, before) = self.retries(|retries| retries.answered[place].clone());
        let answer = self.send_keyed(&keyed)?;
        if self.refused(&answer, &[200]).is_none() {
            answer.replayed();
            Counts::add(&self.history.counts.repeated_requests, 1);
            assert_eq!(
                answer.body, before,
                "{keyed:?} is answered otherwise than the first time"
            );
        }
        Ok(())
    }

    fn send_keyed(&mut self, keyed: &Keyed) -> Result<Answer, Gone> {
        let lines = records::lines(keyed.request, &keyed.partitions, keyed.padding);
        let (media, body) = match keyed.is_stream {
            true => ("application/x-ndjson", lines.join("\n")),
            false => ("application/json", records::document(&lines)),
        };
        let path = format!("/v1/topics/{}/records", keyed.topic);
        let key = format!("Idempotency-Key: {:x}\r\n", keyed.request);
        self.call_with("POST", &path, media, &key, body.as_bytes())
    }
}
