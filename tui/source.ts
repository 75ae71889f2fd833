// Where snapshots come from: the server of a URL here, the same process elsewhere.
import type { RequestRow, Snapshot } from '../src/engine/telemetry.js'
import type { Said } from './scene.js'

export interface Source {
  /** Where from, for people. */
  readonly name: string
  readonly log: readonly string[]
  /** `row`: whose text is wanted, if any is. Rejects where there is no answer, with one sentence. */
  take(hasMap: boolean, row: RequestRow | null): Promise<Snapshot>
  /** Asks for an early end of a request. */
  cancel(row: RequestRow): Promise<void>
  /** What a request said; null: nobody tells. */
  said(row: RequestRow | null): readonly Said[] | null
  /** Says something in a chat; absent: this is none. */
  readonly say?: (text: string) => void
}

/** For an answer, in milliseconds. */
const patienceMs = 2000

export class ServerSource implements Source {
  readonly log: string[] = []
  readonly name: string
  #said: string | undefined

  constructor(
    private readonly url: URL,
    private readonly key: string | undefined,
  ) {
    this.name = url.host
  }

  async take(hasMap: boolean, row: RequestRow | null): Promise<Snapshot> {
    const text = row === null ? '' : `&text=${row.number}`
    const response = await this.#ask(`telemetry?map=${hasMap ? 1 : 0}${text}`, 'GET')
    const snapshot: unknown = await response.json()
    if (!isSnapshot(snapshot)) throw new Error('the server tells of itself in another manner')
    this.#said = snapshot.said
    return snapshot
  }

  async cancel({ slot, number }: RequestRow): Promise<void> {
    await this.#ask(`telemetry/requests/${number}?slot=${slot}`, 'DELETE')
  }

  said(): readonly Said[] | null {
    return saidOf(this.#said)
  }

  async #ask(path: string, method: string): Promise<Response> {
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: this.key === undefined ? {} : { authorization: `Bearer ${this.key}` },
      signal: AbortSignal.timeout(patienceMs),
    }).catch((error: unknown) => {
      throw new Error(`no answer from ${this.name}`, { cause: reasonOf(error) })
    })
    if (response.ok) return response
    if (response.status === 401) throw new Error(`${this.name} wants a key`)
    throw new Error(`${this.name} answers ${response.status}`)
  }
}

/**
 * Drawn text with its thinking apart, by its tags; a prompt may have ended within it, so what comes before
 * a closing tag is thinking anyhow.
 */
export function saidOf(text: string | undefined): readonly Said[] | null {
  if (text === undefined) return null
  const end = text.indexOf('</think>')
  if (end < 0) return [{ kind: text.startsWith('<think>') ? 'reasoning' : 'text', text }]
  const after = end + '</think>'.length
  return [
    { kind: 'reasoning', text: text.slice(0, after) },
    { kind: 'text', text: text.slice(after) },
  ]
}

function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  return cause instanceof Error && 'code' in cause ? String(cause.code) : String(error)
}

function isSnapshot(value: unknown): value is Snapshot {
  if (typeof value !== 'object' || value === null) return false
  return 'version' in value && value.version === 1 && 'requests' in value && 'time' in value
}
