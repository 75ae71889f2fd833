// What tests of `pull` share: a hub for each test, a cache to pull into, pulls with pauses that nobody waits
// for, and the check that a cache holds what the hub has.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect } from 'vitest'
import { type PullWishes, pull } from '../src/hub/pull.js'
import { type Fault, HubServer, hubModel } from './hubserver.js'

export const shards = [1, 2, 3, 4].map((shard) => `model-0000${shard}-of-00004.safetensors`)
/** The first of them. */
export const [shard = ''] = shards

export let hub: HubServer
export let folder: string
export let cache: string

/** Starts a hub before each test and gives it a folder; both are gone after it. */
export function aHubForEachTest(): void {
  beforeEach(async () => {
    hub = await HubServer.start()
    folder = mkdtempSync(join(os.tmpdir(), 'ring-pull-'))
    cache = join(folder, 'cache')
  })

  afterEach(async () => {
    await hub.stop()
    rmSync(folder, { recursive: true })
  })
}

export function environment(more: Record<string, string> = {}): Record<string, string> {
  return { HOME: folder, HF_HUB_CACHE: cache, HF_ENDPOINT: hub.endpoint, ...more }
}

/** Pulls with pauses that no test waits for; `said` collects the reasons of pauses. */
export function pulled(wishes: Partial<PullWishes> = {}, said: string[] = [], stallSeconds = 20) {
  return pull({
    model: hubModel,
    revision: 'main',
    include: [],
    exclude: [],
    drives: [],
    jobs: 3,
    isDry: false,
    patience: {
      signal: new AbortController().signal,
      stallSeconds,
      pauseSeconds: 0.001,
      onWait: (reason) => said.push(reason),
    },
    environment: environment(),
    onPlan: () => {},
    onLocked: () => {},
    onProgress: () => {},
    ...wishes,
  })
}

export const modelFolder = () => join(cache, `models--${hubModel.replace('/', '--')}`)
export const snapshot = () => join(modelFolder(), 'snapshots', hub.commit)
export const blobs = () => readdirSync(join(modelFolder(), 'blobs'))

/** The cache holds the hub's files, each right, and nothing that is half. */
export function expectWhole(): void {
  for (const { path, bytes } of hub.files) {
    expect(readFileSync(join(snapshot(), path)).equals(bytes), path).toBe(true)
  }
  expect(blobs().filter((name) => name.includes('.'))).toEqual([])
  expect(readFileSync(join(modelFolder(), 'refs/main'), 'utf8')).toBe(hub.commit)
}

/** The fault for the first `times` answers that give bytes of a file. */
export function first(file: string, fault: Fault, times = 1): void {
  let left = times
  hub.fault = (request) => {
    const gives = request.file === file && request.method === 'GET' && request.host === 'storage'
    if (!gives || left === 0) return null
    left -= 1
    return fault
  }
}
