// kafkajs.
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { CODECS, COUNT, KAFKA, PARTITIONS, PREFIX, check, key, parts, timestamp, until, value } from './shared.mjs'

const require = createRequire(`${process.env.QUIPU_TEST_NODE}/`)
const { Kafka, CompressionCodecs, CompressionTypes, Partitioners, logLevel } = require('kafkajs')
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = new (require('@2l/kafkajs-lz4'))().codec
const zstd = require('@mongodb-js/zstd')
CompressionCodecs[CompressionTypes.ZSTD] = () => ({ compress: encoder => zstd.compress(encoder.buffer), decompress: buffer => zstd.decompress(buffer) })

const kafka = new Kafka({ brokers: [KAFKA], logLevel: logLevel.NOTHING, clientId: 'tests' })
const TYPES = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 }

async function withAdmin(work) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await work(admin)
  } finally {
    await admin.disconnect()
  }
}

const rows = codec =>
  Array.from({ length: COUNT }, (_, n) => ({ key: key(n), value: value(n), timestamp: String(timestamp(n)), headers: { codec } }))

async function send(topic, messages, { codec = 'none', acks = -1, ...settings } = {}) {
  const producer = kafka.producer({ allowAutoTopicCreation: true, createPartitioner: Partitioners.DefaultPartitioner, ...settings })
  await producer.connect()
  const sent = await producer.send({ topic, messages, acks, compression: TYPES[codec] })
  await producer.disconnect()
  return sent
}

const plain = ({ partition, message }) => ({
  partition,
  offset: Number(message.offset),
  key: message.key?.toString(),
  value: message.value?.toString(),
  timestamp: Number(message.timestamp),
  codec: message.headers?.codec?.toString(),
})

/** A member of a group; kafkajs consumes in no other way. */
class Member {
  assigned = []
  found = []

  constructor(topic, group, seen) {
    this.seen = seen
    this.topic = topic
    this.consumer = kafka.consumer({
      groupId: group, heartbeatInterval: 200, sessionTimeout: 45_000, rebalanceTimeout: 10_000, metadataMaxAge: 1000, maxWaitTimeInMs: 100,
      retry: { initialRetryTime: 50 }, allowAutoTopicCreation: true,
    })
    this.consumer.on('consumer.group_join', ({ payload }) => (this.assigned = payload.memberAssignment[topic] ?? []))
    this.consumer.on('consumer.rebalancing', () => (this.assigned = []))
  }

  async start(settings = {}) {
    await this.consumer.connect()
    await this.consumer.subscribe({ topics: [this.topic], fromBeginning: true })
    await this.consumer.run({ eachMessage: async each => this.seen.push(each), ...settings })
    return this
  }

  stop() {
    return this.consumer.disconnect()
  }
}

async function readAll(topic, count = COUNT) {
  const seen = []
  const member = await new Member(topic, `${topic}-reader`, seen).start()
  await until(`${count} records of ${topic}`, () => seen.length >= count)
  await member.stop()
  return seen
}

async function sendAndCheck(topic, codec, settings) {
  await send(topic, rows(codec), { codec, ...settings })
  check(topic, codec, (await readAll(topic)).map(plain))
}

const ACKS = [['0', 0], ['1', 1], ['all', -1]]

async function records() {
  for (const [name, acks] of ACKS) await send(`${PREFIX}-none-${name}`, rows('none'), { acks })
}

async function idempotent() {
  await send(`${PREFIX}-none-idempotent`, rows('none'), { idempotent: true })
}

async function read() {
  for (const name of ['0', '1', 'all', 'idempotent']) check(name, 'none', (await readAll(`${PREFIX}-none-${name}`)).map(plain))
}

async function codecs() {
  for (const codec of CODECS) {
    for (const [name, acks] of ACKS) await sendAndCheck(`${PREFIX}-${codec}-${name}`, codec, { acks })
  }
}

/** Bytes that are no JSON, an empty value, a tombstone, a record without a key. */
async function binary() {
  const topic = `${PREFIX}-binary`
  const sent = [
    [Buffer.from([0, 255]), Buffer.from([254, 0])], [Buffer.from('empty'), Buffer.from('')], [Buffer.from('tombstone'), null],
    [null, Buffer.from('no key')],
  ]
  for (const [n, [key, value]] of sent.entries()) {
    const [{ baseOffset }] = await send(topic, [{ key, value, partition: 1 }])
    assert.equal(baseOffset, String(n))
  }
}

