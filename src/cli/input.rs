//! Lines from a file or standard input, decompressed and shaped on a thread of their own.
//!
//! The thread hands over blocks of whole lines as they become available, so a slow pipe is passed on without waiting
//! for more, and at most [`BLOCKS`] of them are held.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::shape::Shape;
use super::signal::{Interrupt, spawn};

/// Longest record, as a line of NDJSON: it must fit into a request.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 20;
/// Bytes asked of the input at once; a block is about as large.
const READ_BYTES: usize = 512 << 10;
/// Blocks that wait for the network.
const BLOCKS: usize = 16;
/// How long to wait for a signal after the end of an input: Ctrl-C ends the input too, and may arrive after that.
const SIGNAL: Duration = Duration::from_millis(100);

/// Whole lines of NDJSON.
#[derive(Debug)]
pub(crate) struct Block {
    /// The lines, each with its line break.
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: u64,
    /// How far in the file this was read, before decompression.
    pub(crate) position: u64,
}

impl Block {
    pub(crate) fn new(bytes: Vec<u8>, lines: u64, position: u64) -> Self {
        Self {
            bytes,
            lines,
            position,
        }
    }
}

/// What stopped the reading before the end of the input; the lines before it have been handed over.
#[derive(Debug)]
pub(crate) struct BadInput {
    /// The line, from 1.
    pub(crate) line: u64,
    pub(crate) reason: String,
}

/// An input being read.
#[derive(Debug)]
pub(crate) struct Input {
    /// What people call it: the file's path, or standard input.
    pub(crate) name: String,
    /// Size of the file before decompression; none for pipes.
    pub(crate) file_bytes: Option<u64>,
    /// The blocks; closed at the end of the input.
    pub(crate) blocks: Receiver<Result<Block, BadInput>>,
    /// The reading thread sets it before it hands over the block of the lines before.
    is_within_a_line: Arc<AtomicBool>,
}

/// Why a line whose writer was interrupted is not a record.
pub(crate) const NOT_WHOLE: &str = "interrupted before its end, so it was not sent";

impl Input {
    /// Opens `file`, or standard input for none or `-`, and begins to read.
    /// Errors: The file cannot be opened.
    pub(crate) fn open(file: Option<&Path>, shape: Shape, interrupt: &Interrupt) -> io::Result<Self> {
        let (sender, blocks) = sync_channel(BLOCKS);
        let path = file.filter(|path| *path != Path::new("-"));
        let (name, source, file_bytes): (_, Box<dyn Read + Send>, _) = match path {
            None => ("standard input".to_owned(), Box::new(io::stdin()), None),
            Some(path) if std::fs::metadata(path)?.file_type().is_fifo() => {
                let pipe = Pipe {
                    path: path.to_owned(),
                    file: None,
                };
                (path.display().to_string(), Box::new(pipe), None)
            }
            Some(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                let bytes = metadata.is_file().then_some(metadata.len());
                (path.display().to_string(), Box::new(file), bytes)
            }
        };
        let (interrupt, is_typed) = (interrupt.clone(), file_bytes.is_none());
        let extension = path.and_then(|path| path.extension()?.to_str());
        let extension = extension.unwrap_or_default().to_owned();
        let is_within_a_line = Arc::new(AtomicBool::new(false));
        let position = Arc::new(AtomicU64::new(0));
        let source = Counted {
            inner: source,
            position: Arc::clone(&position),
        };
        let mut lines = Lines {
            shape,
            sender,
            position,
            next_line: 1,
            interrupt,
            is_typed,
            is_within_a_line: Arc::clone(&is_within_a_line),
        };
        spawn("input", move || {
            if let Err(Some(bad)) = lines.run(source, &extension) {
                // A send fails if the receiver has stopped; it then needs no error.
                let _ = lines.sender.send(Err(bad));
            }
        })?;
        Ok(Self {
            name,
            file_bytes,
            blocks,
            is_within_a_line,
        })
    }

    /// Whether a line was begun, and its end has not been read.
    pub(crate) fn is_within_a_line(&self) -> bool {
        self.is_within_a_line.load(Ordering::Acquire)
    }
}

/// A named pipe. Opening it waits for its writer, so that is left to the thread that reads: the command can be stopped
/// meanwhile.
struct Pipe {
    path: PathBuf,
    file: Option<File>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        self.file.insert(file).read(buffer)
    }
}

/// Counts what has been read of the file itself.
struct Counted {
    inner: Box<dyn Read + Send>,
    position: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The reading thread's state. Its methods fail with `None` when nobody receives blocks any more.
struct Lines {
    shape: Shape,
    sender: SyncSender<Result<Block, BadInput>>,
    position: Arc<AtomicU64>,
    next_line: u64,
    interrupt: Interrupt,
    /// Whether the input is no regular file, so that its writer may be interrupted within a line.
    is_typed: bool,
    is_within_a_line: Arc<AtomicBool>,
}

impl Lines {
    fn set_within_a_line(&self, is_within: bool) {
        self.is_within_a_line.store(is_within, Ordering::Release);
    }

