//! One connection: reads requests, has them answered one after another, and sends the answers in that order.
//!
//! A request whose answer is still to come (a produce request that waits for the disk) does not hold up those behind it:
//! up to [`IN_FLIGHT`] answers of a connection may be under way. When as many are, or the client has not read what was
//! answered ([`Backlog`]), nothing more is read.
//!
//! Overload slows clients: while there is no memory for a request, or no room in the queue of the log, it waits, and
//! nothing more is read from its connection. A connection is closed only if it holds memory that others wait for and
//! makes too little progress: its client does not send the rest of a request, or reads nothing of an answer, or the
//! request needs more memory while others of its kind do, too. Requests of at most 32 KiB do not wait for memory, so
//! whoever holds it stops no heartbeats. A request that a quota holds back has not been read but for its beginning, and holds
//! none.
//!
//! Bytes that are no request close the connection, as in Kafka, after the answers to the requests before them. HTTP is told
//! why. So does a request that wants no answer and fails.
//!
//! A client that closes the connection, or its half of it, does not wait for an answer: a request that would wait for other
//! clients is given up. Whole requests that have arrived behind it are handled all the same, but no longer answered, since an
//! answer before theirs is missing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::apis::{self, Answered};
use super::backlog::{Backlog, Held, Unread};
use super::call::{Answer, Hangup};
use super::frames::{Allowed, Beginning, End, Frames};
use super::quotas::{self, InFlight, Slowed};
use super::session::Session;
use super::{Kafka, Mistake, TO_HTTP};
use crate::broker::budget::{Pace, SMALL_BYTES};
use crate::broker::engine::Monotonic;

