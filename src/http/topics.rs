//! Creates, lists, describes, alters and deletes topics; moves the log start of a partition, and finds offsets by time.
//!
//! A thin layer over [`crate::broker::topics`]: parses requests, and renders what the broker describes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{JsonBody, OptionalJson};
use super::openapi::shapes;
use super::params::{Params, not_a_time, start};
use super::path::{AtPartition, AtTopic, NoQuery, TopicName};
use super::problem::Problem;
use super::{Share, dry, json_answer, ok};
use crate::broker::Broker;
use crate::broker::caller::Caller;
use crate::broker::engine::{Log, Offset, PartitionStats, TimestampMs, Topic};
use crate::broker::names;
use crate::broker::overview::list::{self, Listed, Sort};
use crate::broker::overview::preview::{self, Preview};
use crate::broker::refusal::Refusal;
use crate::broker::topics::catalog::{self, ConfigChanges, TopicConfig};
use crate::broker::topics::describe::{self, Described};
use crate::broker::topics::lookup::Start;
use crate::http::Answer;
use crate::http::app::App;

/// The longest body that describes a topic. All keys with their longest values take a fraction of it.
const MOST_BODY_BYTES: usize = 64 << 10;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_topics))
        .routes(routes!(create_topic, describe_topic, alter_topic, delete_topic))
        .routes(routes!(delete_records))
        .routes(routes!(find_offset))
}

/// The wanted state of a topic.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TopicBody {
    /// The number of partitions; default 1 for a new topic.
    #[schema(minimum = 1)]
    partitions: Option<u32>,
    /// Configuration keys with their values; null means the default.
    #[serde(default, deserialize_with = "config_changes")]
    #[schema(value_type = Option<shapes::ConfigChanges>)]
    config: ConfigChanges,
}

/// The description of a topic.
#[derive(Debug, Serialize, ToSchema)]
struct TopicDescription {
    name: String,
    /// No other topic ever gets this id, not even a later one with the same name.
    id: String,
    partition_count: u32,
    /// In the order of their indexes; left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<Vec<PartitionDescription>>,
    #[serde(flatten)]
    figures: TopicFigures,
    /// Every key; left out in lists with `config=false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<BTreeMap<&'static str, Setting>>,
}

/// The figures of a topic. Rates are a second, over the last ten seconds.
#[derive(Debug, Serialize, ToSchema)]
struct TopicFigures {
    /// Stored bytes of its records, without indexes.
    size_bytes: u64,
    /// Records that are kept, counted by offsets.
    records: u64,
    /// Records appended.
    produce_rate: f64,
    /// Stored bytes appended.
    produce_bytes_rate: f64,
    /// Stored bytes given to readers.
    fetch_bytes_rate: f64,
    /// The timestamp of the newest record; null without records.
    last_timestamp: Option<i64>,
    /// The groups that have subscribed to it or committed in it, by name.
    groups: Vec<String>,
    /// Whether some of its records are known to be damaged.
    damaged: bool,
}

/// What a change would take away; nothing was changed.
#[derive(Debug, Serialize, ToSchema)]
struct DryRun {
    /// Always true.
    dry_run: bool,
    /// Records, counted by offsets.
    records: u64,
    /// Their stored bytes. Space is freed by whole segments.
    size_bytes: u64,
    /// The groups that would lose committed offsets, or have yet to read some of these records; by name.
    groups: Vec<String>,
}

impl From<Preview> for DryRun {
    fn from(preview: Preview) -> Self {
        Self {
            dry_run: true,
            records: preview.records,
            size_bytes: preview.size_bytes,
            groups: preview.groups,
        }
    }
}

/// The parameters of a change that takes something away.
#[derive(Default)]
struct Conditions {
    dry_run: bool,
    if_id: Option<String>,
}

const DRY_RUN: &str = "dry_run";
const IF_ID: &str = "if_id";

impl Conditions {
    fn of(params: &Params) -> Result<Self, Problem> {
        Ok(Self {
            dry_run: params.flag(DRY_RUN)?.unwrap_or(false),
            if_id: params.get(IF_ID).map(str::to_owned),
        })
    }

    fn parse(query: Option<&str>) -> Result<Self, Problem> {
        Self::of(&Params::parse(query, &[DRY_RUN, IF_ID], &[])?)
    }
}

