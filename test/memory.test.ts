// Free memory as the system reports it: the machine's, and what control groups leave of it.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { planMemory } from '../src/engine/layout.js'
import { availableBytes } from '../src/engine/memory.js'
import { readConfig } from '../src/model/config.js'
import { ringTiny } from './paths.js'

const mib = 2 ** 20

describe('free memory', () => {
  let root: string
  beforeEach(() => {
    root = mkdtempSync(join(os.tmpdir(), 'ring-memory-'))
    write('proc/meminfo', 'MemTotal: 8192 kB\nMemAvailable:    4096 kB\n')
  })
  afterEach(() => {
    rmSync(root, { recursive: true })
  })

  function write(path: string, text: string): void {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }

  it('is what the machine has available', () => {
    expect(availableBytes(root)).toBe(4 * mib)
    expect(availableBytes()).toBeGreaterThan(0)
  })

  it('is less under a control group of version 2, page cache counted as free', () => {
    write('proc/self/cgroup', '0::/user/ring\n')
    write('sys/fs/cgroup/user/ring/memory.max', `${3 * mib}\n`)
    write('sys/fs/cgroup/user/ring/memory.current', `${2 * mib}\n`)
    expect(availableBytes(root)).toBe(mib)
    write('sys/fs/cgroup/user/ring/memory.stat', `anon 5\nactive_file ${mib}\ninactive_file 7\n`)
    expect(availableBytes(root)).toBe(2 * mib + 7)
  })

  it('is bound by the groups above, and by none that sets no limit', () => {
    write('proc/self/cgroup', '0::/user/ring\n')
    write('sys/fs/cgroup/user/ring/memory.max', 'max\n')
    write('sys/fs/cgroup/user/ring/memory.current', '1\n')
    expect(availableBytes(root)).toBe(4 * mib)
    write('sys/fs/cgroup/user/memory.max', `${2 * mib}\n`)
    write('sys/fs/cgroup/user/memory.current', `${3 * mib}\n`)
    expect(availableBytes(root)).toBe(0)
  })

  it('is less under a control group of version 1, at the top inside a container', () => {
    write('proc/self/cgroup', '3:cpu:/x\n2:memory:/docker/abc\n')
    write('sys/fs/cgroup/memory/memory.limit_in_bytes', `${3 * mib}\n`)
    write('sys/fs/cgroup/memory/memory.usage_in_bytes', `${mib}\n`)
    write('sys/fs/cgroup/memory/memory.stat', `total_inactive_file ${mib}\ninactive_file 9\n`)
    expect(availableBytes(root)).toBe(3 * mib)
  })
})

describe('a memory plan', () => {
  const config = readConfig(ringTiny) // 3,072 bytes of KV a token in BF16

  it('takes the whole context of the model where half of the free memory holds its KV', () => {
    const plan = planMemory(config, {}, 2 * 2048 * 3072)
    expect(plan).toMatchObject({ contextTokens: 2048, kvBlocks: 64, kvBytes: 2048 * 3072 })
  })

  it('takes a smaller context where it does not', () => {
    expect(planMemory(config, {}, 2 * 1000 * 3072).contextTokens).toBe(1000)
    expect(planMemory(config, { kvType: 'f32' }, 2 * 1000 * 3072).contextTokens).toBe(500)
    expect(planMemory(config, { sequences: 4 }, 2 * 1000 * 3072).contextTokens).toBe(250)
  })

  it('refuses a context that the model or the memory has not, and names what would fit', () => {
    expect(() => planMemory(config, { contextTokens: 2049 }, 1e12)).toThrow(
      '--ctx-size 2049: this model has 2048 positions; --rope-scaling yarn,FACTOR extends them',
    )
    expect(() => planMemory(config, { contextTokens: 2000 }, 1500 * 3072)).toThrow(
      '--ctx-size 2000: its KV needs 6144000 bytes and 4608000 are free; --ctx-size 1500 would fit',
    )
    expect(() => planMemory(config, {}, 3072)).toThrow(/not enough memory/)
  })
})
