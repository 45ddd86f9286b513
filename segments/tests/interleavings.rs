//! The engine under shuttle: threads of producers, readers, the committer and the syncer, in orders chosen by a seed.

#[test]
fn it_runs() {
    shuttle::check_random(|| {}, 10);
}
