// How alike the prompts of a job are. Texts on one matter use the same words, and tokens that are alike are
// routed to the same experts; sequences that share a step then want fewer different ones between them. A
// prompt is known by how often its tokens fall into a few buckets. Pure; no bit of an answer depends on it.

const BUCKETS = 128
/** Odd, so that neighbouring token ids fall far from each other (Knuth: 2^32 over the golden ratio). */
const SPREAD = 0x9e3779b1

/** [bucket] of one prompt: its direction, of length 255. */
export type Sketch = Uint8Array

/** Of a prompt nobody has seen: like none. */
export const blankSketch: Sketch = new Uint8Array(BUCKETS)

export function sketchOf(tokens: Iterable<number>): Sketch {
  const counts = new Float64Array(BUCKETS)
  for (const token of tokens) {
    const bucket = (Math.imul(token + 1, SPREAD) >>> 8) % BUCKETS
    counts[bucket] = (counts[bucket] ?? 0) + 1
  }
  const length = Math.hypot(...counts)
  return Uint8Array.from(counts, (count) => Math.round((255 * count) / Math.max(1, length)))
}

/** The lines in work, by the sum of their sketches. */
export class Company {
  readonly #sum = new Float64Array(BUCKETS)

  join(sketch: Sketch): void {
    for (let bucket = 0; bucket < BUCKETS; bucket += 1)
      this.#sum[bucket] = (this.#sum[bucket] ?? 0) + (sketch[bucket] ?? 0)
  }

  leave(sketch: Sketch): void {
    for (let bucket = 0; bucket < BUCKETS; bucket += 1)
      this.#sum[bucket] = (this.#sum[bucket] ?? 0) - (sketch[bucket] ?? 0)
  }

  /** The greater, the more alike. */
  likeness(sketch: Sketch): number {
    let product = 0
    for (let bucket = 0; bucket < BUCKETS; bucket += 1)
      product += (this.#sum[bucket] ?? 0) * (sketch[bucket] ?? 0)
    return product
  }
}