/// What whoever may not look at a topic is told when it has created or changed it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BriefTopic {
    name: String,
    id: String,
    partition_count: u32,
}

/// A topic that was created or changed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Changed {
    /// With the right `describe` on it.
    Described(TopicDescription),
    /// Without.
    Named(BriefTopic),
}

/// The answer to a change, or to its dry run.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answers in the OpenAPI document")]
enum Altered {
    /// The topic as it is now.
    Topic(Changed),
    /// With `dry_run`.
    DryRun(DryRun),
}

/// The answer to a deletion of records, or to its dry run.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answers in the OpenAPI document")]
enum Trimmed {
    /// The log start as it is now.
    LogStart(LogStart),
    /// With `dry_run`.
    DryRun(DryRun),
}

/// The positions and the size of a partition.
#[derive(Debug, Serialize, ToSchema)]
struct PartitionDescription {
    partition: u32,
    log_start_offset: u64,
    end_offset: u64,
    /// Stored bytes; null if damage prevents the server from knowing them.
    size_bytes: Option<u64>,
    segments: Option<u64>,
    /// The timestamp of the first record that is kept; null without records.
    first_timestamp: Option<i64>,
    /// The timestamp of the last record; null without records.
    last_timestamp: Option<i64>,
    /// The first damaged offset found so far; `/damage` lists all.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged_offset: Option<u64>,
    /// One past the last offset of that range.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged_until_offset: Option<u64>,
}

/// A configuration key of a topic.
#[derive(Debug, Serialize, ToSchema)]
struct Setting {
    /// The value in force.
    value: Value,
    /// The default value.
    default: Value,
    /// `topic` if the topic sets it, else `default`.
    #[schema(example = "default", pattern = "^(topic|default)$")]
    source: &'static str,
}

/// A page of the list of topics.
#[derive(Debug, Serialize, ToSchema)]
struct TopicList {
    /// In the order that `sort` says.
    topics: Vec<TopicDescription>,
    /// Pass this as `after` to get the next page; left out in the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The log start of a partition.
#[derive(Debug, Serialize, ToSchema)]
struct LogStart {
    log_start_offset: u64,
}

/// An offset, with the timestamp of its record.
#[derive(Debug, Serialize, ToSchema)]
struct FoundOffset {
    offset: u64,
    /// Null at the end offset, where there is no record yet.
    timestamp: Option<i64>,
}

/// Creates a topic
///
/// Repeating it is harmless: if the topic exists with the same number of partitions and the given configuration values,
/// the answer is 200. Settings that the body leaves out are not compared.
#[utoipa::path(put, path = "/v1/topics/{topic}", tag = "topics", request_body = Option<TopicBody>,
    params(("topic" = String, Path, description = "1 to 249 of `A-Z a-z 0-9 . _ -`; not `.` or `..`, not beginning with `__`")),
    responses((status = 201, description = "The topic is created", body = Changed,
            headers(("Location" = String, description = "The topic's path"))),
        (status = 200, description = "The topic exists already", body = Changed),
        (status = 409, description = "`topic-exists`: the topic exists with another number of partitions or another configuration"),
        (status = 501, description = "`not-supported`: a configuration key of a later version")))]
async fn create_topic(
    app: App,
    caller: Caller,
    TopicName(name): TopicName,
    _: NoQuery,
    OptionalJson(body): OptionalJson<TopicBody, MOST_BODY_BYTES>,
) -> Answer {
    names::TOPIC.check(&name)?;
    let body = body.unwrap_or_default();
    let broker = app.broker.clone();
    let create = move || {
        let (topic, is_new) = broker
            .topics
            .create(&caller, &name, body.partitions, &body.config)?;
        Ok((changed(&caller, &broker, &topic)?, topic, is_new))
    };
    let (described, topic, is_new) = app.blocking.attempt(Share::Change, create).await?;
    if !is_new {
        return ok(&described);
    }
    let mut response = json_answer(StatusCode::CREATED, &described);
    let location = format!("/v1/topics/{}", topic.name());
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Lists the topics, each with its figures
///
/// By name, or the largest or fastest first. While sizes and rates change, a topic may move from one page to another.
#[utoipa::path(get, path = "/v1/topics", tag = "topics",
    params(("q" = Option<String>, Query, description = "Only topics whose names contain this, in upper or lower case"),
        ("sort" = Option<String>, Query, pattern = "^(name|size|rate)$", description = "`name` (the default), `size` (the largest first), or `rate` (first the one to which most records are appended)"),
        ("config" = Option<bool>, Query, description = "`false` leaves `config` out"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "The largest number of topics: default 100"),
        ("after" = Option<String>, Query, description = "Only topics after this place: pass `next` of the page before")),
    responses((status = 200, description = "The topics, without their partitions' positions", body = TopicList)))]
