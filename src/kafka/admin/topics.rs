//! APIs 19, 20 and 37: topics are created and deleted, and get more partitions.
//!
//! A partition has one replica, on the one node. A request that asks for others is refused, unless the setting
//! `kafka_any_replication` says that it means one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::call::{Call, Hangup, NODE};
use super::super::errors::ErrorCode;
use super::super::messages::admin::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest,
    CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult, CreateTopicsRequest,
    CreateTopicsResponse, DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use super::super::wire::{Text, Uuid};
use super::topic_configs::{self, MAX_VALUE_BYTES, TOPIC_SETTINGS};
use super::{Failure, answer, configs, repeated};
use crate::broker::blocking::Share;
use crate::broker::engine::{Topic, TopicSpec};
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::catalog::{self, TopicConfig};
use crate::broker::topics::changes::Changes;

/// Stands for what the settings say.
const DEFAULT: i32 = -1;

/// The most topics that one request creates. Kafka's controller has a limit of its own, and the same code for it.
const MAX_TOPICS: usize = 4000;
/// What the answer takes in memory for each of them, in bytes.
const CREATED_BYTES: usize =
    size_of::<CreatableTopicResult>() + 40 * (size_of::<CreatableTopicConfigs>() + 128);

/// What a topic takes in [`PlainNames`], in bytes.
const PLAIN_BYTES: usize = 256;
/// Marks that names of metrics of topics do not tell apart.
const MARKS: [char; 2] = ['.', '_'];

/// For a topic that a request names more than once.
fn named_again() -> Failure {
    Failure::new(ErrorCode::InvalidRequest, "the topic is named more than once")
}

/// Creates topics, or says whether they could be.
pub(crate) async fn create_topics(
    call: &Call,
    request: CreateTopicsRequest,
) -> Result<CreateTopicsResponse, Hangup> {
    let again = repeated(request.topics.iter().map(|topic| topic.name.clone()));
    let is_too_many = request.topics.len() > MAX_TOPICS;
    let has_marks = request.topics.iter().any(|topic| topic.name.contains(MARKS));
    let compared = if has_marks {
        call.broker.log.topics().len()
    } else {
        0
    };
    call.reserve(request.topics.len().min(MAX_TOPICS) * CREATED_BYTES + compared * PLAIN_BYTES)
        .await?;
    let mut answered = HashSet::new();
    let mut plain_names = PlainNames::default();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        if is_too_many {
            let why = format!("one request creates at most {MAX_TOPICS} topics");
            let failure = Failure::new(ErrorCode::PolicyViolation, why);
            topics.push(not_created(call, topic.name, failure));
            continue;
        }
        if again.contains(&topic.name) {
            // One answer for all of them.
            if answered.insert(topic.name.clone()) {
                topics.push(not_created(call, topic.name, named_again()));
            }
            continue;
        }
        let created = create(call, &topic, &mut plain_names, request.validate_only).await;
        let answer = match created {
            Ok((spec, id)) => created_topic(call, topic.name, &spec, id),
            Err(why) => not_created(call, topic.name, why),
        };
        let resource = format!("topics/{}", &*answer.name);
        call.note_change_or_dry_run(request.validate_only, resource, answer.error_code);
        topics.push(answer);
    }
    Ok(CreateTopicsResponse {
        topics,
        ..CreateTopicsResponse::default()
    })
}

fn not_created(call: &Call, name: Text, failure: Failure) -> CreatableTopicResult {
    let (error_code, error_message) = failure.answer(call);
    CreatableTopicResult {
        name,
        error_code,
        error_message,
        ..CreatableTopicResult::default()
    }
}