/// The largest frame, as in Kafka (`socket.request.max.bytes`).
const MAX_FRAME_BYTES: usize = 100 << 20;
/// The same of a client that still has to sign in: no more than what needs no share of the memory, and twice as much as a
/// JWT may have.
const MAX_STRANGERS_FRAME_BYTES: usize = SMALL_BYTES;
/// The most answers of a connection that are under way.
const IN_FLIGHT: usize = 16;
/// Answers that are ready are sent together up to about this size.
const TOGETHER_BYTES: usize = 64 << 10;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    End(#[from] End),
    #[error(transparent)]
    Hangup(#[from] Hangup),
    #[error("the server is stopping")]
    Stopping,
    #[error("the client does not read its answers")]
    Stalled,
    #[error("what the client has signed in with is over")]
    SignedOut,
    #[error("the client has not signed in for too long")]
    Stranger,
    #[error("the client speaks another protocol: {0:?}")]
    Mistake(Mistake),
}

impl Over {
    /// Why there is no frame, of which `number` came before: what begins as another protocol does is that.
    fn without_frame(end: End, number: u32) -> Self {
        match end {
            End::Length(length) if number == 0 => match length.to_be_bytes() {
                [0x16, 3, ..] => Self::Mistake(Mistake::Tls),
                begin
                    if begin
                        .iter()
                        .all(|byte| byte.is_ascii_uppercase() || *byte == b' ') =>
                {
                    Self::Mistake(Mistake::Http)
                }
                _ => Self::End(end),
            },
            end => Self::End(end),
        }
    }
}

/// An answer in its place.
struct Queued {
    /// When all of its request was there.
    since: Monotonic,
    answered: Answered,
    /// What its request takes, until the answer is there.
    of_request: Held,
    /// What the answer takes, until it is sent.
    of_answer: Held,
    /// That it is not sent yet, if it is there.
    unread: Option<Unread>,
}

/// Answers the requests of a connection until it ends, or until the server stops. Returns what the client got wrong.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite>(
    kafka: &Kafka,
    stream: S,
    session: &Arc<Session>,
    (life, connection): (u32, u64),
) -> Option<Mistake> {
    let (read, write) = tokio::io::split(stream);
    let (read, mut write) = (pin!(read), pin!(write));
    let (answers, queue) = mpsc::channel(IN_FLIGHT);
    let backlog = Arc::new(Backlog::default());
    let unread = Arc::clone(&backlog);
    let reading = async move {
        let mut frames = Frames::new(read);
        let mut stopping = kafka.broker.stopping.subscribe();
        let mut number = 0;
        let mut is_answered = true;
        loop {
            let allowed = allowed(kafka, session);
            let next = async {
                backlog.wait().await;
                let beginning = frames.beginning(allowed).await?;
                // What is not answered any more needs no quota.
                let mut begun = match apis::waits_for_others(beginning.key) && !is_answered {
                    true => Ok(None),
                    false => begin(kafka, session, &mut frames, (beginning, allowed)).await?,
                };
                let frame = frames.next(&kafka.broker.bodies, allowed).await?;
                if let Ok(Some(in_flight)) = &mut begun {
                    in_flight.has_come();
                }
                Ok::<_, End>((beginning.key, begun, frame))
            };
            let (key, begun, frame) = tokio::select! {
                biased;
                () = session.failed() => return Err(Hangup::Unacknowledged.into()),
                next = next => next.map_err(|end| Over::without_frame(end, number))?,
                _ = stopping.wait_for(|stopping| *stopping) => return Err(Over::Stopping),
            };
            let since = kafka.broker.clock.monotonic();
            number += 1;
            let frame_bytes = frame.bytes.len();
            let waits = apis::waits_for_others(key);
            if waits && !is_answered {
                continue;
            }
            let goes_on = apis::outlives_its_client(key) || !is_answered;
            // There, because a request that waits for others gives it back.
            session.hold_request(frame.share);
            let mut answering = pin!(apis::answer(
                kafka,
                session,
                (life, connection, number),
                (frame.bytes, begun)
            ));
            let mut answered = tokio::select! {
                biased;
                answered = answering.as_mut() => answered?,
                end = frames.closed(), if !goes_on => {
                    if !frames.has_whole(allowed.most_bytes) {
                        return Err(end.into());
                    }
                    if waits {
                        is_answered = false;
                        give_back(session);
                        continue;
                    }
                    answering.await?
                }
            };
            let of_request = session.take_request();
            if !is_answered {
                continue;
            }
            let queued = Queued {
                since,
                of_request: backlog.hold_request(of_request, frame_bytes),
                of_answer: backlog.hold_answer(answered.share.take()),
                unread: answered.answer.bytes().map(|bytes| backlog.count(bytes)),
                answered,
            };
            // If the writer is gone, the connection ends by what it says.
            if answers.send(queued).await.is_err() || session.is_refused() {
                return Ok(());
            }
        }
    };
    let serving = async {
        let mut writing = pin!(write_answers(kafka, write.as_mut(), queue, &unread));
        tokio::select! {
            biased;
            written = writing.as_mut() => written,
            read = reading => {
                give_back(session);
                // What was begun is answered.
                let written = writing.await;
                read.and(written)
            }
        }
    };
    let over: Result<(), Over> = tokio::select! {
        biased;
        () = session.over() => Err(Over::SignedOut),
        served = serving => served,
        () = stays_a_stranger(kafka, session) => Err(Over::Stranger),
    };
    give_back(session);
    let over = match over {
        Ok(()) | Err(Over::End(End::Closed | End::Idle) | Over::Stopping | Over::Stranger) => return None,
        Err(over) => over,
    };
    tracing::debug!(client = ?session.address, reason = %over, "a Kafka connection is closed");
    match over {
        Over::Stalled => {
            kafka.metrics.kafka.stalled_connections.fetch_add(1, Relaxed);
            None
        }
        Over::Mistake(mistake) => {
            if mistake == Mistake::Http {
                let said = async {
                    write.write_all(TO_HTTP.as_bytes()).await?;
                    write.shutdown().await
                };
                // Who does not read it has no use for it.
                let _ = timeout(kafka.settings.write_timeout, said).await;
            }
            Some(mistake)
        }
        Over::Hangup(Hangup::NotSignedIn) => Some(Mistake::NotSignedIn),
        _ => None,
    }
}

/// Gives back what a request holds that is not answered. The session itself may stay for a while: answers to requests
/// before it, and records that nobody waits for, may still wait for the disk.
fn give_back(session: &Session) {
    drop((session.take_request(), session.take_answer()));
}

