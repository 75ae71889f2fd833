// How sure a router's choice is, expert by expert: from one token's scores in one layer, how far each
// expert lies from being chosen, and how far its group lies from being kept. The rules are the
// router's own (DeepSeek-V3, arXiv 2412.19437 §2.1.2), but nothing is cut off: scores that were made
// some layers early are wrong by a little, and an expert just outside of a group that is just not kept
// may well be wanted. Must not know where the scores come from, or what becomes of the margins.

export interface RouterShape {
  /** In a layer, and chosen by a token. */
  readonly experts: number
  readonly topK: number
  /** Equal runs of experts, and how many of them a token may choose from. */
  readonly groups: number
  readonly groupsKept: number
}

/** The margin of every group where all are kept. */
const sure = 4
const leastScore = 1e-3

export class Margins {
  /**
   * [expert] How far its choice score lies above the threshold, midway between the last expert that is
   * chosen and the first that is not, both of kept groups; in standard deviations of all choice scores.
   */
  readonly own: Float32Array
  /** [group] As `own`, of its two best scores together, and the groups kept; `sure` where all are. */
  readonly group: Float32Array
  /** [expert] Both in one, by which experts are put in order. */
  readonly soft: Float32Array
  readonly #shape: RouterShape
  readonly #groupSize: number
  readonly #groupScores: Float64Array
  readonly #choice: Float64Array
  readonly #logits: Float64Array
  readonly #bias: Float64Array
  #threshold = 0
  #logitSpread = 1
  /** The largest so far, largest first: one more than are chosen, or kept. */
  readonly #best: Float64Array
  readonly #bestGroups: Float64Array

  constructor(shape: RouterShape) {
    const { experts, topK, groups, groupsKept } = shape
    this.#shape = shape
    this.#groupSize = Math.floor(experts / groups)
    this.own = new Float32Array(experts)
    this.#logits = new Float64Array(experts)
    this.#bias = new Float64Array(experts)
    this.group = new Float32Array(groups).fill(sure)
    this.soft = new Float32Array(experts)
    this.#choice = new Float64Array(experts)
    this.#groupScores = new Float64Array(groups)
    this.#best = new Float64Array(topK + 1)
    this.#bestGroups = new Float64Array(groupsKept + 1)
  }

  /**
   * `scores`: the router's probabilities (sigmoid, before bias), of which this token's begin at `first`;
   * `bias`: what the router adds when it chooses, beginning at `firstBias`, or null.
   */
  weigh(scores: Float32Array, first: number, bias: Float32Array | null, firstBias: number): void {
    const spread = this.#readChoice(scores, first, bias, firstBias)
    const { groups, groupsKept } = this.#shape
    if (groupsKept < groups) this.#weighGroups(spread)
    this.#threshold = this.#weighExperts(spread)
    this.#logitSpread = this.#readLogits(scores, first)
  }

  /**
   * The expert's own margin where early scores err evenly, in the router's logits: how far its logit lies
   * above the one with which it would meet the threshold, in standard deviations of all logits.
   */
  odds(index: number): number {
    const needed = logitOf(this.#threshold - (this.#bias[index] ?? 0))
    return ((this.#logits[index] ?? 0) - needed) / this.#logitSpread
  }

  /** The standard deviation of the choice scores; 1 where they are all the same, or not numbers. */
  #readChoice(
    scores: Float32Array,
    first: number,
    bias: Float32Array | null,
    firstBias: number,
  ): number {
    const { experts } = this.#shape
    let sum = 0
    let squares = 0
    for (let index = 0; index < experts; index += 1) {
      const score =
        (scores[first + index] ?? 0) + (bias === null ? 0 : (bias[firstBias + index] ?? 0))
      this.#choice[index] = score
      sum += score
      squares += score * score
    }
    return spreadOf(sum, squares, experts)
  }

  #weighGroups(spread: number): void {
    const { groups } = this.#shape
    const best = this.#bestGroups.fill(Number.NEGATIVE_INFINITY)
    for (let group = 0; group < groups; group += 1) {
      const score = this.#groupScore(group)
      this.#groupScores[group] = score
      enter(best, score)
    }
    const threshold = midway(best, spread)
    for (let group = 0; group < groups; group += 1) {
      this.group[group] = ((this.#groupScores[group] ?? 0) - threshold) / spread
    }
  }

  /** The sum of its two best choice scores; of a single expert that one's. */
  #groupScore(group: number): number {
    let largest = Number.NEGATIVE_INFINITY
    let second = Number.NEGATIVE_INFINITY
    const end = (group + 1) * this.#groupSize
    for (let index = end - this.#groupSize; index < end; index += 1) {
      const score = this.#choice[index] ?? 0
      if (score > largest) {
        second = largest
        largest = score
      } else if (score > second) second = score
    }
    return this.#groupSize > 1 ? largest + second : largest
  }

  /** Returns the threshold. */
  #weighExperts(spread: number): number {
    const size = this.#groupSize
    const best = this.#best.fill(Number.NEGATIVE_INFINITY)
    for (let group = 0; group < this.#shape.groups; group += 1) {
      if ((this.group[group] ?? 0) < 0) continue
      for (let index = group * size; index < (group + 1) * size; index += 1) {
        enter(best, this.#choice[index] ?? 0)
      }
    }
    const threshold = midway(best, spread)
    for (let index = 0; index < this.own.length; index += 1) {
      const own = ((this.#choice[index] ?? 0) - threshold) / spread
      const group = this.group[Math.floor(index / size)] ?? 0
      this.own[index] = own
      this.soft[index] = softOf(own, group)
    }
    return threshold
  }

  /** Returns their standard deviation. */
  #readLogits(scores: Float32Array, first: number): number {
    const { experts } = this.#shape
    let sum = 0
    let squares = 0
    for (let index = 0; index < experts; index += 1) {
      const logit = logitOf(scores[first + index] ?? 0)
      this.#logits[index] = logit
      this.#bias[index] = (this.#choice[index] ?? 0) - (scores[first + index] ?? 0)
      sum += logit
      squares += logit * logit
    }
    return spreadOf(sum, squares, experts)
  }
}

/** An expert is chosen when both margins are positive: the smaller one decides, nearly alone. */
function softOf(own: number, group: number): number {
  return Math.min(2 * own, group) + own / 2 + group / 8
}

/** Standard deviation; 1 where all are the same, or some are no numbers. */
function spreadOf(sum: number, squares: number, count: number): number {
  const spread = Math.sqrt(squares / count - (sum / count) ** 2)
  return spread > 0 ? spread : 1
}

/** Of a probability; what is nearly 0 or 1, or beyond, counts as nearly. */
function logitOf(probability: number): number {
  const inside = Math.max(leastScore, Math.min(1 - leastScore, probability))
  return Math.log(inside / (1 - inside))
}

/** Keeps the largest numbers, largest first. */
function enter(best: Float64Array, value: number): void {
  let at = best.length - 1
  if (!(value > (best[at] ?? 0))) return
  for (; at > 0 && (best[at - 1] ?? 0) < value; at -= 1) best[at] = best[at - 1] ?? 0
  best[at] = value
}

/** Between the last two; where there is nothing that was not chosen, a spread below the last. */
function midway(best: Float64Array, spread: number): number {
  const last = best[best.length - 2] ?? 0
  const next = best[best.length - 1] ?? 0
  return next === Number.NEGATIVE_INFINITY ? last - spread : (last + next) / 2
}
