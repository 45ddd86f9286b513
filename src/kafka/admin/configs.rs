//! APIs 32, 33, 44 and 74: configurations are described, replaced, changed key by key, and listed.
//!
//! Topics have the configurations of [`topic_configs`], the node those of
//! [`node_configs`], which are read-only: they are settings of the server. Loggers, metrics of clients
//! and groups have none over this protocol.

use std::sync::Arc;

use super::super::call::{Call, Hangup, MAX_ANSWER_BYTES, NODE};
use super::super::errors::ErrorCode;
use super::super::messages::cluster::{
    ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};
use super::super::messages::configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResource, IncrementalAlterConfigsResponse,
};
use super::super::wire::Text;
use super::topic_configs::{self, MAX_VALUE_BYTES, TOPIC_SETTINGS, TopicSetting, Type};
use super::{Failure, answer, node_configs, repeated};
use crate::broker::blocking::Share;
use crate::broker::engine::Topic;
use crate::broker::refusal::{Reason, Refusal};
use crate::broker::rights::Right;
use crate::broker::topics::catalog::TopicConfig;
use crate::broker::topics::changes::Changes;

/// Kinds of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Sources of values.
const OF_TOPIC: i8 = 1;
pub(crate) const OF_SETTINGS: i8 = 4;
pub(crate) const DEFAULT: i8 = 5;

/// Operations of API 44.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Where the value of a topic comes from.
pub(crate) fn source(is_set: bool) -> i8 {
    if is_set { OF_TOPIC } else { DEFAULT }
}

/// Describes configurations.
pub(crate) async fn describe_configs(
    call: &Call,
    request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, Hangup> {
    let shows = Shows {
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
    };
    let mut bytes = 0;
    let costs = |resource: &DescribeConfigsResource| {
        bytes += cost(resource, shows);
        bytes
    };
    // Of each resource what the answer takes with it.
    let costs: Vec<usize> = request.resources.iter().map(costs).collect();
    call.reserve(bytes.min(MAX_ANSWER_BYTES)).await?;
    let result = |(resource, bytes): (DescribeConfigsResource, usize)| {
        let described = match bytes > MAX_ANSWER_BYTES {
            true => Err(Failure::new(
                ErrorCode::InvalidRequest,
                "the answer has no room for this resource: ask for fewer at once",
            )),
            false => describe(call, &resource, shows),
        };
        let (configs, failure) = match described {
            Ok(configs) => (configs, Ok(())),
            Err(failure) => (Vec::new(), Err(failure)),
        };
        let (error_code, error_message) = answer(call, failure);
        DescribeConfigsResult {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs,
        }
    };
    Ok(DescribeConfigsResponse {
        results: request.resources.into_iter().zip(costs).map(result).collect(),
        ..DescribeConfigsResponse::default()
    })
}

/// About what the description of a resource takes in memory while it is made, in bytes.
fn cost(asked: &DescribeConfigsResource, shows: Shows) -> usize {
    const ROW_BYTES: usize = size_of::<DescribeConfigsResourceResult>() + 64;
    const SYNONYMS_BYTES: usize = 2 * (size_of::<DescribeConfigsSynonym>() + 64);
    const DOCUMENTATION_BYTES: usize = 384;
    let names = asked.configuration_keys.as_ref().map_or(0, Vec::len);
    let rows = match names {
        0 => TOPIC_SETTINGS.len() * 2,
        names => names.min(TOPIC_SETTINGS.len() * 2),
    };
    let synonyms = if shows.synonyms { SYNONYMS_BYTES } else { 0 };
    let documentation = if shows.documentation {
        DOCUMENTATION_BYTES
    } else {
        0
    };
    let rows = if asked.resource_type == BROKER {
        rows
    } else {
        rows.min(TOPIC_SETTINGS.len())
    };
    size_of::<DescribeConfigsResult>() + rows * (ROW_BYTES + synonyms + documentation)
}

/// What is shown beside values.
#[derive(Clone, Copy, Debug)]
struct Shows {
    synonyms: bool,
    documentation: bool,
}

fn describe(
    call: &Call,
    asked: &DescribeConfigsResource,
    shows: Shows,
) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    // No names stand for all, like null.
    let names = asked
        .configuration_keys
        .as_ref()
        .filter(|names| !names.is_empty());
    let is_wanted = |name: &str| names.is_none_or(|names| names.iter().any(|wanted| **wanted == *name));
    match asked.resource_type {
        TOPIC => {
            let topic = find_topic(call, Right::Describe, &asked.resource_name)?;
            let config = TopicConfig::of(&topic.spec());
            let rows = TOPIC_SETTINGS.iter().filter(|row| is_wanted(row.name));
            Ok(rows.map(|row| of_topic(row, &config, shows)).collect())
        }
        // An empty name stands for what is set for all brokers together: nothing.
        BROKER if asked.resource_name.is_empty() => Ok(Vec::new()),
        BROKER => {
            check_node(&asked.resource_name)?;
            let rows = node_configs::of(call)
                .into_iter()
                .filter(|row| is_wanted(row.name));
            Ok(rows.map(|row| of_node(row, shows)).collect())
        }
        BROKER_LOGGER => check_node(&asked.resource_name).map(|()| Vec::new()),
        CLIENT_METRICS | GROUP => Ok(Vec::new()),
        _ => Err(unknown_kind(asked.resource_type)),
    }
}

