// Snapshots of a machine that is not there: figures that rise by known amounts, and the map of a model of
// any size, the same every time.
import type { ExpertMap, Snapshot } from '../src/engine/telemetry.js'
import { History } from '../tui/history.js'
import { newPlace, type Place, type Scene } from '../tui/scene.js'

export interface Size {
  readonly moeLayers: number
  readonly perLayer: number
}

/** Of what the second `at` saw. */
export function synthesised(at: number, { moeLayers, perLayer }: Size, hasMap = false): Snapshot {
  const each = (of: (layer: number) => number) => Array.from({ length: moeLayers }, (_, l) => of(l))
  const slots = Math.floor((moeLayers * perLayer) / 4)
  return {
    version: 1,
    time: 1_700_000_000 + at,
    model: 'made-up',
    restarts: 0,
    state: 'ready',
    requests: {
      ...{ running: 2, waiting: 3, begun: 9, ended: 4, failed: 1 },
      rows: Array.from({ length: 5 }, (_, slot) => ({
        slot,
        number: 5 + slot,
        state: (['drawing', 'reading', 'waiting', 'stop', 'failed'] as const)[slot] ?? 'none',
        promptTokens: 100 * (slot + 1),
        tokensRead: slot < 2 ? 50 : 0,
        tokensDrawn: slot === 0 ? 21 : 0,
        tokensDrawnMost: 400,
        ...(slot === 0 ? { tokensCached: 64 } : {}),
        arrived: 1_700_000_000 - 10 * slot,
        ...(slot === 0 ? { firstToken: 1_700_000_002, lastToken: 1_700_000_012 } : {}),
      })),
    },
    engine: {
      device: 'cpu, portable, 2 threads',
      loadMode: 'direct',
      contextTokens: 4096,
      steps: 12 * at,
      tokensRead: 300,
      tokensDrawn: 12.5 * at,
      experts: {
        ...{ moeLayers, perLayer, firstMoeLayer: 1, topK: 8, slots, resident: slots - 3 },
        readBytes: 50_331_648,
      },
      layers: {
        requests: each(() => 100 * at),
        hits: each((layer) => (40 + (layer % 50)) * at),
        misses: each((layer) => (60 - (layer % 50)) * at),
        evictions: each(() => 7 * at),
      },
      links: {
        drive: {
          bytesRead: 5.5e9 * at,
          bytesNeeded: 4.9e9 * at,
          busySeconds: 0.93 * at,
          depthSeconds: 7.44 * at,
          ceilingBytesPerSecond: 7e9,
        },
      },
      stall: { nvme: 0.7 * at, compute: 0.25 * at, policy: 0.05 * at },
      memory: [
        { name: 'experts', budgetBytes: 96e9, usedBytes: 90e9 },
        { name: 'dense', budgetBytes: 21e9, usedBytes: 21e9 },
        { name: 'KV', budgetBytes: 2.5e9 },
      ],
      prefetch: {
        ...{ verdict: 'on', issued: 1000, inTime: 610, used: 800, cancelled: 150 },
        ...{
          bytes: 5e10,
          wastedBytes: 3e9,
          speed: 1.082,
          speedError: 0.011,
          pairs: 24,
          price: 0.4,
        },
        recall: [
          { distance: 1, x1: 0.72, x2: 0.88, x4: 0.96, calibrationError: 0.021 },
          { distance: 2, x1: 0.61, x2: 0.8, x4: 0.91, calibrationError: 0.034 },
          { distance: 4, x1: 0.5 },
        ],
      },
    },
    ...(hasMap ? { map: mapOf(at, moeLayers * perLayer) } : {}),
  }
}

/** A fixed mixture of all that an expert can be; what is used moves on with time. */
function mapOf(at: number, experts: number): ExpertMap {
  const packed = (of: (expert: number) => number) =>
    Buffer.from(Uint8Array.from({ length: experts }, (_, expert) => of(expert))).toString('base64')
  const die = (expert: number) => ((expert * 2_654_435_761) >>> 8) % 97
  return {
    resident: packed((expert) => (die(expert) < 30 ? 1 : 0)),
    used: packed((expert) => (die(expert) < 40 ? (die(expert + at) * 5) % 256 : 255)),
    loaded: packed((expert) => (die(expert) % 9 === 0 ? 1 : 255)),
    left: packed((expert) => (die(expert) > 90 ? 1 : 255)),
    uses: packed((expert) => die(expert)),
  }
}

export const ring1t: Size = { moeLayers: 80, perLayer: 256 }

/** What a person sees after so many seconds. */
export function sceneOf(place: Partial<Place>, size: Size = ring1t, seconds = 40): Scene {
  const history = new History()
  for (let at = 1; at <= seconds; at += 1) history.add(synthesised(at, size, true))
  return {
    place: { ...newPlace(), ...place },
    snapshot: synthesised(seconds, size, true),
    history,
    said: null,
    log: [],
    notice: '',
  }
}
