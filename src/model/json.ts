/**
 * JSON that a stranger wrote, as far as it can be trusted before anyone has looked at its keys:
 * the text parses and holds an object. It must not know what any key means. The parser's own
 * messages are dropped on purpose, because they quote the file, line breaks included.
 */
import { ModelError, shown } from './error.js'

/** The object a JSON text holds. `file` names the text in the error. */
export function parseObject(text: string, file: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new ModelError(`${file}: expected JSON, found text that does not parse as JSON`)
  }
  if (!isRecord(value)) {
    throw new ModelError(`${file}: expected a JSON object, found ${shown(value)}`)
  }
  return value
}

/** Whether a parsed value is an object with keys: neither null nor a list. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
