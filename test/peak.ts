// A Node program in a process of its own, and the most memory it ever had resident: what the system
// says of the whole process at its end, so that nothing has to watch it meanwhile.
import { spawn } from 'node:child_process'
import os from 'node:os'

export interface Peaked {
  /** Null when a signal ended it. */
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
  /** 0 when a signal ended it. */
  readonly peakBytes: number
}

const lastWords = `
import { readFileSync, writeSync } from 'node:fs'
process.on('exit', () => {
  const [, kilobytes] = /^VmHWM:\\s+(\\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  writeSync(3, kilobytes)
})`
const preload = `data:text/javascript,${encodeURIComponent(lastWords)}`

/** Runs Node with these words. `group`: the file by which a process joins a control group. */
export function peakOf(words: readonly string[], group?: string): Promise<Peaked> {
  const { PATH = '', HOME = '' } = process.env
  const program = [process.execPath, '--import', preload, ...words]
  const joining = ['sh', '-c', 'echo $$ > "$0" && exec "$@"', group ?? '']
  const [file = '', ...rest] = group === undefined ? program : [...joining, ...program]
  const child = spawn(file, rest, {
    env: { PATH, HOME, TMPDIR: os.tmpdir() },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  })
  const said = ['', '', '', '']
  for (const [descriptor, stream] of child.stdio.entries()) {
    if (stream === null || stream === undefined || !('read' in stream)) continue
    stream.setEncoding('utf8').on('data', (text: string) => {
      said[descriptor] += text
    })
  }
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => {
      const [, stdout = '', stderr = '', peak = ''] = said
      resolve({ status, stdout, stderr, peakBytes: Number(peak) * 1024 })
    })
  })
}