async fn list_topics(app: App, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    let params = Params::parse(query.as_deref(), &["q", "sort", "config", "limit", "after"], &[])?;
    let sorts = [("name", Sort::Name), ("size", Sort::Size), ("rate", Sort::Rate)];
    let query = list::Query {
        text: params.get("q").map(str::to_owned),
        sort: params.choice("sort", &sorts)?.unwrap_or_default(),
        after: params.get("after").map(str::to_owned),
        limit: params.number("limit", 1, 1000)?.unwrap_or(100) as usize,
    };
    let has_config = params.flag("config")?.unwrap_or(true);
    let broker = app.broker.clone();
    let list = move || {
        let (listed, next) = list::page(&caller, &broker.traffic, &broker.groups, &query)?;
        let describe = |listed: &Listed| TopicDescription {
            config: has_config.then(|| config(&listed.topic)),
            ..describe_without_partitions(&broker.log, listed)
        };
        Ok(TopicList {
            topics: listed.iter().map(describe).collect(),
            next,
        })
    };
    ok(&app.blocking.attempt(Share::Report, list).await?)
}

/// Describes a topic
#[utoipa::path(get, path = "/v1/topics/{topic}", tag = "topics",
    responses((status = 200, description = "The topic", body = TopicDescription)))]
async fn describe_topic(app: App, caller: Caller, AtTopic(topic): AtTopic, _: NoQuery) -> Answer {
    let broker = app.broker.clone();
    let describe = move || describe(&caller, &broker, &topic);
    ok(&app.blocking.attempt(Share::Report, describe).await?)
}

/// Adds partitions to a topic, and changes its configuration
///
/// Both changes are made, or neither. Settings that are left out stay as they are; null resets a key to its default.
/// With `dry_run`, the answer says which records retention would delete then, and nothing is changed.
#[utoipa::path(patch, path = "/v1/topics/{topic}", tag = "topics", request_body = TopicBody,
    params(("dry_run" = Option<bool>, Query, description = "Say what would go, and change nothing"),
        ("if_id" = Option<String>, Query, description = "Only if the topic has this `id`")),
    responses((status = 200, description = "The topic as it is now; with `dry_run`, what would go",
            body = inline(Altered)),
        (status = 409, description = "`partitions-cannot-shrink`; `topic-protected`: it has `delete_protection`, and retention would be lowered"),
        (status = 412, description = "`topic-changed`: the topic with that `id` is gone"),
        (status = 501, description = "`not-supported`: a configuration key of a later version")))]
async fn alter_topic(
    app: App,
    caller: Caller,
    AtTopic(topic): AtTopic,
    RawQuery(query): RawQuery,
    JsonBody(body): JsonBody<TopicBody, MOST_BODY_BYTES>,
) -> Answer {
    let Conditions { dry_run, if_id } = Conditions::parse(query.as_deref())?;
    let broker = app.broker.clone();
    if dry_run {
        let look = move || {
            let (change, now) = ((body.partitions, &body.config[..]), broker.clock.now());
            let (topics, groups) = (&broker.topics, &broker.groups);
            let when = (if_id.as_deref(), now);
            preview::change(&caller, topics, groups, topic.name(), change, when)
        };
        return dry(app.blocking.attempt(Share::Report, look).await.map(DryRun::from));
    }
    let alter = move || {
        let (partitions, config) = (body.partitions, &body.config);
        let topic = broker
            .topics
            .alter(&caller, topic.name(), partitions, config, if_id.as_deref())?;
        changed(&caller, &broker, &topic)
    };
    ok(&app.blocking.attempt(Share::Change, alter).await?)
}

