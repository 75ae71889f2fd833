// How many sequences share a step, found out while a job runs: stretches of steps with as many as so far
// alternate with stretches of more or of fewer, as contests have it, and what is faster is kept. Pure: it is
// told of every step, and says how many it wishes for the next and whether prompts shall wait, so that a
// stretch is of draws alone. No bit of an answer depends on it.
import { Duel, median, Noise } from './contest.js'

/** Full steps until a stretch begins, and how many it has at least and at most. */
const STEPS_BEFORE = 1
const [STEPS_LEAST, STEPS_MOST] = [3, 32]
const SECONDS_LEAST = 0.25
/** Answers that end leave places empty while prompts wait; below this share a stretch begins anew. */
const FULL_LEAST = 0.85
/** Steps in which no stretch comes about: there are not so many sequences, or they end too soon. */
const PATIENCE = 64
/** From one number to the next that is tried. */
const STRIDE = 1.5
/** Stretches of the same number, for the noise. */
const STRETCHES_ALIKE = 5
/** Sequences so many times as long, or as short, are another job. */
const OTHER_MIX = 2
const MIX_STEPS = 32

export class Width {
  #champion: number
  #challenger = 0
  #direction: 1 | -1 = 1
  #hasMoved = false
  #noise = new Noise()
  readonly #alike: number[] = []
  /** Null: learning the noise, or settled. */
  #duel: Duel | null = null
  #isSettled = false
  readonly #stretch = new Stretch()
  /** Mean positions of a sequence: now, and when it was settled. */
  #positions = 0
  #positionsThen = 0
  #trials = 0
  #changes = 0
  #speed = 1

  constructor(
    readonly atFirst: number,
    private readonly most: number,
  ) {
    this.#champion = atFirst
    this.#isSettled = most === 1
  }

  /** Sequences in the next step, at most. */
  get wish(): number {
    return this.#duel?.isNextChallenger === true ? this.#challenger : this.#champion
  }

  /** What is fastest by what was measured so far. */
  get best(): number {
    return this.#champion
  }

  /** Whether prompts wait. */
  get holdsPrompts(): boolean {
    return !this.#isSettled && this.#stretch.isCounting
  }

  get isSettled(): boolean {
    return this.#isSettled
  }

  /** Numbers that were tried, those that were kept, and times as fast as at first by what was measured. */
  get trials(): number {
    return this.#trials
  }

  get changes(): number {
    return this.#changes
  }

  get speed(): number {
    return this.#speed
  }

  /** A step is over: of so many sequences and tokens, behind so many positions of all together. */
  took(sequences: number, tokens: number, positions: number, seconds: number): void {
    if (sequences === 0) return
    const mean = positions / sequences
    this.#positions += (mean - this.#positions) / (this.#positions === 0 ? 1 : MIX_STEPS)
    if (this.#isSettled) {
      const ratio = this.#positions / Math.max(1, this.#positionsThen)
      if (this.most > 1 && Math.max(ratio, 1 / ratio) > OTHER_MIX) this.#beginAnew()
      return
    }
    this.#stretch.add(this.wish, sequences, tokens, seconds)
    if (this.#stretch.isHopeless) this.#giveUp()
    else if (this.#stretch.isOver) this.#heard(this.#stretch.secondsPerToken)
  }

  #heard(secondsPerToken: number): void {
    this.#stretch.begin()
    if (this.#duel !== null) {
      this.#duel.add(secondsPerToken)
      this.#endDuel(this.#duel)
      return
    }
    this.#alike.push(secondsPerToken)
    if (this.#alike.length < STRETCHES_ALIKE) return
    this.#noise.observe(this.#alike)
    this.#tryNext()
  }

  #endDuel({ verdict, forward, reverse }: Duel): void {
    if (verdict === 'open') return
    this.#duel = null
    if (verdict === 'won') {
      this.#champion = this.#challenger
      this.#changes += 1
      this.#speed *= median([...forward, ...reverse])
      this.#hasMoved = true
      this.#tryNext()
    } else {
      this.#turn()
    }
  }

  /** What was so far is too many to be measured, or what is tried is. */
  #giveUp(): void {
    this.#stretch.begin()
    if (this.#duel === null) this.#settle()
    else {
      this.#duel = null
      this.#turn()
    }
  }

  /** More was no better; fewer may be, unless they were left behind already. */
  #turn(): void {
    if (this.#direction < 0 || this.#hasMoved) {
      this.#settle()
      return
    }
    this.#direction = -1
    this.#tryNext()
  }

  #tryNext(): void {
    const next =
      this.#direction > 0
        ? Math.min(this.most, Math.ceil(this.#champion * STRIDE))
        : Math.floor(this.#champion / STRIDE)
    if (next === this.#champion || next < 1) {
      this.#turn()
      return
    }
    this.#challenger = next
    this.#trials += 1
    this.#duel = new Duel(this.#noise)
  }

  #settle(): void {
    this.#isSettled = true
    this.#positionsThen = this.#positions
  }

  #beginAnew(): void {
    this.#isSettled = false
    this.#direction = 1
    this.#hasMoved = false
    this.#noise = new Noise()
    this.#alike.length = 0
    this.#stretch.begin()
  }
}

/** Steps of the same number of sequences, one after the other. */
class Stretch {
  #before = 0
  /** Seconds for a token, of each step; and how many the steps took. */
  readonly #perToken: number[] = []
  #seconds = 0
  #lost = 0

  begin(): void {
    this.#restart()
    this.#lost = 0
  }

  add(wish: number, sequences: number, tokens: number, seconds: number): void {
    const isPlain = tokens === sequences && sequences <= wish
    if (!this.isCounting) {
      // Once there are as many as shall be, and slots have taken to them.
      if (sequences === wish) this.#before += 1
      else this.#lost += 1
      return
    }
    if (!isPlain || sequences < FULL_LEAST * wish) {
      this.#lost += this.#perToken.length + 1
      this.#restart()
      return
    }
    this.#perToken.push(seconds / tokens)
    this.#seconds += seconds
  }

  get isCounting(): boolean {
    return this.#before >= STEPS_BEFORE
  }

  get isOver(): boolean {
    const { length } = this.#perToken
    return (length >= STEPS_LEAST && this.#seconds >= SECONDS_LEAST) || length >= STEPS_MOST
  }

  get isHopeless(): boolean {
    return this.#lost > PATIENCE
  }

  /** Of the middle step: one that stalled says nothing of the others. */
  get secondsPerToken(): number {
    return median(this.#perToken)
  }

  #restart(): void {
    this.#before = 0
    this.#perToken.length = 0
    this.#seconds = 0
  }
}
