//! `produce` in a poll, a commit and a settle: records that came of what the call acknowledges.

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::work::PlaceBody;
use crate::broker::blocking::Share;
use crate::broker::caller::Caller;
use crate::broker::groups::outputs::{Held, Outputs, Produced};
use crate::broker::groups::repeats::MAX_OUTPUTS;
use crate::broker::produce::whole::Attempt;
use crate::broker::produce::{Options, Producer};
use crate::broker::refusal::{Reason, Refusal};
use crate::formats::json::{RecordError, parse_addressed_list};
use crate::http::app::App;
use crate::http::problem::Problem;

/// Lists up to this size are placed on the worker that received them. Larger ones go to a blocking thread.
const INLINE_BYTES: usize = 256 << 10;

/// The most topics to which the records of a call go.
const MAX_TOPICS: usize = 1000;

/// What came of the outputs of a call; both fields are left out if it has no `produce`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProducedBody {
    /// Where the records of `produce` are, in its order.
    #[serde(skip_serializing_if = "Option::is_none")]
    produced: Option<Vec<PlaceBody>>,
    /// `true` if an earlier call that acknowledged the same has stored them: `produced` is of that call.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

impl From<Option<Produced>> for ProducedBody {
    fn from(produced: Option<Produced>) -> Self {
        let is_replayed = produced.as_ref().is_some_and(|produced| produced.is_replayed);
        let rows = |produced: &Produced| produced.rows.iter().map(PlaceBody::from).collect();
        Self {
            produced: produced.as_ref().map(rows),
            replayed: is_replayed.then_some(true),
        }
    }
}

/// Reads and places the records of `produce`, whose body has a share of the memory for bodies.
///
/// # Errors
/// It is no array of records. Records that are refused for another reason are refused later, because a repeated call is
/// answered as the first time.
pub(super) async fn outputs_of(
    app: &App,
    caller: &Caller,
    produce: Option<Box<RawValue>>,
    held: Option<OwnedSemaphorePermit>,
) -> Result<Option<Outputs>, Problem> {
    let Some(list) = produce else { return Ok(None) };
    let mut outputs = if list.get().len() <= INLINE_BYTES {
        place(&app.producer, caller, list.get())?
    } else {
        let (producer, caller) = (app.producer.clone(), caller.clone());
        let place = move || place(&producer, &caller, list.get());
        app.blocking.run(Share::Parse, place).await??
    };
    outputs.held = held.map(|held| Box::new(held) as Held);
    Ok(Some(outputs))
}

fn place(producer: &Producer, caller: &Caller, list: &str) -> Result<Outputs, Refusal> {
    let attempt = Attempt {
        options: Options {
            ack: None,
            expected_offset: None,
            repartition: false,
        },
        now: producer.now(),
        firsts: None,
    };
    let mut addressed = producer.addressed(caller, "/produce", &attempt, Vec::new());
    let (mut refused, mut forbidden) = (None, None);
    let count = parse_addressed_list(list, "/produce", |index, record| {
        // A repeated call needs the right too.
        if let Err(refusal) = addressed.check(&record.topic) {
            forbidden.get_or_insert(refusal.at(format!("/produce/{index}/topic")));
            return Ok(());
        }
        if index >= MAX_OUTPUTS {
            let detail = format!("produce has at most {MAX_OUTPUTS} records");
            refused.get_or_insert(Refusal::new(Reason::RequestTooLarge, detail).at("/produce"));
        } else if refused.is_none() {
            refused = addressed.add(index, &record.topic, &record.record).err();
        }
        if addressed.topics() > MAX_TOPICS {
            let detail = format!("produce goes to at most {MAX_TOPICS} topics");
            refused.get_or_insert(Refusal::new(Reason::RequestTooLarge, detail).at("/produce"));
        }
        Ok::<(), RecordError>(())
    })?;
    if let Some(forbidden) = forbidden {
        return Err(forbidden);
    }
    Ok(Outputs {
        count,
        held: None,
        placed: match refused {
            Some(refusal) => Err(refusal),
            None => Ok(addressed.placed()),
        },
    })
}
