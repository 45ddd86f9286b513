//! Turns records into the batches of one append: chooses each record's partition, checks the limits, builds the bytes.
//!
//! A [`Placer`] serves one request, or the units of a streamed one in turn. Each partition has a builder. A builder
//! that reaches [`BATCH_BYTES`] is sealed at once, while its bytes are in the processor's cache, so that the one
//! committer thread neither copies nor checksums them. Smaller batches stay loose: the committer joins them with those
//! of other requests. If the topic says so, all batches are compressed here, and none is loose.
//!
//! Invariant: a refused record leaves no trace, so the records placed before it can still be appended.

use std::borrow::Cow;

use super::limits::{Misfit, RecordLimits};
use crate::broker::engine::batch::{BatchBuilder, Codec, HEADER_BYTES, SealedBatch};
use crate::broker::engine::{Records, TimestampMs, TopicId};
use crate::formats::json::ParsedRecord;
use crate::formats::partitioner::{Rotation, partition_of_key};

/// The size of a batch: small enough that reading one record loads little, large enough that the header's share is
/// negligible.
pub const BATCH_BYTES: usize = 64 << 10;

/// A partition with fewer bytes is left for the committer to join with other requests.
const LOOSE_BYTES: usize = 16 << 10;

/// The most partitions that are searched in sequence; more use a table.
const FEW_PARTS: usize = 16;

/// Where a record was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The place of its part in what [`Placer::take`] returns.
    pub part: u32,
    /// The record's offset relative to the part's first.
    pub delta: u32,
}

/// The records of an append for one partition.
pub struct Built {
    /// The partition's index.
    pub partition: u32,
    /// The records.
    pub records: Records,
    /// How many there are.
    pub record_count: u32,
    /// Every value can be copied into a line of JSON unchanged.
    pub json_lines: bool,
}

/// A header in the form that batches use.
type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// A header that the server adds: name and value.
pub type ExtraHeader<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// How a [`Placer`] places.
#[derive(Clone, Debug)]
pub struct Placing<'a> {
    /// The topic.
    pub topic: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Every record's timestamp is the time of the append.
    pub log_append_time: bool,
    /// How the batches are compressed. Those that are stay as they are: the committer joins none of them with others.
    pub codec: Option<Codec>,
    /// The limits of a record.
    pub limits: RecordLimits,
    /// Where records without a key are placed.
    pub rotation: &'a Rotation,
    /// The partition for the first unit's records without a key, if already chosen.
    pub unkeyed: Option<u32>,
    /// Ignore the partitions that records name.
    pub repartition: bool,
    /// All records must go to one partition, in all units.
    pub one_partition: bool,
    /// Headers for every record that has none of that name.
    pub extra_headers: Vec<ExtraHeader<'a>>,
}

/// Places the records of a request and builds their batches.
pub struct Placer<'a> {
    placing: Placing<'a>,
    now: TimestampMs,
    /// The partition for this unit's records without a key.
    unkeyed: Option<u32>,
    /// The partition of all records, if they must share one.
    only: Option<u32>,
    parts: Vec<PartBuilder>,
    /// Indexes into `parts` by partition, `u32::MAX` where there is none; empty while the parts are few.
    table: Vec<u32>,
    bytes: usize,
    moved: bool,
}

struct PartBuilder {
    partition: u32,
    sealed: Vec<SealedBatch>,
    builder: BatchBuilder,
    record_count: u32,
    json_lines: bool,
}

impl<'a> Placer<'a> {
    /// Begins a request at the time `now`.
    pub fn new(placing: Placing<'a>, now: TimestampMs) -> Self {
        Self {
            unkeyed: placing.unkeyed,
            placing,
            now,
            only: None,
            parts: Vec::new(),
            table: Vec::new(),
            bytes: 0,
            moved: false,
        }
    }

