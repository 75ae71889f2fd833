// What a person is told when a command cannot do its work: one line, never a stack. Commands throw,
// main.ts prints. The line of an unexpected error says how to see its stack, because then it is our
// fault and not the person's.
import { ModelError } from '../model/error.js'

/** Done, failed, wrong usage: a stable promise to scripts. */
export const Status = { done: 0, failed: 1, usage: 2 } as const

/** One sentence for a person, and the status the program ends with. */
export class Failure extends Error {
  override readonly name = 'Failure'

  constructor(
    message: string,
    readonly status: number = Status.failed,
  ) {
    super(message)
  }
}

/** The line and the status for whatever a command threw. */
export function failureOf(error: unknown): Failure {
  if (error instanceof Failure) return error
  if (error instanceof ModelError || isFromDevice(error)) return new Failure(error.message)
  const isDebugging = (process.env.RING_DEBUG ?? '0') !== '0'
  const message = error instanceof Error ? error.message : String(error)
  const hint = isDebugging ? '' : '; set RING_DEBUG=1 for the stack'
  return new Failure(`internal error: ${message}${hint}`)
}

/** The stack, where a person has asked for it. */
export function stackOf(error: unknown): string | null {
  const isDebugging = (process.env.RING_DEBUG ?? '0') !== '0'
  return isDebugging && error instanceof Error ? (error.stack ?? null) : null
}

/**
 * Errors of the device carry a code and a row of the tensor tables. Their class stands behind the
 * door, which no face opens, so they are known by that.
 */
function isFromDevice(error: unknown): error is Error {
  return error instanceof Error && 'code' in error && 'tensor' in error
}

/** Tells a person something, on one line of stderr. */
export function tell(message: string): void {
  process.stderr.write(`ring-offload: ${oneLine(message)}\n`)
}

/** Any text as one line: what comes from a file or a flag may hold line breaks and worse. */
export function oneLine(text: string): string {
  return text.trim().replace(/[\s\p{Cc}\u2028\u2029]+/gu, ' ')
}
