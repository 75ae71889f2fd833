// What the dashboard remembers: figures of the last minutes, one point a second, and for a while which
// experts lay where. It is given snapshots one after the other; a restarted engine begins anew.
import { type Rates, ratesBetween, type Snapshot } from '../src/engine/telemetry.js'

/** Points that curves may show, and maps kept for the story of one expert. */
const pointsMost = 600
const mapsMost = 120
/** Figures of the moment are over at least so long, in seconds. */
const windowSeconds = 1

/** One moment's map: [expert of the model] in memory, and steps since use. */
export interface Moment {
  readonly steps: number
  readonly resident: Uint8Array
  readonly used: Uint8Array
}

export class History {
  readonly #points: Rates[] = []
  readonly #recent: Snapshot[] = []
  readonly #moments: Moment[] = []
  #counted: Snapshot | null = null

  /** One for each second, oldest first. */
  get points(): readonly Rates[] {
    return this.#points
  }

  get moments(): readonly Moment[] {
    return this.#moments
  }

  /** Over the last second or so; null before there are two snapshots. */
  get now(): Rates | null {
    const last = this.#recent.at(-1)
    const first = this.#recent[0]
    return last === undefined || first === undefined ? null : ratesBetween(first, last)
  }

  add(snapshot: Snapshot): void {
    const before = this.#recent.at(-1)
    if (before !== undefined && ratesBetween(before, snapshot) === null) this.#begin()
    this.#keepMoment(snapshot)
    const { map: _map, ...light } = snapshot
    this.#recent.push(light)
    while (light.time - (this.#recent[1]?.time ?? light.time) >= windowSeconds) this.#recent.shift()
    this.#count(light)
  }

  #begin(): void {
    this.#recent.length = 0
    this.#moments.length = 0
    this.#counted = null
  }

  #count(snapshot: Snapshot): void {
    if (this.#counted === null) {
      this.#counted = snapshot
      return
    }
    if (snapshot.time - this.#counted.time < windowSeconds) return
    const rates = ratesBetween(this.#counted, snapshot)
    this.#counted = snapshot
    if (rates === null) return
    this.#points.push(rates)
    if (this.#points.length > pointsMost) this.#points.shift()
  }

  #keepMoment({ map, engine }: Snapshot): void {
    if (map === undefined || engine === undefined) return
    const { resident, used } = map
    this.#moments.push({
      steps: engine.steps,
      resident: Buffer.from(resident, 'base64'),
      used: Buffer.from(used, 'base64'),
    })
    if (this.#moments.length > mapsMost) this.#moments.shift()
  }
}
