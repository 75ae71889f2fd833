// A trace of either form, told apart by its first byte: { begins a header line, # or t lines of commas.
import { closeSync, openSync, readSync } from 'node:fs'
import { ModelError, systemReason } from '../model/error.js'
import { readCsvTrace } from './csvtrace.js'
import type { Routing } from './routing.js'
import { readTraceFile } from './tracefile.js'

/** Throws ModelError with one sentence for whatever is wrong with the file. */
export function readRouting(path: string): Routing {
  try {
    const start = firstByte(path)
    if (start === '{') return readTraceFile(path, path)
    if (start === '#' || start === 't') return readCsvTrace(path, path)
  } catch (error) {
    if (error instanceof ModelError) throw error
    throw new ModelError(`${path}: cannot be read: ${systemReason(error)}`)
  }
  throw new ModelError(`${path}: expected a routing trace, found something else`)
}

function firstByte(path: string): string {
  const file = openSync(path, 'r')
  try {
    const byte = Buffer.alloc(1)
    return byte.toString('latin1', 0, readSync(file, byte))
  } finally {
    closeSync(file)
  }
}
