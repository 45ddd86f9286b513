// @platformatic/kafka.
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'
import { readFileSync } from 'node:fs'
import zlib from 'node:zlib'
import { CODECS, COUNT, KAFKA, PARTITIONS, PREFIX, check, key, parts, skipped, timestamp, until, value } from './shared.mjs'

const home = `${process.env.QUIPU_TEST_NODE}/node_modules/@platformatic/kafka/`
const {
  Admin, Consumer, Producer, stringSerializers, stringDeserializers, ConfigResourceTypes, IncrementalAlterConfigOperationTypes, ListOffsetTimestamps,
} = await import(pathToFileURL(`${home}dist/index.js`))

const base = { clientId: 'tests', bootstrapBrokers: [KAFKA], autocreateTopics: true, retries: 5, retryDelay: 100 }

async function send(topic, messages, settings = {}) {
  const producer = new Producer({ ...base, serializers: stringSerializers, ...settings })
  const sent = await producer.send({ messages: messages.map(each => ({ topic, ...each })), acks: settings.acks })
  await producer.close()
  return sent
}

const rows = codec =>
  Array.from({ length: COUNT }, (_, n) => ({ key: key(n), value: value(n), timestamp: BigInt(timestamp(n)), headers: { codec } }))

const plain = ({ partition, offset, key, value, timestamp, headers }) => ({
  partition,
  offset: Number(offset),
  key,
  value,
  timestamp: Number(timestamp),
  codec: headers.get('codec'),
})

async function withAdmin(work) {
  const admin = new Admin(base)
  try {
    return await work(admin)
  } finally {
    await admin.close()
  }
}

const CLASSIC = { heartbeatInterval: 200, sessionTimeout: 45_000, rebalanceTimeout: 45_000 }

class Member {
  constructor(topic, group, seen, settings = CLASSIC) {
    this.topic = topic
    this.seen = seen
    this.consumer = new Consumer({
      ...base, groupId: group, deserializers: stringDeserializers, maxWaitTime: 100, metadataMaxAge: 1000, ...settings,
    })
  }

  async start(mode = 'committed', settings = {}) {
    const fallback = mode === 'manual' ? {} : { fallbackMode: 'earliest' }
    this.stream = await this.consumer.consume({ topics: [this.topic], mode, ...fallback, autocommit: true, ...settings })
    this.stream.on('data', message => this.seen.push(message))
    this.stream.on('error', error => (this.failure = error))
    return this
  }

  get assigned() {
    assert.equal(this.failure, undefined)
    return this.consumer.assignments?.find(({ topic }) => topic === this.topic)?.partitions ?? []
  }

  async stop() {
    await this.stream.close()
    await this.consumer.close(true)
  }
}

