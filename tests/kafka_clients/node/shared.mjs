// What the scripts of Node share: the records that every client sends, patience, and the parts that are asked for.
//
//   node SCRIPT.mjs KAFKA PREFIX PART...
//
// A part fails by throwing; `../main.rs` says what the parts are.
import assert from 'node:assert/strict'

export const COUNT = 100
export const PARTITIONS = 4
export const [KAFKA, PREFIX] = process.argv.slice(2)
export const CODECS = ['gzip', 'snappy', 'lz4', 'zstd']
// Ends a script that hangs, and decides nothing else.
const PATIENCE = 240_000

export const key = n => `key-${n}`
export const value = n => `{"n":${n},"text":"héllo ${'x'.repeat(100)}"}`
export const timestamp = n => 1_700_000_000_000 + 1000 * n

/** Compares the records that were read, [{partition, offset, key, value, timestamp, codec}], with those that were sent. */
export function check(topic, codec, found) {
  const ends = new Map()
  const times = new Map()
  for (const { partition, offset, timestamp: time } of found) {
    assert.equal(offset, ends.get(partition) ?? 0, `offsets of ${topic}/${partition}`)
    assert.ok(time > (times.get(partition) ?? 0), `order in ${topic}/${partition}`)
    ends.set(partition, offset + 1)
    times.set(partition, time)
  }
  const rows = found.map(({ partition, offset, ...rest }) => rest).sort((a, b) => a.timestamp - b.timestamp)
  const expected = Array.from({ length: COUNT }, (_, n) => ({ key: key(n), value: value(n), timestamp: timestamp(n), codec }))
  assert.deepEqual(rows, expected)
}

/** Waits until `holds` returns something true; returns that. */
export async function until(what, holds, patience = PATIENCE) {
  const end = Date.now() + patience
  for (;;) {
    const found = await holds()
    if (found) return found
    assert.ok(Date.now() < end, `waited in vain: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

const left = []

/** Says that a part leaves something out; printed after the part. */
export const skipped = what => left.push(`skipped: ${what}`)

/** Runs the parts that are asked for, then ends the process. */
export async function parts(all) {
  for (const name of process.argv.slice(4)) {
    process.stdout.write(`${name}: `)
    await all[name]()
    console.log('passed')
    for (const line of left.splice(0)) console.log(line)
  }
  process.exit(0)
}