fn of_topic(row: &TopicSetting, config: &TopicConfig, shows: Shows) -> DescribeConfigsResourceResult {
    let (value, is_set) = row.current(config);
    let mut synonyms = Vec::new();
    if shows.synonyms && is_set {
        synonyms.push(synonym(row.name, &value, OF_TOPIC));
    }
    if shows.synonyms && !row.of_broker.is_empty() {
        synonyms.push(synonym(row.of_broker, &row.default(), DEFAULT));
    }
    DescribeConfigsResourceResult {
        name: row.name.into(),
        value: Some(value.into()),
        read_only: false,
        config_source: source(is_set),
        is_sensitive: false,
        synonyms,
        config_type: row.kind as i8,
        documentation: shows.documentation.then(|| row.about().into()),
    }
}

fn of_node(row: node_configs::NodeConfig, shows: Shows) -> DescribeConfigsResourceResult {
    let synonyms = match &row.value {
        Some(value) if shows.synonyms => vec![synonym(row.name, value, row.source)],
        _ => Vec::new(),
    };
    DescribeConfigsResourceResult {
        name: row.name.into(),
        value: row.value.map(Text::from),
        read_only: true,
        config_source: row.source,
        is_sensitive: false,
        synonyms,
        config_type: row.kind as i8,
        documentation: shows.documentation.then(|| row.about.into()),
    }
}

fn synonym(name: &str, value: &str, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym {
        name: name.into(),
        value: Some(value.into()),
        source,
    }
}

/// The topic of that name; one that no topic can have is told apart, as Kafka does it.
fn find_topic(call: &Call, right: Right, name: &str) -> Result<Arc<Topic>, Failure> {
    call.topic(right, name)
        .map_err(|refusal| Failure::new(ErrorCode::of_topic(&refusal, name), refusal.detail))
}

fn check_node(name: &str) -> Result<(), Failure> {
    match name.parse() == Ok(NODE) {
        true => Ok(()),
        false => {
            let why = "the one node has the id 0";
            Err(Failure::new(ErrorCode::InvalidRequest, why))
        }
    }
}

fn unknown_kind(kind: i8) -> Failure {
    let why = format!("there are no configurations of the type {kind}");
    Failure::new(ErrorCode::InvalidRequest, why)
}

/// What an alteration asks for: of a configuration the operation and its value.
struct Alteration {
    name: Text,
    operation: i8,
    value: Option<Text>,
}

/// Sets configurations, and restores the defaults of all others.
pub(crate) async fn alter_configs(
    call: &Call,
    request: AlterConfigsRequest,
) -> Result<AlterConfigsResponse, Hangup> {
    let again = repeated(request.resources.iter().map(key_of));
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let is_again = again.contains(&key_of(&resource));
        let alterations = resource.configs.into_iter().map(|config| Alteration {
            name: config.name,
            operation: SET,
            value: config.value,
        });
        let target = (resource.resource_type, resource.resource_name);
        let how = (true, request.validate_only);
        responses.push(alter(call, target, alterations.collect(), how, is_again).await);
    }
    Ok(AlterConfigsResponse {
        responses,
        ..AlterConfigsResponse::default()
    })
}

