//! The settings of a group in requests and answers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::broker::filter::Filter;
use crate::broker::groups::shared::settings::{GroupValue, Order};
use crate::broker::refusal::Refusal;
use crate::http::problem::Problem;

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

/// The settings of a group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SettingsBody {
    /// The settings that only shared groups have.
    #[serde(flatten)]
    queue: Option<QueueSettingsBody>,
    /// The records that the group gets; null: all.
    filter: Option<FilterBody>,
}

/// The settings that only shared groups have.
#[derive(Debug, Serialize, ToSchema)]
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

impl From<&GroupValue> for SettingsBody {
    fn from(value: &GroupValue) -> Self {
        let queue = match value {
            GroupValue::Ordered(_) => None,
            GroupValue::Shared(settings) => Some(QueueSettingsBody {
                lease_ms: settings.lease_ms,
                max_deliveries: settings.max_deliveries,
                dead_letter_topic: settings.dead_letter_topic.clone(),
                order: settings.order.name(),
            }),
        };
        Self {
            queue,
            filter: FilterBody::of(value.filter()),
        }
    }
}
