//! Random histories, and those that are worth a test of their own.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_queue_does_what_the_model_does(
        seed in any::<u64>(),
        rules in prop_oneof![1 => Just(Rules::NONE), 3 => rules()],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut pair = Pair::new(seed, rules);
        for step in steps {
            pair.run(step);
            pair.settle_unwanted();
            pair.check();
        }
    }
}

#[test]
fn what_a_member_released_uncounted_its_acknowledgement_does_not_take_from_the_next_after_a_crash() {
    let acquire = |member| Step::Acquire {
        member,
        max: 1,
        room: 1000,
    };
    let release = |member| Step::Release {
        member,
        offset: 0,
        delay: None,
        counts: false,
    };
    let crash = || [Step::BeginWrite(0), Step::Crash { has_written: true }];
    for crashes in 1..4 {
        let mut pair = Pair::new(0, Rules::NONE);
        let mut steps = vec![Step::Append(1), acquire(1), release(1)];
        for _ in 1..crashes {
            steps.extend(crash());
        }
        steps.push(acquire(0));
        steps.extend(crash());
        steps.push(Step::Ack { poll: 0 });
        for step in steps {
            pair.run(step);
            pair.check();
        }
        assert_eq!(pair.queue.unsettled(), 1, "{crashes} crashes");
    }
}

fn leasing(poll: u64, end: u64, max: usize) -> Leasing {
    Leasing {
        now: Now {
            moment: Moment(0),
            wall: TimestampMs(0),
        },
        deadline: Moment(LEASE_MS),
        member: MemberKey(1),
        poll: PollNumber(poll),
        log_start: Offset::ZERO,
        end: at(end),
        max,
        room: usize::MAX,
    }
}

#[test]
fn a_record_that_waits_long_holds_up_no_other() {
    let mut queue = Queue::new(Offset::ZERO, 5);
    queue.acquire(&leasing(1, 200_000, 1));
    let due = Some(TimestampMs(3_600_000));
    assert_eq!(queue.release(MemberKey(1), at(0), due, true), Outcome::Done);
    for poll in 0..100 {
        let acquired = queue.acquire(&leasing(2 + poll, 200_000, 1000));
        assert_eq!(acquired.len(), 1);
        let claim = |offset| (at(offset), Claim::Member(MemberKey(1)));
        let range = acquired[0].from.get()..acquired[0].until.get();
        let begun = queue.begin_settle(range.map(claim));
        let written = queue.begin_write(&[begun.change.unwrap()]);
        queue.commit();
        assert_eq!(written.head.floor, at(0));
        // The one that waits is in a block of its own, which is written once.
        assert_eq!(written.blocks.len(), usize::from(poll == 0));
    }
    assert_eq!((queue.unsettled(), queue.delayed()), (1, 1));
}

#[test]
fn a_write_does_not_grow_with_the_number_of_unsettled_records() {
    let mut sizes = BTreeSet::new();
    for unsettled in [10, 1000, 100_000] {
        let mut queue = Queue::new(Offset::ZERO, 5);
        queue.acquire(&leasing(1, unsettled, unsettled as usize));
        let due = |offset: u64| Some(TimestampMs(1_700_000_000_000 + offset as i64));
        for offset in 0..unsettled {
            queue.release(MemberKey(1), at(offset), due(offset), true);
        }
        drop(queue.begin_write(&[]));
        queue.commit();
        let begun = queue.begin_settle([(at(unsettled / 2), Claim::Member(MemberKey(1)))]);
        let written = queue.begin_write(&[begun.change.unwrap()]);
        assert_eq!(written.blocks.len(), 1);
        let (number, rows) = &written.blocks[0];
        sizes.insert(codec::encode_block(*number, rows).len());
        queue.commit();
    }
    assert!(sizes.iter().all(|size| *size < 1024), "{sizes:?}");
}

#[test]
fn at_its_bound_a_queue_looks_at_nothing_new_and_still_gives_out_what_it_knows() {
    let bound = MAX_UNSETTLED as u64;
    let mut queue = Queue::new(Offset::ZERO, 5);
    assert!(queue.look(at(bound - 1), at(2 * bound), usize::MAX));
    assert!(!queue.look(at(bound), at(2 * bound), usize::MAX));
    let known = queue.acquire(&leasing(1, 2 * bound, 10));
    assert_eq!((known[0].from, known[0].until), (at(0), at(10)));
    let begun = queue.begin_settle([(at(8), Claim::Member(MemberKey(1)))]);
    let _ = queue.begin_write(&[begun.change.unwrap()]);
    queue.commit();
    assert!(queue.look(at(bound), at(2 * bound), usize::MAX));
    assert!(!queue.look(at(bound + 1), at(2 * bound), usize::MAX));
}

#[test]
fn a_record_that_is_redriven_before_its_reject_is_reported_is_given_back_with_it() {
    let mut queue = Queue::new(Offset::ZERO, 5);
    queue.acquire(&leasing(1, 1, 1));
    let begun = queue.begin_settle([(at(0), Claim::Member(MemberKey(1)))]);
    let _ = queue.begin_write(&[begun.change.unwrap()]);
    // The dead letter is there with that write, and somebody redrives it at once.
    queue.give_back_letter(at(0), letter(0));
    assert!(queue.acquire(&leasing(2, 1, 1)).is_empty());
    queue.commit();
    let again = queue.acquire(&leasing(3, 1, 1));
    assert_eq!(offsets_of(&again), [0]);
    assert_eq!(queue.letter(at(0)), Some(letter(0)));
    // Rejected and redriven again in the same way.
    let begun = queue.begin_settle([(at(0), Claim::Member(MemberKey(1)))]);
    let _ = queue.begin_write(&[begun.change.unwrap()]);
    queue.give_back_letter(at(0), letter(1));
    queue.commit();
    assert_eq!(offsets_of(&queue.acquire(&leasing(4, 1, 1))), [0]);
    assert_eq!(queue.letter(at(0)), Some(letter(1)));
}
