// The search for better settings: one knob after the other, each value in a contest against the best so
// far, which it replaces only when it wins. What is measured, how long it takes and what becomes of a
// winner is the caller's matter; tests let it run on a machine that does not exist.
import { ModelError } from '../model/error.js'
import { type Contest, contest, median, type Noise } from './contest.js'
import type { SettingName, Settings, SettingValue } from './settings.js'

/** One thing that can be set, and the values worth trying. */
export interface Knob {
  readonly name: SettingName
  readonly values: readonly SettingValue[]
  /** Index of the value that stands at the start. */
  readonly start: number
  /** Index of the value that the program would choose. */
  readonly usual: number
  /** Whether values rise, so that what lies beyond a worse one is worse. */
  readonly isLadder: boolean
}

/** A contest that is over, and what it was about. */
export interface Trial extends Contest {
  readonly name: SettingName
  readonly from: SettingValue
  readonly to: SettingValue
  /** Median ratio of seconds, above 1 where `to` is faster; NaN where it could not be run. */
  readonly speed: number
  /** Why `to` could not be run; null where it could. */
  readonly refusal: string | null
}

export interface Game {
  /** Seconds per token with these settings in place of those at the start. Throws ModelError where it cannot run. */
  measure(changes: Settings): Promise<number>
  readonly noise: Noise
  /** Whether there is time for another contest. */
  mayBegin(): boolean
  /** Whether the search was told to end, which `measure` then throws for. */
  isOver(): boolean
  onBegin(name: SettingName, to: SettingValue): void
  /** `changes`: the best so far, with this trial's if it was won. */
  onTrial(trial: Trial, changes: Settings): void
}

/** What differs from the start and was found to be faster; what was confirmed before an early end counts. */
export async function search(knobs: readonly Knob[], game: Game): Promise<Settings> {
  const climb = new Climb(game)
  try {
    for (const knob of knobs) await climb.turn(knob)
  } catch (error) {
    if (!game.isOver()) throw error
  }
  return climb.changes
}

class Climb {
  changes: Settings = {}

  constructor(private readonly game: Game) {}

  /** Finds the place of one knob, the others staying where they are. */
  async turn(knob: Knob): Promise<void> {
    const { values, start, usual, isLadder } = knob
    let at = start
    const tried = new Set([start])
    const moves = async (to: number): Promise<boolean> => {
      const [from, value] = [values[at], values[to]]
      if (from === undefined || value === undefined || tried.has(to)) return false
      tried.add(to)
      if (!this.game.mayBegin() || !(await this.#try(knob.name, from, value))) return false
      at = to
      return true
    }
    // Whoever begins elsewhere wants to know of this one first.
    await moves(usual)
    if (!isLadder) {
      for (const to of values.keys()) await moves(to)
      return
    }
    for (const step of [1, -1]) {
      const before = at
      let isMoving = true
      while (isMoving) isMoving = await moves(at + step)
      if (at !== before) return
    }
  }

  async #try(name: SettingName, from: SettingValue, to: SettingValue): Promise<boolean> {
    const { game, changes } = this
    const next: Settings = { ...changes, [name]: to }
    let refusal: string | null = null
    game.onBegin(name, to)
    const result = await contest(
      () => game.measure(changes),
      async () => {
        try {
          return await game.measure(next)
        } catch (error) {
          if (game.isOver() || !(error instanceof ModelError)) throw error
          refusal = error.message
          return Number.POSITIVE_INFINITY
        }
      },
      game.noise,
    )
    if (result.isWon) this.changes = next
    const speed = refusal === null ? median([...result.forward, ...result.reverse]) : Number.NaN
    game.onTrial({ ...result, name, from, to, speed, refusal }, this.changes)
    return result.isWon
  }
}
