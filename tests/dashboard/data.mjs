// A server with something on it: topics, groups that keep up and fall behind, a work queue with dead letters.

const HOUR = 3600000;

/// A value that shows whether the page keeps numbers and markup as they are.
export const TRICKY = '{"id":12345678901234567890,"price":12.50,"text":"<b>bold</b><img src=x onerror=alert(1)>","more":{"list":[1,2.0,{"deep":null}],"ok":true}}';

export async function fill(api) {
  await api("PUT", "/v1/topics/orders", { partitions: 6 });
  await api("PUT", "/v1/topics/payments", { partitions: 3, config: { retention_ms: 5 * HOUR } });
  await api("PUT", "/v1/topics/flights.departed.europe-central", { partitions: 2 });
  await api("PUT", "/v1/topics/jobs", { partitions: 2 });
  const now = Date.now();
  for (const topic of ["orders", "payments", "flights.departed.europe-central"]) {
    const records = Array.from({ length: 400 }, (_, at) => `{"key":"customer-${at % 40}","timestamp":${now - HOUR + at * 8000},"value":${TRICKY},"headers":{"type":"${at % 3 ? "order.created" : "order.paid"}"}}`);
    await api("POST", `/v1/topics/${topic}/records`, `{"records":[${records}]}`);
  }
  const jobs = Array.from({ length: 30 }, (_, at) => ({ key: `job-${at}`, value: { job: at } }));
  await api("POST", "/v1/topics/jobs/records", { records: jobs });
  await poll(api, "billing", "billing-1", { topics: ["orders", "payments"], start: "earliest", client_id: "billing.example", max_records: 300, session_timeout_ms: 600000 });
  await poll(api, "reports", "reports-1", { topics: ["flights.departed.europe-central"], start: "latest", session_timeout_ms: 600000 });
  const { records } = await poll(api, "workers", "worker-1", {
    topics: ["jobs"], type: "shared", start: "earliest", max_records: 12, lease_ms: 600000, session_timeout_ms: 600000,
  });
  await reject(api, "workers", "worker-1", records.slice(0, 5));
}

/// Polls, and acknowledges at once.
export async function poll(api, group, member, join) {
  const path = `/v1/groups/${group}/members/${member}/poll`;
  const answer = await api("POST", path, { ack: null, wait_ms: 0, ...join });
  if (join.type !== "shared") await api("POST", path, { ack: answer.poll_id, wait_ms: 0, max_records: 1 });
  return answer;
}

export async function reject(api, group, member, records) {
  const rows = records.map(({ topic, partition, offset }, at) => ({ topic, partition, offset, reason: at % 2 ? "timeout: the bank did not answer" : "invalid: no such account" }));
  await api("POST", `/v1/groups/${group}/members/${member}/settle`, { reject: rows });
}
