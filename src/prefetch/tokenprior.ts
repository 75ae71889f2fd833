// What the first layers route a token to, by its id: counts for the ids that come most often, in a table
// of fixed size. An id shares its place with others; the one that comes more often keeps it. In the first
// layers the word itself says much of what is wanted, and no early score reaches them.
import type { Learnt } from '../cache/learnt.js'
import type { History } from './history.js'

/** Ids that have counts, a power of two, and layers. At 256 experts 8 MB. */
const places = 4096
const layersMost = 8
const hottest = 255
const mostVisits = 255
/** What one was told beforehand counts as so many visits. */
const doubt = 2

export class TokenPrior {
  readonly #layers: number
  readonly #experts: number
  readonly #topK: number
  /** [place] the id, or -1, and how much more often than others it came */
  readonly #ids = new Int32Array(places).fill(-1)
  readonly #heat = new Uint8Array(places)
  /** [place][MoE layer][expert] */
  readonly #uses: Uint8Array
  /** [place][MoE layer] */
  readonly #visits: Uint8Array
  /** [token of the step] its place, or -1 */
  #placeOf = new Int32Array(64)
  #tokens = 0

  constructor(moeLayers: number, experts: number, topK: number) {
    this.#layers = Math.min(layersMost, moeLayers)
    this.#experts = experts
    this.#topK = topK
    this.#uses = new Uint8Array(places * this.#layers * experts)
    this.#visits = new Uint8Array(places * this.#layers)
  }

  get learnt(): Learnt {
    return { ids: this.#ids, heat: this.#heat, uses: this.#uses, visits: this.#visits }
  }

  begin(ids: Int32Array): void {
    if (ids.length > this.#placeOf.length) this.#placeOf = new Int32Array(2 * ids.length)
    this.#tokens = ids.length
    for (let token = 0; token < ids.length; token += 1) {
      this.#placeOf[token] = this.#meet(ids[token] ?? -1)
    }
  }

  /** The layer has routed the only token of the step, as `history` holds. */
  learn(moeLayer: number, history: History): void {
    const count = history.chosenCount(moeLayer)
    const place = this.#tokens === 1 ? (this.#placeOf[0] ?? -1) : -1
    if (moeLayer >= this.#layers || place < 0 || count === 0) return
    const row = place * this.#layers + moeLayer
    if (this.#visits[row] === mostVisits) this.#halve(row)
    this.#visits[row] = (this.#visits[row] ?? 0) + 1
    for (let at = 0; at < count; at += 1) {
      const use = row * this.#experts + (history.chosen[moeLayer * this.#topK + at] ?? 0)
      this.#uses[use] = (this.#uses[use] ?? 0) + 1
    }
  }

  /** Where the token's counts for the layer lie, for `share`; -1: there are none. */
  rowOf(moeLayer: number, token: number): number {
    const place = token < this.#tokens ? (this.#placeOf[token] ?? -1) : -1
    if (moeLayer >= this.#layers || place < 0) return -1
    const row = place * this.#layers + moeLayer
    return this.#visits[row] === 0 ? -1 : row
  }

  /** The share of this id's tokens that used the expert; `usual` is its share of all tokens. */
  share(row: number, index: number, usual: number): number {
    const uses = this.#uses[row * this.#experts + index] ?? 0
    return (uses + doubt * usual) / ((this.#visits[row] ?? 0) + doubt)
  }

  /** The place of an id that has one; one that has none may take it from a colder one. */
  #meet(id: number): number {
    if (id < 0) return -1
    const place = (Math.imul(id, 0x9e3779b1) >>> 20) & (places - 1)
    const heat = this.#heat[place] ?? 0
    if (this.#ids[place] === id) {
      this.#heat[place] = Math.min(hottest, heat + 1)
      return place
    }
    if (heat > 0) {
      this.#heat[place] = heat - 1
      return -1
    }
    this.#ids[place] = id
    this.#heat[place] = 1
    const first = place * this.#layers
    this.#visits.fill(0, first, first + this.#layers)
    this.#uses.fill(0, first * this.#experts, (first + this.#layers) * this.#experts)
    return place
  }

  #halve(row: number): void {
    this.#visits[row] = (this.#visits[row] ?? 0) >> 1
    const first = row * this.#experts
    for (let use = first; use < first + this.#experts; use += 1) {
      this.#uses[use] = (this.#uses[use] ?? 0) >> 1
    }
  }
}
