//! Cuts a connection's bytes into frames.
//!
//! A frame is a length and so many bytes. The length comes from outside: nothing is allocated by it. The buffer grows by
//! what has arrived, or at once to what the frame before had, and what a frame of more than [`SMALL_BYTES`] holds counts in
//! the memory that all requests share ([`budget`](crate::broker::budget)). While there is none, nothing more is read of it;
//! a smaller frame passes.
//!
//! A connection keeps a buffer for small frames alone: these are copied out of it, and a larger frame takes it along. So
//! a client that has sent much and is idle costs no more than another.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::broker::budget::{Budget, Pace, Pool, SMALL_BYTES};

/// What is read at once while no large frame is under way, and what a connection that waits for an answer may send ahead.
const READ_BYTES: usize = 16 << 10;
/// The most for which the frame before is trusted, and the most that is read at once.
const STEP_BYTES: usize = 1 << 20;
/// The bytes of the length.
const LENGTH: usize = 4;
/// Those of the key of an API, which come next.
const KEY: usize = 2;

/// A request, and its share of the memory.
pub(crate) struct Frame {
    pub(crate) bytes: BytesMut,
    pub(crate) share: Option<OwnedSemaphorePermit>,
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// The key of the API; `None`: the frame is too short for one.
    pub(crate) key: Option<i16>,
    /// The bytes of the whole frame.
    pub(crate) bytes: usize,
}

/// Why there are no more frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the client has closed the connection")]
    Closed,
    #[error("the client has closed the connection within a request")]
    Half,
    #[error("the length of a frame is {0}, which is no length")]
    Length(i32),
    #[error("the client was silent for too long")]
    Idle,
    #[error("the client paused for too long within a request")]
    Slow,
    #[error("too many requests are in memory")]
    Overloaded,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// The largest frame.
    pub(crate) most_bytes: usize,
    /// How long it may be silent between requests.
    pub(crate) idle: Duration,
    /// The same within one.
    pub(crate) pause: Duration,
}

