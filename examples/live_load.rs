//! The load that `scripts/bench` puts on streams: a reader of everything, a paced producer beside a live reader, and a
//! crowd of live readers with nothing to read. It speaks HTTP/1.1 by hand, so that what it measures is the service.
//!
//! - `live_load read ADDRESS PATH`: reads one answer to its end; prints `RESULT bytes microseconds`.
//! - `live_load tail ADDRESS TOPIC RATE SECONDS`: produces `RATE` events a second, each by a request of its own, and
//!   follows the topic by Server-Sent Events; prints `RESULT events answer_p50 answer_p99 seen_p50 seen_p99`, all in
//!   microseconds since the request was sent.
//! - `live_load idle ADDRESS TOPIC COUNT`: follows the topic `COUNT` times over; prints `ready` when every stream has
//!   begun, and ends when standard input does.
//!
//! It signs in with the token of `QUIPU_TOKEN`, if there is one.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a load from outside reads the real clock"
)]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

/// Connections that share the producing: each has at most one request in flight.
const PRODUCERS: u64 = 32;
/// Streams that are opened at once.
const OPENING: usize = 64;
/// How long the last events may take to be seen.
const LATE: Duration = Duration::from_secs(5);

/// The line of each request that signs in, or nothing.
static CREDENTIALS: LazyLock<String> = LazyLock::new(|| match std::env::var("QUIPU_TOKEN") {
    Ok(token) if !token.is_empty() => format!("Authorization: Bearer {token}\r\n"),
    _ => String::new(),
});

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Streams come by the thousands.
    quipu_segments::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match arguments[..] {
        ["read", address, path] => runtime.block_on(read(address.parse()?, path)),
        ["tail", address, topic, rate, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            runtime.block_on(tail(address.parse()?, topic, rate.parse()?, seconds))
        }
        ["idle", address, topic, count] => runtime.block_on(idle(address.parse()?, topic, count.parse()?)),
        _ => bail!("usage: live_load read|tail|idle ADDRESS …; the file's head says the rest"),
    }
}

async fn read(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/x-ndjson\r\nConnection: close\r\n{}\r\n",
        *CREDENTIALS
    );
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 1 << 20];
    let count = stream.read(&mut buffer).await?;
    ensure!(
        buffer[..count].starts_with(b"HTTP/1.1 200"),
        "refused: {}",
        String::from_utf8_lossy(&buffer[..count])
    );
    let mut bytes = count;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => bytes += count,
        }
    }
    println!("RESULT {bytes} {}", began.elapsed().as_micros());
    Ok(())
}

/// A stream of Server-Sent Events that has begun.
async fn follow(address: SocketAddr, topic: &str) -> anyhow::Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /v1/topics/{topic}/records?from=latest&follow=true HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{}\r\n",
        *CREDENTIALS
    );
    stream.write_all(request.as_bytes()).await?;
    let mut reader = BufReader::with_capacity(1024, stream);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    ensure!(line.starts_with("HTTP/1.1 200"), "refused: {line}");
    // The first event says that the stream has begun.
    while !line.starts_with("retry:") {
        line.clear();
        ensure!(reader.read_line(&mut line).await? > 0, "the stream has ended");
    }
    Ok(reader)
}

async fn tail(address: SocketAddr, topic: &str, rate: u64, length: Duration) -> anyhow::Result<()> {
    let mut reader = follow(address, topic).await?;
    let began = Instant::now();
    let (seen_sender, mut seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
            if let Some(sent) = sent_at(&line) {
                let now = began.elapsed().as_micros() as u64;
                if seen_sender.send(now.saturating_sub(sent)).is_err() {
                    return;
                }
            }
            line.clear();
        }
    });
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|number| {
            let path = format!("/v1/topics/{topic}/records");
            tokio::spawn(async move { produce(address, &path, number, rate, began, length).await })
        })
        .collect();
    let mut answers = Vec::new();
    for producer in producers {
        answers.extend(producer.await??);
    }
    let mut latencies = Vec::with_capacity(answers.len());
    while latencies.len() < answers.len() {
        let next = tokio::time::timeout(LATE, seen.recv()).await;
        latencies.push(
            next.context("events did not arrive")?
                .context("the stream has ended")?,
        );
    }
    answers.sort_unstable();
    latencies.sort_unstable();
    let at = |sorted: &[u64], share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    println!(
        "RESULT {} {} {} {} {}",
        answers.len(),
        at(&answers, 0.5),
        at(&answers, 0.99),
        at(&latencies, 0.5),
        at(&latencies, 0.99)
    );
    Ok(())
}

/// When the event in a line of a stream was sent, in microseconds since the beginning.
fn sent_at(line: &[u8]) -> Option<u64> {
    const VALUE: &[u8] = b"\"value\":";
    let at = line.windows(VALUE.len()).position(|window| window == VALUE)? + VALUE.len();
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// One connection's share of the events: the times until their answers.
async fn produce(
    address: SocketAddr,
    path: &str,
    number: u64,
    rate: u64,
    began: Instant,
    length: Duration,
) -> anyhow::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut answers = Vec::new();
    let mut answer = vec![0; 4096];
    for event in 0.. {
        // All connections together are evenly paced.
        let due = Duration::from_nanos((event * PRODUCERS + number) * 1_000_000_000 / rate);
        if due >= length {
            break;
        }
        tokio::time::sleep_until((began + due).into()).await;
        let sent = began.elapsed();
        let body = format!(r#"{{"records":[{{"value":{}}}]}}"#, sent.as_micros());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{body}",
            body.len(),
            *CREDENTIALS
        );
        stream.write_all(request.as_bytes()).await?;
        let mut held = 0;
        while !answer[..held].trim_ascii_end().ends_with(b"]}") {
            let count = stream.read(&mut answer[held..]).await?;
            ensure!(count > 0, "the connection has ended");
            held += count;
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "refused: {}",
            String::from_utf8_lossy(&answer[..held])
        );
        answers.push((began.elapsed() - sent).as_micros() as u64);
    }
    Ok(answers)
}

async fn idle(address: SocketAddr, topic: &str, count: usize) -> anyhow::Result<()> {
    let opening = Arc::new(Semaphore::new(OPENING));
    let streams: Vec<_> = (0..count)
        .map(|_| {
            let (opening, topic) = (Arc::clone(&opening), topic.to_owned());
            tokio::spawn(async move {
                let _permit = opening.acquire().await?;
                follow(address, &topic).await
            })
        })
        .collect();
    let mut open = Vec::with_capacity(count);
    for stream in streams {
        open.push(stream.await??);
    }
    println!("ready");
    let mut rest = Vec::new();
    tokio::task::spawn_blocking(move || std::io::Read::read_to_end(&mut std::io::stdin(), &mut rest))
        .await??;
    Ok(())
}
