// Whether reading an expert ahead pays. All in units of one expert's read. What a right guess saves is
// the part of the read that fits into idle time before its layer routes. What a wrong one costs: that
// part of the read, at a price; the wait of a demand read behind the bytes that are under way; and what
// the expert that gives way for it would have saved. (A right guess gives up nothing that a demand read
// would not have given up a moment later.) The price of bytes rises with the queue in front of the guess,
// and rises as long as too many of them are read for nothing. A forecast that promises more than comes
// true is believed less: nobody pays for guesses that are always wrong.

/** A demand read waits for half of the look-ahead bytes that may be under way, 8 % of an expert. */
const delay = 0.04
/** Wasted bytes for each useful one that are put up with. */
const wasteMost = 0.25
/** What is kept of promises when one more is heard of, and when a step passes. */
const heard = 0.98
const remembered = 0.9995
/** Promises that are believed before any has come true. */
const credit = 2
const leastPrice = 0.1
const highestPrice = 10
/** By how much a wasted read raises the logarithm of the price. */
const correction = 0.1
/** A guess that would get less of its read done is not worth a slot. */
const leastPart = 0.02

/** A guess, and what stands in front of it. */
export interface Offer {
  /** That the expert is wanted. */
  readonly probability: number
  /** Reads that fit into idle time before its layer routes, and those that are queued before it. */
  readonly idleReads: number
  readonly queuedReads: number
  /** That the expert which gives way is wanted again soon. */
  readonly victimChance: number
}

export class Price {
  #price = 0.5
  /** What was promised lately, and what of it came true, beyond what is believed without any proof. */
  #promised = 0
  #came = 0

  /** So many guesses were promised, in sum of their probabilities, and so many came true. */
  kept(promised: number, came: number): void {
    const keep = heard ** promised
    this.#promised = keep * this.#promised + promised
    this.#came = keep * this.#came + came
  }

  /** A step passes: what is not heard of any more is forgotten, so that whoever was wrong is tried again. */
  pass(): void {
    this.#promised *= remembered
    this.#came *= remembered
  }

  /** What a promise is worth, 0 to 1. */
  get trust(): number {
    return Math.min(1, (credit + this.#came) / (credit + this.#promised))
  }

  /** What became of guesses, in reads of an expert. The price rests where just so much is wasted. */
  settled(usefulReads: number, wastedReads: number): void {
    const rise = Math.exp(correction * (wastedReads - wasteMost * usefulReads))
    this.#price = Math.min(highestPrice, Math.max(leastPrice, this.#price * rise))
  }

  /** What a byte costs that is read for nothing, beside one that is saved. */
  get ofBytes(): number {
    return this.#price
  }

  /** What the guess can be expected to save; read it where this is above 0. */
  gain({ probability, idleReads, queuedReads, victimChance }: Offer): number {
    const part = Math.min(1, idleReads - queuedReads)
    if (part < leastPart) return 0
    const price = this.#price * (1 + queuedReads / idleReads)
    const cost = part * price + delay + victimChance
    const chance = this.trust * probability
    return chance * part - (1 - chance) * cost
  }
}
