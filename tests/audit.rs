//! The audit log: each call that changes something is in it, once, and nothing that only reads or is refused.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::Service;

/// A call, its status, and its entry: what was done, and to what.
type Call<'a> = (Method, &'a str, Value, u16, Option<(&'a str, &'a str)>);

/// The entries, the oldest first: what was done, and to what.
async fn entries(service: &Service) -> Vec<(String, String)> {
    let answer = service.get("/v1/audit?limit=1000").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rows = answer.json()["entries"].as_array().expect("a list").clone();
    let text = |row: &Value, name: &str| row[name].as_str().expect("a text").to_owned();
    let rows = rows.iter().rev();
    rows.map(|row| (text(row, "action"), text(row, "resource")))
        .collect()
}

#[tokio::test]
async fn what_changes_something_is_in_the_audit_log_and_nothing_else() {
    let service = Service::new();
    let calls: [Call<'_>; 22] = [
        (
            Method::PUT,
            "/v1/topics/orders",
            json!({"partitions": 2}),
            201,
            Some(("topic.create", "topics/orders")),
        ),
        (
            Method::PUT,
            "/v1/topics/orders",
            json!({"partitions": 2}),
            200,
            None,
        ),
        (
            Method::PUT,
            "/v1/topics/orders",
            json!({"partitions": 3}),
            409,
            None,
        ),
        (
            Method::PATCH,
            "/v1/topics/orders?dry_run=true",
            json!({"partitions": 3}),
            200,
            None,
        ),
        (
            Method::PATCH,
            "/v1/topics/orders",
            json!({"partitions": 3}),
            200,
            Some(("topic.alter", "topics/orders")),
        ),
        (
            Method::PATCH,
            "/v1/topics/orders",
            json!({"partitions": 3}),
            200,
            None,
        ),
        (
            Method::PATCH,
            "/v1/topics/orders",
            json!({"partitions": 1}),
            409,
            None,
        ),
        (
            Method::POST,
            "/v1/topics/orders/records",
            json!({"records": [{"partition": 0, "value": 1}]}),
            200,
            None,
        ),
        (
            Method::DELETE,
            "/v1/topics/orders/partitions/0/records?before=2",
            Value::Null,
            416,
            None,
        ),
        (
            Method::DELETE,
            "/v1/topics/orders/partitions/0/records?before=1",
            Value::Null,
            200,
            Some(("records.delete", "topics/orders/partitions/0/records")),
        ),
        (
            Method::PUT,
            "/v1/groups/billing/offsets",
            json!({"offsets": [{"topic": "orders", "partition": 0, "offset": 1}]}),
            200,
            None,
        ),
        (
            Method::POST,
            "/v1/groups/billing/offsets/reset",
            json!({"to": "latest", "dry_run": true}),
            200,
            None,
        ),
        (
            Method::POST,
            "/v1/groups/billing/offsets/reset",
            json!({"to": "latest"}),
            200,
            Some(("group.reset", "groups/billing/offsets")),
        ),
        (
            Method::DELETE,
            "/v1/groups/billing/offsets?topic=nothing",
            Value::Null,
            404,
            None,
        ),
        (
            Method::DELETE,
            "/v1/groups/billing/offsets?topic=orders",
            Value::Null,
            204,
            Some(("offsets.delete", "groups/billing/offsets")),
        ),
        (
            Method::DELETE,
            "/v1/groups/billing",
            Value::Null,
            204,
            Some(("group.delete", "groups/billing")),
        ),
        (Method::DELETE, "/v1/groups/billing", Value::Null, 404, None),
        (
            Method::POST,
            "/v1/groups/work/members/m/poll",
            json!({"topics": ["orders"], "type": "shared", "start": "earliest"}),
            200,
            None,
        ),
        (
            Method::PATCH,
            "/v1/groups/work",
            json!({"lease_ms": 1000}),
            200,
            Some(("group.alter", "groups/work")),
        ),
        (Method::POST, "/v1/groups/work/redrive", json!({}), 200, None),
        (
            Method::DELETE,
            "/v1/topics/orders?dry_run=true",
            Value::Null,
            200,
            None,
        ),
        (
            Method::DELETE,
            "/v1/topics/orders",
            Value::Null,
            204,
            Some(("topic.delete", "topics/orders")),
        ),
    ];
    let mut expected = Vec::new();
    for (method, path, body, status, entry) in calls {
        let answer = match body {
            Value::Null => service.send(method.clone(), path, &[], "").await,
            body => {
                service
                    .send(method.clone(), path, support::JSON, body.to_string())
                    .await
            }
        };
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        expected.extend(entry.map(|(action, resource)| (action.to_owned(), resource.to_owned())));
        // Entries of one millisecond are not in order.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        assert_eq!(entries(&service).await, expected, "{method} {path}");
    }
    let service = service.restart().await;
    assert_eq!(entries(&service).await, expected);
}

