//! The bodies of a request and of its answer: they note what the connection must know, and quotas slow them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::{ANSWERING, BODY, Connection, IDLE};
use crate::http::access::InFlight;
use crate::http::chunks::PolledFrame;
use crate::server::observe::Noted;
use crate::server::pacing::{Pacing, Slowed};

/// A request's body: notes whether the server waits for the client.
pub(super) struct RequestBody {
    pub(super) body: Incoming,
    pub(super) is_ended: bool,
    /// How much was read.
    pub(super) bytes: u64,
    /// Made with the first part, if a quota counts the body.
    pub(super) pacing: Option<Pacing>,
    pub(super) connection: Arc<Connection>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<io::Error> {
        let this = &mut *self;
        let connection = &this.connection;
        if let Some(pacing) = &mut this.pacing {
            ready!(pacing.poll_ready(cx));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map_err(io::Error::other)),
            Poll::Pending if connection.is_late.load(Relaxed) => {
                let late = "the client paused for too long";
                Some(Err(io::Error::new(io::ErrorKind::TimedOut, late)))
            }
            Poll::Pending => {
                connection.phase.store(BODY, Relaxed);
                return Poll::Pending;
            }
        };
        connection.phase.store(ANSWERING, Relaxed);
        connection.progress.fetch_add(1, Relaxed);
        this.is_ended |= frame.is_none();
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let bytes = data.map_or(0, |data| data.len() as u64);
        this.bytes += bytes;
        if connection.counts_body.load(Relaxed) {
            if this.pacing.is_none()
                && let Some(grant) = &*connection.grant.lock()
            {
                // What is read whole runs into debt, and an upload is slowed.
                let most = connection.shared.app.config.limits.max_request_bytes as u64;
                let length = this.body.size_hint().exact();
                let is_whole = length.is_some_and(|left| left + bytes <= most);
                let how = match connection.slows_body.load(Relaxed) && !is_whole {
                    true => Slowed::AfterTheFirst,
                    false => Slowed::Never,
                };
                this.pacing = Pacing::begin(&grant.principal.quota, &connection.shared.app.clock, how);
            }
            if let Some(pacing) = &mut this.pacing {
                pacing.pay(bytes);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.is_ended && !self.body.is_end_stream() {
            self.connection.is_unread.store(true, Relaxed);
        }
        self.connection.received_bytes.store(self.bytes, Relaxed);
        // The handler that dropped the body no longer waits for it.
        let phase = &self.connection.phase;
        let _ = phase.compare_exchange(BODY, ANSWERING, Relaxed, Relaxed);
    }
}

/// An answer's body: its end is the end of the request.
pub(super) struct AnswerBody {
    pub(super) body: Body,
    /// Dropped with the first frame, which is all of an answer that was rendered whole.
    pub(super) held: Option<OwnedSemaphorePermit>,
    /// A share of the bodies' bytes, held until the answer ends.
    pub(super) holds_bodies: bool,
    /// What is noted of the request, if anything.
    pub(super) noted: Option<Box<Noted>>,
    /// It is a stream of somebody who has signed in: it breaks off when that is over.
    pub(super) ends_with_grant: bool,
    /// Counts and slows it, if a quota does.
    pub(super) pacing: Option<Pacing>,
    pub(super) _in_flight: Option<InFlight>,
    /// All of it was given to the connection; kept only where something is noted.
    pub(super) is_whole: bool,
    pub(super) connection: Arc<Connection>,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<axum::Error> {
        let this = &mut *self;
        if this.ends_with_grant && this.connection.is_over.load(Relaxed) {
            let error = "what the request was signed in with is over";
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::other(error)))));
        }
        if let Some(pacing) = &mut this.pacing {
            ready!(pacing.poll_ready(cx));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(pacing) = &mut this.pacing
            && let Some(Ok(frame)) = &frame
        {
            pacing.pay(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        if let Some(noted) = &mut this.noted {
            match &frame {
                Some(Ok(frame)) => noted.count(frame),
                Some(Err(_)) => {}
                None => this.is_whole = true,
            }
        }
        let Some(permit) = this.held.take() else {
            return Poll::Ready(frame);
        };
        let connection = this.connection.clone();
        let hold = |bytes| {
            Bytes::from_owner(Held {
                bytes,
                _permit: permit,
                connection,
            })
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.held.is_some() || self.holds_bodies {
            self.connection.has_answer.store(false, Relaxed);
        }
        if self.ends_with_grant {
            *self.connection.grant.lock() = None;
        }
        self.connection.phase.store(IDLE, Relaxed);
        self.connection.progress.fetch_add(1, Relaxed);
        if let Some(noted) = &mut self.noted {
            let shared = &self.connection.shared;
            let received_bytes = self.connection.received_bytes.load(Relaxed);
            let is_whole = self.is_whole || self.body.is_end_stream();
            noted.finish(&shared.app, &shared.requests, received_bytes, is_whole);
        }
    }
}

/// An answer's bytes. Their share is given back when the last of them is sent.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
    connection: Arc<Connection>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connection.has_answer.store(false, Relaxed);
    }
}
