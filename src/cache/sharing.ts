// Who computes an expert that lies in RAM below the slots of a GPU: the GPU, which it has to be copied to,
// or the processor, where it lies. Both work at once, so a layer is done when the later of them is. What a
// copy takes and what the processor takes is learned from what both did; before anything is known, and now
// and then later, one expert is tried the other way. It knows seconds and counts, no clock and no expert.

/** Of a layer's time, what sharing must save to be worth it. */
const leastGain = 0.05
/** What trials of the slower way may cost, as a share of all time. */
const trialShare = 0.02

/** What one expert takes, by a way that is taken now and then. */
class Way {
  #count = 0
  #seconds = 0
  #countBefore = 0
  #secondsBefore = 0
  #isCold = true
  /** Layers since it was taken. */
  layersSince = 0

  /** 0: not known. */
  get secondsEach(): number {
    return this.#count > 0 ? this.#seconds / this.#count : 0
  }

  /** All that was done by it since open; later ones count more, and the first, on cold threads, do not. */
  did(count: number, seconds: number): void {
    const more = count - this.#countBefore
    if (more <= 0) return
    if (!this.#isCold) {
      const kept = 0.98 ** more
      this.#count = kept * this.#count + more
      this.#seconds = kept * this.#seconds + seconds - this.#secondsBefore
    }
    this.#isCold = false
    this.#countBefore = count
    this.#secondsBefore = seconds
    this.layersSince = 0
  }
}

export class Sharing {
  /** Whether any are; what was offered while none are is forgotten. */
  isOn = true
  readonly #copying = new Way()
  readonly #hosting = new Way()
  /** [candidate] names of those that were offered, the ones first that are least worth a copy */
  readonly #names: Int32Array
  readonly #worths: Float64Array
  #count = 0

  /** `most`: that are offered at once. */
  constructor(most: number) {
    this.#names = new Int32Array(most)
    this.#worths = new Float64Array(most)
  }

  /** So many experts were copied since open, and so many computed where they lie, with all that this takes. */
  did(copies: number, copySeconds: number, hosted: number, hostSeconds: number): void {
    this.#copying.did(copies, copySeconds)
    this.#hosting.did(hosted, hostSeconds)
  }

  /** An expert that lies in RAM and not on the GPU. `worth`: that it is wanted again soon, since a copy stays. */
  offer(name: number, worth: number): void {
    let at = this.#count
    for (; at > 0 && (this.#worths[at - 1] ?? 0) > worth; at -= 1) {
      this.#worths[at] = this.#worths[at - 1] ?? 0
      this.#names[at] = this.#names[at - 1] ?? 0
    }
    this.#worths[at] = worth
    this.#names[at] = name
    this.#count += 1
  }

  /** Of those offered, which the processor computes while the others are copied and `queued` more. */
  chosen(queued: number): Int32Array {
    const count = this.isOn ? this.#count : 0
    const chosen = this.#names.subarray(0, this.#share(count, queued))
    this.#count = 0
    return chosen
  }

  #share(count: number, queued: number): number {
    if (count === 0) return 0
    this.#hosting.layersSince += 1
    this.#copying.layersSince += 1
    const copy = this.#copying.secondsEach
    const host = this.#hosting.secondsEach
    if (copy === 0) return 0
    if (host === 0) return 1
    let best = 0
    let least = (1 - leastGain) * (queued + count) * copy
    for (let hosted = 1; hosted <= count; hosted += 1) {
      const seconds = Math.max((queued + count - hosted) * copy, hosted * host)
      if (seconds >= least) continue
      best = hosted
      least = seconds
    }
    if (best === 0 && isDue(this.#hosting, host / copy)) return 1
    if (best === count && queued === 0 && isDue(this.#copying, copy / host)) return count - 1
    return best
  }
}

/** Whether the way that takes so many times as long was not taken for long enough to be tried again. */
function isDue({ layersSince }: Way, times: number): boolean {
  return layersSince > Math.max(1, times) / trialShare
}
