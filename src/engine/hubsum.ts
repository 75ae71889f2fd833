// The SHA-256 that the hub gave for a file, as far as it is known here: blobs of the Hugging Face cache are
// named by it, the hub's tools note it beside what they fetch into a plain folder, and people put it into
// FILE.sha256. It does not look into the file itself.
import fs from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { ModelError } from '../model/error.js'
import { readText } from '../model/window.js'

const NOTE_BYTES_MOST = 4096
const SUM = /^[0-9a-f]{64}$/

/** In hexadecimal digits; null where nobody has noted it. The first that is known counts. */
export function hubSum(path: string): string | null {
  return sumOfBlob(path) ?? sumBeside(path) ?? sumInFolder(path)
}

function sumOfBlob(path: string): string | null {
  const real = fs.realpathSync(path)
  return basename(dirname(real)) === 'blobs' ? sumIn(basename(real)) : null
}

/** As sha256sum writes it: the digits, blanks, and perhaps a name. */
function sumBeside(path: string): string | null {
  const text = noted(`${path}.sha256`)
  return text === null ? null : sumIn(text.trim().split(/\s/)[0] ?? '')
}

/** .cache/huggingface/download in the folder that was fetched into: commit, sum and time, a line each. */
function sumInFolder(path: string): string | null {
  const notes = '.cache/huggingface/download'
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder)) {
    const text = noted(join(folder, notes, `${relative(folder, path)}.metadata`))
    if (text !== null) return sumIn(text.split('\n')[1]?.trim() ?? '')
  }
  return null
}

function sumIn(text: string): string | null {
  const sum = text.toLowerCase()
  return SUM.test(sum) ? sum : null
}

function noted(path: string): string | null {
  if (!fs.existsSync(path)) return null
  try {
    return readText(path, NOTE_BYTES_MOST)
  } catch (error) {
    if (error instanceof ModelError) return null
    throw error
  }
}
