//! Cuts the input into requests: by its bytes alone, unless it is a pipe that is passed on as it arrives.
//!
//! A request is as many whole lines as fit [`REQUEST_BYTES`], or one longer line. The timing of the input does not
//! matter, so the same input is always cut in the same places, and a request sent again under its idempotency key is
//! the same request.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use memchr::{memchr, memchr_iter, memrchr};

use crate::cli::input::{BadInput, Block, MAX_LINE_BYTES};
use crate::cli::signal::Interrupt;

/// Bytes of a request; a longer line goes alone.
pub(super) const REQUEST_BYTES: usize = 8 << 20;
const _: () = assert!(REQUEST_BYTES <= MAX_LINE_BYTES);
/// How long a pipe may pause before its bytes so far are sent.
const LINGER: Duration = Duration::from_millis(20);
/// How often the wait for an idle input checks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// A result of the reading thread.
pub(super) type Blocks = Receiver<Result<Block, BadInput>>;

/// Lines of one request.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The lines, each with its line break.
    pub(super) bytes: Vec<u8>,
    /// The number of the first line, from 1.
    pub(super) first_line: u64,
    pub(super) lines: u64,
    /// The position in the file after them, before decompression.
    pub(super) position: u64,
}

impl Request {
    /// The number of its last line.
    pub(super) fn last_line(&self) -> u64 {
        self.first_line + self.lines.saturating_sub(1)
    }
}

/// The next part of the input.
#[derive(Debug)]
pub(super) enum Next {
    Request(Request),
    /// An invalid line.
    Bad(BadInput),
    End,
    /// The user stopped it; no input that was taken is lost.
    Interrupted,
}

/// Cuts blocks of lines into requests.
#[derive(Debug)]
pub(super) struct Cutter {
    /// The part of the input after the last full request.
    held: Option<Result<Block, BadInput>>,
    /// The number of the next line.
    line: u64,
    /// Whether a pause of the input ends a request.
    passes_on: bool,
}

impl Cutter {
    /// A cutter for an input from its first line on. With `passes_on`, a pause of a pipe sends its bytes so far.
    pub(super) fn new(passes_on: bool) -> Self {
        Self {
            held: None,
            line: 1,
            passes_on,
        }
    }

    /// Whether all input read so far was sent.
    pub(super) fn is_idle(&mut self, blocks: &Blocks) -> bool {
        if self.held.is_none() {
            self.held = blocks.try_recv().ok();
        }
        self.held.is_none()
    }

    /// The next block: the held one, or one that arrives in time.
    fn take(
        &mut self,
        blocks: &Blocks,
        limit: Duration,
    ) -> Result<Result<Block, BadInput>, RecvTimeoutError> {
        let held = self.held.take().map(Ok);
        held.unwrap_or_else(|| blocks.recv_timeout(limit))
    }

