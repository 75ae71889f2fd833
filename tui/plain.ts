// The dashboard without a terminal: one line, or one object, for each second.
import type { Snapshot } from '../src/engine/telemetry.js'
import { absent, bytesText, rateText, shareText } from './figures.js'
import type { History } from './history.js'

/** "12.3 tokens/s, prefill 0.00, hits 63.0 %, drive 1.20 GB/s, of bound 81.0 %, ...". */
export function secondLine({ requests, state }: Snapshot, { now }: History): string {
  if (state !== 'ready') return state
  return [
    `${rateText(now?.drawnPerSecond)} tokens/s`,
    `prefill ${rateText(now?.readPerSecond)}`,
    `hits ${shareText(now?.hitRate)}`,
    `drive ${now?.drive === undefined ? absent : `${bytesText(now.drive.bytesPerSecond)}/s`}`,
    `of bound ${shareText(now?.drive?.shareOfBound)}`,
    `nvme ${shareText(now?.stall?.nvme)}`,
    `compute ${shareText(now?.stall?.compute)}`,
    `running ${requests.running}`,
    `waiting ${requests.waiting}`,
  ].join(', ')
}

/** The snapshot and, once there are two, what the last second was like. */
export function secondObject(snapshot: Snapshot, { now }: History): object {
  return now === null ? snapshot : { ...snapshot, rates: now }
}
