// The shared suite over both devices, what only the native one has, and their agreement: the replay
// of a recorded trace must stop for the same experts as the model that made it.
import { copyFileSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  Control,
  Counter,
  createDevice,
  type Layout,
  Reason,
  SamplingField,
} from '../native/index.js'
import { layoutOf, planMemory } from '../src/engine/layout.js'
import { openModel } from '../src/engine/open.js'
import { ReplayDevice } from '../src/engine/replay.js'
import { step } from '../src/engine/step.js'
import { packTensors } from '../src/engine/tables.js'
import { readTrace } from '../src/engine/trace.js'
import { openCheckpoint } from '../src/model/checkpoint.js'
import { codeOf, type DeviceFixture, deviceSuite } from './device.suite.js'
import { driveOne } from './drive.js'
import { batchOf, outcomeOf, requestOf } from './models.js'
import { fixtures, ringTiny } from './paths.js'

const trace = readTrace(join(fixtures, 'traces/ring-tiny.trace'))
const checkpoint = openCheckpoint(ringTiny)
const tables = packTensors(checkpoint)

function layout(lockstep: boolean): Layout {
  const wishes = { sequences: 2, lockstep, contextTokens: 1024, threads: 2 }
  const plan = planMemory(checkpoint.config, wishes, 2 ** 30)
  const words = new SharedArrayBuffer(4 * (Control.cancel + 2))
  return layoutOf({
    checkpoint,
    files: checkpoint.files,
    tables,
    plan,
    wishes,
    slots: 0,
    control: new Int32Array(words),
    counters: new Float64Array(Counter.count),
  })
}

const tokens = trace.sequences[0]?.ids ?? []
const native: DeviceFixture = { name: 'native', create: createDevice, layout, tokens }
const replay: DeviceFixture = {
  name: 'replay',
  create: () => new ReplayDevice(trace),
  layout,
  tokens,
}
deviceSuite(native)
deviceSuite(replay)