/// Deletes a topic with its records and the offsets that groups committed in it
#[utoipa::path(delete, path = "/v1/topics/{topic}", tag = "topics",
    params(("dry_run" = Option<bool>, Query, description = "Say what would go, and delete nothing"),
        ("if_id" = Option<String>, Query, description = "Only if the topic has this `id`")),
    responses((status = 204, description = "Deleted; a topic created later with the same name is a different topic"),
        (status = 200, description = "With `dry_run`: what would go", body = DryRun),
        (status = 409, description = "`topic-protected`: it has `delete_protection`"),
        (status = 412, description = "`topic-changed`: the topic with that `id` is gone")))]
async fn delete_topic(
    app: App,
    caller: Caller,
    AtTopic(topic): AtTopic,
    RawQuery(query): RawQuery,
) -> Answer {
    let Conditions { dry_run, if_id } = Conditions::parse(query.as_deref())?;
    let broker = app.broker.clone();
    if dry_run {
        let look = move || {
            let (topics, groups) = (&broker.topics, &broker.groups);
            preview::deletion(&caller, topics, groups, topic.name(), if_id.as_deref())
        };
        return dry(app.blocking.attempt(Share::Report, look).await.map(DryRun::from));
    }
    let delete = move || broker.topics.delete(&caller, topic.name(), if_id.as_deref());
    app.blocking.attempt(Share::Change, delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes the records of a partition before an offset
///
/// The log start moves up at once and for good; space is freed by whole segments. An offset below it changes nothing.
#[utoipa::path(delete, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "topics",
    params(("before" = u64, Query, description = "The first offset to keep; at most the end offset"),
        ("dry_run" = Option<bool>, Query, description = "Say what would go, and delete nothing"),
        ("if_id" = Option<String>, Query, description = "Only if the topic has this `id`")),
    responses((status = 200, description = "The log start as it is now; with `dry_run`, what would go", body = inline(Trimmed)),
        (status = 409, description = "`topic-protected`: the topic has `delete_protection`"),
        (status = 412, description = "`topic-changed`: the topic with that `id` is gone"),
        (status = 416, description = "`offset-out-of-range`: above `end_offset`")))]
async fn delete_records(
    app: App,
    caller: Caller,
    AtPartition { topic, partition }: AtPartition,
    RawQuery(query): RawQuery,
) -> Answer {
    let params = Params::parse(query.as_deref(), &["before", DRY_RUN, IF_ID], &[])?;
    let Conditions { dry_run, if_id } = Conditions::of(&params)?;
    let missing = "say which offset is the first to be kept: before=<offset>";
    let before = params.number("before", 0, Offset::MAX.get())?;
    let before = Offset::new(before.ok_or_else(|| Problem::invalid("before", missing))?);
    let broker = app.broker.clone();
    if dry_run {
        let look = move || {
            let (topics, groups) = (&broker.topics, &broker.groups);
            preview::trim(
                &caller,
                topics,
                groups,
                &topic,
                &partition,
                before,
                if_id.as_deref(),
            )
        };
        return dry(app.blocking.attempt(Share::Report, look).await.map(DryRun::from));
    }
    let trim = move || {
        broker
            .topics
            .trim(&caller, &topic, &partition, before, if_id.as_deref())
    };
    let log_start_offset = app.blocking.attempt(Share::Change, trim).await?.get();
    ok(&LogStart { log_start_offset })
}

/// Finds an offset by time
///
/// Finds the first record whose timestamp is at or after the time; timestamps need not be in order. If all records are
/// earlier, the answer is the end offset with a null timestamp.
#[utoipa::path(get, path = "/v1/topics/{topic}/partitions/{partition}/offsets", tag = "topics",
    params(("at" = shapes::Start, Query, description = "`earliest`, `latest`, or a time in milliseconds or RFC 3339", example = "latest")),
    responses((status = 200, description = "The offset", body = FoundOffset)))]
async fn find_offset(
    app: App,
    AtPartition { partition, .. }: AtPartition,
    RawQuery(query): RawQuery,
) -> Answer {
    let params = Params::parse(query.as_deref(), &["at"], &[])?;
    let missing = "say what to find: at=earliest, at=latest or at=<time>";
    let at = params.get("at").ok_or_else(|| Problem::invalid("at", missing))?;
    let start = start(at).ok_or_else(|| not_a_time("at", "earliest, latest or ", at))?;
    let log = app.log.clone();
    let find = move || Ok(start.find(&log, &partition)?);
    let (offset, timestamp) = match start {
        Start::Latest => find()?,
        _ => app.blocking.attempt(Share::Read, find).await?,
    };
    ok(&FoundOffset {
        offset: offset.get(),
        timestamp: timestamp.map(TimestampMs::get),
    })
}

