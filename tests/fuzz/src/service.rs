//! The service over an engine on a simulated disk. The engine has no threads: its rounds run while something waits.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use quipu::http::app::App;
use quipu::kafka::{Kafka, Peer};
use quipu::settings::Config;
use quipu_segments::sim::{SimClock, SimDisk};
use quipu_segments::{AppendRequest, Log, Options, StateChange, TimestampMs, TopicSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::Runtime;

/// The most bytes of a request's body, and of what it inflates to.
pub(super) const MAX_REQUEST_BYTES: usize = 64 << 10;
/// What a connection holds in each direction before its other side must read.
const PIPE_BYTES: usize = 16 << 10;

pub(super) struct Service {
    runtime: Runtime,
    pub(super) app: App,
    pub(super) kafka: Kafka,
}

impl Service {
    pub(super) fn new(change: impl FnOnce(&mut Config)) -> Self {
        let clock = Arc::new(SimClock::new(TimestampMs(1_700_000_000_000)));
        let options = Options {
            journal_file_bytes: 192 << 10,
            journal_files: 2,
            max_request_bytes: 128 << 10,
            background: false,
            ..Options::default()
        };
        let disk = Arc::new(SimDisk::new(1));
        let log = Log::open_with(disk, clock.clone(), Path::new("/data"), options).expect("a new directory");
        let mut config = Config::default();
        config.limits.max_request_bytes = MAX_REQUEST_BYTES;
        config.limits.max_partitions = 16;
        change(&mut config);
        let app = App::new(log, config.clone(), clock);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        Self {
            runtime,
            kafka: Kafka::new(app.broker.clone(), &config, Arc::clone(&app.metrics)),
            app,
        }
    }

    /// Removes what was stored and made: topics, groups, unsynced segments.
    pub(super) fn empty(&self) {
        let log = &self.app.log;
        for topic in log.topics() {
            log.delete_topic(topic.name(), Vec::new()).expect("deleted");
        }
        let state = log.state_prefix(b"").into_iter();
        let removes = state.map(|(key, _)| StateChange::remove(key.into_vec()));
        let state: Vec<StateChange> = removes.collect();
        if !state.is_empty() {
            let ticket = log.append(AppendRequest::of_state(state)).expect("queued");
            log.run_round().expect("the disk is healthy");
            ticket.wait().expect("durable");
        }
        log.sync_segments().expect("the disk is healthy");
    }

    pub(super) fn create_topic(&self, name: &str, spec: TopicSpec) {
        self.app.log.create_topic(name, spec).expect("made");
    }

    /// Runs `work` to its end, and meanwhile the rounds of the engine.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let rounds = async {
            loop {
                if self.app.log.run_round().expect("the disk is healthy") {
                    self.app.log.sync_segments().expect("the disk is healthy");
                }
                tokio::task::yield_now().await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done,
                () = rounds => unreachable!("rounds go on until the work is done"),
            }
        })
    }

    /// Waits for what is still under way on the one thread for work that blocks, which may wait for a round itself.
    pub(super) fn settle(&self) {
        self.run(async {
            let last = tokio::task::spawn_blocking(|| ());
            last.await.expect("it does not panic");
        });
    }

    /// Serves a Kafka client that sends `pieces` one after another and then nothing more; returns all answers as they
    /// were sent.
    pub(super) async fn converse(&self, pieces: impl Iterator<Item = &[u8]>) -> Vec<u8> {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let (mut from, mut to) = tokio::io::split(client);
        let mut answers = Vec::new();
        let sends = async {
            for piece in pieces {
                // The server may have closed the connection.
                if to.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let _closed = to.shutdown().await;
        };
        let reads = async {
            from.read_to_end(&mut answers).await.expect("an end");
        };
        tokio::join!(self.serve(server), sends, reads);
        answers
    }

    /// Sends one request of a Kafka client, with a header of version 1, and returns its answer behind the correlation id.
    pub(super) async fn ask_kafka(&self, key: i16, version: i16, body: &[u8]) -> Vec<u8> {
        let header = [
            &key.to_be_bytes()[..],
            &version.to_be_bytes(),
            &7_i32.to_be_bytes(),
            &(-1_i16).to_be_bytes(),
        ]
        .concat();
        let length = (header.len() + body.len()) as u32;
        let frame = [&length.to_be_bytes()[..], &header, body].concat();
        let (mut client, server) = tokio::io::duplex(frame.len());
        let asks = async {
            client.write_all(&frame).await.expect("sent");
            let length = client.read_u32().await.expect("an answer");
            let mut answer = vec![0; length as usize];
            client.read_exact(&mut answer).await.expect("all of it");
            assert_eq!(answer[..4], 7_i32.to_be_bytes(), "the correlation id");
            answer.split_off(4)
        };
        tokio::select! {
            biased;
            answer = asks => answer,
            () = self.serve(server) => panic!("the connection was closed"),
        }
    }

    async fn serve(&self, stream: DuplexStream) {
        let peer = Peer {
            address: None,
            reached: SocketAddr::from((Ipv4Addr::LOCALHOST, 9092)),
            is_private: true,
            certificate: None,
            life: 1,
            connection: 1,
        };
        self.kafka.serve(stream, peer).await;
    }
}