    fn run(&mut self, mut source: Counted, extension: &str) -> Result<(), Option<BadInput>> {
        let head = self.beginning(&mut source, &[GZIP, ZSTD])?;
        // If the first bytes are unknown, the extension decides. If it is wrong, the decoder fails: better than to send
        // the bytes as they are, because the user named the coding.
        let coding = match &head[..] {
            GZIP => "gz",
            ZSTD => "zst",
            _ => extension,
        };
        let source = io::Cursor::new(head).chain(source);
        let mut source: Box<dyn Read> = match coding {
            "gz" => Box::new(flate2::read::MultiGzDecoder::new(source)),
            "zst" | "zstd" => Box::new(zstd::Decoder::new(source).map_err(|error| self.unreadable(&error))?),
            _ => Box::new(source),
        };
        let mut buffer = vec![0; READ_BYTES];
        let mut pending = self.beginning(&mut source, &[BYTE_ORDER_MARK])?;
        if pending == BYTE_ORDER_MARK {
            pending.clear();
        }
        self.set_within_a_line(!pending.is_empty() && !pending.ends_with(b"\n"));
        // A block ends where a line does, however little was looked at.
        if pending.ends_with(b"\n") {
            self.hand_over(std::mem::take(&mut pending))?;
        }
        loop {
            let mut read = match source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreadable(&error)),
                Ok(0) => break,
                Ok(read) => &buffer[..read],
            };
            // A long line goes alone, so that a block is never larger than a request.
            if pending.len() > READ_BYTES
                && let Some(first) = memchr::memchr(b'\n', read)
            {
                self.set_within_a_line(first + 1 < read.len());
                pending.extend_from_slice(&read[..=first]);
                self.hand_over(std::mem::take(&mut pending))?;
                read = &read[first + 1..];
            }
            match memchr::memrchr(b'\n', read) {
                Some(last) => {
                    self.set_within_a_line(last + 1 < read.len());
                    pending.extend_from_slice(&read[..=last]);
                    self.hand_over(std::mem::replace(&mut pending, read[last + 1..].to_vec()))?;
                }
                None => {
                    pending.extend_from_slice(read);
                    self.set_within_a_line(!pending.is_empty());
                }
            }
            if pending.len() > MAX_LINE_BYTES {
                return Err(self.unreadable(&too_long()));
            }
        }
        if !pending.is_empty() {
            // If the writer was interrupted, its last line is not whole. The signal may come just after the end of the
            // input, so wait for it briefly.
            if self.is_typed && self.interrupt.wait(SIGNAL).is_some() {
                return Err(self.bad(NOT_WHOLE.to_owned()));
            }
            pending.push(b'\n');
            self.set_within_a_line(false);
            self.hand_over(pending)?;
        }
        Ok(())
    }

    /// Shapes whole lines and sends them. The lines before a bad one are still sent.
    fn hand_over(&mut self, lines: Vec<u8>) -> Result<(), Option<BadInput>> {
        let mut block = Block::new(Vec::new(), 0, self.position.load(Ordering::Relaxed));
        let mut bad = None;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &lines) {
            let before = block.bytes.len();
            let result = if self.shape.keeps_lines() {
                check_length(end + 1 - start)
            } else {
                let shaped = self.shape.append(&lines[start..end], &mut block.bytes);
                shaped.and_then(|()| check_length(block.bytes.len() - before))
            };
            if let Err(reason) = result {
                block.bytes.truncate(before);
                bad = self.bad(reason);
                break;
            }
            start = end + 1;
            self.next_line += 1;
            block.lines += 1;
            if block.bytes.len() >= 2 * READ_BYTES {
                // The last line may have grown to what a request holds; it then goes alone.
                let last = match block.bytes.len() {
                    0..=MAX_LINE_BYTES => block.bytes.len(),
                    _ => before,
                };
                let bytes = block.bytes.split_off(last);
                let lines = u64::from(!bytes.is_empty());
                block.lines -= lines;
                let rest = Block::new(bytes, lines, block.position);
                let full = std::mem::replace(&mut block, rest);
                self.sender.send(Ok(full)).map_err(|_| None)?;
            }
        }
        if self.shape.keeps_lines() {
            block.bytes = lines;
            block.bytes.truncate(start);
        }
        if block.lines > 0 {
            self.sender.send(Ok(block)).map_err(|_| None)?;
        }
        bad.map_or(Ok(()), |bad| Err(Some(bad)))
    }

    fn unreadable(&self, reason: &dyn std::fmt::Display) -> Option<BadInput> {
        self.bad(format!("cannot be read: {reason}"))
    }

    fn bad(&self, reason: String) -> Option<BadInput> {
        let line = self.next_line;
        Some(BadInput { line, reason })
    }

    /// Reads while the bytes so far may be the beginning of one of `known`; returns the bytes.
    fn beginning(&self, source: &mut impl Read, known: &[&[u8]]) -> Result<Vec<u8>, Option<BadInput>> {
        let mut head = Vec::new();
        let is_begun = |magic: &&&[u8], head: &[u8]| magic.len() > head.len() && magic.starts_with(head);
        // Read no more than needed: the first line may be shorter than four bytes, and the next may come hours later.
        while known.iter().any(|magic| is_begun(&magic, &head)) {
            let mut byte = [0];
            match source.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => head.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreadable(&error)),
            }
            self.set_within_a_line(true);
        }
        Ok(head)
    }
}

