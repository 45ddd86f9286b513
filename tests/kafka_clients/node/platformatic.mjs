// @platformatic/kafka.
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'
import { CODECS, COUNT, KAFKA, PARTITIONS, PREFIX, check, key, parts, timestamp, until, value } from './shared.mjs'

const home = `${process.env.QUIPU_TEST_NODE}/node_modules/@platformatic/kafka/`
const { Admin, Consumer, Producer, stringSerializers, stringDeserializers, ConfigResourceTypes, IncrementalAlterConfigTypes } = await import(pathToFileURL(`${home}dist/index.js`))

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

class Member {
  constructor(topic, group, seen) {
    this.topic = topic
    this.seen = seen
    this.consumer = new Consumer({
      ...base, groupId: group, deserializers: stringDeserializers, heartbeatInterval: 200, sessionTimeout: 10_000, rebalanceTimeout: 10_000,
      maxWaitTime: 100, metadataMaxAge: 1000,
    })
  }

  async start(mode = 'committed') {
    this.stream = await this.consumer.consume({ topics: [this.topic], mode, fallbackMode: 'earliest', autocommit: true })
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

/** zstd needs Node 22. */
async function codecs() {
  for (const codec of CODECS.filter(name => name !== 'zstd')) {
    for (const [name, acks] of ACKS) await send(`${PREFIX}-${codec}-${name}`, rows(codec), { acks, compression: codec })
    check(codec, codec, (await readAll(`${PREFIX}-${codec}-all`)).map(plain))
  }
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
  await until('both read the rest', () => new Set(seen.map(({ partition, offset }) => `${partition}@${offset}`)).size === 2 * COUNT)
  await first.stop()
  await until('the second has all', () => second.assigned.length === PARTITIONS)
  await second.stop()
}

/** Creates, lists and deletes topics; reads a configuration. */
async function topics() {
  const topic = `${PREFIX}-topics`
  const admin = new Admin(base)
  await admin.createTopics({ topics: [topic], partitions: 3, replicas: 1, configs: [{ name: 'retention.ms', value: '3600000' }] })
  assert.ok((await admin.listTopics()).includes(topic))
  const metadata = await admin.metadata({ topics: [topic], forceUpdate: true })
  assert.equal(metadata.topics.get(topic).partitions.length, 3)
  await admin.createPartitions({ topics: [{ name: topic, count: 5, assignments: null }], validateOnly: false }).catch(error => {
    throw error
  })
  await admin.deleteTopics({ topics: [topic] })
  assert.ok(!(await admin.listTopics()).includes(topic))
  await admin.close()
}

/** Lists, describes and deletes groups. */
async function listGroups() {
  const topic = `${PREFIX}-listed`
  const seen = []
  await send(topic, rows('none'))
  const one = await new Member(topic, topic, seen).start()
  await until('it has all', () => one.assigned.length === PARTITIONS && seen.length === COUNT)
  const admin = new Admin(base)
  assert.ok((await admin.listGroups()).has(topic))
  const described = (await admin.describeGroups({ groups: [topic] })).get(topic)
  assert.equal(described.state.toUpperCase(), 'STABLE')
  await one.stop()
  await admin.deleteGroups({ groups: [topic] })
  assert.ok(!(await admin.listGroups()).has(topic))
  await admin.close()
}

parts({ records, idempotent, read, codecs, groups, topics, list_groups: listGroups })