describe('the native device', () => {
  it('routes recorded texts as the independent reference recorded them', () => {
    for (const [slot, sequence] of trace.sequences.entries()) {
      const ids = sequence.ids ?? []
      const request = requestOf(ids, { routing: true })
      const { scored } = driveOne(ringTiny, { kvType: 'f32' }, request).ending
      const expected = new Uint16Array(trace.topK)
      let differing = 0
      for (let moeLayer = 0; moeLayer < trace.layers.length; moeLayer += 1) {
        for (let token = 0; token < ids.length; token += 1) {
          trace.expertsOf(sequence, token, moeLayer, expected)
          const at = (moeLayer * ids.length + token) * trace.topK
          const ours = scored?.experts
            .slice(at, at + trace.topK)
            .sort()
            .join()
          if (ours !== expected.slice().sort().join()) differing += 1
        }
      }
      // The trace has no margins; the goldens judge near ties, and here there is none.
      expect(`${slot}: ${differing} differ`).toBe(`${slot}: 0 differ`)
    }
  })

  it('can be opened again after an open that failed', () => {
    const device = createDevice()
    const good = layout(false)
    const [first] = good.files
    const files = [{ path: `${first?.path}.gone`, sizeBytes: 1 }]
    expect(codeOf(() => device.open({ ...good, files }))).toBe('cannot_read')
    expect(codeOf(() => device.begin(batchOf([1])))).toBe('not_open')
    device.open(good)
    expect(device.describe()).toMatch(/^cpu, /)
    device.close()
  })

  it('refuses a layout whose tables do not fit its shape or its files', () => {
    const good = layout(false)
    const tensors = good.tensors.slice()
    tensors[1] = 2 ** 40
    const refusals: Layout[] = [
      { ...good, tensors },
      { ...good, tensors: good.tensors.slice(11) },
      { ...good, shape: { ...good.shape, hidden: 128 } },
      { ...good, shape: { ...good.shape, heads: 3 } },
      { ...good, shape: { ...good.shape, topK: 33 } },
      { ...good, shape: { ...good.shape, layers: Number.NaN } },
      { ...good, limits: { ...good.limits, kvBlocks: 0 } },
      { ...good, ropeInverse: new Float32Array(1) },
      { ...good, control: new Int32Array(1) },
    ]
    for (const bad of refusals) {
      const device = createDevice()
      expect(codeOf(() => device.open(bad))).toMatch(/^bad_(argument|tensor)$/)
      device.close()
    }
  })

  it('refuses arguments of the wrong kind', () => {
    const device = createDevice()
    const any = device as unknown as Record<string, (...values: unknown[]) => unknown>
    for (const call of ['open', 'begin', 'advance', 'mix', 'stage', 'poll', 'sample']) {
      for (const values of [[], [null], ['x', 'y'], [1, new Float64Array(3)], [{}, {}]]) {
        expect(codeOf(() => any[call]?.apply(device, values))).toMatch(/^(bad_argument|not_open)$/)
      }
    }
    device.close()
  })

  it('is lost when a mapped file loses a few bytes within its last page', () => {
    const folder = mkdtempSync(join(os.tmpdir(), 'ring-cut-'))
    try {
      for (const file of readdirSync(ringTiny)) {
        copyFileSync(join(ringTiny, file), join(folder, file))
      }
      const model = openModel(folder)
      const shard = 'model-00004-of-00004.safetensors'
      const sizeBytes = statSync(join(folder, shard)).size
      truncateSync(join(folder, shard), sizeBytes - 16)
      const outcome = { ...outcomeOf(1), message: '' }
      expect(step(model.stage, batchOf(tokens.slice(0, 8)), outcome)).toBe(Reason.lost)
      expect(outcome.message).toMatch(`${shard}: cannot be read at byte ${sizeBytes - 16}`)
      model.close()
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('draws by masks that came after the step began, and refuses too short ones', () => {
    const model = openModel(ringTiny, {})
    const { device, stop } = model.stage
    const words = Math.ceil(checkpoint.config.vocabulary / 32)
    const only = (id: number) => {
      const mask = new Uint32Array(words)
      mask[id >> 5] = 1 << (id & 31)
      return mask
    }
    const batch = { ...batchOf(tokens.slice(0, 8)), masks: only(7) }
    batch.sampling[SamplingField.masked] = 1
    const drawn = (masks?: Uint32Array) => {
      const id = device.begin(batch)
      for (let reason = device.advance(id, stop); reason < Reason.done; ) {
        reason = device.advance(id, stop)
      }
      const outcome = outcomeOf(1)
      if (masks !== undefined)
        expect(codeOf(() => device.sample(id, outcome, masks.subarray(1)))).toBe('bad_argument')
      device.sample(id, outcome, masks)
      return outcome.next[0]
    }
    expect([drawn(), drawn(only(300)), drawn()]).toEqual([7, 300, 7])
    model.close()
  })

  it('is lost, and says where, when a mapped file is cut short under it', () => {
    const folder = mkdtempSync(join(os.tmpdir(), 'ring-lost-'))
    try {
      for (const file of readdirSync(ringTiny))
        copyFileSync(join(ringTiny, file), join(folder, file))
      const model = openModel(folder, { sequences: 2 })
      const shard = 'model-00003-of-00004.safetensors'
      truncateSync(join(folder, shard), 40_000)
      const outcome = { ...outcomeOf(1), message: '' }
      const other = model.stage.device.begin(batchOf(tokens.slice(0, 3), 1))
      expect(step(model.stage, batchOf(tokens.slice(0, 64)), outcome)).toBe(Reason.lost)
      expect(model.stage.device.advance(other, model.stage.stop)).toBe(Reason.lost)
      expect(model.stage.device.sample(other, outcomeOf(1))).toBe(Reason.lost)
      expect(outcome.message).toMatch(`${shard}: cannot be read at byte`)
      const { device } = model.stage
      const calls = [
        () => device.begin(batchOf([1])),
        () => device.advance(1, model.stage.stop),
        () => device.mix(1, new Int32Array(1)),
        () => device.stage(new Int32Array(0)),
        () => device.poll(new Int32Array(4), 0),
        () => device.sample(1, outcomeOf(1)),
      ]
      for (const call of calls) expect(codeOf(call)).toBe('lost')
      expect(codeOf(() => device.open(layout(false)))).toBe('already_open')
      model.close()
      for (const call of calls) expect(codeOf(call)).toBe('closed')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