/// Changes single configurations.
pub(crate) async fn incremental_alter_configs(
    call: &Call,
    request: IncrementalAlterConfigsRequest,
) -> Result<IncrementalAlterConfigsResponse, Hangup> {
    let key_of =
        |resource: &IncrementalAlterConfigsResource| (resource.resource_type, resource.resource_name.clone());
    let again = repeated(request.resources.iter().map(key_of));
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let target = key_of(&resource);
        let is_again = again.contains(&target);
        let alterations = resource.configs.into_iter().map(|config| Alteration {
            name: config.name,
            operation: config.config_operation,
            value: config.value,
        });
        let how = (false, request.validate_only);
        responses.push(alter(call, target, alterations.collect(), how, is_again).await);
    }
    Ok(IncrementalAlterConfigsResponse {
        responses,
        ..IncrementalAlterConfigsResponse::default()
    })
}

fn key_of(resource: &AlterConfigsResource) -> (i8, Text) {
    (resource.resource_type, resource.resource_name.clone())
}

/// Alters a resource, or says whether it could be; `replaces`: all that is not named gets its default.
async fn alter(
    call: &Call,
    (resource_type, resource_name): (i8, Text),
    alterations: Vec<Alteration>,
    (replaces, is_dry_run): (bool, bool),
    is_again: bool,
) -> AlterConfigsResourceResponse {
    let altered = match resource_type {
        _ if is_again => Err(Failure::new(
            ErrorCode::InvalidRequest,
            "the resource is named more than once",
        )),
        TOPIC => alter_topic(call, &resource_name, alterations, (replaces, is_dry_run)).await,
        BROKER | BROKER_LOGGER | CLIENT_METRICS | GROUP => Err(Failure::new(
            ErrorCode::InvalidRequest,
            "over this protocol only configurations of topics can be changed: the node has settings of the server",
        )),
        other => Err(unknown_kind(other)),
    };
    let (error_code, error_message) = answer(call, altered);
    let kind = if resource_type == TOPIC {
        "topics"
    } else {
        "configurations"
    };
    call.note_change_or_dry_run(is_dry_run, format!("{kind}/{}", &*resource_name), error_code);
    AlterConfigsResourceResponse {
        error_code,
        error_message,
        resource_type,
        resource_name,
    }
}

async fn alter_topic(
    call: &Call,
    name: &Text,
    alterations: Vec<Alteration>,
    (replaces, is_dry_run): (bool, bool),
) -> Result<(), Failure> {
    find_topic(call, Right::Configure, name)?;
    check_form(&alterations)?;
    let (topics, caller, name) = (call.broker.topics.clone(), call.caller.clone(), name.to_string());
    let changes = move |current: &TopicConfig| changes_of(current, &alterations, replaces);
    let alter = move || match is_dry_run {
        true => topics.may_alter_by(&caller, &name, None, changes).map(drop),
        false => topics.alter_by(&caller, &name, None, changes).map(drop),
    };
    let altered = call.broker.blocking.attempt(Share::Change, alter).await;
    altered.map_err(|refusal| match refusal.reason {
        Reason::InvalidRequest | Reason::NotSupported => {
            Failure::new(ErrorCode::InvalidConfig, refusal.detail)
        }
        _ => refusal.into(),
    })
}

/// Refuses what no configuration may be asked to become.
fn check_form(alterations: &[Alteration]) -> Result<(), Failure> {
    let invalid = |why: String| Err(Failure::new(ErrorCode::InvalidRequest, why));
    if let Some(name) = repeated(alterations.iter().map(|config| &*config.name))
        .into_iter()
        .next()
    {
        let shown: String = name.chars().take(250).collect();
        return invalid(format!("{shown} is named more than once"));
    }
    for config in alterations {
        if !(SET..=SUBTRACT).contains(&config.operation) {
            return invalid(format!("{} is no operation on a configuration", config.operation));
        }
        if config
            .value
            .as_ref()
            .is_some_and(|value| value.len() > MAX_VALUE_BYTES)
        {
            return invalid(format!("a value is at most {MAX_VALUE_BYTES} bytes"));
        }
        if config.value.is_none() && config.operation != DELETE {
            let shown: String = config.name.chars().take(250).collect();
            return invalid(format!("null value not supported for: {shown}"));
        }
    }
    Ok(())
}