fn check_length(bytes: usize) -> Result<(), String> {
    match bytes {
        0..=MAX_LINE_BYTES => Ok(()),
        _ => Err(too_long()),
    }
}

fn too_long() -> String {
    format!(
        "a record is at most {} MiB, as a line of a request",
        MAX_LINE_BYTES >> 20
    )
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Some editors write it before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8], name: &str, shape: Shape) -> (String, u64, Option<BadInput>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let input = Input::open(Some(&path), shape, &Interrupt::default()).unwrap();
        let (mut text, mut lines, mut bad) = (Vec::new(), 0, None);
        for block in input.blocks {
            match block {
                Ok(block) => {
                    lines += block.lines;
                    text.extend(block.bytes);
                }
                Err(error) => bad = Some(error),
            }
        }
        (String::from_utf8(text).unwrap(), lines, bad)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn compressed_files_and_byte_order_marks_are_known_by_their_first_bytes() {
        let gzip_with_mark = gzip(b"\xef\xbb\xbf{}\n{}");
        let gzip = gzip(b"{}\n{}");
        let zstd = zstd::encode_all(&b"{}\n{}"[..], 1).unwrap();
        for (bytes, name) in [
            (&b"{}\n{}"[..], "plain"),
            (b"\xef\xbb\xbf{}\n{}", "mark"),
            (b"\xef\xbb\xbf{}\n{}\n", "mark"),
            (&gzip_with_mark, "mark.gz"),
            (&gzip, "a.gz"),
            (&gzip, "a"),
            (&zstd, "a.zst"),
            (&zstd, "a"),
        ] {
            let (text, lines, bad) = read(bytes, name, Shape::default());
            assert_eq!((text.as_str(), lines), ("{}\n{}\n", 2), "{name}");
            assert!(bad.is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_cut_archive_gives_what_it_has_and_then_an_error() {
        let gzip = gzip("{}\n".repeat(400_000).as_bytes());
        let (_, lines, bad) = read(&gzip[..gzip.len() / 2], "cut.gz", Shape::default());
        assert!(lines > 0 && lines < 400_000);
        assert_eq!(bad.unwrap().line, lines + 1);
        assert!(read(b"{}\n", "not.gz", Shape::default()).2.is_some());
    }

    #[test]
    fn lines_before_a_bad_one_are_handed_over() {
        let shape = Shape {
            raw: true,
            key_field: Some("/k".parse().unwrap()),
        };
        let (text, lines, bad) = read(b"{\"k\":1}\n{\"k\":2}\n{}\n{\"k\":4}\n", "lines", shape);
        assert_eq!(lines, 2);
        assert!(text.ends_with("{\"key\":\"2\",\"value\":{\"k\":2}}\n"));
        assert_eq!(bad.unwrap().line, 3);
    }

    #[test]
    fn a_line_that_is_half_typed_when_the_command_is_interrupted_is_not_a_record() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("typed");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for interrupted in [false, true] {
            let interrupt = Interrupt::default();
            if interrupted {
                interrupt.set(crate::cli::signal::Stop::Asked);
            }
            let input = Input::open(Some(&path), Shape::default(), &interrupt).unwrap();
            std::fs::write(&path, "whole\nhalf").unwrap();
            let blocks: Vec<_> = input.blocks.iter().collect();
            let lines: u64 = blocks.iter().flatten().map(|block| block.lines).sum();
            let bad = blocks.into_iter().find_map(Result::err).map(|bad| bad.line);
            assert_eq!((lines, bad), if interrupted { (1, Some(2)) } else { (2, None) });
        }
    }

    #[test]
    fn a_record_that_no_request_can_hold_is_refused_by_its_line() {
        let mut bytes = b"{}\n".to_vec();
        bytes.extend(vec![b' '; MAX_LINE_BYTES]);
        bytes.extend(b"{}\n{}\n");
        let (_, lines, bad) = read(&bytes, "long", Shape::default());
        assert_eq!((lines, bad.unwrap().line), (1, 2));
    }
}