/// The answer for a topic; what it has is shown to those who may look at it.
fn created_topic(call: &Call, name: Text, spec: &TopicSpec, id: Uuid) -> CreatableTopicResult {
    if !call.caller.sees_topic(&name) {
        return CreatableTopicResult {
            name,
            topic_id: id,
            topic_config_error_code: ErrorCode::TopicAuthorizationFailed.number(),
            ..CreatableTopicResult::default()
        };
    }
    let config = TopicConfig::of(spec);
    let row = |row: &topic_configs::TopicSetting| {
        let (value, is_set) = row.current(&config);
        CreatableTopicConfigs {
            name: row.name.into(),
            value: Some(value.into()),
            read_only: false,
            config_source: configs::source(is_set),
            is_sensitive: false,
        }
    };
    CreatableTopicResult {
        name,
        topic_id: id,
        num_partitions: spec.partitions as i32,
        replication_factor: 1,
        configs: Some(TOPIC_SETTINGS.iter().map(row).collect()),
        ..CreatableTopicResult::default()
    }
}

async fn create(
    call: &Call,
    wanted: &CreatableTopic,
    plain_names: &mut PlainNames,
    is_dry_run: bool,
) -> Result<(TopicSpec, Uuid), Failure> {
    let name = &*wanted.name;
    call.caller.check_topic(Right::Create, name)?;
    // Before anything else: whoever makes sure that a topic is there asks for it again.
    if call.broker.log.topic(name).is_some() {
        return Err(exists(name));
    }
    let mut changes = Changes {
        partitions: Some(partitions_of(call, wanted)?),
        ..Changes::default()
    };
    configure(wanted, &mut changes)?;
    let checked = call.broker.topics.may_create(&call.caller, name, &changes);
    let spec = checked.map_err(refused)?;
    plain_names.check(call, name)?;
    if is_dry_run {
        return Ok((spec, Uuid::ZERO));
    }
    let (topics, caller, wanted) = (call.broker.topics.clone(), call.caller.clone(), name.to_owned());
    let create = move || topics.create_with(&caller, &wanted, &changes);
    let created = call.broker.blocking.attempt(Share::Change, create).await;
    match created.map_err(refused)? {
        (topic, true) => {
            plain_names.add(topic.name());
            Ok((TopicSpec::clone(&topic.spec()), call.topic_id(&topic)))
        }
        // Somebody else has created the same meanwhile.
        (topic, false) => Err(exists(topic.name())),
    }
}

fn exists(name: &str) -> Failure {
    Failure::new(
        ErrorCode::TopicAlreadyExists,
        format!("the topic {name} already exists"),
    )
}

/// A refusal of the broker, with the code of what is wrong with the topic.
fn refused(refusal: Refusal) -> Failure {
    let code = match (refusal.reason, refusal.field.as_deref()) {
        (Reason::InvalidRequest, Some("topic")) => ErrorCode::InvalidTopic,
        (Reason::InvalidRequest, Some("/partitions")) => ErrorCode::InvalidPartitions,
        (Reason::InvalidRequest | Reason::NotSupported, Some(_)) => ErrorCode::InvalidConfig,
        _ => ErrorCode::from(&refusal),
    };
    Failure::new(code, refusal.detail)
}

/// How many partitions a new topic is to have.
fn partitions_of(call: &Call, wanted: &CreatableTopic) -> Result<u32, Failure> {
    if !wanted.assignments.is_empty() {
        if wanted.num_partitions != DEFAULT || i32::from(wanted.replication_factor) != DEFAULT {
            let why = "with an assignment, the numbers of partitions and of replicas are -1";
            return Err(Failure::new(ErrorCode::InvalidRequest, why));
        }
        let mut indexes: Vec<i32> = wanted.assignments.iter().map(|it| it.partition_index).collect();
        indexes.sort_unstable();
        let is_dense = indexes
            .iter()
            .enumerate()
            .all(|(place, index)| *index == place as i32);
        if !is_dense {
            let why = "an assignment names the partitions from 0 on, each once";
            return Err(Failure::new(ErrorCode::InvalidReplicaAssignment, why));
        }
        for assignment in &wanted.assignments {
            check_brokers(&assignment.broker_ids)?;
        }
        return Ok(indexes.len() as u32);
    }
    match i32::from(wanted.replication_factor) {
        DEFAULT | 1 => {}
        2.. if call.settings.any_replication => {}
        _ => {
            let why = "the replication factor is 1 on this server, which is one node; the setting \
                kafka_any_replication takes a larger one as 1";
            return Err(Failure::new(ErrorCode::InvalidReplicationFactor, why));
        }
    }
    match wanted.num_partitions {
        DEFAULT => Ok(call.settings.partitions),
        count => u32::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                let why = "the number of partitions is larger than 0, or -1 for the server's default";
                Failure::new(ErrorCode::InvalidPartitions, why)
            }),
    }
}

