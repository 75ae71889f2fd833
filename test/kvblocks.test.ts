// KV blocks at the door: copies of them hold the same bytes, their bytes go out and come in again, and
// what is not there, does not fit or comes while a step is open is refused and changes nothing.
import { describe, expect, it } from 'vitest'
import type { Device } from '../native/index.js'
import { kvBlockTokens } from '../src/engine/kv.js'
import { kvBytesPerToken } from '../src/engine/layout.js'
import type { OpenModel } from '../src/engine/open.js'
import { codeOf } from './devicefixture.js'
import { drive, withModel } from './drive.js'
import { batchOf, outcomeOf, requestOf } from './models.js'
import { ringTiny } from './paths.js'

const prompt = Array.from({ length: 50 }, (_, at) => 5 + at)

function filled<Result>(
  kvType: 'f32' | 'bf16',
  use: (device: Device, bytesPerToken: number, model: OpenModel) => Result,
): Result {
  return withModel(ringTiny, { kvType, contextTokens: 128, sequences: 1 }, (model) => {
    drive(model, [requestOf(prompt, { maxTokens: 2 })])
    return use(model.stage.device, kvBytesPerToken(model.checkpoint.config, kvType), model)
  })
}

describe.each(['f32', 'bf16'] as const)('a KV block, %s', (kvType) => {
  it('goes out, comes in elsewhere and is copied, as many of its tokens as are asked for', () => {
    filled(kvType, (device, bytesPerToken) => {
      const read = (block: number, tokens: number) => {
        const bytes = new Uint8Array(tokens * bytesPerToken)
        device.readBlock(block, tokens, bytes)
        return bytes
      }
      const whole = read(0, kvBlockTokens)
      expect(whole.filter((byte) => byte !== 0).length).toBeGreaterThan(whole.length / 2)
      device.copyBlock(0, 2, kvBlockTokens)
      expect(read(2, kvBlockTokens)).toEqual(whole)
      expect(read(0, 9)).toEqual(read(2, 9))
      expect(read(0, 9)).not.toEqual(whole.slice(0, 9 * bytesPerToken))
      device.writeBlock(3, 9, read(0, 9))
      expect(read(3, 9)).toEqual(read(0, 9))
      device.copyBlock(1, 2, 5)
      expect(read(2, 5)).toEqual(read(1, 5))
      expect(read(0, kvBlockTokens)).toEqual(whole)
    })
  })
})

describe('what is asked of KV blocks', () => {
  it('is refused where it is not there or has another length', () => {
    filled('bf16', (device, bytesPerToken) => {
      const bytes = new Uint8Array(4 * bytesPerToken)
      for (const call of [
        () => device.copyBlock(0, 0, 4),
        () => device.copyBlock(0, 4, 4),
        () => device.copyBlock(-1, 1, 4),
        () => device.copyBlock(0, 1, 0),
        () => device.copyBlock(0, 1, kvBlockTokens + 1),
        () => device.readBlock(4, 4, bytes),
        () => device.readBlock(0, 5, bytes),
        () => device.writeBlock(0, 4, bytes.subarray(1)),
        () => device.writeBlock(0, 4, new Uint16Array(bytes.buffer) as unknown as Uint8Array),
      ])
        expect(codeOf(call)).toBe('bad_argument')
    })
  })

  it('waits for the end of a step, and ends with the device', () => {
    filled('bf16', (device, bytesPerToken, { stage }) => {
      const bytes = new Uint8Array(bytesPerToken)
      const step = device.begin(batchOf([5, 6]))
      expect(codeOf(() => device.copyBlock(0, 1, 1))).toBe('busy')
      expect(codeOf(() => device.readBlock(0, 1, bytes))).toBe('busy')
      expect(codeOf(() => device.writeBlock(0, 1, bytes))).toBe('busy')
      device.advance(step, stage.stop)
      device.sample(step, outcomeOf(1))
      device.readBlock(0, 1, bytes)
      expect(device.identify()).toMatch(/^cpu \w+ f32 kernels \d+$/)
      device.close()
      expect(codeOf(() => device.readBlock(0, 1, bytes))).toBe('closed')
      expect(device.identify()).toBe('')
    })
  })
})