    /// Gathers blocks until a request is full, the input ends, or a pipe that is passed on pauses.
    pub(super) fn next(&mut self, blocks: &Blocks, interrupt: &Interrupt) -> Next {
        let mut request = Request {
            first_line: self.line,
            ..Request::default()
        };
        loop {
            let may_pause = self.passes_on && request.lines > 0;
            if !may_pause && interrupt.get().is_some() {
                if request.lines > 0 {
                    self.give_back(request);
                }
                return Next::Interrupted;
            }
            match self.take(blocks, if may_pause { LINGER } else { LOOK }) {
                Ok(Ok(block)) => {
                    if self.fill(&mut request, block) {
                        return Next::Request(request);
                    }
                }
                Ok(Err(bad)) if request.lines == 0 => return Next::Bad(bad),
                Ok(bad) => {
                    self.held = Some(bad);
                    return Next::Request(request);
                }
                Err(RecvTimeoutError::Disconnected) if request.lines == 0 => return Next::End,
                Err(RecvTimeoutError::Disconnected) => return Next::Request(request),
                Err(RecvTimeoutError::Timeout) if may_pause => return Next::Request(request),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Skips the first `lines` lines and passes their bytes to `look`; false if there are fewer.
    pub(super) fn skip(
        &mut self,
        lines: u64,
        blocks: &Blocks,
        interrupt: &Interrupt,
        mut look: impl FnMut(&[u8]),
    ) -> bool {
        while self.line <= lines {
            if interrupt.get().is_some() {
                return false;
            }
            let block = match self.take(blocks, LOOK) {
                Ok(Ok(block)) => block,
                Err(RecvTimeoutError::Timeout) => continue,
                Ok(bad) => {
                    self.held = Some(bad);
                    return false;
                }
                Err(RecvTimeoutError::Disconnected) => return false,
            };
            let left = lines + 1 - self.line;
            let end = end_of_lines(&block.bytes, left);
            look(&block.bytes[..end]);
            self.line += block.lines.min(left);
            self.hold(block, end);
        }
        true
    }

    /// Adds as much of the block as fits into the request; true if the request is full.
    fn fill(&mut self, request: &mut Request, block: Block) -> bool {
        let room = REQUEST_BYTES.saturating_sub(request.bytes.len());
        let end = if block.bytes.len() <= room {
            block.bytes.len()
        } else {
            match memrchr(b'\n', &block.bytes[..room]) {
                Some(last) => last + 1,
                // Not even the first line fits: it waits for the next request, or is sent alone.
                None if request.lines > 0 => 0,
                None => memchr(b'\n', &block.bytes).map_or(block.bytes.len(), |first| first + 1),
            }
        };
        let is_whole = end == block.bytes.len();
        let lines = match is_whole {
            true => block.lines,
            false => count_lines(&block.bytes[..end]),
        };
        self.line += lines;
        request.lines += lines;
        request.position = block.position;
        if is_whole && request.bytes.is_empty() {
            request.bytes = block.bytes;
        } else {
            request.bytes.extend_from_slice(&block.bytes[..end]);
            self.hold(block, end);
        }
        !is_whole || request.bytes.len() >= REQUEST_BYTES
    }

    /// Keeps the rest of a block, from `end` on, for the next request.
    fn hold(&mut self, mut block: Block, end: usize) {
        if end < block.bytes.len() {
            block.bytes.drain(..end);
            block.lines = count_lines(&block.bytes);
            self.held = Some(Ok(block));
        }
    }

    /// Undoes the gathering of an incomplete request.
    fn give_back(&mut self, request: Request) {
        self.line = request.first_line;
        self.held = Some(Ok(Block::new(request.bytes, request.lines, request.position)));
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

/// The position after the first `lines` lines.
pub(super) fn end_of_lines(bytes: &[u8], lines: u64) -> usize {
    let last = usize::try_from(lines).ok().and_then(|lines| lines.checked_sub(1));
    let Some(last) = last else { return 0 };
    let end = memchr_iter(b'\n', bytes).nth(last);
    end.map_or(bytes.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use proptest::prelude::*;

    use super::*;

    fn blocks(pieces: &[Vec<u8>]) -> Blocks {
        let (sender, blocks) = channel();
        for bytes in pieces {
            let block = Block::new(bytes.clone(), count_lines(bytes), 0);
            sender.send(Ok(block)).unwrap();
        }
        blocks
    }

    /// First line, lines and bytes of each request after `skip` lines.
    fn cut(pieces: &[Vec<u8>], skip: u64) -> Vec<(u64, u64, usize)> {
        let blocks = blocks(pieces);
        let mut cutter = Cutter::new(false);
        let interrupt = Interrupt::default();
        assert!(cutter.skip(skip, &blocks, &interrupt, |_| {}));
        let mut requests = Vec::new();
        loop {
            match cutter.next(&blocks, &interrupt) {
                Next::Request(request) => {
                    assert_eq!(request.bytes.last(), Some(&b'\n'));
                    requests.push((request.first_line, request.lines, request.bytes.len()));
                }
                Next::End => return requests,
                other => panic!("{other:?}"),
            }
        }
    }

    fn line(bytes: usize) -> Vec<u8> {
        let mut line = vec![b'x'; bytes - 1];
        line.push(b'\n');
        line
    }

    #[test]
    fn a_request_is_as_many_lines_as_fit_and_a_longer_line_goes_alone() {
        let full = REQUEST_BYTES;
        let lines = [full - 10, 10, 1, full + 1, 5, full].map(line);
        let expected = [(1, 2, full), (3, 1, 1), (4, 1, full + 1), (5, 1, 5), (6, 1, full)];
        assert_eq!(cut(&lines, 0), expected);
        assert_eq!(cut(&[lines.concat()], 0), expected);
        assert_eq!(cut(&lines, 2), expected[1..], "after lines that are skipped too");
    }

    #[test]
    fn lines_interrupted_by_stop_are_not_lost() {
        let blocks = blocks(&[b"1\n2\n".to_vec()]);
        let mut cutter = Cutter::new(false);
        let interrupt = Interrupt::default();
        interrupt.set(crate::cli::signal::Stop::Asked);
        assert!(matches!(cutter.next(&blocks, &interrupt), Next::Interrupted));
        assert_eq!(cutter.line, 1);
        match cutter.next(&blocks, &Interrupt::default()) {
            Next::Request(request) => assert_eq!((request.first_line, request.lines), (1, 2)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_that_are_skipped_are_looked_at_once_and_must_be_there() {
        let pieces = [b"1\n2\n3\n".to_vec(), b"4\n5\n".to_vec()];
        let mut seen = Vec::new();
        let mut cutter = Cutter::new(false);
        let input = blocks(&pieces);
        assert!(cutter.skip(4, &input, &Interrupt::default(), |bytes| {
            seen.extend_from_slice(bytes)
        }));
        assert_eq!((seen.as_slice(), cutter.line), (&b"1\n2\n3\n4\n"[..], 5));
        assert!(!Cutter::new(false).skip(6, &blocks(&pieces), &Interrupt::default(), |_| {}));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn requests_end_in_the_same_places_however_the_lines_arrive(
            sizes in prop::collection::vec(prop_oneof![1_usize..100, 100_000_usize..3_000_000], 1..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            skip in any::<prop::sample::Index>(),
        ) {
            let lines: Vec<Vec<u8>> = sizes.iter().map(|size| line(*size)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(lines.len() + 1)).collect();
            cuts.extend([0, lines.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<Vec<u8>> = cuts.windows(2).map(|pair| lines[pair[0]..pair[1]].concat()).collect();
            let whole = cut(&[lines.concat()], 0);
            prop_assert_eq!(cut(&pieces, 0), whole.clone());
            let done = &whole[..skip.index(whole.len())];
            let acknowledged = done.iter().map(|request| request.1).sum();
            prop_assert_eq!(cut(&pieces, acknowledged), &whole[done.len()..]);
        }
    }
}
