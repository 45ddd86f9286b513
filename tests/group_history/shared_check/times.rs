//! Records that are for later are not given early.

use super::fates::Fates;
use super::letters::header;
use super::{End, ROUNDING_MS};

/// A record with `deliver_at` is not given before that time, and one that was released with a delay not before it is over.
pub fn never_early(fates: &Fates, end: &End, wrong: &mut Vec<String>) {
    for (place, fate) in &fates.by_place {
        let record = end.stored.get(&place.first());
        let at = record.and_then(|record| header(record, "deliver_at")?.parse::<i64>().ok());
        let early = |due: i64| {
            fate.given
                .iter()
                .filter(move |given| given.wall_ms + ROUNDING_MS < due)
        };
        for given in at.into_iter().flat_map(early) {
            wrong.push(format!("{place:?} is for {at:?} and was given before: {given:?}"));
        }
    }
    for released in &fates.released {
        let touches = fates.touches.get(&released.place).into_iter().flatten();
        let others: Vec<_> = touches.filter(|touch| touch.sent != released.sent).collect();
        let rounds = fates.by_place.range(released.place.clone()..);
        let rounds = rounds.take_while(|(place, _)| place.first() == released.place);
        for given in rounds.flat_map(|(_, fate)| &fate.given) {
            let is_early = given.sent > released.answered && given.wall_ms + ROUNDING_MS < released.due_ms;
            // Somebody may have released it anew, or leased it on.
            let is_unsure = others.iter().any(|touch| {
                touch.sent < given.at && touch.answered.is_none_or(|answered| answered > released.sent)
            });
            if is_early && !is_unsure {
                let place = &released.place;
                wrong.push(format!(
                    "{place:?} was released until {} and given before: {given:?}",
                    released.due_ms
                ));
            }
        }
    }
}