/// What alterations change in a topic that has the configuration `current`.
fn changes_of(current: &TopicConfig, alterations: &[Alteration], replaces: bool) -> Result<Changes, Refusal> {
    let mut changes = Changes::default();
    if replaces {
        let is_named = |row: &TopicSetting| alterations.iter().any(|config| *config.name == *row.name);
        let others = TOPIC_SETTINGS.iter().filter(|row| !is_named(row));
        others.for_each(|row| row.reset(&mut changes));
    }
    for config in alterations {
        let row = topic_configs::find(&config.name)?;
        let value = config.value.as_deref().unwrap_or_default();
        match config.operation {
            SET => row.set(value, &mut changes)?,
            DELETE => row.reset(&mut changes),
            _ if row.kind != Type::List => {
                let detail = format!("{} is no list: nothing is appended or subtracted", row.name);
                return Err(Refusal::invalid(row.name, detail));
            }
            operation => {
                let (before, _) = row.current(current);
                row.set(&combined(&before, value, operation == APPEND), &mut changes)?;
            }
        }
    }
    Ok(changes)
}

/// A list with words appended to it, or without them.
fn combined(list: &str, words: &str, appends: bool) -> String {
    let split = |text: &str| -> Vec<String> {
        let words = text.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    let (mut list, words) = (split(list), split(words));
    match appends {
        true => {
            for word in words {
                if !list.contains(&word) {
                    list.push(word);
                }
            }
        }
        false => list.retain(|word| !words.contains(word)),
    }
    list.join(",")
}

/// What a listed resource takes in memory, in bytes.
const RESOURCE_BYTES: usize = 512;

/// Lists what has a configuration: the topics that the caller may look at, and the node.
pub(crate) async fn list_config_resources(
    call: &Call,
    request: ListConfigResourcesRequest,
) -> Result<ListConfigResourcesResponse, Hangup> {
    const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let kinds = match (call.version, request.resource_types.is_empty()) {
        (0, _) => &[CLIENT_METRICS][..],
        (_, true) => &ALL,
        (_, false) => &request.resource_types,
    };
    if kinds.iter().any(|kind| !ALL.contains(kind)) {
        return Ok(ListConfigResourcesResponse {
            error_code: call.failed(ErrorCode::UnsupportedVersion),
            ..ListConfigResourcesResponse::default()
        });
    }
    let mut config_resources = Vec::new();
    let mut add = |resource_name: Text, resource_type| {
        config_resources.push(ConfigResource {
            resource_name,
            resource_type,
        });
    };
    let topics = match kinds.contains(&TOPIC) {
        true => call.broker.log.topics(),
        false => Vec::new(),
    };
    call.reserve(topics.len() * RESOURCE_BYTES).await?;
    for kind in ALL.into_iter().filter(|kind| kinds.contains(kind)) {
        match kind {
            TOPIC => {
                let topics = topics.iter();
                let seen = topics.filter(|topic| call.caller.sees_topic(topic.name()));
                seen.for_each(|topic| add(topic.name().into(), TOPIC));
            }
            BROKER | BROKER_LOGGER => add(NODE.to_string().into(), kind),
            _ => {}
        }
    }
    Ok(ListConfigResourcesResponse {
        config_resources,
        ..ListConfigResourcesResponse::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_appended_once_and_subtracted() {
        assert_eq!(combined("delete", "compact", true), "delete,compact");
        assert_eq!(combined("delete", "delete, compact", true), "delete,compact");
        assert_eq!(combined("compact,delete", "delete", false), "compact");
        assert_eq!(combined("compact", "compact", false), "");
        assert_eq!(combined("", "a", true), "a");
    }
}
