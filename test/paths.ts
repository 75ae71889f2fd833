// Where the models that tests use lie.
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))
export const fixtures = fromRoot('test/fixtures')

/** The bundled small model, and the checkpoints with one peculiarity each. */
export const ringTiny = fromRoot('models/ring-tiny')
export const edgeNames = [
  'bf16',
  'channel-fp8',
  'dense2-hd',
  'mtp-extra',
  'partial-fp8',
  'tied-bias',
  'yarn',
] as const

export function fromRoot(path: string): string {
  return join(root, path)
}

export function edge(name: string): string {
  return fromRoot(`test/fixtures/edge/${name}`)
}