/// The answer for a topic that was created or changed. Blocks on the disk.
fn changed(caller: &Caller, broker: &Broker, topic: &Arc<Topic>) -> Result<Changed, Refusal> {
    Ok(match caller.sees_topic(topic.name()) {
        true => Changed::Described(describe(caller, broker, topic)?),
        false => Changed::Named(BriefTopic {
            name: topic.name().to_owned(),
            id: catalog::public_id(&broker.log, topic.id()),
            partition_count: topic.partition_count(),
        }),
    })
}

/// Describes a topic with its partitions. Blocks on the disk.
fn describe(caller: &Caller, broker: &Broker, topic: &Arc<Topic>) -> Result<TopicDescription, Refusal> {
    let listed = list::with_figures(caller, &broker.traffic, &broker.groups, vec![Arc::clone(topic)]);
    let mut described = describe_without_partitions(&broker.log, &listed[0]);
    let partitions = describe::partitions(topic)?;
    described.partition_count = partitions.len() as u32;
    described.config = Some(config(topic));
    described.partitions = Some(partitions.iter().map(PartitionDescription::from).collect());
    Ok(described)
}

fn config(topic: &Topic) -> BTreeMap<&'static str, Setting> {
    let config = TopicConfig::of(&topic.spec());
    let settings = config.entries().map(|(key, value, is_set)| {
        let (default, source) = (key.default(), if is_set { "topic" } else { "default" });
        let setting = Setting {
            value,
            default,
            source,
        };
        (key.name, setting)
    });
    settings.collect()
}

fn describe_without_partitions(log: &Log, Listed { topic, figures }: &Listed) -> TopicDescription {
    TopicDescription {
        name: topic.name().to_owned(),
        id: catalog::public_id(log, topic.id()),
        partition_count: topic.partition_count(),
        partitions: None,
        figures: TopicFigures {
            size_bytes: figures.size_bytes,
            records: figures.records,
            produce_rate: figures.rates.produce,
            produce_bytes_rate: figures.rates.produce_bytes,
            fetch_bytes_rate: figures.rates.fetch_bytes,
            last_timestamp: figures.last_timestamp.map(TimestampMs::get),
            groups: figures.groups.clone(),
            damaged: figures.damaged,
        },
        config: None,
    }
}

impl From<&Described> for PartitionDescription {
    fn from(partition: &Described) -> Self {
        let (positions, damaged, stats) = (partition.positions, partition.damaged, partition.stats.as_ref());
        let timestamp = |of: fn(&PartitionStats) -> Option<TimestampMs>| Some(of(stats?)?.get());
        Self {
            partition: partition.index,
            log_start_offset: positions.log_start_offset.get(),
            end_offset: positions.end_offset.get(),
            size_bytes: stats.map(|stats| stats.size_bytes),
            segments: stats.map(|stats| stats.segments as u64),
            first_timestamp: timestamp(|stats| stats.first_timestamp),
            last_timestamp: timestamp(|stats| stats.last_timestamp),
            damaged_offset: damaged.map(|(from, _)| from.get()),
            damaged_until_offset: damaged.map(|(_, until)| until.get()),
        }
    }
}

/// Reads an object of configuration keys and refuses repeated keys; null counts as an empty object.
fn config_changes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ConfigChanges, D::Error> {
    struct Changes;

    impl<'de> serde::de::Visitor<'de> for Changes {
        type Value = ConfigChanges;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of configuration keys")
        }

        fn visit_unit<E>(self) -> Result<ConfigChanges, E> {
            Ok(Vec::new())
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<ConfigChanges, A::Error> {
            let mut changes = ConfigChanges::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                if changes.iter().any(|(earlier, _)| *earlier == name) {
                    return Err(serde::de::Error::custom(format_args!("{name} is given twice")));
                }
                changes.push((name, value));
            }
            Ok(changes)
        }
    }

    deserializer.deserialize_any(Changes)
}