async function times() {
  const topic = `${PREFIX}-times`
  await send(topic, rows('none'))
  await withAdmin(async admin => {
    const ends = await admin.fetchTopicOffsets(topic)
    assert.equal(ends.length, PARTITIONS)
    assert.equal(ends.reduce((sum, { high }) => sum + Number(high), 0), COUNT)
    assert.deepEqual(new Set(ends.map(({ low }) => low)), new Set(['0']))
    const middle = await admin.fetchTopicOffsetsByTimestamp(topic, timestamp(COUNT / 2))
    const late = await admin.fetchTopicOffsetsByTimestamp(topic, timestamp(COUNT))
    const left = middle.reduce((sum, { partition, offset }) => sum + Number(ends.find(e => e.partition === partition).high) - Number(offset), 0)
    assert.equal(left, COUNT / 2)
    const byPartition = rows => rows.map(({ partition, high, offset }) => [partition, Number(high ?? offset)]).sort()
    assert.deepEqual(byPartition(late), byPartition(ends.map(({ partition, high }) => ({ partition, high }))))
  })
}

/** Offsets of a group without members. */
async function commits() {
  const topic = `${PREFIX}-commits`
  await send(topic, rows('none'))
  await withAdmin(async admin => {
    await admin.setOffsets({ groupId: topic, topic, partitions: [{ partition: 1, offset: '7' }] })
    const [{ partitions }] = await admin.fetchOffsets({ groupId: topic, topics: [topic] })
    assert.equal(partitions.find(({ partition }) => partition === 1).offset, '7')
    assert.equal(partitions.find(({ partition }) => partition === 0).offset, '-1')
  })
}

/** A member commits by itself, and reads again from where it is told to. */
async function seek() {
  const topic = `${PREFIX}-seek`
  const seen = []
  await send(topic, rows('none'))
  const member = await new Member(topic, topic, seen).start({ autoCommit: false })
  await until('all records', () => seen.length === COUNT)
  const committed = () => withAdmin(async admin => {
    const [{ partitions }] = await admin.fetchOffsets({ groupId: topic, topics: [topic] })
    return partitions.sort((a, b) => a.partition - b.partition).map(({ offset }) => offset)
  })
  assert.deepEqual(await committed(), ['-1', '-1', '-1', '-1'])
  await member.consumer.commitOffsets([{ topic, partition: 1, offset: '7', metadata: 'seven' }])
  assert.deepEqual(await committed(), ['-1', '7', '-1', '-1'])
  const end = seen.filter(({ partition }) => partition === 1).length
  seen.length = 0
  member.consumer.seek({ topic, partition: 1, offset: '3' })
  await until('those from the offset', () => seen.length === end - 3)
  assert.deepEqual(seen.map(({ partition, message }) => [partition, Number(message.offset)]), Array.from({ length: end - 3 }, (_, n) => [1, n + 3]))
  await member.stop()
}

async function groups() {
  const topic = `${PREFIX}-group`
  const seen = []
  await send(topic, rows('none'))
  const first = await new Member(topic, topic, seen).start()
  await until('the first has all', () => first.assigned.length === PARTITIONS && seen.length === COUNT)
  const second = await new Member(topic, topic, seen).start()
  await until('each has a half', () => first.assigned.length === 2 && second.assigned.length === 2)
  await send(topic, rows('none'))
  await until('both read the rest', () => new Set(seen.map(({ partition, message }) => `${partition}@${message.offset}`)).size === 2 * COUNT)
  await first.stop()
  await until('the second has all', () => second.assigned.length === PARTITIONS)
  await second.stop()
  assert.equal(seen.length, 2 * COUNT, 'nothing comes twice')
  await withAdmin(async admin => {
    const [{ partitions }] = await admin.fetchOffsets({ groupId: topic, topics: [topic] })
    assert.equal(partitions.reduce((sum, { offset }) => sum + Number(offset), 0), 2 * COUNT)
  })
}

