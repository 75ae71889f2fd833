// How far a long reading is, on stderr: one line that is written over on a terminal, now and then a
// line of its own elsewhere. It keeps no clock: the one who reports says how long it has taken.
import { oneLine } from './failure.js'

export interface ReadingProgress {
  /** Of `bytes`, with what an earlier run has read. */
  readonly doneBytes: number
  /** By this run, in `seconds`. */
  readonly readBytes: number
  readonly bytes: number
  readonly seconds: number
}

/** The part of a stream that progress needs. */
export type ProgressStream = Pick<NodeJS.WriteStream, 'isTTY' | 'write'>

const TERMINAL_SECONDS = 0.25
const LINE_SECONDS = 10
/** Earlier than this a rate says nothing about the time that is left. */
const STEADY_SECONDS = 1
const ERASE_LINE = '\r\u001b[K'

export class Progress {
  readonly #seconds: number
  #last: number
  #isShown = false

  constructor(
    private readonly name: string,
    private readonly isQuiet: boolean,
    private readonly stream: ProgressStream = process.stderr,
  ) {
    this.#seconds = stream.isTTY ? TERMINAL_SECONDS : LINE_SECONDS
    this.#last = stream.isTTY ? Number.NEGATIVE_INFINITY : 0
  }

  show(progress: ReadingProgress): void {
    if (this.isQuiet || progress.seconds - this.#last < this.#seconds) return
    this.#last = progress.seconds
    const text = `ring-offload: ${oneLine(`${this.name}: ${progressText(progress)}`)}`
    this.stream.write(this.stream.isTTY ? `${ERASE_LINE}${text}` : `${text}\n`)
    this.#isShown = true
  }

  /** Whatever comes next has the line for itself. */
  end(): void {
    if (this.#isShown && this.stream.isTTY) this.stream.write(ERASE_LINE)
  }
}

/** "412 GB of 979 GB (42 %), 6.61 GB/s, 1 min 26 s left". */
export function progressText({ doneBytes, readBytes, bytes, seconds }: ReadingProgress): string {
  const share = bytes === 0 ? 100 : Math.floor((100 * doneBytes) / bytes)
  const parts = [`${sizeText(doneBytes)} of ${sizeText(bytes)} (${share} %)`]
  if (seconds > 0 && readBytes > 0) {
    const rate = readBytes / seconds
    parts.push(`${sizeText(rate)}/s`)
    if (seconds >= STEADY_SECONDS) parts.push(`${timeText((bytes - doneBytes) / rate)} left`)
  }
  return parts.join(', ')
}

/** Three digits and a decimal unit. */
export function sizeText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let [value, unit] = [bytes, 0]
  // 999.5 would be written with four digits.
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  const text = unit === 0 ? value.toFixed(0) : value.toPrecision(3)
  return `${text} ${units[unit]}`
}

/** The two largest units that there are. */
export function timeText(seconds: number): string {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  const minutes = Math.ceil(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
