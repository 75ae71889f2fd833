// The link from RAM to a GPU in time that is computed: experts that lie in RAM, or will when they are read,
// are copied one after the other, those first that somebody waits for. Who keeps the time is told when the
// next one is done. It must not know what a drive is.
import type { Place } from '../cache/place.js'
import { Urgency } from '../cache/records.js'

interface Copy {
  readonly expert: number
  readonly to: Place
  urgency: Urgency
  /** Whether the expert lies in RAM by now. */
  isHere: boolean
}

export class VirtualLink {
  readonly #secondsEach: number
  readonly #wanted: Copy[] = []
  #underWay: Copy | null = null
  #end = Number.POSITIVE_INFINITY
  /** Copies that have been done, and the seconds with one under way. */
  copies = 0
  busySeconds = 0

  constructor(bytesPerSecond: number, expertBytes: number) {
    this.#secondsEach = expertBytes / bytesPerSecond
  }

  /** When the copy under way is done; infinite where none is. */
  get end(): number {
    return this.#end
  }

  has(expert: number): boolean {
    return this.#underWay?.expert === expert || this.#find(expert) !== undefined
  }

  want(expert: number, to: Place, urgency: Urgency, isHere: boolean): void {
    this.#wanted.push({ expert, to, urgency, isHere })
  }

  promote(expert: number): void {
    const copy = this.#find(expert)
    if (copy !== undefined) copy.urgency = Urgency.demand
  }

  /** Drops a copy that has not begun; returns where it should have gone, or null. */
  drop(expert: number): Place | null {
    const copy = this.#find(expert)
    if (copy === undefined) return null
    this.#wanted.splice(this.#wanted.indexOf(copy), 1)
    return copy.to
  }

  /** The expert has been read into RAM. */
  landed(expert: number): void {
    const copy = this.#find(expert)
    if (copy !== undefined) copy.isHere = true
  }

  /** Begins what may begin at this moment. */
  begin(now: number): void {
    if (this.#underWay !== null) return
    const may = (copy: Copy) => copy.isHere
    const next =
      this.#wanted.find((copy) => may(copy) && copy.urgency === Urgency.demand) ??
      this.#wanted.find(may)
    if (next === undefined) return
    this.#wanted.splice(this.#wanted.indexOf(next), 1)
    this.#underWay = next
    this.#end = now + this.#secondsEach
    this.busySeconds += this.#secondsEach
  }

  /** The copy under way is done. */
  finish(): { readonly expert: number; readonly to: Place } | null {
    const done = this.#underWay
    this.#underWay = null
    this.#end = Number.POSITIVE_INFINITY
    if (done !== null) this.copies += 1
    return done
  }

  #find(expert: number): Copy | undefined {
    return this.#wanted.find((copy) => copy.expert === expert)
  }
}