/** Creates, lists, describes, grows and deletes topics; deletes records; reads and changes a configuration. */
async function topics() {
  const topic = `${PREFIX}-topics`
  await withAdmin(async admin => {
    const wanted = { topic, numPartitions: 3, configEntries: [{ name: 'retention.ms', value: '3600000' }] }
    assert.equal(await admin.createTopics({ topics: [wanted] }), true)
    assert.equal(await admin.createTopics({ topics: [wanted] }), false, 'it exists')
    assert.ok((await admin.listTopics()).includes(topic))
    const partitions = async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length
    assert.equal(await partitions(), 3)
    const config = async () => {
      const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] })
      return resources[0].configEntries.find(({ configName }) => configName === 'retention.ms').configValue
    }
    assert.equal(await config(), '3600000')
    await admin.alterConfigs({ resources: [{ type: 2, name: topic, configEntries: [{ name: 'retention.ms', value: '7200000' }] }] })
    assert.equal(await config(), '7200000')
    await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] })
    assert.equal(await partitions(), 5)
    await send(topic, Array.from({ length: 10 }, () => ({ value: '1', partition: 0 })))
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] })
    const [{ low, high }] = (await admin.fetchTopicOffsets(topic)).filter(({ partition }) => partition === 0)
    assert.deepEqual([low, high], ['4', '10'])
    await admin.deleteTopics({ topics: [topic] })
    assert.ok(!(await admin.listTopics()).includes(topic))
  })
}

/** Lists, describes and deletes groups. */
async function listGroups() {
  const topic = `${PREFIX}-listed`
  const seen = []
  await send(topic, rows('none'))
  const one = await new Member(topic, topic, seen).start()
  await until('it has all', () => one.assigned.length === PARTITIONS && seen.length === COUNT)
  await withAdmin(async admin => {
    assert.ok((await admin.listGroups()).groups.some(({ groupId }) => groupId === topic))
    const described = (await admin.describeGroups([topic])).groups[0]
    assert.deepEqual([described.state, described.members.length], ['Stable', 1])
    await one.stop()
    await admin.deleteGroups([topic])
    assert.ok(!(await admin.listGroups()).groups.some(({ groupId }) => groupId === topic))
  })
}

function signedIn(secret = process.env.TOKEN) {
  const { MECHANISM, CA } = process.env
  const who = MECHANISM === 'OAUTHBEARER' ? { oauthBearerProvider: async () => ({ value: secret }) } : { username: 'admin', password: secret }
  const sasl = { mechanism: MECHANISM.toLowerCase(), ...who }
  return new Kafka({ brokers: [KAFKA], logLevel: logLevel.NOTHING, sasl, ssl: CA ? { ca: [readFileSync(CA)] } : false })
}

async function signIn() {
  const producer = signedIn().producer({ allowAutoTopicCreation: true, createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  const [{ baseOffset }] = await producer.send({ topic: PREFIX, messages: [{ value: 'x', partition: 1 }] })
  assert.equal(baseOffset, '0')
  await producer.disconnect()
  const seen = []
  const consumer = signedIn().consumer({ groupId: PREFIX })
  await consumer.connect()
  await consumer.subscribe({ topics: [PREFIX], fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => seen.push(message.value.toString()) })
  await until('the record', () => seen.length)
  assert.deepEqual(seen, ['x'])
  await consumer.disconnect()
}

async function refused() {
  await assert.rejects(signedIn(process.env.WRONG).admin().connect(), /the token is not valid here/)
}

/** Sends numbers until the file says that it ends; each is stored in the end. */
async function kills() {
  const retry = { retries: 10_000, initialRetryTime: 20, maxRetryTime: 500 }
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, retry, createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  let sent = 0
  while (!existsSync(process.env.QUIPU_TEST_STOP)) {
    const messages = Array.from({ length: 10 }, (_, n) => ({ value: String(sent + n), partition: 0 }))
    const [{ baseOffset }] = await producer.send({ topic: `${PREFIX}-kills`, messages, acks: -1 })
    assert.equal(baseOffset, String(sent))
    sent += messages.length
  }
  await producer.disconnect()
  process.stdout.write(`${sent} `)
}

/** Two members that read and commit until the file says that they end; prints what they read. */
async function readers() {
  const each = async ({ partition, message }) => process.stdout.write(`${partition}@${message.offset}\n`)
  const both = [0, 1].map(() => new Member('read', `${PREFIX}-readers`, []))
  for (const member of both) await member.start({ eachMessage: each })
  await until('the end', () => existsSync(process.env.QUIPU_TEST_STOP), 1_400_000)
  for (const member of both) await member.stop()
}

parts({ records, idempotent, read, codecs, binary, times, commits, seek, groups, topics, list_groups: listGroups, sign_in: signIn, refused, kills, readers })
