// A member of a group in Kafka's classic protocol, as small as it can be: it joins, gets all partitions, commits, and leaves.

import assert from "node:assert/strict";
import net from "node:net";

const int16 = (value) => { const bytes = Buffer.alloc(2); bytes.writeInt16BE(value); return bytes; };
const int32 = (value) => { const bytes = Buffer.alloc(4); bytes.writeInt32BE(value); return bytes; };
const int64 = (value) => { const bytes = Buffer.alloc(8); bytes.writeBigInt64BE(BigInt(value)); return bytes; };
const string = (text) => Buffer.concat([int16(Buffer.byteLength(text)), Buffer.from(text)]);
const bytes = (content) => Buffer.concat([int32(content.length), content]);
const array = (items) => Buffer.concat([int32(items.length), ...items]);

const OFFSET_COMMIT = 8;
const JOIN_GROUP = 11;
const LEAVE_GROUP = 13;
const SYNC_GROUP = 14;

/// Joins `group` with all partitions of `topics` (`{name: count}`). `commit(topic, partition, offset)` and `leave()` go on.
export async function join(address, group, topics) {
  const [host, port] = address.split(":");
  const socket = net.connect(Number(port), host);
  const answers = [];
  let rest = Buffer.alloc(0);
  socket.on("data", (part) => {
    rest = Buffer.concat([rest, part]);
    while (rest.length >= 4 && rest.length >= 4 + rest.readInt32BE(0)) {
      const size = rest.readInt32BE(0);
      answers.shift()(rest.subarray(8, 4 + size));
      rest = rest.subarray(4 + size);
    }
  });
  const call = (key, version, ...body) => new Promise((resolve, reject) => {
    socket.once("error", reject);
    answers.push(resolve);
    const request = Buffer.concat([int16(key), int16(version), int32(1), string("kafka.example"), ...body]);
    socket.write(Buffer.concat([int32(request.length), request]));
  });
  const subscription = Buffer.concat([int16(0), array(Object.keys(topics).map(string)), int32(-1)]);
  const session = int32(600000);
  const joined = await call(JOIN_GROUP, 2, string(group), session, session, string(""), string("consumer"), array([Buffer.concat([string("range"), bytes(subscription)])]));
  assert.equal(joined.readInt16BE(4), 0, "it joins");
  const generation = joined.subarray(6, 10);
  // The protocol's name, the leader, and the member's own id.
  let at = 10;
  const next = () => {
    const length = joined.readInt16BE(at);
    at += 2 + length;
    return joined.toString("utf8", at - length, at);
  };
  const [, , member] = [next(), next(), next()];
  const partitions = (count) => array(Array.from({ length: count }, (_, partition) => int32(partition)));
  const assignment = Buffer.concat([int16(0), array(Object.entries(topics).map(([name, count]) => Buffer.concat([string(name), partitions(count)]))), int32(-1)]);
  const synced = await call(SYNC_GROUP, 1, string(group), generation, string(member), array([Buffer.concat([string(member), bytes(assignment)])]));
  assert.equal(synced.readInt16BE(4), 0, "it has its partitions");
  return {
    member,
    async commit(topic, partition, offset) {
      const row = Buffer.concat([int32(partition), int64(offset), int16(-1)]);
      const answer = await call(OFFSET_COMMIT, 2, string(group), generation, string(member), int64(-1), array([Buffer.concat([string(topic), array([row])])]));
      assert.equal(answer.readInt16BE(answer.length - 2), 0, "it commits");
    },
    async leave() {
      await call(LEAVE_GROUP, 1, string(group), string(member));
      socket.destroy();
    },
  };
}
