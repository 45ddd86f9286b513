//! The limit that `scripts/bench` compares the service with: the same HTTP stack with no work behind it.
//!
//! A POST to any path is read to its end and answered with what a produce request of one record gets; a GET is
//! answered with a constant MiB. Nothing is stored. Takes the address as its only argument and prints the bound one.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static MEBIBYTE: [u8; 1 << 20] = [b'q'; 1 << 20];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .context("usage: null_server ADDRESS")?
        .parse()
        .context("the address is like 127.0.0.1:7421")?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("null server listens on http://{}", listener.local_addr()?);
    axum::serve(listener, Router::new().fallback(any(answer))).await?;
    Ok(())
}

async fn answer(request: Request<axum::body::Body>) -> Response {
    let (content_type, body) = if request.method() == Method::GET {
        (
            "application/vnd.apache.kafka.record-batch",
            Bytes::from_static(&MEBIBYTE),
        )
    } else {
        if let Err(error) = request.into_body().collect().await {
            return (http::StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
        (
            "application/json",
            Bytes::from_static(br#"{"offsets":[{"partition":0,"offset":1234567}]}"#),
        )
    };
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))],
        body,
    )
        .into_response()
}
