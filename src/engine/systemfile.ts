// Files in which the system tells about itself: small texts under /proc and /sys. What is absent or may
// not be read is no error, it is not told. Tests give another root than /.
import { readdirSync, readFileSync } from 'node:fs'

/** The text without blanks around it; empty where there is none. */
export function told(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
}

/** A number that a file holds; null where it holds none. */
export function toldNumber(path: string): number | null {
  const text = told(path)
  return /^-?\d+$/.test(text) ? Number(text) : null
}

/** Names in a folder that begin so, in order. */
export function namesIn(folder: string, beginning = ''): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => name.startsWith(beginning))
      .sort()
  } catch {
    return []
  }
}
