// A figure that an "it must show" line asks for, with its bound. Every proof file notes its figures in
// one file, from which the table is made when all have run (proof.setup.ts).
import { appendFileSync } from 'node:fs'
import { expect } from 'vitest'

export interface Figure {
  readonly what: string
  readonly figure: string
  readonly bound: string
  /** Null: not measured here, `figure` says why. */
  readonly holds: boolean | null
}

/** Where the notes of this run are kept. */
export const notesVariable = 'RING_PROOF_NOTES'

export function note(what: string, figure: string, bound: string, holds: boolean): void {
  write({ what, figure, bound, holds })
  expect.soft(holds, `${what}: ${figure}, bound ${bound}`).toBe(true)
}

/** A figure that this machine cannot give, or that nothing bounds. */
export function remark(what: string, figure: string): void {
  write({ what, figure, bound: '', holds: null })
}

function write(figure: Figure): void {
  appendFileSync(process.env[notesVariable] ?? '', `${JSON.stringify(figure)}\n`)
}

export function spread(values: readonly number[], digits = 2): { median: number; text: string } {
  const sorted = [...values].sort((a, b) => a - b)
  const [below, above] = [sorted.length - 1, sorted.length].map((at) => sorted[at >> 1])
  const median = ((below ?? Number.NaN) + (above ?? Number.NaN)) / 2
  const of = (value: number | undefined) => value?.toFixed(digits)
  return {
    median,
    text: `${of(median)} [${of(sorted[0])} to ${of(sorted.at(-1))}], n=${sorted.length}`,
  }
}

/** The value that `share` of all are not above. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
}
