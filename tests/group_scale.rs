//! Thousands of members in one process, through the router: all wait without being woken, each gets a record when one
//! comes, and a member costs some kilobytes.
//!
//! The test counts and does not time: it counts how often the waiting requests are woken while another group is busy.
//! A second test, which is asked for by name, prints what the lag of many groups costs.
#![allow(clippy::disallowed_methods, reason = "a test looks at its own memory")]

mod support;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use serde_json::{Value, json};
use support::{Service, anonymous_bytes, expect};
use tokio::task::JoinSet;

const MEMBERS: usize = 10;
/// A member with its waiting request and the test's own task for it, as they are in memory; found to be 9 KB in a debug build.
const MAX_BYTES_A_MEMBER: u64 = 32_000;
/// Exchanges of another group during which nobody is woken.
const QUIET: usize = 50;

/// A future that counts how often it is woken.
struct Counted<F> {
    future: Pin<Box<F>>,
    count: Arc<AtomicU64>,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.future.as_mut().poll(context)
    }
}

fn counted<F: Future>(future: F, count: &Arc<AtomicU64>) -> Counted<F> {
    Counted {
        future: Box::pin(future),
        count: Arc::clone(count),
    }
}

fn path(group: usize, member: usize, call: &str) -> String {
    format!("/v1/groups/g{group}/members/m{member}{call}")
}

/// All members of all groups, each in a task of its own.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    groups: usize,
    run: impl Fn(usize, usize) -> F,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for group in 0..groups {
        for member in 0..MEMBERS {
            tasks.spawn(run(group, member));
        }
    }
    tasks.join_all().await
}

