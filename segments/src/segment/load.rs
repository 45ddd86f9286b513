//! Opening a segment: its map, and the base part of its index, from the files or from the log.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::cold::Cold;
use super::inner::{Base, BaseSum, Inner, OpenMap};
use super::intervals::Intervals;
use super::walk::{Course, Step, Walker};
use super::{BatchNote, Span};
use crate::disk::OpenMode;
use crate::error::{Error, Result};
use crate::index::{self, Index};
use crate::types::FilePos;

impl Inner {
    /// The map, made if need be.
    pub(super) fn open(self: &Arc<Self>, _cold: &Cold<'_>, span: &Span) -> Result<Arc<OpenMap>> {
        let readable = {
            let state = self.state.read();
            if state.closed {
                return Err(Error::Trimmed {
                    offset: span.from,
                    log_start_offset: span.segment_end,
                    end_offset: span.segment_end,
                });
            }
            if let Some(open) = &state.map
                && open.map.len() >= state.tail.end()
            {
                return Ok(Arc::clone(open));
            }
            state.tail.end()
        };
        let path = self.file("log");
        let map = self
            .pool
            .disk
            .open(&path, OpenMode::Read)
            .and_then(|file| file.map(self.map_bytes.max(readable)));
        let map = match map {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Damaged {
                    place: path.display().to_string(),
                    what: "the file is missing".into(),
                    damaged_from: self.base,
                    damaged_until: span.segment_end,
                });
            }
            Err(error) => return Err(Error::io(format!("opening {}", path.display()), error)),
        };
        let permit = self.pool.reserve();
        let open = Arc::new(OpenMap { map, _permit: permit });
        {
            let mut state = self.state.write();
            state.map = Some(Arc::clone(&open));
            state.verified.clear();
        }
        self.pool.enqueue(self);
        Ok(open)
    }

    /// What of this map is verified.
    pub(super) fn verified(&self, open: &Arc<OpenMap>) -> Intervals {
        let state = self.state.read();
        match &state.map {
            Some(map) if Arc::ptr_eq(map, open) => state.verified.clone(),
            _ => Intervals::default(),
        }
    }

    /// Notes what a walk has verified, unless the map was closed meanwhile.
    pub(super) fn hand_in(&self, open: &Arc<OpenMap>, walker: &Walker) {
        let mut state = self.state.write();
        if state.map.as_ref().is_some_and(|map| Arc::ptr_eq(map, open)) {
            state.verified.merge(&walker.fresh);
        }
    }

    /// The index of everything before the tail: what is there, what the files say, or what the log says.
    pub(super) fn load_base(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        open: &Arc<OpenMap>,
        span: &Span,
    ) -> Result<Base> {
        let end = {
            let state = self.state.read();
            if let Some(base) = &state.base
                && base.index.end() == state.tail.start()
            {
                return Ok(base.clone());
            }
            state.tail.start()
        };
        let (index, scanned) = match self.read_index_files(end) {
            Some(index) => (index, false),
            None => (Index::new(self.base, 0), true),
        };
        if index.end() < end {
            return self.rebuild(cold, open, index, scanned, span);
        }
        let base = Base {
            index: Arc::new(index),
            scanned,
        };
        self.keep_base(open, &base, end);
        Ok(base)
    }

    /// What lookups over many segments must know of the base, from the header of a file if that will do.
    pub(super) fn base_sum(self: &Arc<Self>, cold: &Cold<'_>, span: &Span) -> Result<BaseSum> {
        let end = {
            let state = self.state.read();
            if let Some(sum) = state.base_sum() {
                return Ok(sum);
            }
            state.tail.start()
        };
        let mut header = [0; index::HEADER_BYTES];
        let read = self
            .pool
            .disk
            .open(&self.file("index"), OpenMode::Read)
            .and_then(|file| file.read_at(&mut header, 0));
        if let Ok(read) = read
            && let Ok(summary) = index::summary(&header[..read], self.base, end)
            && summary.end == end
        {
            let sum = BaseSum {
                max_timestamp: summary.max_timestamp,
            };
            self.state.write().base_sum = Some(sum);
            return Ok(sum);
        }
        let open = self.open(cold, span)?;
        let base = self.load_base(cold, &open, span)?;
        Ok(BaseSum {
            max_timestamp: base.index.max_timestamp(),
        })
    }

    /// Completes `index` up to the tail by walking the log behind it, keeps it, and writes it to the files if it can.
    ///
    /// Every batch is verified on the way, which is what makes it safe to go on behind damage.
    pub(super) fn rebuild(
        self: &Arc<Self>,
        cold: &Cold<'_>,
        open: &Arc<OpenMap>,
        mut index: Index,
        scanned: bool,
        span: &Span,
    ) -> Result<Base> {
        self.pool.count_rebuild();
        let course = {
            let state = self.state.read();
            Course {
                start: index.end(),
                end: state.tail.start(),
                next_offset: index.next_offset(),
                limit: state.tail.first_offset().or(span.limit()),
                marks: Vec::new(),
            }
        };
        let (start, end) = (course.start, course.end);
        let mut walker = Walker::new(Arc::clone(&open.map), self.verified(open), self.base, course);
        let mut is_whole = true;
        loop {
            match walker.step()? {
                Step::Batch(position, header) => index.push(&BatchNote {
                    base_offset: header.base_offset,
                    next_offset: header.next_offset(),
                    max_timestamp: header.max_timestamp,
                    position: FilePos(position),
                    bytes: header.total_bytes() as u64,
                    json_lines: false,
                }),
                Step::Damage(damage) => {
                    tracing::error!(
                        log = %self.file("log").display(),
                        position = damage.position,
                        until = damage.resume,
                        what = damage.what,
                        "a log is damaged"
                    );
                    index.skip_to(damage.resume);
                    is_whole = false;
                }
                Step::End => break,
            }
        }
        self.hand_in(open, &walker);
        tracing::info!(log = %self.file("log").display(), start, end, "an index was made from its log");
        // What could not be read this time may be readable the next time: an index without it is not for keeping.
        let written = if is_whole {
            self.write_index_files(cold, &index).map(|()| end)
        } else {
            Ok(0)
        };
        let saved = match written {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(log = %self.file("log").display(), %error, "an index could not be written");
                0
            }
        };
        let base = Base {
            index: Arc::new(index),
            scanned,
        };
        self.keep_base(open, &base, saved);
        Ok(base)
    }

    fn keep_base(&self, open: &Arc<OpenMap>, base: &Base, saved_to: u64) {
        let mut state = self.state.write();
        state.base_sum = Some(BaseSum {
            max_timestamp: base.index.max_timestamp(),
        });
        state.saved_to = saved_to;
        // Loaded indexes are bounded by the open maps.
        if state.map.as_ref().is_some_and(|map| Arc::ptr_eq(map, open)) {
            state.base = Some(base.clone());
        }
    }

    /// The index in the files, if it is whole and of this log, of which it may cover less than `log_bytes`.
    pub(super) fn read_index_files(&self, log_bytes: u64) -> Option<Index> {
        let read = |extension| self.read_file(&self.file(extension));
        let (offsets, times) = match (read("index"), read("timeindex")) {
            (Ok(offsets), Ok(times)) => (offsets, times),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(log = %self.file("log").display(), %error, "the index of a log could not be read");
                return None;
            }
        };
        match index::decode(&offsets, &times, self.base, log_bytes) {
            Ok(index) => Some(index),
            Err(error) => {
                tracing::warn!(log = %self.file("log").display(), %error, "the index of a log is of no use");
                None
            }
        }
    }

    fn read_file(&self, path: &std::path::Path) -> io::Result<Vec<u8>> {
        let file = self.pool.disk.open(path, OpenMode::Read)?;
        let len = file.len()?.min(index::MAX_FILE_BYTES);
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes both files, in place: a torn one is told by its checksums.
    pub(super) fn write_index_files(&self, _cold: &Cold<'_>, index: &Index) -> Result<()> {
        if self.state.read().closed {
            return Ok(());
        }
        let (offsets, times) = index::encode(index);
        for (extension, contents) in [("index", offsets), ("timeindex", times)] {
            let path = self.file(extension);
            self.pool
                .disk
                .open(&path, OpenMode::Create)
                .and_then(|file| {
                    file.write_all_at(&[IoSlice::new(&contents)], 0)?;
                    file.set_len(contents.len() as u64)
                })
                .map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
        }
        Ok(())
    }
}