    /// Puts a record into its partition's batch.
    ///
    /// # Errors
    /// Why it is refused; nothing has changed.
    #[inline]
    pub fn add(&mut self, record: &ParsedRecord<'_>) -> Result<Placement, Misfit> {
        let partitions = self.placing.partitions;
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) if !self.placing.repartition => {
                if partition >= u64::from(partitions) {
                    return Err(Misfit::UnknownPartition {
                        partition,
                        partitions,
                    });
                }
                partition as u32
            }
            (_, Some(key)) => partition_of_key(key, partitions),
            (_, None) => self.unkeyed(),
        };
        if self.placing.one_partition {
            let first = self.only.unwrap_or(partition);
            if first != partition {
                return Err(Misfit::SecondPartition {
                    first,
                    second: partition,
                });
            }
        }
        let size = self.placing.limits.check(
            record.key.as_ref().map_or(0, |key| key.len()),
            record.value.as_ref().map_or(0, |value| value.len()),
            record
                .headers
                .iter()
                .map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len())),
        )?;
        let json_line = record.json_line;
        let timestamp = if self.placing.log_append_time {
            self.now
        } else {
            record.timestamp.unwrap_or(self.now)
        };
        if self.placing.one_partition {
            self.only = Some(partition);
        }
        let part = self.part_of(partition, size);
        let extra = &self.placing.extra_headers;
        let builder = &mut self.parts[part];
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let bytes = if record.headers.is_empty() && extra.is_empty() {
            builder.builder.push(timestamp, key, value, &[])
        } else {
            with_headers(record, extra, |headers| {
                builder.builder.push(timestamp, key, value, headers)
            })
        };
        self.bytes += bytes;
        if !self.moved && !self.placing.repartition && record.partition.is_some() {
            self.moved = key.is_some_and(|key| partition_of_key(key, partitions) != partition);
        }
        let placement = Placement {
            part: part as u32,
            delta: builder.record_count,
        };
        builder.record_count += 1;
        builder.json_lines &= json_line;
        if builder.builder.len() >= BATCH_BYTES {
            let mut next = BatchBuilder::with_capacity(BATCH_BYTES + BATCH_BYTES / 8);
            if self.placing.log_append_time {
                next.set_log_append_time(self.now);
            }
            let full = std::mem::replace(&mut builder.builder, next);
            builder.sealed.push(seal(full, self.placing.codec));
        }
        Ok(placement)
    }

    /// Sets the limits of the records that follow.
    pub fn limit(&mut self, limits: RecordLimits) {
        self.placing.limits = limits;
    }

    /// Whether nothing was placed since the last [`Placer::take`].
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes of the records placed since the last [`Placer::take`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a record with a key was placed outside its key's partition since the last [`Placer::take`].
    pub fn moved(&self) -> bool {
        self.moved
    }

    /// The partition of this unit's records without a key, if any.
    pub fn unkeyed_partition(&self) -> Option<u32> {
        self.unkeyed
    }

    /// Places all further records in `partition`, if all must share one: the earlier ones went there.
    pub fn go_on_in(&mut self, partition: u32) {
        if self.placing.one_partition {
            self.only = Some(partition);
            self.unkeyed = Some(partition);
        }
    }

    /// Takes the placed records and begins the next unit at the time `now`. Each part is of a different partition.
    pub fn take(&mut self, now: TimestampMs) -> Vec<Built> {
        self.now = now;
        self.bytes = 0;
        self.moved = false;
        self.table.clear();
        if !self.placing.one_partition {
            self.unkeyed = None;
        }
        std::mem::take(&mut self.parts)
            .into_iter()
            .map(|part| part.finish(self.placing.codec))
            .collect()
    }

    fn unkeyed(&mut self) -> u32 {
        *self.unkeyed.get_or_insert_with(|| {
            self.placing
                .rotation
                .next(self.placing.topic, self.placing.partitions)
        })
    }

    /// The index of a partition in `parts`; a new part gets room for a record of `bytes`.
    #[inline]
    fn part_of(&mut self, partition: u32, bytes: usize) -> usize {
        let found = if self.table.is_empty() {
            self.parts.iter().position(|part| part.partition == partition)
        } else {
            let index = self.table[partition as usize];
            (index != u32::MAX).then_some(index as usize)
        };
        found.unwrap_or_else(|| self.begin_part(partition, bytes))
    }

    fn begin_part(&mut self, partition: u32, bytes: usize) -> usize {
        let index = self.parts.len();
        // Room for one record: most requests have no more, and a growing buffer doubles.
        let mut builder = BatchBuilder::with_capacity(HEADER_BYTES + bytes + 96);
        if self.placing.log_append_time {
            builder.set_log_append_time(self.now);
        }
        self.parts.push(PartBuilder {
            partition,
            sealed: Vec::new(),
            builder,
            record_count: 0,
            json_lines: true,
        });
        if self.table.is_empty() && self.parts.len() > FEW_PARTS {
            self.table.resize(self.placing.partitions as usize, u32::MAX);
            for (index, part) in self.parts.iter().enumerate() {
                self.table[part.partition as usize] = index as u32;
            }
        } else if !self.table.is_empty() {
            self.table[partition as usize] = index as u32;
        }
        index
    }
}

