//! The damaged stretches that were found in a segment's file.
//!
//! Each walk notes the damage that it meets. A note is removed when a later walk verifies the bytes where the stretch
//! begins (a read that failed may work later). All notes are dropped with the segment.

use std::path::Path;

use super::Span;
use super::inner::Inner;
use super::intervals::Intervals;
use super::walk::Damage;
use crate::io::sync::atomic::Ordering;
use crate::segment::damage::{Known, MAX_RANGES};
use crate::types::Offset;

/// A damaged stretch that was found.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    position: u64,
    resume: u64,
    known: Known,
}

impl Inner {
    /// Notes confirmed damage, and logs it the first time.
    pub(super) fn note_damage(&self, damage: &Damage, span: &Span) {
        let until = damage
            .until
            .or((span.segment_end != Offset::MAX).then_some(span.segment_end));
        let known = Known {
            from: damage.from,
            until,
            bytes: damage.resume - damage.position,
            place: format!("{} at byte {}", self.file("log").display(), damage.position),
            what: damage.what.clone(),
        };
        self.note_stretch(damage.position, damage.resume, known);
    }

    /// Notes that the whole file is gone.
    pub(super) fn note_missing(&self, span: &Span) {
        let known = Known {
            from: self.base,
            until: (span.segment_end != Offset::MAX).then_some(span.segment_end),
            bytes: 0,
            place: self.file("log").display().to_string(),
            what: "the file is missing".into(),
        };
        self.note_stretch(0, self.readable().get().max(1), known);
    }

    fn note_stretch(&self, position: u64, resume: u64, known: Known) {
        if known.until.is_some_and(|until| until <= known.from) {
            return;
        }
        let mut stretches = self.damage.lock();
        let is_same = |other: &Stretch| (other.known.from, other.known.until) == (known.from, known.until);
        let is_new = !stretches.iter().any(is_same);
        if is_new && stretches.len() >= MAX_RANGES {
            return;
        }
        stretches.retain(|other| other.resume <= position || other.position >= resume);
        if is_new {
            log_damage(&self.dir, &known);
        }
        stretches.push(Stretch {
            position,
            resume,
            known,
        });
        self.pool.has_damage.store(true, Ordering::Release);
    }

    /// Removes the stretches that begin in verified bytes.
    pub(super) fn heal(&self, verified: &Intervals) {
        if self.pool.has_damage.load(Ordering::Acquire) {
            self.damage
                .lock()
                .retain(|stretch| verified.end_of(stretch.position).is_none());
        }
    }

    /// All damage that is noted.
    pub(super) fn known_damage(&self) -> Vec<Known> {
        let stretches = self.damage.lock();
        stretches.iter().map(|stretch| stretch.known.clone()).collect()
    }
}

/// Logs one line for the operator: what is damaged, where, and what to do.
pub(crate) fn log_damage(dir: &Path, known: &Known) {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let (topic, partition) = (name(dir.parent()), name(Some(dir)));
    let until = known.until.map_or(0, Offset::get);
    tracing::error!(
        topic,
        partition,
        damaged_offset = known.from.get(),
        damaged_until_offset = until,
        place = known.place,
        what = known.what,
        "stored records are damaged and cannot be read: restore the file from a backup with the server stopped (quipu \
         verify checks it), or go on without them: quipu topic skip {topic} --partition {partition} --from {} --until {until}",
        known.from
    );
}