/// Sends a record of another topic through another group.
async fn exchange(service: &Service, ack: &mut Value) {
    service.append_numbers("other", 0, 0, 1);
    let body = json!({"ack": ack, "topics": ["other"], "wait_ms": 60_000, "max_records": 1});
    let polled = service.post("/v1/groups/busy/members/m/poll", body).await.ok();
    *ack = polled["poll_id"].clone();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_members_of_a_hundred_groups_wait_unwoken_and_are_all_given_what_comes() {
    crowd(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes a thousand groups, each with a round of the journal: half a minute on a slow disk"]
async fn ten_thousand_members_of_a_thousand_groups_wait_unwoken_and_are_all_given_what_comes() {
    crowd(1000).await;
}

async fn crowd(groups: usize) {
    let service = Arc::new(Service::new());
    for (topic, partitions) in [("events", MEMBERS), ("other", 1)] {
        let body = json!({ "partitions": partitions });
        expect(service.put(&format!("/v1/topics/{topic}"), body), 201).await;
    }
    let ticks = Arc::new(AtomicU64::new(0));
    let ending = tokio::spawn(counted(service.app.groups.clone().end_sessions(), &ticks));
    let mut ack = Value::Null;
    exchange(&service, &mut ack).await;

    let before = anonymous_bytes("self");
    let joins = all(groups, |group, member| {
        let service = Arc::clone(&service);
        async move {
            let body = json!({"topics": ["events"], "member_id": format!("m{member}"), "client_id": "scale",
                "session_timeout_ms": 3_600_000});
            let uri = format!("/v1/groups/g{group}/members");
            service.post(&uri, body).await.with_status(201);
        }
    });
    joins.await;
    let joined = anonymous_bytes("self");

    // Each polls until it gets a record; an earlier answer only tells it its partition.
    let woken = Arc::new(AtomicU64::new(0));
    let answers = Arc::new(AtomicU64::new(0));
    let waiting = tokio::spawn(all(groups, {
        let (service, woken, answers) = (Arc::clone(&service), Arc::clone(&woken), Arc::clone(&answers));
        move |group, member| {
            let (service, answers) = (Arc::clone(&service), Arc::clone(&answers));
            let life = async move {
                loop {
                    let body = json!({"wait_ms": 60_000});
                    let polled = service.post(&path(group, member, "/poll"), body).await.ok();
                    answers.fetch_add(1, Ordering::SeqCst);
                    if polled["records"] != json!([]) {
                        return (group, member, polled);
                    }
                }
            };
            counted(life, &woken)
        }
    }));

    // In the end all wait: neither another group's work nor a timer wakes them.
    let (mut quiet, mut exchanges) = (0, 0);
    let mut seen = (0, 0);
    let mut quiet_ticks = 0;
    while quiet < QUIET {
        exchange(&service, &mut ack).await;
        exchanges += 1;
        assert!(exchanges < 100_000, "members are woken again and again");
        let now = (woken.load(Ordering::SeqCst), answers.load(Ordering::SeqCst));
        if now != seen {
            (seen, quiet) = (now, 0);
            quiet_ticks = ticks.load(Ordering::SeqCst);
        }
        // Members that still wait for their first answer have not been counted yet.
        if now.0 >= (groups * MEMBERS) as u64 {
            quiet += 1;
        }
    }
    let ticked = ticks.load(Ordering::SeqCst) - quiet_ticks;
    let most = 2 * QUIET as u64;
    assert!(
        ticked <= most,
        "sessions were looked at {ticked} times in {QUIET} exchanges"
    );
    let bytes = anonymous_bytes("self");
    let each = |bytes: u64| bytes.saturating_sub(before) / (groups * MEMBERS) as u64;
    println!(
        "{} bytes a member that has joined, {} with its waiting request; {} wake-ups and {} answers to {} members before all \
         wait, none in {QUIET} exchanges of another group, in which sessions were looked at {ticked} times",
        each(joined),
        each(bytes),
        seen.0,
        seen.1,
        groups * MEMBERS
    );
    assert!(each(bytes) < MAX_BYTES_A_MEMBER, "{} bytes a member", each(bytes));

    // One record a partition: one for each member.
    for partition in 0..MEMBERS {
        service.append_numbers("events", partition as u32, 0, 1);
    }
    let mut given = pin!(waiting);
    let given = (&mut given).await.expect("no member fails");
    assert_eq!(given.len(), groups * MEMBERS);
    let mut places: Vec<(usize, u64)> = Vec::new();
    let mut polls: Vec<(usize, usize, String)> = Vec::new();
    for (group, member, polled) in given {
        let records = polled["records"].as_array().expect("records");
        for record in records {
            assert_eq!(record["offset"], 0);
            places.push((group, record["partition"].as_u64().expect("a partition")));
        }
        let poll_id = polled["poll_id"].as_str().expect("a poll_id").to_owned();
        polls.push((group, member, poll_id));
    }
    places.sort_unstable();
    places.dedup();
    // Each partition of each group once.
    assert_eq!(places.len(), groups * MEMBERS);
    let after = woken.load(Ordering::SeqCst);
    println!("{} wake-ups to give a record to each", after - seen.0);

    let mut leaves = JoinSet::new();
    for (group, member, poll_id) in polls {
        let service = Arc::clone(&service);
        leaves.spawn(async move {
            let uri = path(group, member, &format!("?ack={poll_id}"));
            service.delete(&uri).await.with_status(204);
        });
    }
    leaves.join_all().await;
    for group in 0..groups {
        let described = service.get(&format!("/v1/groups/g{group}")).await.json();
        assert_eq!(described["state"], "empty", "{described}");
        let lag = service.get(&format!("/v1/groups/g{group}/lag")).await.json();
        assert_eq!(lag["lag"], 0, "{lag}");
    }
    service.app.stopping.send_replace(true);
    ending.await.expect("it ends");
}

/// Prints the time that lists of the lag take: `cargo test --test group_scale lag -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes 1,000 topics, and only prints times"]
async fn the_lag_of_200_groups_over_6000_partitions_in_numbers() {
    const TOPICS: usize = 1000;
    const GROUPS: usize = 200;
    /// Topics of each group: 30,000 pairs of group and partition in all.
    const READ: usize = 25;
    let service = Service::new();
    for topic in 0..TOPICS {
        service.topic(&format!("t{topic}"), 6);
        service.append_numbers(&format!("t{topic}"), 0, 0, 10);
    }
    for group in 0..GROUPS {
        let topics = (0..READ).map(|n| (group * 5 + n) % TOPICS);
        let rows = topics.flat_map(|topic| {
            (0..6).map(
                move |partition| json!({"topic": format!("t{topic}"), "partition": partition, "offset": 0}),
            )
        });
        let body = json!({"offsets": rows.collect::<Vec<Value>>()});
        service
            .put(&format!("/v1/groups/g{group}/offsets"), body)
            .await
            .ok();
    }
    let time = |what: &str, begin: std::time::Instant| println!("{what}: {:?}", begin.elapsed());
    for _ in 0..2 {
        let begin = std::time::Instant::now();
        service.app.lags.sample();
        time("a sample", begin);
        for path in [
            "/v1/groups?limit=200",
            "/v1/lag",
            "/v1/lag?limit=200&sort=lag",
            "/v1/lag?limit=10&sort=lag_ms",
            "/v1/lag?topic=t7",
            "/v1/lag/history?steps=60",
        ] {
            let begin = std::time::Instant::now();
            let answer = service.get(path).await;
            let size = answer.ok().to_string().len();
            time(&format!("{path} ({size} bytes)"), begin);
        }
        let begin = std::time::Instant::now();
        let kept = service.app.lags.keep_history();
        time(&format!("keeping the history ({kept} bytes)"), begin);
    }
}
