//! The settings of a group in requests and answers, and `PATCH /v1/groups/{group}`, which changes them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{GroupBody, described};
use crate::broker::caller::Caller;
use crate::broker::filter::Filter;
use crate::broker::groups::alter::Alteration;
use crate::broker::groups::shared::settings::{GroupValue, Order, Settings};
use crate::broker::refusal::Refusal;
use crate::http::app::App;
use crate::http::body::JsonBody;
use crate::http::openapi::shapes;
use crate::http::path::{GroupName, NoQuery};
use crate::http::problem::Problem;
use crate::http::{Answer, ok};

/// The fields of a filter, each with its patterns. No field is given twice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilterBody(BTreeMap<String, Vec<String>>);

impl FilterBody {
    /// The filter of an answer; `None` if the group gets all records.
    fn of(filter: &Filter) -> Option<Self> {
        (!filter.is_open()).then(|| Self(filter.fields()))
    }

    /// The filter that a request asks for.
    ///
    /// # Errors
    /// 400 with a pointer below `/filter`.
    pub(super) fn parse(&self) -> Result<Arc<Filter>, Problem> {
        let refused = |refusal: Refusal| {
            let below = refusal.field.clone().unwrap_or_default();
            refusal.at(format!("/filter{below}"))
        };
        Ok(Filter::from_fields(&self.0).map(Arc::new).map_err(refused)?)
    }
}

impl<'de> Deserialize<'de> for FilterBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = FilterBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FilterBody, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((field, patterns)) = map.next_entry::<String, Vec<String>>()? {
                    if fields.contains_key(&field) {
                        return Err(A::Error::custom(format!("duplicate field `{field}`")));
                    }
                    fields.insert(field, patterns);
                }
                Ok(FilterBody(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads `order`.
///
/// # Errors
/// 400 for anything but `key`.
pub(super) fn order_of(text: &str) -> Result<Order, Problem> {
    match text {
        "key" => Ok(Order::Key),
        _ => Err(Problem::invalid("/order", "order is key, or null for none")),
    }
}

/// The settings to change. What is left out stays; null is the default.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AlterationBody {
    /// Shared groups: how long new leases last, in milliseconds: default 30000; from 100 to 43200000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 100, maximum = 43_200_000)]
    lease_ms: Option<Option<u32>>,
    /// Shared groups: unsettled deliveries before a record becomes a dead letter: default 5; from 1 to 1000.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    max_deliveries: Option<Option<u32>>,
    /// Shared groups: the topic of dead letters, none that the group reads; by default `{topic}.dlq`. Earlier dead
    /// letters stay where they are.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    dead_letter_topic: Option<Option<String>>,
    /// Shared groups: `key`, or null for no order. Only while the group has no members.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, pattern = "^(key)$")]
    order: Option<Option<String>>,
    /// The records that the group gets, as in a join; null: all. Records that were passed over before stay passed over.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<shapes::GroupFilter>)]
    filter: Option<Option<FilterBody>>,
}

/// Reads a field that is given; null is given too.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes a group's settings
///
/// They are durable when this is answered, and hold for the present members too: for new leases, for later deliveries
/// and for the records that polls look at from then on. The answer describes the group.
#[utoipa::path(patch, path = "/v1/groups/{group}", tag = "groups", request_body = AlterationBody,
    responses((status = 200, description = "The group with its settings", body = GroupBody),
        (status = 404, description = "`unknown-group`"),
        (status = 409, description = "`group-type-mismatch`: a setting of shared groups for an ordered one; `group-active`: another `order`, and the group has members")))]
pub(super) async fn alter_group(
    app: App,
    caller: Caller,
    _: NoQuery,
    GroupName(group): GroupName,
    JsonBody(body): JsonBody<AlterationBody>,
) -> Answer {
    let default = Settings::default();
    let filter = |given: Option<FilterBody>| given.map_or(Ok(Arc::default()), |given| given.parse());
    let order = |given: Option<String>| given.map_or(Ok(Order::None), |given| order_of(&given));
    let alteration = Alteration {
        lease_ms: body.lease_ms.map(|given| given.unwrap_or(default.lease_ms)),
        max_deliveries: body
            .max_deliveries
            .map(|given| given.unwrap_or(default.max_deliveries)),
        dead_letter_topic: body.dead_letter_topic,
        order: body.order.map(order).transpose()?,
        filter: body.filter.map(filter).transpose()?,
    };
    app.groups.alter(&caller, &group, &alteration).await?;
    ok(&described(&app, &caller, group).await?)
}

/// The settings of a group.
#[derive(Debug, Serialize)]
pub(super) struct SettingsBody {
    /// The settings that only shared groups have.
    #[serde(flatten)]
    queue: Option<QueueSettingsBody>,
    /// The records that the group gets; null: all.
    filter: Option<FilterBody>,
}

/// The settings of a group, as the document shows them.
#[derive(ToSchema)]
#[schema(as = GroupSettings)]
#[expect(dead_code, reason = "describes the answers in the OpenAPI document")]
pub(super) struct SettingsDoc {
    /// Shared groups: how long a record is leased, in milliseconds.
    #[schema(nullable = false)]
    lease_ms: Option<u32>,
    /// Shared groups: how often a record is delivered without being settled before it becomes a dead letter.
    #[schema(nullable = false)]
    max_deliveries: Option<u32>,
    /// Shared groups: the topic of dead letters; null: `{topic}.dlq`.
    dead_letter_topic: Option<String>,
    /// Shared groups: `key`: within a partition a key's next record is leased only when the one before it is settled;
    /// null: no order.
    #[schema(pattern = "^(key)$")]
    order: Option<String>,
    /// The records that the group gets; null: all.
    #[schema(required = true)]
    filter: Option<FilterBody>,
}

/// The settings that only shared groups have.
#[derive(Debug, Serialize)]
struct QueueSettingsBody {
    /// How long a record is leased, in milliseconds.
    lease_ms: u32,
    /// How often a record is delivered without being settled before it becomes a dead letter.
    max_deliveries: u32,
    /// The topic of dead letters; null: `{topic}.dlq`.
    dead_letter_topic: Option<String>,
    /// `key`: within a partition a key's next record is leased only when the one before it is settled; null: no order.
    order: Option<&'static str>,
}

impl SettingsBody {
    /// The settings, without the name of a topic that the caller may not describe.
    pub(super) fn of(caller: &Caller, value: &GroupValue) -> Self {
        let queue = match value {
            GroupValue::Ordered(_) => None,
            GroupValue::Shared(settings) => Some(QueueSettingsBody {
                lease_ms: settings.lease_ms,
                max_deliveries: settings.max_deliveries,
                dead_letter_topic: settings
                    .dead_letter_topic
                    .clone()
                    .filter(|topic| caller.sees_topic(topic)),
                order: settings.order.name(),
            }),
        };
        Self {
            queue,
            filter: FilterBody::of(value.filter()),
        }
    }
}
