//! Lines of the log for requests that change something as an administrator does: topics, configurations, records that are
//! deleted, offsets and members of groups. What was changed is in the audit log, too.
//!
//! Each item of a request has its own line, with its result, whether it is allowed or not. Of those that are refused only a
//! bounded number have one ([`Sparing`]): a stranger can send as many as he likes.

use std::fmt::Display;

use super::Kafka;
use super::call::Call;
use crate::broker::caller::Shown;
use crate::broker::sparing::Sparing;

/// Which refused changes have a line.
#[derive(Debug, Default)]
pub(crate) struct Changes(Sparing);

impl Call {
    /// Notes that a change of `resource`, which is its path in the HTTP API without `/v1/`, has this result.
    pub(crate) fn note_change(&self, resource: impl Display, error_code: i16) {
        self.note("a change was asked for", resource, error_code);
    }

    /// The same of a change, or of a dry run of one.
    pub(crate) fn note_change_or_dry_run(&self, is_dry_run: bool, resource: impl Display, error_code: i16) {
        match is_dry_run {
            true => self.note("a dry run was asked for", resource, error_code),
            false => self.note_change(resource, error_code),
        }
    }

    fn note(&self, asked: &str, resource: impl Display, error_code: i16) {
        let address = self.caller.address;
        let now = self.broker.clock.monotonic();
        if error_code != 0 && !self.changes.0.takes(now, address.map(|address| address.ip())) {
            return;
        }
        // Names that are refused may have any length, and any characters.
        let resource: String = resource.to_string().chars().take(300).collect();
        tracing::info!(
            request_id = %self.caller.request_id,
            address = address.map(|address| tracing::field::display(Shown(address))),
            principal = self.caller.principal().map(|name| &**name),
            api = self.api,
            resource,
            error_code,
            "{asked}"
        );
    }
}

impl Kafka {
    /// Writes a line for the refused changes that got none of their own, if a while of many has ended. To be called often.
    pub fn tell_left_out(&self) {
        if let Some(left_out) = self.changes.0.left_out(self.broker.clock.monotonic()) {
            tracing::info!(
                left_out = left_out.events,
                most_from = %left_out.from(),
                "more changes were asked for by Kafka clients and refused, which have no line of their own"
            );
        }
    }
}