/// Waits until a request that begins like this may go on, as its client's quota says. A client that is gone by then ends
/// the wait, unless all of the request is there.
async fn begin<R: AsyncRead + Unpin>(
    kafka: &Kafka,
    session: &Session,
    frames: &mut Frames<R>,
    (beginning, allowed): (Beginning, Allowed),
) -> Result<Result<Option<InFlight>, Slowed>, End> {
    let mut begin = pin!(quotas::begin(kafka, session, beginning));
    tokio::select! {
        biased;
        begun = begin.as_mut() => Ok(begun),
        end = frames.closed() => match frames.has_whole(allowed.most_bytes) {
            true => Ok(begin.await),
            false => Err(end),
        },
    }
}

/// Returns when the time to sign in is over, whatever the client has done in it, and it has not.
async fn stays_a_stranger(kafka: &Kafka, session: &Session) {
    tokio::time::sleep(kafka.settings.sign_in_timeout).await;
    if !session.is_nobody() {
        std::future::pending().await
    }
}

/// What a client may send next, and how long it may take: one that has not signed in has no use for a large frame, or
/// for time.
fn allowed(kafka: &Kafka, session: &Session) -> Allowed {
    let settings = &kafka.settings;
    match session.is_nobody() {
        true => Allowed {
            most_bytes: MAX_STRANGERS_FRAME_BYTES,
            idle: settings.sign_in_timeout,
            pause: settings.sign_in_timeout.min(settings.pause_timeout),
        },
        false => Allowed {
            most_bytes: MAX_FRAME_BYTES,
            idle: settings.idle_timeout,
            pause: settings.pause_timeout,
        },
    }
}

/// What each write of an answer counts for at least, in the time that its client has: about a second.
const SENT_BYTES: usize = 64 << 10;

/// Sends the answers in the order of their requests. Those that are ready at the same time go out in one write: above
/// all the answers to requests that have shared a round of the log.
async fn write_answers<W: AsyncWrite + Unpin>(
    kafka: &Kafka,
    mut to: W,
    mut queue: mpsc::Receiver<Queued>,
    backlog: &Backlog,
) -> Result<(), Over> {
    let mut next = queue.recv().await;
    while let Some(queued) = next.take() {
        let mut sending = Sending::default();
        sending.add(kafka, queued).await;
        while next.is_none()
            && sending.pieces.remaining() < TOGETHER_BYTES
            && let Ok(mut queued) = queue.try_recv()
        {
            match is_ready(&mut queued.answered.answer).await {
                true => sending.add(kafka, queued).await,
                false => next = Some(queued),
            }
        }
        let mut paces = [Pace::new(&kafka.answers), Pace::new(&kafka.broker.bodies)];
        while sending.pieces.has_remaining() {
            let written = to.write_buf(&mut sending.pieces);
            let written = send(kafka, &mut paces, backlog, written).await?;
            if written == 0 {
                return Err(End::from(io::Error::from(io::ErrorKind::WriteZero)).into());
            }
            // The kernel takes more only after the client has read much, and a busy server may be late to see that.
            for pace in &mut paces {
                pace.count_sent(written.max(SENT_BYTES));
            }
        }
        // TLS takes bytes that the kernel does not take yet: only a flush waits for the client to read them.
        send(kafka, &mut paces, backlog, to.flush()).await?;
        // What they hold is given back before the wait for the next one.
        drop(sending);
        if next.is_none() {
            next = queue.recv().await;
        }
    }
    Ok(())
}

