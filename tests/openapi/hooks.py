"""What schemathesis needs to know beside the document: how NDJSON and record batches look, what cannot be made up, rules
between parameters that OpenAPI has no words for, and bounds on waiting."""

import json
import os
import random
import re
import sys
import threading
import time
import urllib.parse
import urllib.request

import schemathesis

SERVER = os.environ["QUIPU_SERVER"]
TOKEN = os.environ.get("QUIPU_TOKEN")
SEED = os.environ.get("SEED", "1")
# No call takes longer: waits and streams are bounded below, and so is everything that a client waits for.
MOST_SECONDS = 300
RECORD_BATCH = "application/vnd.apache.kafka.record-batch"
NDJSON = "application/x-ndjson"


def call(method, path, body=None, accept="application/json", media="application/json"):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(SERVER + path, data, method=method, headers={"Accept": accept, "Content-Type": media})
    if TOKEN:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read()


# Something to find, before anything is generated.
TOPICS = ["orders", "payments", "kept"]
GROUPS = ["billing", "workers"]


def make(topic):
    call("PUT", f"/v1/topics/{topic}", {"partitions": 3})
    records = [{"key": f"k{i % 7}", "value": {"n": i}, "headers": {"type": "order.paid"}} for i in range(60)]
    call("POST", f"/v1/topics/{topic}/records", {"records": records})


def prepare():
    for topic in TOPICS:
        make(topic)
    call("PUT", "/v1/groups/billing/offsets", {"offsets": [{"topic": "orders", "partition": 0, "offset": 1}]})
    poll = {"topics": ["orders"], "type": "shared", "wait_ms": 0, "max_records": 3}
    polled = json.loads(call("POST", "/v1/groups/workers/members/m1/poll", poll))
    rejected = [{key: record[key] for key in ("topic", "partition", "offset")} for record in polled["records"][:2]]
    call("POST", "/v1/groups/workers/members/m1/settle", {"reject": rejected})
    batch = call("GET", "/v1/topics/kept/partitions/0/records?offset=0", accept=RECORD_BATCH)
    cursor = json.loads(call("GET", "/v1/topics/kept/records?last=2"))["cursor"]
    return batch, cursor


BATCH, CURSOR = prepare()

# Cursors of streams that the server gave, and other opaque values, each with the resource that it belongs to.
CURSORS = {CURSOR}
GIVEN = set()


def owner(case, name):
    path = case.path if name == "next" else ""
    return path, tuple(sorted((case.path_parameters or {}).items()))


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # A request has one type; this stands for all that the server has no other reading for.
    content = raw_schema["paths"]["/v1/topics/{topic}/records"]["post"]["requestBody"]["content"]
    content["application/octet-stream"] = content.pop("*/*")


# The call in flight, and none between two calls.
IN_FLIGHT = [None]


def watch():
    """Ends a run that hangs, and says in which call. `--request-timeout` bounds each wait for bytes, and not an answer that
    trickles. It counts seconds in which the process ran: one that was stopped meanwhile hangs no longer for it."""
    seen, seconds = None, 0
    while seconds < MOST_SECONDS:
        time.sleep(1)
        seconds = seconds + 1 if seen is not None and IN_FLIGHT[0] is seen else 0
        seen = IN_FLIGHT[0]
    print(f"no end within {MOST_SECONDS} s: {describe(seen)}", file=sys.stderr, flush=True)
    os._exit(3)


threading.Thread(target=watch, daemon=True).start()


def describe(case):
    return f"{case.method} {case.formatted_path} query={case.query} headers={dict(case.headers or {})} body={str(case.body)[:2000]}"


@schemathesis.hook
def after_network_error(context, case, request):
    # The tool names the operation, and not the call.
    print(f"no answer: {describe(case)}", file=sys.stderr, flush=True)
    IN_FLIGHT[0] = None


@schemathesis.hook
def after_call(context, case, response):
    IN_FLIGHT[0] = None
    topic = (case.path_parameters or {}).get("topic")
    if case.method == "DELETE" and response.status_code == 204 and topic in TOPICS:
        make(topic)
    if len(response.content) > 1_000_000 or "json" not in (response.headers.get("content-type") or [""])[0]:
        return
    try:
        body = json.loads(response.content)
    except ValueError:
        return
    if isinstance(body, dict):
        if isinstance(body.get("cursor"), str):
            CURSORS.add(body["cursor"])
        for name in ("next", "preview", "poll_id", "id"):
            if isinstance(body.get(name), str):
                GIVEN.add((body[name], owner(case, name)))


@schemathesis.serializer(NDJSON)
def lines(context, value):
    if isinstance(value, list):
        return "".join(json.dumps(line) + "\n" for line in value).encode()
    return json.dumps(value).encode()


