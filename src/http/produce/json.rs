//! `application/json`: a list of records, appended in one append.

use super::body::Incoming;
use super::{Listed, TopicCall, whole};
use crate::broker::produce::whole::{Attempt, Placed};
use crate::broker::refusal::Refusal;
use crate::formats::json::{parse_records, without_mark};
use crate::http::Answer;

pub(super) async fn produce(call: &TopicCall<'_>, body: &mut Incoming<'_>) -> Answer {
    let (params, options) = call.params(&["ack", "expected_offset", "repartition"])?;
    let key = call.key(&params, None)?;
    whole::produce(call, options, key, body, |_| Ok(None), place).await
}

fn place(call: &TopicCall<'_>, attempt: &Attempt, body: &[u8]) -> Result<Placed, Refusal> {
    let mut listed = Listed::new(call, attempt, "/partition");
    parse_records(without_mark(body), |index, record| {
        listed.add(&record, || format!("/records/{index}"))
    })?;
    Ok(listed.placed())
}
