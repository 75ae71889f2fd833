// Lessons: what was thought of an expert, by which signs, and whether it was wanted then. They go into a
// ring in shared memory, so that another thread can learn from the latest of them; one thread writes.
import { Sign } from './signs.js'

/** A lesson is this many numbers: its signs, then these. */
export const LessonField = {
  wanted: Sign.count,
  kind: Sign.count + 1,
  band: Sign.count + 2,
  /** The probability that was given out. */
  told: Sign.count + 3,
  count: Sign.count + 4,
} as const

/** A power of two: 10 MB, some hundreds of tokens. */
const capacity = 2 ** 17
/** Memory is handed out in pages of at least so many bytes. */
const pageBytes = 4096

export class Lessons {
  readonly memory: SharedArrayBuffer
  readonly #written: Int32Array
  /** [capacity][LessonField.count] */
  readonly #ring: Float32Array

  constructor(
    memory = new SharedArrayBuffer(
      8 + Float32Array.BYTES_PER_ELEMENT * capacity * LessonField.count,
    ),
  ) {
    this.memory = memory
    this.#written = new Int32Array(memory, 0, 1)
    this.#ring = new Float32Array(memory, 8)
  }

  /** `signs` [Sign.count] from `first` on. */
  add(
    signs: Float32Array,
    first: number,
    wanted: boolean,
    kind: number,
    band: number,
    told: number,
  ): void {
    const written = Atomics.load(this.#written, 0) >>> 0
    const start = (written % capacity) * LessonField.count
    for (let sign = 0; sign < Sign.count; sign += 1) {
      this.#ring[start + sign] = signs[first + sign] ?? 0
    }
    this.#ring[start + LessonField.wanted] = wanted ? 1 : 0
    this.#ring[start + LessonField.kind] = kind
    this.#ring[start + LessonField.band] = band
    this.#ring[start + LessonField.told] = told
    Atomics.store(this.#written, 0, (written + 1) | 0)
  }

  /**
   * Has the system hand out the ring's memory, which costs whoever first writes there some microseconds a
   * page: let it be a thread that nobody waits for. Changes nothing, whatever is written meanwhile.
   */
  touch(): void {
    const words = new Int32Array(this.memory)
    const stride = pageBytes / Int32Array.BYTES_PER_ELEMENT
    for (let at = 0; at < words.length; at += stride) Atomics.add(words, at, 0)
  }

  /** A copy of the latest, oldest first: [n][LessonField.count], without what was written over meanwhile. */
  latest(): Float32Array {
    const end = Atomics.load(this.#written, 0) >>> 0
    const count = Math.min(end, capacity)
    const start = (end - count) % capacity
    const copy = new Float32Array(count * LessonField.count)
    const untilWrap = Math.min(count, capacity - start)
    const at = (lesson: number) => lesson * LessonField.count
    copy.set(this.#ring.subarray(at(start), at(start + untilWrap)))
    copy.set(this.#ring.subarray(0, at(count - untilWrap)), at(untilWrap))
    const meanwhile = ((Atomics.load(this.#written, 0) >>> 0) - end) >>> 0
    const lost = Math.min(count, meanwhile - Math.min(meanwhile, capacity - count))
    return copy.subarray(at(lost))
  }
}