@schemathesis.deserializer(NDJSON)
def of_lines(context, response):
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.deserializer(RECORD_BATCH)
def of_batches(context, response):
    return response.content.decode("latin-1")


@schemathesis.serializer(RECORD_BATCH)
def batches(context, value):
    # Random bytes are no batch, and the document cannot describe one: a real batch stands for every valid body.
    return BATCH if is_valid(context.case) else str(value).encode()


def rng_of(case):
    """Chance that depends on the case alone: whatever is repeated is repeated as it was."""
    return random.Random(repr((SEED, case.path_parameters, case.query, case.body)))


def is_valid(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


def whole(value):
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def drop(container, *names):
    for name in names if container else ():
        container.pop(name, None)


# Values that only the server can make: others are left out of valid requests.
OPAQUE = {"after": "next", "preview": "preview", "ack": "poll_id", "if_id": "id"}


def leave_out_made_up(case, container):
    for name in list(container):
        value = container[name]
        if name in OPAQUE and isinstance(value, (int, float)):
            del container[name]
            continue
        if not isinstance(value, str) or value in ("durable", "written"):
            continue
        is_cursor = name in ("from", "until") and re.fullmatch("[A-Za-z0-9_-]{19,}", value)
        if name in OPAQUE and (value, owner(case, OPAQUE[name])) not in GIVEN or is_cursor and value not in CURSORS:
            del container[name]


def sent(value):
    """A parameter as the server sees it: a list of one value is that value."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def is_long(wait):
    # In JSON a whole number may have a fraction of zeros.
    return isinstance(wait, (int, float)) and 20 < wait <= 60_000


def is_pace(speed):
    try:
        return float(speed) > 0
    except (TypeError, ValueError):
        return False


def bound_waits(case):
    """No request takes long: waits, streams that follow, and replays at a pace. The contract sets no bound on a stream, and a
    minute on a wait: a request times out earlier."""
    query = case.query or {}
    if is_long(whole(sent(query.get("wait_ms")))):
        query["wait_ms"] = 20
    if sent(query.get("follow")) in (True, "true") or "speed" in query:
        # A stream that goes on until a time before all records has an end at once; a slow pace would wait for days between
        # two of them.
        if is_valid(case) or "until" not in query:
            query["until"] = "0"
        else:
            # Its end may be what is wrong with it, or be far away: what is right in the others goes.
            if sent(query.get("follow")) in (True, "true"):
                del query["follow"]
            if is_pace(sent(query.get("speed"))):
                del query["speed"]
    body = case.body
    if isinstance(body, dict):
        wait = body.get("wait_ms")
        if case.path.endswith("/poll") and (wait is None or is_long(wait)):
            body["wait_ms"] = 20
        # Thousands of partitions at once test the disk, and not the document; and a stream is over 256 at most.
        if case.path == "/v1/topics/{topic}" and isinstance(body.get("partitions"), (int, float)) and 9 < body["partitions"] <= 10_000:
            body["partitions"] = 9


def fetch(query, case):
    if "offset" in query and "from" in query:
        drop(query, "offset")
    if "offset" not in query and "from" not in query:
        query["offset"] = "earliest"
    offset, until = whole(query.get("offset")), whole(query.get("until_offset"))
    if offset is not None and until is not None and until < offset:
        query["until_offset"] = offset


def stream(query, case):
    if query.get("from") == "latest":
        drop(query, "last")
    if "speed" in query:
        drop(query, "order")
    if "speed" in query or query.get("follow") in (True, "true"):
        drop(query, "max_scan_bytes", "max_scan_ms")
    if query.get("data") == "cloudevents":
        drop(query, "value_limit")
    topics = query.get("topics")
    if topics is not None and not (isinstance(topics, list) and len(topics) == 1):
        drop(query, "partitions")
    for name in ("topics", "partitions"):
        if isinstance(query.get(name), list):
            query[name] = list(dict.fromkeys(query[name]))
    drop(case.headers, "Last-Event-ID")


def produce(query, case):
    media = case.media_type or ""
    events = "cloudevents" in media
    headers = case.headers
    attributes = [name for name in list(headers) if name.lower().startswith("ce-")]
    is_binary = any(name.lower() == "ce-specversion" for name in attributes) and len(attributes) == 4
    if not is_binary or events or media in ("application/json", NDJSON):
        drop(headers, *attributes)
        is_binary = False
    if media in ("application/json", NDJSON):
        drop(query, "key", "partition", "timestamp")
    else:
        drop(query, "repartition")
    if events or is_binary:
        drop(query, "key", "timestamp")
    # All records of a request with an expected offset go to one partition.
    if "expected_offset" in query and media in ("application/json", NDJSON, "application/cloudevents-batch+json"):
        if isinstance(case.body, dict):
            case.body["records"] = case.body["records"][:1]
        elif isinstance(case.body, list):
            case.body = case.body[:1]


def skip(query, case):
    pair = query if query else case.body
    if isinstance(pair, dict):
        first, last = whole(pair.get("damaged_offset")), whole(pair.get("damaged_until_offset"))
        if first is not None and last is not None and first >= last:
            pair["damaged_offset"], pair["damaged_until_offset"] = (last, first) if first > last else (0, max(1, last))


def history(query, case):
    if "topic" not in query:
        drop(query, "partition")


def commit(query, case):
    # An offset is at most the end of a partition, and each partition is named once.
    if isinstance(case.body, dict):
        rows = {(row["topic"], row["partition"]): row | {"offset": 0} for row in case.body["offsets"]}
        case.body["offsets"] = list(rows.values())


def join(query, case):
    # The dead letters' topic is none that the group reads; without it, names of topics must have room for a suffix.
    if isinstance(case.body, dict) and (case.body.get("type") == "shared" or case.method == "PATCH"):
        case.body["dead_letter_topic"] = "letters"


def token(query, case):
    # A token does not end in the past.
    if isinstance(case.body, dict) and case.body.get("expires") is not None:
        case.body["expires"] = "2999-01-01T00:00:00Z"


def poll(query, case):
    if isinstance(case.body, dict) and case.body.get("topics"):
        join(query, case)
    if isinstance(case.body, dict) and isinstance(case.body.get("member_id"), str):
        case.body["member_id"] = urllib.parse.unquote(case.path_parameters["member"])


def find_something(case, rng):
    """Half of the valid requests are about something that exists."""
    known = {"topic": TOPICS, "group": GROUPS, "member": ["m1", "m2"], "partition": [0, 1, 2]}
    for name, values in known.items():
        if name in (case.path_parameters or {}) and rng.random() < 0.5:
            case.path_parameters[name] = rng.choice(values)

    def names(value):
        if isinstance(value, dict):
            if isinstance(value.get("topic"), str):
                value["topic"] = rng.choice(TOPICS)
                if isinstance(value.get("partition"), int):
                    value["partition"] = rng.randrange(3)
            for inner in value.values():
                names(inner)
        elif isinstance(value, list):
            for inner in value:
                names(inner)

    if rng.random() < 0.5:
        names(case.body)


def plain(value, events):
    """Large whole numbers are written without a fraction; those of CloudEvents always are."""
    if isinstance(value, float) and value.is_integer() and (events or abs(value) > 9e14):
        return int(value)
    if isinstance(value, dict):
        return {name: plain(inner, events) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, events) for inner in value]
    return value


# Rules between parameters, which OpenAPI has no words for.
RULES = {
    "fetch": fetch,
    "fetch_head": fetch,
    "stream_topic": stream,
    "stream_topics": stream,
    "produce": produce,
    "skip_damage": skip,
    "take_skip_back": skip,
    "lag_history": history,
    "lag_svg": history,
    "poll": poll,
    "create_token": token,
    "alter_token": token,
    "join_group": join,
    "alter_group": join,
    "commit": commit,
    "commit_offsets": commit,
}
ACCEPTED = {
    "fetch": ["application/json", NDJSON, "application/cloudevents-batch+json", RECORD_BATCH],
    "stream_topic": ["application/json", NDJSON, "text/event-stream"],
    "stream_topics": ["application/json", NDJSON, "text/event-stream"],
    "metrics_text": ["text/plain", "application/openmetrics-text"],
}


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = case.operation.definition.raw.get("operationId", "")
    if "cloudevents" in (case.media_type or ""):
        # The body is the event: headers of the binary mode mean nothing, whatever they say.
        drop(case.headers, *[name for name in case.headers if name.lower().startswith("ce-")])
    if is_valid(case):
        for container in (case.query, case.body):
            if isinstance(container, dict):
                leave_out_made_up(case, container)
        # A body would have to be compressed.
        drop(case.headers, "content-encoding")
        rng = rng_of(case)
        if case.meta.phase.name.value != "stateful":
            find_something(case, rng)
        if isinstance(case.body, (dict, list)):
            case.body = plain(case.body, "cloudevents" in (case.media_type or ""))
        # A link that gives the group does not give the member.
        member = (case.path_parameters or {}).get("member", "m")
        if member in {".", ".."} or not re.fullmatch("[!-~]{1,255}", member):
            case.path_parameters["member"] = "m3"
        rule = RULES.get(operation)
        if rule:
            rule(case.query, case)
        accepted = ACCEPTED.get(operation)
        if accepted:
            accept = rng.choice(accepted)
            if accept in (RECORD_BATCH, "application/cloudevents-batch+json"):
                drop(case.query, "value_limit")
            if accept == "application/json" and (case.query.get("follow") in (True, "true") or "speed" in case.query):
                accept = NDJSON
            case.headers["Accept"] = accept
    bound_waits(case)
    IN_FLIGHT[0] = case
