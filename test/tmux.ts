// A terminal of tmux of a size of its own, on a socket of its own: keys in, screens out.
import { execFileSync, spawnSync } from 'node:child_process'
import { until } from './serving.js'

/** Between two looks at a screen, each of which is a process of its own; frames come as often at most. */
const lookAgainMs = 100

/** Why there are no such terminals here; null: there are. */
export const noTmux =
  spawnSync('tmux', ['-V']).status === 0 ? null : 'tmux is not installed: apt-get install tmux'

export class Tmux {
  readonly #socket = `ring-test-${process.pid}-${performance.now().toFixed(0)}`

  /** Runs a line of shell; when it ends the shell stays. `term`: what the terminal says it is. */
  constructor(
    line: string,
    columns: number,
    rows: number,
    folder: string,
    term = 'tmux-256color',
    environment = '',
  ) {
    const before = `cd '${folder}'; export LANG=C.UTF-8 TERM=${term} PS1='$ ' RING_PROFILE=none ${environment}`
    this.#tmux('-f', '/dev/null', 'new-session', '-d', '-x', `${columns}`, '-y', `${rows}`, 'sh')
    this.#tmux('set-option', '-g', 'window-size', 'manual')
    this.type(`${before}; clear; ${line}; echo "ended with $?"`)
    this.keys('Enter')
  }

  keys(...names: readonly string[]): void {
    this.#tmux('send-keys', ...names)
  }

  type(text: string): void {
    this.#tmux('send-keys', '-l', text)
  }

  resize(columns: number, rows: number): void {
    this.#tmux('resize-window', '-x', `${columns}`, '-y', `${rows}`)
  }

  /** The lines on the screen, with colours where they are asked for. */
  screen(hasColours = false): string {
    return this.#tmux('capture-pane', '-p', ...(hasColours ? ['-e'] : []))
  }

  /** The screen once it shows something. */
  async shows(what: RegExp): Promise<string> {
    let screen = ''
    await until(async () => {
      screen = this.screen()
      return what.test(screen)
    }, lookAgainMs).catch(() => {
      throw new Error(`never shown: ${what}\n${screen}`)
    })
    return screen
  }

  /** Whether the terminal is in the state in which programs of whole screens put it. */
  get isAlternate(): boolean {
    return this.#tmux('display-message', '-p', '#{alternate_on}').trim() === '1'
  }

  get hasCursor(): boolean {
    return this.#tmux('display-message', '-p', '#{cursor_flag}').trim() === '1'
  }

  close(): void {
    spawnSync('tmux', ['-L', this.#socket, 'kill-server'])
  }

  #tmux(...words: readonly string[]): string {
    return execFileSync('tmux', ['-L', this.#socket, ...words], { encoding: 'utf8' })
  }
}