/// A step of sending answers, for which the client has `write_timeout`. Who reads nothing gives way to those who wait for
/// the memory that its answers hold, and its requests.
async fn send<T>(
    kafka: &Kafka,
    [of_answers, of_requests]: &mut [Pace<'_>; 2],
    backlog: &Backlog,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, Over> {
    let sent = timeout(kafka.settings.write_timeout, step);
    let sent = of_answers.wait_holding(|| backlog.of_answers(), sent);
    let sent = of_requests.wait_holding(|| backlog.of_requests(), sent).await;
    let sent = sent.and_then(|sent| sent).map_err(|_| Over::Stalled)?;
    Ok(sent.map_err(|_| Over::Stalled)?.map_err(End::from)?)
}

/// Whether an answer is there; from then on it is [`Answer::Now`].
async fn is_ready(answer: &mut Answer) -> bool {
    if let Answer::Later(later) = answer {
        match poll_fn(|context| Poll::Ready(later.as_mut().poll(context))).await {
            Poll::Ready(pieces) => *answer = Answer::Now(pieces),
            Poll::Pending => return false,
        }
    }
    true
}

/// Answers that are sent together.
#[derive(Default)]
struct Sending {
    pieces: Pieces,
    /// What they hold until they are sent.
    held: Vec<(Option<InFlight>, Held, Option<Unread>)>,
}

impl Sending {
    /// Adds an answer, once it is there.
    async fn add(&mut self, kafka: &Kafka, queued: Queued) {
        let Answered {
            api,
            answer,
            in_flight,
            ..
        } = queued.answered;
        let pieces = match answer {
            Answer::Now(pieces) => Some(pieces),
            Answer::Later(answer) => Some(answer.await),
            Answer::Never => None,
        };
        let took = kafka.broker.clock.monotonic().since(queued.since);
        kafka.metrics.kafka.observe(api, took);
        let Some(pieces) = pieces else {
            return;
        };
        drop(queued.of_request);
        let bytes = self.pieces.add(pieces);
        if let Some(in_flight) = &in_flight {
            in_flight.pay(kafka, bytes);
        }
        self.held.push((in_flight, queued.of_answer, queued.unread));
    }
}

/// The pieces of answers that are still to be sent, as one buffer that is written without being put together.
#[derive(Default)]
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// Adds an answer with its length before it; returns how many bytes these are.
    fn add(&mut self, pieces: Vec<Bytes>) -> usize {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let length = i32::try_from(bytes).unwrap_or(i32::MAX).to_be_bytes();
        self.0.push_back(Bytes::copy_from_slice(&length));
        self.0.extend(pieces);
        bytes + length.len()
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let count = slices.len().min(self.0.len());
        for (slice, piece) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(piece);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.0.front_mut() {
            let of_front = count.min(front.len());
            front.advance(of_front);
            count -= of_front;
            if !front.is_empty() {
                return;
            }
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Context;

    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;
    use crate::broker::budget::Budget;
    use crate::kafka::call::testing;

    /// A stream that takes all that is written, as TLS does, and whose client reads nothing of it.
    struct Unflushed(DuplexStream);

    impl AsyncRead for Unflushed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Unflushed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_request_that_ends_its_connection_holds_no_memory_then() {
        // The session is kept, as by records that are still on their way to the disk.
        let call = testing::call("ApiVersions", 0, &[]);
        // No header; more topics than there are bytes for.
        for frame in [&[0][..], &[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 9]] {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let length = u32::try_from(frame.len()).unwrap();
            client
                .write_all(&[&length.to_be_bytes(), frame].concat())
                .await
                .unwrap();
            let mut answer = Budget::new(&call.answers);
            assert!(answer.try_cover(1));
            call.session.hold_answer(answer.take());
            serve(&call.kafka, server, &call.session, (1, 1)).await;
            assert_eq!(call.broker.bodies.held_bytes(), 0, "{frame:?}");
            assert_eq!(call.answers.held_bytes(), 0, "{frame:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_what_tls_has_taken_is_closed() {
        let call = testing::call("ApiVersions", 0, &[]);
        let (mut client, server) = tokio::io::duplex(1 << 20);
        // ApiVersions, version 0, without a client id.
        let frame = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
        client.write_all(&frame).await.unwrap();
        let serving = serve(&call.kafka, Unflushed(server), &call.session, (1, 1));
        let second = std::time::Duration::from_secs(1);
        let served = timeout(call.settings.write_timeout + second, serving).await;
        assert!(served.is_ok(), "it is still open");
        let stalled = call.metrics.kafka.stalled_connections.load(Relaxed);
        assert_eq!(stalled, 1);
    }
}
