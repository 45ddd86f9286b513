# Sends events with the CloudEvents SDK in every mode to the topic t of the server named, and compares what comes back.
import json
import sys
import urllib.request
from datetime import datetime, timedelta, timezone

from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

base = sys.argv[1] + "/v1/topics/t"
form = JSONFormat()
when = datetime(2018, 4, 5, 17, 31, 0, 250000, timezone(timedelta(hours=2)))


def event(number, data, **attributes):
    given = {"id": str(number), "source": "/shops/7", "type": "com.example.order.placed", "time": when}
    return CloudEvent({**given, **attributes}, data)


events = [
    event(0, {"total": 1.5, "lines": [1, "é", None]}),
    event(1, {"total": 2}, datacontenttype="application/json", subject='50 % of "é" 😀', partitionkey="N14228"),
    event(2, "<order total='1'/>", datacontenttype="application/xml"),
    event(3, "plain, é", datacontenttype="text/plain; charset=utf-8", dataschema="http://example.com/schema"),
    event(4, b"\x00\xff\x89PNG", datacontenttype="image/png"),
    event(5, None),
    event(6, {"a": 1}, datacontenttype="application/vnd.example+json", traceparent="00-ab-cd-01", comexampleextension1="value"),
]


def post(body, headers):
    request = urllib.request.Request(base + "/records", body, headers)
    return json.load(urllib.request.urlopen(request))["offsets"]


for one in events:
    message = to_structured(one, form)
    assert len(post(message.body, message.headers)) == 1
    message = to_binary(one, form)
    assert len(post(message.body, {"content-type": "", **message.headers})) == 1
batch = b"[" + b",".join(form.write(one) for one in events) + b"]"
assert len(post(batch, {"content-type": "application/cloudevents-batch+json"})) == len(events)

accept = {"accept": "application/cloudevents-batch+json"}
request = urllib.request.Request(base + "/partitions/0/records?offset=0", None, accept)
fetched = json.load(urllib.request.urlopen(request))
expected = [one for one in events for _ in range(2)] + events
assert len(fetched) == len(expected), fetched
for back, sent in zip(fetched, expected):
    body = json.dumps(back).encode()
    read = from_http(HTTPMessage({"content-type": "application/cloudevents+json"}, body), form)
    assert read.get_attributes() == sent.get_attributes(), (read.get_attributes(), sent.get_attributes())
    assert read.get_data() == sent.get_data(), (read.get_data(), sent.get_data())

request = urllib.request.Request(base + "/partitions/0/records?offset=0", None, {"accept": "application/json"})
for record in json.load(urllib.request.urlopen(request))["records"]:
    assert record["timestamp"] == round(when.timestamp() * 1000), record
print("the CloudEvents SDK reads back", len(fetched), "events")
