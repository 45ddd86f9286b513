//! A record that owns its bytes, for comparisons.

use quipu_segments::TimestampMs;
use quipu_segments::batch::{BatchBuilder, Record};

pub(super) type Header = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) timestamp: TimestampMs,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<Header>,
}

impl Owned {
    pub(super) fn of(record: &Record<'_>) -> Self {
        Self {
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    pub(super) fn push_to(&self, builder: &mut BatchBuilder) {
        let headers: Vec<(&[u8], Option<&[u8]>)> = self
            .headers
            .iter()
            .map(|(name, value)| (&name[..], value.as_deref()))
            .collect();
        builder.push(
            self.timestamp,
            self.key.as_deref(),
            self.value.as_deref(),
            &headers,
        );
    }

    /// The headers grouped by name, names in order of their first use: all that JSON can keep.
    pub(super) fn grouped(&self) -> Vec<Header> {
        let mut grouped: Vec<Header> = Vec::with_capacity(self.headers.len());
        for header in &self.headers {
            let last = grouped.iter().rposition(|(name, _)| *name == header.0);
            grouped.insert(last.map_or(grouped.len(), |last| last + 1), header.clone());
        }
        grouped
    }
}
