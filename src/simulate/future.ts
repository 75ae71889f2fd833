// When each expert is used next, for those who may know. Time is counted in visits: a layer of a step.
import { type Routing, walk } from './routing.js'

/** The expert is not used any more. */
export const never = 2 ** 27 - 1

export class Future {
  /** Of one step, in visits: between two visits of a layer at most so many. */
  readonly stepVisits: number
  /** [expert of the model] where its uses begin in #times; one more at the end */
  readonly #starts: Float64Array
  /** Visits that use an expert, rising, expert by expert. */
  readonly #times: Int32Array
  /** [expert of the model] uses that have passed */
  readonly #passed: Int32Array
  #now = -1

  constructor(routing: Routing) {
    const experts = routing.layers.length * routing.experts
    this.stepVisits = routing.layers.length
    this.#starts = new Float64Array(experts + 1)
    this.#passed = new Int32Array(experts)
    walk(routing, ({ wanted, count }) => {
      for (let at = 0; at < count; at += 1) this.#add(this.#starts, (wanted[at] ?? 0) + 1)
    })
    for (let expert = 0; expert < experts; expert += 1) {
      this.#starts[expert + 1] = (this.#starts[expert + 1] ?? 0) + (this.#starts[expert] ?? 0)
    }
    this.#times = new Int32Array(this.#starts[experts] ?? 0)
    this.#note(routing)
  }

  /** The visit that is being judged. */
  get now(): number {
    return this.#now
  }

  /** The next visit has come, and uses the experts of the records. */
  pass(records: Int32Array, count: number, fields: number): void {
    this.#now += 1
    for (let at = 0; at < count * fields; at += fields) this.#add(this.#passed, records[at] ?? 0)
  }

  /** The visit after the present one that uses the expert. */
  nextUse(expert: number): number {
    const at = (this.#starts[expert] ?? 0) + (this.#passed[expert] ?? 0)
    return at < (this.#starts[expert + 1] ?? 0) ? (this.#times[at] ?? never) : never
  }

  #note(routing: Routing): void {
    const noted = new Int32Array(this.#passed.length)
    let time = 0
    walk(routing, ({ wanted, count }) => {
      for (let at = 0; at < count; at += 1) {
        const expert = wanted[at] ?? 0
        this.#times[(this.#starts[expert] ?? 0) + (noted[expert] ?? 0)] = time
        this.#add(noted, expert)
      }
      time += 1
    })
  }

  #add(numbers: Float64Array | Int32Array, at: number): void {
    numbers[at] = (numbers[at] ?? 0) + 1
  }
}
