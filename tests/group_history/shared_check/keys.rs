//! A queue by key gives a key's next record only when the one before it is settled.

use std::collections::BTreeMap;

use super::End;
use super::fates::Fates;
use super::letters::{Letter, header, is_exhausted};
use crate::check::Lane;
use crate::world::Place;

/// In each partition, a record is given when those of its key before it are settled. Redriven records come out of order,
/// and records that wait for their `deliver_at` hold up nobody.
pub fn one_after_the_other(
    fates: &Fates,
    dead: &BTreeMap<Place, Letter>,
    end: &End,
    wrong: &mut Vec<String>,
) {
    let mut lines: BTreeMap<(Lane, &str), Vec<&Place>> = BTreeMap::new();
    for (place, record) in end.stored.iter().filter(|(_, record)| end.is_wanted(record)) {
        lines.entry((place.lane(), &record.key)).or_default().push(place);
    }
    let is_later = |place: &Place| header(&end.stored[place], "deliver_at").is_some();
    for line in lines.values() {
        for (i, place) in line.iter().enumerate() {
            let Some(fate) = fates.by_place.get(*place) else {
                continue;
            };
            let Some(first) = fate.given.iter().min_by_key(|given| given.at) else {
                continue;
            };
            for before in line[..i].iter().filter(|before| !is_later(before)) {
                let earlier = fates.by_place.get(*before);
                let may_be_settled = is_exhausted(dead, before)
                    || earlier.is_some_and(|earlier| earlier.may_be_settled(first.at));
                if !may_be_settled {
                    wrong.push(format!(
                        "{place:?} was given before {before:?} was settled: {first:?}"
                    ));
                }
                let given = earlier.iter().flat_map(|earlier| &earlier.given);
                let again = given
                    .into_iter()
                    .find(|given| given.sent > first.at || given.at == first.at);
                if let Some(again) = again {
                    wrong.push(format!(
                        "{before:?} was given after {place:?}: {again:?}, {first:?}"
                    ));
                }
            }
        }
    }
}