/// Checks the brokers of a partition.
fn check_brokers(brokers: &[i32]) -> Result<(), Failure> {
    match brokers == [NODE] {
        true => Ok(()),
        false => Err(Failure::new(
            ErrorCode::InvalidReplicaAssignment,
            "a partition has one replica, on the one node, which has the id 0",
        )),
    }
}

/// Adds the configuration of a new topic.
fn configure(wanted: &CreatableTopic, changes: &mut Changes) -> Result<(), Failure> {
    let invalid = |refusal: Refusal| Failure::new(ErrorCode::InvalidConfig, refusal.detail);
    for config in &wanted.configs {
        let row = topic_configs::find(&config.name).map_err(invalid)?;
        let Some(value) = &config.value else {
            let why = format!("null value not supported for topic configs: {}", row.name);
            return Err(Failure::new(ErrorCode::InvalidConfig, why));
        };
        if value.len() > MAX_VALUE_BYTES {
            let why = format!("a value is at most {MAX_VALUE_BYTES} bytes");
            return Err(Failure::new(ErrorCode::InvalidConfig, why));
        }
        row.set(value, changes).map_err(invalid)?;
    }
    Ok(())
}

/// The names of the topics that the caller sees, by how they read with `_` for each `.`; looked up once a request.
#[derive(Default)]
struct PlainNames(Option<HashMap<String, String>>);

impl PlainNames {
    /// Refuses a name that differs from another topic's in `.` and `_` alone: tools that make names of metrics of topics
    /// could not tell them apart.
    fn check(&mut self, call: &Call, name: &str) -> Result<(), Failure> {
        if !name.contains(MARKS) {
            return Ok(());
        }
        let names = self.0.get_or_insert_with(|| {
            let topics = call.broker.log.topics().into_iter();
            let seen = topics.filter(|topic| call.caller.sees_topic(topic.name()));
            seen.map(|topic| (plain(topic.name()), topic.name().to_owned()))
                .collect()
        });
        match names.get(&plain(name)) {
            Some(other) => {
                let why = format!("the topic {name} collides with the existing topic {other}");
                Err(Failure::new(ErrorCode::InvalidTopic, why))
            }
            None => Ok(()),
        }
    }

    /// Adds a topic that was created.
    fn add(&mut self, name: &str) {
        if let Some(names) = &mut self.0 {
            names.insert(plain(name), name.to_owned());
        }
    }
}

fn plain(name: &str) -> String {
    name.replace('.', "_")
}

