// The dashboard at work: takes snapshots, hears keys, draws, at most so many times a second; a terminal
// that cannot keep up misses frames. It runs beside everything else on the main thread and waits only on
// timers.
import { writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import type { Snapshot } from '../src/engine/telemetry.js'
import { frame } from './frame.js'
import { History } from './history.js'
import { type Key, press, type Wish } from './keys.js'
import { screenPage, screenText } from './page.js'
import { chosenOf, isAtWork } from './requests.js'
import { newPlace, type Place, type Scene, type View } from './scene.js'
import type { Source } from './source.js'
import { Terminal } from './terminal.js'

const betweenSnapshotsMs = 1000
const betweenFramesMs = 100
/** Notes of its own that the log shows. */
const notesMost = 200

export class Dashboard {
  readonly #history = new History()
  readonly #place: Place
  readonly #terminal: Terminal
  readonly #notes: string[] = []
  readonly #ended = new AbortController()
  #snapshot: Snapshot | null = null
  #notice = ''
  #awaySince = 0
  #wake = new AbortController()
  #frame: NodeJS.Timeout | null = null
  #drawnMs = 0

  constructor(
    private readonly source: Source,
    view: View = 'overview',
  ) {
    this.#place = newPlace(source.say !== undefined, view)
    this.#terminal = new Terminal(
      (key) => this.#hear(key),
      () => this.touch(),
    )
  }

  /** Until a person leaves, or `end` is called. */
  async run(): Promise<void> {
    try {
      this.touch()
      while (!this.#ended.signal.aborted) {
        await this.#take()
        this.touch()
        this.#wake = new AbortController()
        const signal = AbortSignal.any([this.#wake.signal, this.#ended.signal])
        await pause(betweenSnapshotsMs, undefined, { signal }).catch(() => {})
      }
    } finally {
      if (this.#frame !== null) clearTimeout(this.#frame)
      this.#terminal.close()
    }
  }

  end(): void {
    this.#ended.abort()
  }

  /** Something has changed: the screen is drawn soon. */
  touch(): void {
    if (this.#frame !== null || this.#ended.signal.aborted) return
    const sinceMs = performance.now() - this.#drawnMs
    this.#frame = setTimeout(() => this.#draw(), Math.max(0, betweenFramesMs - sinceMs))
  }

  async #take(): Promise<void> {
    try {
      const { view, row } = this.#place
      const wanted = view === 'text' ? chosenOf(this.#snapshot, row) : null
      const snapshot = await this.source.take(view === 'experts', wanted)
      if (this.#awaySince > 0) this.#note(`${this.source.name} answers again`)
      this.#awaySince = 0
      this.#notice = ''
      this.#tellRestart(snapshot)
      this.#snapshot = snapshot
      this.#history.add(snapshot)
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      if (this.#awaySince === 0) {
        this.#awaySince = performance.now()
        const cause = error instanceof Error ? (error.cause ?? '') : ''
        this.#note(`${message} ${cause}`)
      }
      const seconds = Math.round((performance.now() - this.#awaySince) / 1000)
      this.#notice = `${message} for ${seconds} s, trying again`
    }
  }

  #tellRestart(snapshot: Snapshot): void {
    const before = this.#snapshot?.engine
    const after = snapshot.engine
    if (before === undefined) return
    if (after === undefined || after.steps < before.steps) this.#note('the engine began anew')
  }

  #draw(): void {
    this.#frame = null
    this.#drawnMs = performance.now()
    if (!this.#terminal.draw(this.#lines())) this.touch()
  }

  #lines() {
    return frame(this.#scene(), this.#terminal.columns, this.#terminal.rows)
  }

  #scene(): Scene {
    const chosen = chosenOf(this.#snapshot, this.#place.row)
    return {
      place: this.#place,
      snapshot: this.#snapshot,
      history: this.#history,
      said: this.#place.view === 'text' ? this.source.said(chosen) : null,
      log: this.#place.view === 'log' ? [...this.source.log, ...this.#notes] : [],
      notice: this.#notice,
    }
  }

  #hear(key: Key): void {
    const { view } = this.#place
    this.#obey(press(this.#place, key, this.#snapshot))
    // What a view needs is asked for at once.
    if (this.#place.view !== view) this.#wake.abort()
    this.touch()
  }

  #obey(wish: Wish): void {
    if (wish === 'quit') this.end()
    else if (wish === 'save') this.#save()
    else if (wish === 'cancel') void this.#cancel()
    else if (wish === 'say') {
      this.source.say?.(this.#place.draft ?? '')
      this.#place.draft = ''
    }
  }

  async #cancel(): Promise<void> {
    const row = chosenOf(this.#snapshot, this.#place.row)
    if (row === null || !isAtWork(row)) return
    try {
      await this.source.cancel(row)
      this.#note(`request ${row.number}: asked to end`)
    } catch (error) {
      this.#note(error instanceof Error ? error.message : String(error))
    }
    this.touch()
  }

  /** The screen as it is, beside where the program was started. */
  #save(): void {
    const lines = this.#lines()
    const name = `ring-offload-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`
    try {
      writeFileSync(`${name}.txt`, screenText(lines), { flag: 'wx' })
      writeFileSync(`${name}.html`, screenPage(lines, name), { flag: 'wx' })
      this.#note(`saved ${name}.txt and ${name}.html`)
    } catch (error) {
      this.#note(`not saved: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  #note(text: string): void {
    const time = new Date().toTimeString().slice(0, 8)
    this.#notes.push(`${time} ${text}`)
    if (this.#notes.length > notesMost) this.#notes.shift()
  }
}
