//! Spans in OTLP's JSON encoding (`ExportTraceServiceRequest`): ids are hexadecimal, times are strings of nanoseconds.

use serde_json::{Value, json};

use super::Span;
use crate::formats::trace_context::TraceContext;

/// The kind of a span: a server answers a request.
const SERVER: u8 = 2;
/// The status code of an error.
const ERROR: u8 = 2;

/// The body of one export.
pub(super) fn request(batch: &[(TraceContext, Span)]) -> String {
    let spans: Vec<Value> = batch.iter().map(|(context, it)| span(context, it)).collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = [
        attribute("service.name", "quipu"),
        attribute("service.version", version),
    ];
    let request = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "quipu", "version": version}, "spans": spans}],
    }]});
    request.to_string()
}

fn span(context: &TraceContext, span: &Span) -> Value {
    let duration_ns = u64::try_from(span.duration.as_nanos()).unwrap_or(u64::MAX);
    let attributes = span.attributes.iter().map(|(name, value)| attribute(name, value));
    let mut attributes: Vec<Value> = attributes.collect();
    let status = json!({"key": "http.response.status_code", "value": {"intValue": span.status.to_string()}});
    attributes.push(status);
    let link = |link: &TraceContext| json!({"traceId": hex(&link.trace_id), "spanId": hex(&link.span_id)});
    let links: Vec<Value> = span.links.0.iter().map(link).collect();
    let mut all = json!({
        "traceId": hex(&context.trace_id),
        "spanId": hex(&context.span_id),
        "name": span.name,
        "kind": SERVER,
        "startTimeUnixNano": span.start_ns.to_string(),
        "endTimeUnixNano": span.start_ns.saturating_add(duration_ns).to_string(),
        "attributes": attributes,
        "links": links,
    });
    if let Some(parent) = &span.parent {
        all["parentSpanId"] = hex(&parent.span_id).into();
    }
    // Of a server's spans only its own faults are errors.
    if span.status >= 500 {
        all["status"] = json!({"code": ERROR});
    }
    all
}

fn attribute(name: &str, value: &str) -> Value {
    json!({"key": name, "value": {"stringValue": value}})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