/// Deletes topics.
pub(crate) async fn delete_topics(
    call: &Call,
    request: DeleteTopicsRequest,
) -> Result<DeleteTopicsResponse, Hangup> {
    let named = request.topic_names.into_iter().map(|name| DeleteTopicState {
        name: Some(name),
        topic_id: Uuid::ZERO,
    });
    let all: Vec<DeleteTopicState> = request.topics.into_iter().chain(named).collect();
    let again = repeated(all.iter().map(|topic| (topic.name.clone(), topic.topic_id)));
    let mut responses = Vec::with_capacity(all.len());
    for wanted in all {
        let is_again = again.contains(&(wanted.name.clone(), wanted.topic_id));
        let found = match is_again {
            true => Err(named_again()),
            false => find(call, &wanted),
        };
        let (name, topic_id) = match &found {
            Ok(topic) => (Some(topic.name().into()), call.topic_id(topic)),
            Err(_) => (wanted.name, wanted.topic_id),
        };
        let deleted = match found {
            Ok(topic) => delete(call, &topic).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        let (error_code, error_message) = answer(call, deleted);
        let shown = name.as_deref().map_or_else(
            || format!("topic id {topic_id:?}"),
            |name| format!("topics/{name}"),
        );
        call.note_change(shown, error_code);
        responses.push(DeletableTopicResult {
            name,
            topic_id,
            error_code,
            error_message,
        });
    }
    Ok(DeleteTopicsResponse {
        responses,
        ..DeleteTopicsResponse::default()
    })
}

/// The topic to delete, by its name or its id.
fn find(call: &Call, wanted: &DeleteTopicState) -> Result<Arc<Topic>, Failure> {
    match (&wanted.name, wanted.topic_id == Uuid::ZERO) {
        (Some(name), true) => Ok(call.topic(Right::Delete, name)?),
        (None, false) => {
            let found = call.topic_by_id(Right::Delete, wanted.topic_id);
            found.map_err(|code| Failure::new(code, ""))
        }
        _ => Err(Failure::new(
            ErrorCode::InvalidRequest,
            "a topic has a name or an id, one of both",
        )),
    }
}

async fn delete(call: &Call, topic: &Topic) -> Result<(), Refusal> {
    // Not one that has the name by then.
    let id = catalog::public_id(&call.broker.log, topic.id());
    let (topics, caller, name) = (
        call.broker.topics.clone(),
        call.caller.clone(),
        topic.name().to_owned(),
    );
    let delete = move || topics.delete(&caller, &name, Some(&id));
    call.broker.blocking.attempt(Share::Change, delete).await
}

/// Gives topics more partitions, or says whether they could get them.
pub(crate) async fn create_partitions(
    call: &Call,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, Hangup> {
    let again = repeated(request.topics.iter().map(|topic| topic.name.clone()));
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let raised = match again.contains(&topic.name) {
            true => Err(named_again()),
            false => raise(call, &topic, request.validate_only).await,
        };
        let (error_code, error_message) = answer(call, raised);
        let resource = format!("topics/{}", &*topic.name);
        call.note_change_or_dry_run(request.validate_only, resource, error_code);
        results.push(CreatePartitionsTopicResult {
            name: topic.name,
            error_code,
            error_message,
        });
    }
    Ok(CreatePartitionsResponse {
        results,
        ..CreatePartitionsResponse::default()
    })
}

async fn raise(call: &Call, wanted: &CreatePartitionsTopic, is_dry_run: bool) -> Result<(), Failure> {
    let topic = call.topic(Right::Configure, &wanted.name)?;
    let before = topic.partition_count();
    let count = u32::try_from(wanted.count).ok().filter(|count| *count > before);
    let count = count.ok_or_else(|| {
        let why = format!("the topic has {before} partitions already");
        Failure::new(ErrorCode::InvalidPartitions, why)
    })?;
    if let Some(assignments) = &wanted.assignments {
        if assignments.len() != (count - before) as usize {
            let why = format!(
                "an assignment has a row for each of the {} new partitions",
                count - before
            );
            return Err(Failure::new(ErrorCode::InvalidReplicaAssignment, why));
        }
        for assignment in assignments {
            check_brokers(&assignment.broker_ids)?;
        }
    }
    let (topics, caller, name) = (
        call.broker.topics.clone(),
        call.caller.clone(),
        topic.name().to_owned(),
    );
    let alter = move || match is_dry_run {
        true => topics.may_alter(&caller, &name, Some(count), &[], None).map(drop),
        false => topics.alter(&caller, &name, Some(count), &[], None).map(drop),
    };
    let altered = call.broker.blocking.attempt(Share::Change, alter).await;
    altered.map_err(refused)
}