/// The frames of a connection.
pub(crate) struct Frames<R> {
    from: R,
    buffer: BytesMut,
    /// The bytes of the frame before: what is to be expected of the next one.
    before: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            buffer: BytesMut::new(),
            before: 0,
        }
    }

    /// The beginning of the next frame, of which no more than [`READ_BYTES`] are in memory then.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn beginning(&mut self, allowed: Allowed) -> Result<Beginning, End> {
        loop {
            if let Some(bytes) = self.wanted(allowed.most_bytes)? {
                let key = self.buffer[LENGTH..].first_chunk::<KEY>();
                if key.is_some() || self.buffer.len() >= LENGTH + bytes {
                    let key = key.filter(|_| bytes >= KEY).map(|key| i16::from_be_bytes(*key));
                    return Ok(Beginning { key, bytes });
                }
            }
            self.buffer.reserve(READ_BYTES);
            self.read(READ_BYTES, allowed).await?;
        }
    }

    /// The next frame, with its share of `pool`; waits until there is memory for it.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn next(&mut self, pool: &Pool, allowed: Allowed) -> Result<Frame, End> {
        let (mut budget, mut pace) = (Budget::unhurried(pool), Pace::new(pool));
        loop {
            let wanted = self.wanted(allowed.most_bytes)?;
            if let Some(wanted) = wanted
                && self.buffer.len() >= LENGTH + wanted
            {
                let covered = budget.cover_arriving(0, wanted, wanted).await;
                covered.map_err(|_| End::Overloaded)?;
                return Ok(Frame {
                    bytes: self.cut(wanted),
                    share: budget.take(),
                });
            }
            let step = self.step(wanted);
            let wanted = wanted.unwrap_or(0);
            let next = (self.buffer.len() + step).min(wanted);
            if next > SMALL_BYTES {
                let covered = budget.cover_arriving(0, next, wanted).await;
                covered.map_err(|_| End::Overloaded)?;
            }
            // What is covered is allocated at once, so that a growing buffer is not copied again and again.
            let whole = budget.covered().min(LENGTH + wanted);
            self.buffer
                .reserve(whole.saturating_sub(self.buffer.len()).max(step));
            let held = budget.covered().max(self.buffer.len());
            let read = pace.wait(budget.covered(), self.read(step, allowed)).await;
            pace.count_of(held, read.map_err(|_| End::Overloaded)??);
        }
    }

    /// Reads at most so many bytes, for which there is room; returns how many.
    async fn read(&mut self, most: usize, allowed: Allowed) -> Result<usize, End> {
        let is_between = self.buffer.is_empty();
        let limit = if is_between { allowed.idle } else { allowed.pause };
        let mut room = (&mut self.buffer).limit(most);
        match timeout(limit, self.from.read_buf(&mut room)).await {
            Ok(Ok(0)) if is_between => Err(End::Closed),
            Ok(Ok(0)) => Err(End::Half),
            Ok(read) => Ok(read?),
            Err(_) if is_between => Err(End::Idle),
            Err(_) => Err(End::Slow),
        }
    }

    /// Cuts off a whole frame.
    fn cut(&mut self, wanted: usize) -> BytesMut {
        self.before = wanted.min(STEP_BYTES);
        self.buffer.advance(LENGTH);
        if wanted <= SMALL_BYTES {
            let frame = BytesMut::from(&self.buffer[..wanted]);
            self.buffer.advance(wanted);
            return frame;
        }
        let behind = BytesMut::from(&self.buffer[wanted..]);
        let mut frame = std::mem::replace(&mut self.buffer, behind);
        frame.truncate(wanted);
        frame
    }

    /// Whether [`Frames::next`] has a frame without reading.
    pub(crate) fn has_whole(&self, most_bytes: usize) -> bool {
        let wanted = self.wanted(most_bytes).ok().flatten();
        wanted.is_some_and(|wanted| self.buffer.len() >= LENGTH + wanted)
    }

    /// How many bytes the next frame has, if its length has arrived.
    fn wanted(&self, most_bytes: usize) -> Result<Option<usize>, End> {
        let Some(length) = self.buffer.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        match usize::try_from(length) {
            Ok(wanted) if (1..=most_bytes).contains(&wanted) => Ok(Some(wanted)),
            _ => Err(End::Length(length)),
        }
    }

    /// How much to read next: what is missing, but no more than has arrived or the frame before had, so that a length
    /// alone allocates nothing. A frame that is larger than any that is trusted gets nothing for the one before.
    fn step(&self, wanted: Option<usize>) -> usize {
        let missing = wanted.map_or(LENGTH, |wanted| LENGTH + wanted - self.buffer.len());
        let trusted = match wanted {
            Some(wanted) if wanted <= STEP_BYTES => self.before,
            _ => 0,
        };
        let most = self.buffer.len().max(trusted).min(STEP_BYTES);
        missing.min(most).max(READ_BYTES)
    }

    /// Reads ahead while a request is being answered; returns when the client has closed the connection, or it breaks.
    pub(crate) async fn closed(&mut self) -> End {
        while self.buffer.len() < READ_BYTES {
            self.buffer.reserve(READ_BYTES - self.buffer.len());
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const ALLOWED: Allowed = Allowed {
        most_bytes: 100 << 20,
        idle: Duration::from_secs(10),
        pause: Duration::from_secs(10),
    };

    fn frame(bytes: usize) -> Vec<u8> {
        let mut frame = vec![7; LENGTH + bytes];
        frame[..LENGTH].copy_from_slice(&(bytes as u32).to_be_bytes());
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_frame_waits_for_memory_for_as_long_as_it_takes() {
        for bytes in [40_000, 900_000] {
            let pool = Pool::new(4 << 20);
            let mut all = Budget::new(&pool);
            all.cover(4 << 20).await.unwrap();
            let (mut client, server) = tokio::io::duplex(2 << 20);
            client.write_all(&frame(bytes)).await.unwrap();
            let mut frames = Frames::new(server);
            let mut next = std::pin::pin!(frames.next(&pool, ALLOWED));
            let hour = Duration::from_secs(3600);
            assert!(timeout(hour, next.as_mut()).await.is_err(), "{bytes} bytes wait");
            drop(all);
            let frame = next.await.unwrap();
            assert_eq!(frame.bytes.len(), bytes);
            let share = frame.share.unwrap().num_permits();
            assert!(share * 1024 >= bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_frames_and_a_pause_within_one_have_limits_of_their_own() {
        let pool = Pool::new(4 << 20);
        let second = Duration::from_secs(1);
        for (idle, pause) in [(5 * second, 3600 * second), (3600 * second, 5 * second)] {
            let allowed = Allowed {
                idle,
                pause,
                ..ALLOWED
            };
            // Nothing of the next frame, a part of its length, the length, and all but a byte.
            for sent in [0, 1, 3, 4, 103] {
                let (mut client, server) = tokio::io::duplex(1 << 20);
                client.write_all(&frame(100)).await.unwrap();
                client.write_all(&frame(100)[..sent]).await.unwrap();
                let mut frames = Frames::new(server);
                let whole = frames.next(&pool, allowed).await.unwrap();
                assert_eq!(whole.bytes.len(), 100);
                let limit = if sent == 0 { idle } else { pause };
                let mut next = std::pin::pin!(frames.next(&pool, allowed));
                let before = timeout(limit - second, next.as_mut()).await;
                assert!(before.is_err(), "{sent} bytes: ended before its time");
                let end = timeout(2 * second, next).await;
                let end = end.unwrap_or_else(|_| panic!("{sent} bytes: goes on")).err();
                let is_expected = match sent {
                    0 => matches!(end, Some(End::Idle)),
                    _ => matches!(end, Some(End::Slow)),
                };
                assert!(is_expected, "{sent} bytes: {end:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_may_take_as_long_as_it_likes_while_its_bytes_go_on_coming() {
        let pool = Pool::new(4 << 20);
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut frames = Frames::new(server);
        let sending = async {
            for byte in frame(1000) {
                tokio::time::sleep(ALLOWED.pause - Duration::from_secs(1)).await;
                client.write_all(&[byte]).await.unwrap();
            }
        };
        let (next, ()) = tokio::join!(frames.next(&pool, ALLOWED), sending);
        assert_eq!(next.unwrap().bytes.len(), 1000);
    }

    #[tokio::test]
    async fn a_length_that_no_frame_has_ends_the_connection_and_takes_no_memory() {
        let pool = Pool::new(4 << 20);
        for length in [i32::MAX, i32::MIN, -1, 0, (100 << 20) + 1] {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            client.write_all(&length.to_be_bytes()).await.unwrap();
            client.write_all(&[7; 100_000]).await.unwrap();
            let mut frames = Frames::new(server);
            let end = frames.next(&pool, ALLOWED).await.err();
            assert!(
                matches!(end, Some(End::Length(found)) if found == length),
                "{end:?}"
            );
            assert!(
                frames.buffer.capacity() <= READ_BYTES,
                "{}",
                frames.buffer.capacity()
            );
            assert_eq!(pool.held_bytes(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_frame_has_its_whole_share_before_it_is_read() {
        let pool = Pool::new(4 << 20);
        let (mut client, server) = tokio::io::duplex(2 << 20);
        client.write_all(&frame(1 << 20)[..40_000]).await.unwrap();
        let mut frames = Frames::new(server);
        let mut next = std::pin::pin!(frames.next(&pool, ALLOWED));
        assert!(timeout(Duration::from_secs(1), next.as_mut()).await.is_err());
        assert!(pool.held_bytes() >= 1 << 20, "{}", pool.held_bytes());
        // A large one gets it as it arrives.
        let (mut client, server) = tokio::io::duplex(2 << 20);
        let other = Pool::new(400 << 20);
        client.write_all(&frame(100 << 20)[..40_000]).await.unwrap();
        let mut frames = Frames::new(server);
        let mut next = std::pin::pin!(frames.next(&other, ALLOWED));
        assert!(timeout(Duration::from_secs(1), next.as_mut()).await.is_err());
        assert!(other.held_bytes() <= 2 << 20, "{}", other.held_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn the_beginning_of_a_frame_is_known_before_it_takes_memory() {
        let pool = Pool::new(4 << 20);
        let (mut client, server) = tokio::io::duplex(4 << 20);
        let mut frames = Frames::new(server);
        // Of its length, its key and what comes then.
        for arrived in [0, 3, LENGTH + 1] {
            client.write_all(&frame(1 << 20)[..arrived]).await.unwrap();
            let beginning = timeout(Duration::from_secs(1), frames.beginning(ALLOWED)).await;
            assert!(beginning.is_err(), "{arrived} bytes");
            client.write_all(&frame(1 << 20)[arrived..]).await.unwrap();
            let beginning = frames.beginning(ALLOWED).await.unwrap();
            let (key, bytes) = (Some(0x0707), 1 << 20);
            assert_eq!(beginning, Beginning { key, bytes });
            assert_eq!(pool.held_bytes(), 0);
            assert!(frames.buffer.len() <= 2 * READ_BYTES, "{}", frames.buffer.len());
            assert_eq!(frames.next(&pool, ALLOWED).await.unwrap().bytes.len(), bytes);
        }
        client.write_all(&frame(1)).await.unwrap();
        client.write_all(&frame(2)).await.unwrap();
        for (key, bytes) in [(None, 1), (Some(0x0707), 2)] {
            let beginning = frames.beginning(ALLOWED).await.unwrap();
            assert_eq!(beginning, Beginning { key, bytes });
            frames.next(&pool, ALLOWED).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_frame_waits_for_nothing() {
        let pool = Pool::new(1 << 20);
        let mut all = Budget::new(&pool);
        all.cover(1 << 20).await.unwrap();
        let (mut client, server) = tokio::io::duplex(2 << 20);
        for bytes in [20, 10_000, SMALL_BYTES] {
            client.write_all(&frame(bytes)).await.unwrap();
        }
        let mut frames = Frames::new(server);
        for bytes in [20, 10_000, SMALL_BYTES] {
            let frame = frames.next(&pool, ALLOWED).await.unwrap();
            assert_eq!(frame.bytes.len(), bytes);
            assert!(frame.share.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_frame_takes_its_buffer_along_and_what_is_behind_it_is_kept() {
        let pool = Pool::new(400 << 20);
        let (mut client, server) = tokio::io::duplex(64 << 20);
        let sizes = [SMALL_BYTES + 1, 5, 20 << 20, SMALL_BYTES, 1, 3 << 20, 7];
        for (number, bytes) in sizes.iter().enumerate() {
            let mut frame = frame(*bytes);
            frame[LENGTH..].fill(number as u8);
            client.write_all(&frame).await.unwrap();
        }
        let mut frames = Frames::new(server);
        for (number, bytes) in sizes.iter().enumerate() {
            let frame = frames.next(&pool, ALLOWED).await.unwrap();
            assert!(frame.bytes.len() == *bytes && frame.bytes.iter().all(|byte| *byte == number as u8));
            drop(frame);
            let kept = frames.buffer.capacity();
            assert!(kept <= 64 << 10, "{kept} bytes are kept after a frame of {bytes}");
        }
        assert!(frames.buffer.is_empty());
        assert_eq!(pool.held_bytes(), 0);
        // Nor does the next read find the old buffer.
        assert!(
            timeout(Duration::from_secs(1), frames.next(&pool, ALLOWED))
                .await
                .is_err()
        );
        let kept = frames.buffer.capacity();
        assert!(kept <= 64 << 10, "{kept} bytes are kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_frame_holds_little_more_than_has_arrived() {
        let pool = Pool::new(64 << 20);
        let (mut client, server) = tokio::io::duplex(64 << 20);
        client.write_all(&frame(100 << 20)[..32 << 20]).await.unwrap();
        let mut frames = Frames::new(server);
        let mut next = std::pin::pin!(frames.next(&pool, ALLOWED));
        assert!(timeout(Duration::from_secs(1), next.as_mut()).await.is_err());
        let held = pool.held_bytes();
        assert!((32 << 20..=34 << 20).contains(&held), "{held}");
        // However much of it arrives, it leaves a quarter to others.
        client.write_all(&vec![7; 60 << 20]).await.unwrap();
        assert!(timeout(Duration::from_secs(1), next.as_mut()).await.is_err());
        assert_eq!(pool.held_bytes(), 48 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_with_large_frames_get_through_together_and_none_is_cut() {
        let pool = Pool::new(8 << 20);
        let all = (0..10).map(|_| async {
            let (mut client, server) = tokio::io::duplex(64 << 10);
            let mut frames = Frames::new(server);
            let reading = async {
                let frame = frames.next(&pool, ALLOWED).await.unwrap();
                // It is handled for a while.
                tokio::time::sleep(Duration::from_millis(100)).await;
                frame.bytes.len()
            };
            let sending = async { client.write_all(&frame(2 << 20)).await.unwrap() };
            tokio::join!(reading, sending).0
        });
        let lengths = futures_util::future::join_all(all).await;
        assert_eq!(lengths, [2 << 20; 10]);
    }
}
