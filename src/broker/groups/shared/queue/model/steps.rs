//! What happens in a random history.

use super::*;

/// A step. Numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Append(u64),
    Acquire {
        member: u64,
        max: usize,
        room: usize,
    },
    GiveBack {
        poll: usize,
        from: usize,
        is_put_off: bool,
    },
    Accept {
        member: u64,
        from: u64,
        count: u64,
    },
    Ack {
        poll: usize,
    },
    Release {
        member: u64,
        offset: u64,
        delay: Option<i64>,
        counts: bool,
    },
    Extend {
        member: u64,
        offset: u64,
    },
    ExtendAll(u64),
    Leave(u64),
    Bury(usize),
    Advance(u64),
    Trim(u64),
    Skip {
        from: u64,
        count: u64,
    },
    BeginWrite(usize),
    EndWrite {
        is_durable: bool,
    },
    Undo(usize),
    SplitOff {
        change: usize,
        from: usize,
    },
    Crash {
        has_written: bool,
    },
    MaxDeliveries(u32),
    Redrive(u64),
    ForgetLetter(u64),
    Look {
        count: u64,
        shift: i64,
        room: usize,
    },
    Alter(Rules),
}

pub(super) fn rules() -> impl Strategy<Value = Rules> {
    let tag = prop_oneof![1 => Just(None), 1 => (0..2_u8).prop_map(Some)];
    (any::<bool>(), tag).prop_map(|(by_key, tag)| Rules { by_key, tag })
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let member = 0..3_u64;
    prop_oneof![
        6 => (0..60_u64, prop_oneof![6 => Just(0), 1 => -5..5_i64], prop_oneof![4 => Just(1000_usize), 1 => 0..5_usize])
            .prop_map(|(count, shift, room)| Step::Look { count, shift, room }),
        1 => rules().prop_map(Step::Alter),
        2 => (0..90_u64).prop_map(Step::Append),
        6 => (member.clone(), 0..40_usize, prop_oneof![4 => Just(1000_usize), 1 => 0..5_usize])
            .prop_map(|(member, max, room)| Step::Acquire { member, max, room }),
        2 => (any::<usize>(), any::<usize>(), any::<bool>())
            .prop_map(|(poll, from, is_put_off)| Step::GiveBack { poll, from, is_put_off }),
        4 => (member.clone(), any::<u64>(), 1..6_u64)
            .prop_map(|(member, from, count)| Step::Accept { member, from, count }),
        4 => any::<usize>().prop_map(|poll| Step::Ack { poll }),
        4 => (member.clone(), any::<u64>(), prop::option::of(1..300_i64), any::<bool>())
            .prop_map(|(member, offset, delay, counts)| Step::Release { member, offset, delay, counts }),
        2 => (member.clone(), any::<u64>()).prop_map(|(member, offset)| Step::Extend { member, offset }),
        1 => member.clone().prop_map(Step::ExtendAll),
        1 => member.prop_map(Step::Leave),
        2 => (0..5_usize).prop_map(Step::Bury),
        4 => (1..150_u64).prop_map(Step::Advance),
        1 => any::<u64>().prop_map(Step::Trim),
        1 => (any::<u64>(), 1..70_u64).prop_map(|(from, count)| Step::Skip { from, count }),
        6 => any::<usize>().prop_map(Step::BeginWrite),
        6 => prop::bool::weighted(0.8).prop_map(|is_durable| Step::EndWrite { is_durable }),
        1 => any::<usize>().prop_map(Step::Undo),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(change, from)| Step::SplitOff { change, from }),
        1 => any::<bool>().prop_map(|has_written| Step::Crash { has_written }),
        1 => (1..5_u32).prop_map(Step::MaxDeliveries),
        3 => any::<u64>().prop_map(Step::Redrive),
        1 => any::<u64>().prop_map(Step::ForgetLetter),
    ]
}