#[tokio::test]
async fn a_deleted_topic_has_the_id_that_it_had_for_its_users() {
    let service = Service::new();
    let put = service.send(Method::PUT, "/v1/topics/orders", support::JSON, "{}");
    let id = put.await.json()["id"].as_str().expect("an id").to_owned();
    let gone = service.send(Method::DELETE, "/v1/topics/orders", &[], "").await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    let audit = service.get("/v1/audit").await.json();
    let deleted = audit["entries"].as_array().expect("a list").iter();
    let mut deleted = deleted.filter(|entry| entry["action"] == "topic.delete");
    assert_eq!(deleted.next().expect("an entry")["detail"], format!("id {id}"));
}

#[tokio::test]
async fn redriven_and_discarded_dead_letters_are_one_entry_a_call() {
    let service = Service::new();
    let post = async |path: &str, body: Value| {
        let answer = service
            .send(Method::POST, path, support::JSON, body.to_string())
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    };
    service
        .send(Method::PUT, "/v1/topics/jobs", support::JSON, "{}")
        .await;
    let records: Vec<Value> = (0..3).map(|value| json!({"value": value})).collect();
    post("/v1/topics/jobs/records", json!({"records": records})).await;
    post(
        "/v1/groups/work/members/m/poll",
        json!({"topics": ["jobs"], "type": "shared", "start": "earliest", "max_records": 3}),
    )
    .await;
    let rejected: Vec<Value> = (0..3)
        .map(|at| json!({"topic": "jobs", "partition": 0, "offset": at, "reason": "bad"}))
        .collect();
    post("/v1/groups/work/members/m/settle", json!({"reject": rejected})).await;
    post("/v1/groups/work/redrive", json!({"dry_run": true})).await;
    post("/v1/groups/work/redrive", json!({"max_records": 1})).await;
    // Entries of one millisecond are not in order.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    post("/v1/groups/work/redrive", json!({"discard": true})).await;
    let found = entries(&service).await;
    let actions: Vec<&str> = found.iter().map(|(action, _)| &**action).collect();
    // The second topic is that of the dead letters.
    let expected = ["topic.create", "topic.create", "group.redrive", "group.discard"];
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn pages_are_asked_for_by_what_the_last_one_said() {
    let service = Service::new();
    for name in ["a", "b", "c"] {
        service
            .send(Method::PUT, &format!("/v1/topics/{name}"), support::JSON, "{}")
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let page = service.get("/v1/audit?limit=2").await.json();
    let resources = |page: &Value| {
        let rows = page["entries"].as_array().expect("a list").iter();
        rows.map(|row| row["resource"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(resources(&page), ["topics/c", "topics/b"]);
    let next = page["next"].as_str().expect("more");
    let page = service
        .get(&format!("/v1/audit?limit=2&after={next}"))
        .await
        .json();
    assert_eq!(
        (resources(&page), &page["next"]),
        (vec!["topics/a".to_owned()], &Value::Null)
    );
    for wrong in ["after=x", "after=before:-1", "limit=0", "limit=1001", "before=3"] {
        assert_eq!(
            service.get(&format!("/v1/audit?{wrong}")).await.status,
            400,
            "{wrong}"
        );
    }
}