async function readAll(topic, count = COUNT) {
  const seen = []
  const member = await new Member(topic, `${topic}-reader`, seen).start('earliest')
  await until(`${count} records of ${topic}`, () => seen.length >= count)
  await member.stop()
  return seen
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

/** It takes its zstd from Node. */
async function codecs() {
  for (const codec of CODECS) {
    if (codec === 'zstd' && !zlib.zstdCompressSync) {
      skipped(`zstd of @platformatic/kafka, as Node ${process.version} has none (Node 22 has it)`)
      continue
    }
    for (const [name, acks] of ACKS) {
      const topic = `${PREFIX}-${codec}-${name}`
      await send(topic, rows(codec), { acks, compression: codec })
      check(topic, codec, (await readAll(topic)).map(plain))
    }
  }
}

/** Bytes that are no JSON, an empty value, a tombstone, a record without a key. */
async function binary() {
  const topic = `${PREFIX}-binary`
  const bytes = text => Buffer.from(text)
  const sent = [[Buffer.from([0, 255]), Buffer.from([254, 0])], [bytes('empty'), bytes('')], [bytes('tombstone'), null], [null, bytes('no key')]]
  for (const [n, [key, value]] of sent.entries()) {
    const { offsets } = await send(topic, [{ key: key ?? undefined, value: value ?? undefined, partition: 1 }], { serializers: undefined })
    assert.equal(offsets[0].offset, BigInt(n))
  }
  const seen = []
  const member = new Member(topic, `${topic}-reader`, seen, { ...CLASSIC, deserializers: undefined })
  await member.start('earliest')
  await until('all records', () => seen.length === sent.length)
  assert.deepEqual(seen.map(({ key, value }) => [key ?? null, value ?? null]), sent)
  await member.stop()
}

async function times() {
  const topic = `${PREFIX}-times`
  await send(topic, rows('none'))
  await withAdmin(async admin => {
    const offsets = async timestamp => {
      const partitions = Array.from({ length: PARTITIONS }, (_, partitionIndex) => ({ partitionIndex, timestamp }))
      const [listed] = await admin.listOffsets({ topics: [{ name: topic, partitions }] })
      return listed.partitions.map(({ offset }) => Number(offset))
    }
    const sum = numbers => numbers.reduce((sum, number) => sum + number, 0)
    assert.deepEqual(await offsets(ListOffsetTimestamps.EARLIEST), [0, 0, 0, 0])
    const ends = await offsets(ListOffsetTimestamps.LATEST)
    assert.equal(sum(ends), COUNT)
    assert.equal(sum(ends) - sum(await offsets(BigInt(timestamp(COUNT / 2)))), COUNT / 2)
    assert.deepEqual(await offsets(BigInt(timestamp(COUNT))), [-1, -1, -1, -1])
  })
}

const committed = group => withAdmin(async admin => {
  const [{ topics: [{ partitions }] }] = await admin.listConsumerGroupOffsets({ groups: [group] })
  return Object.fromEntries(partitions.map(({ partitionIndex, committedOffset }) => [partitionIndex, Number(committedOffset)]))
})

/** Offsets of a group without members. */
async function commits() {
  const topic = `${PREFIX}-commits`
  await send(topic, rows('none'))
  await withAdmin(async admin => {
    const partitionOffsets = [{ partition: 1, offset: 7n }, { partition: 2, offset: 2n }]
    await admin.alterConsumerGroupOffsets({ groupId: topic, topics: [{ name: topic, partitionOffsets }] })
    assert.deepEqual(await committed(topic), { 1: 7, 2: 2 })
    await admin.deleteConsumerGroupOffsets({ groupId: topic, topics: [{ name: topic, partitionIndexes: [2] }] })
    assert.deepEqual(await committed(topic), { 1: 7 })
  })
}

/** A member reads from the offsets that it is told, and commits by itself. */
async function seek() {
  const topic = `${PREFIX}-seek`
  const seen = []
  await send(topic, rows('none'))
  const offsets = Array.from({ length: PARTITIONS }, (_, partition) => ({ topic, partition, offset: BigInt(partition + 3) }))
  const member = await new Member(topic, topic, seen).start('manual', { offsets, autocommit: false })
  await until('the rest', () => seen.length === COUNT - 3 - 4 - 5 - 6)
  for (const { partition, offset } of offsets) assert.equal(seen.find(each => each.partition === partition).offset, offset)
  await member.consumer.commit({ offsets: [{ topic, partition: 1, offset: 7n, leaderEpoch: 0 }] })
  assert.deepEqual(await committed(topic), { 1: 7 })
  await member.stop()
}

/** Records may come twice: a member has read more than it has committed when a partition goes to the other one. */
async function share(topic, seen, settings, reading, last = async () => {}) {
  await send(topic, rows('none'))
  const first = await new Member(topic, topic, seen, settings).start('committed', reading)
  await until('the first has all', () => first.assigned.length === PARTITIONS && seen.length === COUNT)
  const second = await new Member(topic, topic, seen, settings).start('committed', reading)
  await until('each has a half', () => first.assigned.length === 2 && second.assigned.length === 2)
  await send(topic, rows('none'))
  await until('both read the rest', () => new Set(seen.map(({ partition, offset }) => `${partition}@${offset}`)).size === 2 * COUNT)
  await first.stop()
  await until('the second has all', () => second.assigned.length === PARTITIONS)
  await last(second)
  await second.stop()
}

const groups = () => share(`${PREFIX}-group`, [])

/**
 * Members by the server-side protocol. Its automatic commits may come with an epoch that is over, and then end the process, with any
 * broker: so these members commit by themselves.
 */
async function consumers() {
  const topic = `${PREFIX}-consumers`
  await share(topic, [], { groupProtocol: 'consumer' }, { autocommit: false }, async member => {
    await member.consumer.commit({ offsets: [{ topic, partition: 1, offset: 7n, leaderEpoch: 0 }] })
    assert.deepEqual(await committed(topic), { 1: 7 })
  })
}

/** A static member comes back within its session and gets what it had. */
async function staticMembers() {
  const topic = `${PREFIX}-static`
  const seen = []
  await send(topic, rows('none'))
  const named = groupInstanceId => new Member(topic, topic, seen, { ...CLASSIC, groupInstanceId }).start()
  const first = await named('one')
  const second = await named('two')
  await until('each has a half', () => first.assigned.length === 2 && second.assigned.length === 2)
  const [had, other] = [first.assigned, second.assigned]
  await first.stop()
  const again = await named('one')
  await until('it has them again', () => again.assigned.length === 2)
  assert.deepEqual([again.assigned, second.assigned], [had, other])
  await again.stop()
  await second.stop()
}

/** Creates, lists, grows and deletes topics; deletes records; reads and changes a configuration. */
async function topics() {
  const topic = `${PREFIX}-topics`
  await withAdmin(async admin => {
    await admin.createTopics({ topics: [topic], partitions: 3, replicas: 1, configs: [{ name: 'retention.ms', value: '3600000' }] })
    await assert.rejects(admin.createTopics({ topics: [topic], partitions: 3, replicas: 1 }))
    assert.ok((await admin.listTopics()).includes(topic))
    const partitions = async () => (await admin.metadata({ topics: [topic], forceUpdate: true })).topics.get(topic).partitions.length
    assert.equal(await partitions(), 3)
    const resource = { resourceType: ConfigResourceTypes.TOPIC, resourceName: topic }
    const config = async () => {
      const [{ configs }] = await admin.describeConfigs({ resources: [{ ...resource, configurationKeys: ['retention.ms'] }] })
      return configs.map(({ name, value }) => [name, value])
    }
    assert.deepEqual(await config(), [['retention.ms', '3600000']])
    const configs = [{ name: 'retention.ms', configOperation: IncrementalAlterConfigOperationTypes.SET, value: '7200000' }]
    await admin.incrementalAlterConfigs({ resources: [{ ...resource, configs }] })
    assert.deepEqual(await config(), [['retention.ms', '7200000']])
    await admin.createPartitions({ topics: [{ name: topic, count: 5, assignments: null }], validateOnly: false })
    assert.equal(await partitions(), 5)
    await send(topic, Array.from({ length: 10 }, () => ({ value: '1', partition: 0 })))
    const [{ partitions: [deleted] }] = await admin.deleteRecords({ topics: [{ name: topic, partitions: [{ partition: 0, offset: 4n }] }] })
    assert.equal(deleted.lowWatermark, 4n)
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
    assert.ok((await admin.listGroups()).has(topic))
    const described = (await admin.describeGroups({ groups: [topic] })).get(topic)
    assert.equal(described.state.toUpperCase(), 'STABLE')
    await one.stop()
    await admin.deleteGroups({ groups: [topic] })
    assert.ok(!(await admin.listGroups()).has(topic))
  })
}

function signedIn(secret = process.env.TOKEN) {
  const { MECHANISM, CA } = process.env
  const who = MECHANISM === 'OAUTHBEARER' ? { token: secret } : { username: 'admin', password: secret }
  const sasl = { mechanism: MECHANISM, ...who }
  return { ...base, sasl, ...(CA ? { tls: { ca: readFileSync(CA) } } : {}) }
}

async function signIn() {
  const { offsets } = await send(PREFIX, [{ value: 'x', partition: 1 }], signedIn())
  assert.equal(offsets[0].offset, 0n)
  const seen = []
  const member = await new Member(PREFIX, PREFIX, seen, { ...CLASSIC, ...signedIn() }).start('earliest')
  await until('the record', () => seen.length)
  assert.deepEqual(seen.map(({ value }) => value), ['x'])
  await member.stop()
}

async function refused() {
  const admin = new Admin({ ...signedIn(process.env.WRONG), retries: 0 })
  await assert.rejects(admin.listTopics())
  await admin.close()
}

parts({ records, idempotent, read, codecs, binary, times, commits, seek, groups, consumers, static: staticMembers, topics, list_groups: listGroups, sign_in: signIn, refused })