fn seal(builder: BatchBuilder, codec: Option<Codec>) -> SealedBatch {
    let sealed = builder.seal().with_codec(codec, None);
    sealed.expect("a batch of the builder has nothing to inflate")
}

impl PartBuilder {
    fn finish(mut self, codec: Option<Codec>) -> Built {
        let is_small = self.sealed.is_empty() && self.builder.len() < LOOSE_BYTES;
        let records = if is_small && codec.is_none() {
            Records::Loose(self.builder)
        } else {
            if !self.builder.is_empty() {
                self.sealed.push(seal(self.builder, codec));
            }
            Records::Sealed(self.sealed)
        };
        Built {
            partition: self.partition,
            records,
            record_count: self.record_count,
            json_lines: self.json_lines,
        }
    }
}

/// Calls `push` with the record's headers and those the server adds, without allocation if those are few.
fn with_headers<R>(
    record: &ParsedRecord<'_>,
    extra: &[ExtraHeader<'_>],
    push: impl FnOnce(&[Header<'_>]) -> R,
) -> R {
    let own = record
        .headers
        .iter()
        .map(|(name, value)| (&**name, value.as_deref()));
    let most = record.headers.len() + extra.len();
    let extra = extra
        .iter()
        .filter(|(name, _)| record.headers.iter().all(|(own, _)| own != name))
        .map(|(name, value)| (&**name, Some(&**value)));
    let mut few: [Header<'_>; 16] = [(&[], None); 16];
    let all = own.chain(extra);
    if most <= few.len() {
        let mut count = 0;
        for (place, header) in few.iter_mut().zip(all) {
            *place = header;
            count += 1;
        }
        push(&few[..count])
    } else {
        push(&all.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::broker::engine::batch;
    use crate::formats::json::{is_json_line, parse_record, parse_records};
    use proptest::prelude::*;

    const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

    fn placing(rotation: &Rotation, partitions: u32) -> Placing<'_> {
        Placing {
            topic: TopicId(1),
            partitions,
            log_append_time: false,
            codec: None,
            limits: RecordLimits {
                max_record_bytes: 1 << 20,
                max_key_bytes: 32 << 10,
                max_headers: 100,
                max_header_bytes: 32 << 10,
            },
            rotation,
            unkeyed: None,
            repartition: false,
            one_partition: false,
            extra_headers: Vec::new(),
        }
    }

    /// A record as it was stored.
    #[derive(Debug, PartialEq)]
    struct Stored {
        timestamp: i64,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    }

    fn stored(built: Built) -> (u32, Vec<Stored>) {
        let batches = match built.records {
            Records::Loose(builder) => vec![builder.seal()],
            Records::Sealed(batches) => batches,
        };
        let mut all = Vec::new();
        for sealed in &batches {
            batch::validate(sealed.as_bytes()).unwrap();
            for record in batch::Records::new(sealed.as_bytes()).unwrap() {
                let record = record.unwrap();
                all.push(Stored {
                    timestamp: record.timestamp.0,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: record
                        .headers
                        .iter()
                        .map(|(n, v)| (n.to_vec(), v.map(<[u8]>::to_vec)))
                        .collect(),
                });
            }
        }
        assert_eq!(built.record_count as usize, all.len());
        (built.partition, all)
    }

    fn add(placer: &mut Placer<'_>, json: &str) -> Result<Placement, Misfit> {
        placer.add(&parse_record(json.as_bytes()).unwrap())
    }

    #[test]
    fn records_go_to_the_named_partition_or_the_keys_or_the_requests_own() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(placing(&rotation, 6), NOW);
        add(&mut placer, r#"{"partition":5,"key":"key","value":1}"#).unwrap();
        add(&mut placer, r#"{"key":"key","value":2}"#).unwrap();
        add(&mut placer, r#"{"value":3}"#).unwrap();
        add(&mut placer, r#"{"value":4}"#).unwrap();
        let by_partition: BTreeMap<u32, Vec<Stored>> = placer.take(NOW).into_iter().map(stored).collect();
        let values = |partition: u32| -> Vec<&[u8]> {
            by_partition[&partition]
                .iter()
                .map(|record| record.value.as_deref().unwrap())
                .collect()
        };
        assert_eq!(values(5), [b"1"]);
        assert_eq!(values(1), [b"2"]);
        assert_eq!(values(0), [b"3", b"4"]);
        assert!(placer.is_empty());
        add(&mut placer, r#"{"value":5}"#).unwrap();
        assert_eq!(placer.take(NOW)[0].partition, 1, "the next unit's turn");
    }

    #[test]
    fn repartition_ignores_named_partitions() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(
            Placing {
                repartition: true,
                ..placing(&rotation, 6)
            },
            NOW,
        );
        add(&mut placer, r#"{"partition":77,"key":"key","value":1}"#).unwrap();
        assert_eq!(placer.take(NOW)[0].partition, 1);
    }

    #[test]
    fn a_partition_out_of_range_is_unknown_however_large() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(placing(&rotation, 6), NOW);
        for partition in ["6", "4294967295", "4294967296", "99999999999999999999999999"] {
            let misfit = add(&mut placer, &format!("{{\"partition\":{partition}}}")).unwrap_err();
            assert!(
                matches!(misfit, Misfit::UnknownPartition { partitions: 6, .. }),
                "{misfit:?}"
            );
        }
        assert!(placer.is_empty());
    }

    #[test]
    fn a_second_partition_is_refused_where_all_records_go_to_one() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(
            Placing {
                one_partition: true,
                ..placing(&rotation, 6)
            },
            NOW,
        );
        add(&mut placer, "{}").unwrap();
        let misfit = add(&mut placer, r#"{"partition":3}"#).unwrap_err();
        assert_eq!(misfit, Misfit::SecondPartition { first: 0, second: 3 });
        assert_eq!(placer.take(NOW).len(), 1);
        add(&mut placer, "{}").unwrap();
        assert_eq!(placer.take(NOW)[0].partition, 0, "no turn from unit to unit");
    }

    #[test]
    fn every_limit_is_exact_and_a_refused_record_leaves_no_trace() {
        let rotation = Rotation::default();
        let limits = RecordLimits {
            max_record_bytes: 20,
            max_key_bytes: 4,
            max_headers: 2,
            max_header_bytes: 6,
        };
        let mut placing = placing(&rotation, 1);
        placing.limits = limits;
        placing.extra_headers = vec![(b"traceparent"[..].into(), b"not counted"[..].into())];
        let mut placer = Placer::new(placing, NOW);
        for fits in [
            r#"{"key":"1234"}"#,
            r#"{"headers":{"a":"","b":""}}"#,
            r#"{"headers":{"abc":"def"}}"#,
            r#"{"key":"1234","value":1234567890,"headers":{"abc":"def"}}"#,
        ] {
            add(&mut placer, fits).unwrap();
        }
        for (too_large, found, most) in [
            (r#"{"key":"12345"}"#, 5, 4),
            (r#"{"headers":{"a":"","b":["",""]}}"#, 3, 2),
            (r#"{"headers":{"abc":"defg"}}"#, 7, 6),
            (
                r#"{"key":"1234","value":12345678901,"headers":{"abc":"def"}}"#,
                21,
                20,
            ),
        ] {
            let misfit = add(&mut placer, too_large).unwrap_err();
            assert!(
                matches!(misfit, Misfit::TooLarge { size, limit, .. } if size == found && limit == most),
                "{misfit:?}"
            );
        }
        let (_, records) = stored(placer.take(NOW).pop().unwrap());
        assert_eq!(records.len(), 4);
    }

    #[test]
    fn the_servers_headers_come_last_and_never_replace_a_records_own() {
        let rotation = Rotation::default();
        let mut placing = placing(&rotation, 1);
        placing.extra_headers = vec![(b"traceparent"[..].into(), b"server"[..].into())];
        let mut placer = Placer::new(placing, NOW);
        add(&mut placer, r#"{"headers":{"a":["x",null]}}"#).unwrap();
        add(&mut placer, r#"{"headers":{"traceparent":"own"}}"#).unwrap();
        add(&mut placer, "{}").unwrap();
        let many: Vec<String> = (0..50).map(|n| format!("\"{n}\":\"v\"")).collect();
        add(&mut placer, &format!("{{\"headers\":{{{}}}}}", many.join(","))).unwrap();
        let (_, records) = stored(placer.take(NOW).pop().unwrap());
        let header = |name: &str, value: &str| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
        assert_eq!(
            records[0].headers,
            [
                header("a", "x"),
                (b"a".to_vec(), None),
                header("traceparent", "server")
            ]
        );
        assert_eq!(records[1].headers, [header("traceparent", "own")]);
        assert_eq!(records[2].headers, [header("traceparent", "server")]);
        assert_eq!(records[3].headers.len(), 51);
    }

    #[test]
    fn log_append_time_takes_the_place_of_the_records_own_times() {
        let rotation = Rotation::default();
        let mut placing = placing(&rotation, 1);
        placing.log_append_time = true;
        let mut placer = Placer::new(placing, NOW);
        add(&mut placer, r#"{"timestamp":5}"#).unwrap();
        let (_, records) = stored(placer.take(NOW).pop().unwrap());
        assert_eq!(records[0].timestamp, NOW.0);
    }

    #[test]
    fn large_parts_are_sealed_in_batches_of_bounded_size_and_small_ones_stay_loose() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(placing(&rotation, 1), NOW);
        add(&mut placer, "{\"value\":\"small\"}").unwrap();
        let small = placer.take(NOW).pop().unwrap();
        assert!(matches!(small.records, Records::Loose(_)));
        let line = format!("{{\"value\":\"{}\"}}", "x".repeat(1000));
        for number in 0..1000 {
            assert_eq!(
                add(&mut placer, &line).unwrap(),
                Placement {
                    part: 0,
                    delta: number
                }
            );
        }
        let large = placer.take(NOW).pop().unwrap();
        let Records::Sealed(batches) = &large.records else {
            panic!("not sealed")
        };
        assert!(batches.len() > 10);
        assert!(
            batches
                .iter()
                .all(|batch| batch.as_bytes().len() < BATCH_BYTES + 2000)
        );
        assert_eq!(stored(large).1.len(), 1000);
    }

    #[test]
    fn many_partitions_are_found_by_table_as_few_are_one_by_one() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(placing(&rotation, 500), NOW);
        for round in 0..3 {
            for partition in (0..500).rev() {
                let placement = add(&mut placer, &format!("{{\"partition\":{partition}}}")).unwrap();
                assert_eq!(
                    placement,
                    Placement {
                        part: 499 - partition,
                        delta: round
                    }
                );
            }
        }
        let parts = placer.take(NOW);
        assert_eq!(parts.len(), 500);
        assert!(parts.iter().all(|part| part.record_count == 3));
        add(&mut placer, r#"{"partition":7}"#).unwrap();
        // The table of the last unit is gone.
        assert_eq!(placer.take(NOW)[0].partition, 7);
    }

    #[test]
    fn one_value_with_a_line_break_takes_the_hint_from_its_part_only() {
        let rotation = Rotation::default();
        let mut placer = Placer::new(placing(&rotation, 2), NOW);
        let body = b"{\"records\":[{\"partition\":0,\"value\":[1,\n2]},{\"partition\":1,\n\"value\":\n[1,2]\n},{\"partition\":0}]}";
        parse_records(body, |_, record| {
            placer.add(&record).unwrap();
            Ok::<(), crate::formats::json::RecordError>(())
        })
        .unwrap();
        let parts = placer.take(NOW);
        assert!(!parts[0].json_lines);
        assert!(parts[1].json_lines);
        let (_, records) = stored(parts.into_iter().next().unwrap());
        assert_eq!(records[0].value.as_deref(), Some(&b"[1,\n2]"[..]));
    }

    /// JSON as a client may write it: any value, with white space between its tokens.
    fn json() -> impl Strategy<Value = String> {
        let space = "[ \t\n\r]{0,2}";
        let number = "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?";
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            number,
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            "[a-z]{0,20}".prop_map(|text| format!("\"\\u00e9\\ud83d\\ude00{text}\"")),
        ];
        leaf.prop_recursive(6, 64, 6, move |inner| {
            let item =
                (space, inner, space).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
            let name = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
            let field = (space, name, space, item.clone())
                .prop_map(|(a, name, b, value)| format!("{a}{name}{b}:{value}"));
            prop_oneof![
                prop::collection::vec(item, 1..6).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec(field, 1..6).prop_map(|fields| format!("{{{}}}", fields.join(","))),
                space.prop_map(|space| format!("[{space}]")),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_value_comes_back_byte_for_byte(values in prop::collection::vec(json(), 1..20), indent in "[ \t\n]{0,3}") {
            let rotation = Rotation::default();
            let mut placer = Placer::new(placing(&rotation, 1), NOW);
            let records: Vec<String> = values.iter().map(|value| format!("{indent}{{\"value\"{indent}:{indent}{value}{indent}}}")).collect();
            let body = format!("{{\"records\":[{}]}}", records.join(","));
            parse_records(body.as_bytes(), |_, record| {
                placer.add(&record).unwrap();
                Ok::<(), crate::formats::json::RecordError>(())
            }).unwrap();
            let built = placer.take(NOW).pop().unwrap();
            let one_line = values.iter().all(|value| value == "null" || is_json_line(value.as_bytes()));
            prop_assert_eq!(built.json_lines, one_line);
            prop_assert_eq!(one_line, !values.iter().any(|value| value.contains(['\n', '\r'])));
            let (_, stored) = stored(built);
            let expected: Vec<Option<&[u8]>> = values.iter().map(|value| (value != "null").then_some(value.as_bytes())).collect();
            prop_assert_eq!(stored.iter().map(|record| record.value.as_deref()).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn any_bytes_come_back_through_base64(
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            value in prop::collection::vec(any::<u8>(), 0..200),
            header in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            use base64::Engine as _;
            let encode = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
            let mut record = serde_json::json!({"value_base64": encode(&value), "headers": {"h": {"base64": encode(&header)}}});
            if let Some(key) = &key {
                record["key_base64"] = encode(key).into();
            }
            let rotation = Rotation::default();
            let mut placer = Placer::new(placing(&rotation, 3), NOW);
            add(&mut placer, &record.to_string()).unwrap();
            let (_, records) = stored(placer.take(NOW).pop().unwrap());
            prop_assert_eq!(&records[0], &Stored {
                timestamp: NOW.0,
                key,
                value: Some(value),
                headers: vec![(b"h".to_vec(), Some(header))],
            });
        }
    }
}
