// The dashboard without a terminal: views are functions of a scene and a size. Whole screens are kept as
// text; they have exactly the size that was asked for, whatever they show.
import { describe, expect, it } from 'vitest'
import { ratesBetween, type Snapshot } from '../src/engine/telemetry.js'
import { columnsOf, printable, textOf, widthOf } from '../tui/cells.js'
import { absent, bytesText, curve, gauge, rateText, shareText } from '../tui/figures.js'
import { frame } from '../tui/frame.js'
import { History } from '../tui/history.js'
import { press } from '../tui/keys.js'
import { screenPage, screenText } from '../tui/page.js'
import { secondLine, secondObject } from '../tui/plain.js'
import { wrapped } from '../tui/requests.js'
import { newPlace, type Scene, type View, views } from '../tui/scene.js'
import { saidOf } from '../tui/source.js'
import { ring1t, sceneOf, synthesised } from './snapshots.js'

const said = [
  { kind: 'prompt', text: 'Why is the sky blue?' },
  {
    kind: 'reasoning',
    text: '\n\nLight of short waves is scattered more. 光の散乱。 So it is blue.',
  },
  {
    kind: 'text',
    text: '\n\nBecause air scatters blue light most.\n\n- short waves\n- long waves',
  },
] as const
const log = ['ring-tiny on cpu', 'ready: 3 at once', 'a line with \u001b[31mcolours\u0007 in it']

const screenOf = (scene: Scene, columns: number, rows: number) =>
  screenText(frame(scene, columns, rows))

describe('a screen', () => {
  const shown = views.flatMap((view) =>
    [
      [80, 24],
      [160, 50],
    ].map(([columns = 0, rows = 0]): [View, number, number] => [view, columns, rows]),
  )

  it.each(shown)(
    'of %s, %d x %d, of a model of 80 layers of 256 experts',
    async (view, ...size) => {
      const scene = { ...sceneOf({ view, layer: 41, expert: 200 }), said, log }
      const file = `fixtures/dashboard/${view}-${size.join('x')}.txt`
      await expect(screenOf(scene, ...size)).toMatchFileSnapshot(file)
    },
  )

  it('of the whole model at once', async () => {
    const scene = sceneOf({ view: 'experts', isWhole: true, layer: 41, expert: 200 })
    const file = 'fixtures/dashboard/whole-80x24.txt'
    await expect(screenOf(scene, 80, 24)).toMatchFileSnapshot(file)
  })

  it('of help', async () => {
    const scene = sceneOf({ isHelp: true })
    await expect(screenOf(scene, 80, 24)).toMatchFileSnapshot('fixtures/dashboard/help-80x24.txt')
  })

  it('has exactly its size, whatever the view, at any size', () => {
    const { place, ...scene } = sceneOf({})
    for (const view of views) {
      for (const [columns, rows] of [
        [1, 1],
        [19, 5],
        [20, 4],
        [41, 9],
        [80, 24],
        [133, 37],
        [500, 200],
      ] as const) {
        const lines = frame({ ...scene, place: { ...place, view }, said, log }, columns, rows)
        expect(lines.length).toBe(rows)
        for (const one of lines) expect(widthOf(textOf(one))).toBe(columns)
      }
    }
  })

  it('of an overview has a line for a job, where there is one', () => {
    const scene = sceneOf({})
    const job = { lines: 200, linesDone: 50, linesAnswered: 48, secondsLeft: 200 }
    const { snapshot } = scene
    if (snapshot === null) throw new Error('there is one')
    const shown = (made: Snapshot) => screenOf({ ...scene, snapshot: made }, 80, 24)
    expect(shown({ ...snapshot, job })).toContain(
      [
        ' job       lines done      50  of 200      ████░░░░░░░░░░░░ 3 min 20 s left',
        '           refused          2',
      ].join('\n'),
    )
    expect(shown(snapshot)).not.toMatch(/lines done|refused/)
  })

  it('of an overview at 80 x 24 leaves nothing out that a larger one has', () => {
    const scene = sceneOf({})
    const words = (text: string) => new Set(text.match(/[a-z]{3,}/gi))
    const small = words(screenOf(scene, 80, 24))
    for (const word of words(screenOf(scene, 90, 60))) {
      // The device gives way to figures.
      if (!'portable threads cpu'.includes(word)) expect(small).toContain(word)
    }
  })
})

describe('what is not there', () => {
  it('is a dash and an empty bar, not a zero', () => {
    expect([rateText(undefined), shareText(undefined), bytesText(undefined)]).toEqual(
      Array(3).fill(absent),
    )
    expect(textOf(gauge(undefined, 8, 'good'))).toBe('········')
    expect(textOf(gauge(0, 8, 'good'))).toBe('░░░░░░░░')
  })

  it('shows so in an overview without a drive, a prefetcher, or an engine', () => {
    const full = synthesised(2, ring1t)
    if (full.engine === undefined) throw new Error('there is one')
    const { prefetch: _none, ...engine } = full.engine
    const bare: Snapshot = { ...full, engine: { ...engine, links: {} } }
    const scene = { ...sceneOf({}), snapshot: bare, history: new History() }
    const lines = screenOf(scene, 80, 40).split('\n')
    expect(lines.find((one) => one.includes('drive'))).toMatch(/bytes\/s +–$/)
    expect(lines.find((one) => one.includes('PCIe'))).toMatch(/bytes\/s +–$/)
    expect(lines.find((one) => one.includes('decode'))).toMatch(/decode +–/)
    const ahead = { ...scene, place: newPlace(false, 'prefetch') }
    expect(screenOf(ahead, 80, 24)).toContain('nothing is read ahead here')
    const { engine: _gone, ...loading } = full
    const waiting = { ...scene, snapshot: { ...loading, state: 'loading' as const } }
    expect(screenOf(waiting, 80, 24)).toContain('no engine yet')
  })
})

describe('experts on a GPU over RAM', () => {
  it('are told apart by where they lay', () => {
    const snapshots = [39, 40].map((at): Snapshot => {
      const full = synthesised(at, ring1t)
      if (full.engine === undefined) throw new Error('there is one')
      const { experts, layers } = full.engine
      const hits = layers.hits.map(() => 60 * at)
      const hitsBelow = layers.hits.map(() => 45 * at)
      const onGpu = { ...experts, isOnGpu: true, slotsBelow: 1000 }
      const engine = { ...full.engine, experts: onGpu, layers: { ...layers, hits, hitsBelow } }
      return { ...full, engine }
    })
    const [before, snapshot = null] = snapshots
    if (before === undefined || snapshot === null) throw new Error('there are two')
    const history = new History()
    for (const one of [before, snapshot]) history.add(one)
    const lines = screenOf({ ...sceneOf({}), snapshot, history }, 100, 50).split('\n')
    const rowOf = (name: RegExp) => lines.find((one) => name.test(one)) ?? ''
    expect(rowOf(/hit rate +VRAM/)).toContain('15.0 %')
    expect(rowOf(/^ +RAM /)).toContain('45.0 %')
  })
})

describe('figures', () => {
  it('on a screen are those of the plain line and of the object at the same instant', () => {
    const scene = sceneOf({})
    const { history, snapshot } = scene
    if (snapshot === null) throw new Error('there is one')
    const rates = ratesBetween(synthesised(39, ring1t), synthesised(40, ring1t))
    expect(secondObject(snapshot, history)).toMatchObject({ rates })
    const line = secondLine(snapshot, history)
    const screen = screenOf(scene, 160, 50)
    expect(rates?.drive?.shareOfBound).toBeCloseTo(0.7, 9)
    for (const text of ['12.5', shareText(rates?.hitRate), '5.50 GB', '70.0 %']) {
      expect(line).toContain(text)
      expect(screen).toContain(text)
    }
  })

  it('of a curve are scaled to the highest', () => {
    expect(curve([0, 1, 2, 4, undefined], 6, 'good').text).toBe(' ▁▃▅█ ')
    expect(curve([1, 2, 3], 2, 'good', 3).text).toBe('▆█')
  })

  it('are of the last second, and begin anew with another engine', () => {
    const history = new History()
    history.add(synthesised(10, ring1t))
    expect(history.now).toBeNull()
    for (const at of [10.5, 11, 11.5]) history.add(synthesised(at, ring1t))
    expect(history.now?.seconds).toBe(1)
    history.add(synthesised(1, ring1t))
    expect(history.now).toBeNull()
  })
})

describe('keys', () => {
  const pressed = (names: readonly string[], view: View, snapshot: Snapshot | null = null) => {
    const place = newPlace(false, view)
    const wishes = names.map((name) => press(place, { name, text: name }, snapshot))
    return { place, wishes }
  }

  it('go to views by number and in a ring', () => {
    for (const [at, view] of views.entries()) {
      expect(pressed([String(at + 1)], 'log').place.view).toBe(view)
    }
    expect(pressed(['tab'], 'log').place.view).toBe('overview')
    expect(pressed(['S-tab'], 'overview').place.view).toBe('log')
  })

  it('keep the cursor within the model', () => {
    const snapshot = synthesised(1, { moeLayers: 3, perLayer: 5 })
    const { place } = pressed(['up', 'left', ...Array(9).fill('right'), 'end'], 'experts', snapshot)
    expect([place.layer, place.expert]).toEqual([2, 4])
    expect(pressed(['down', 'home'], 'experts', snapshot).place.layer).toBe(0)
  })

  it('cancel only where requests are seen, and quit from anywhere but a line of text', () => {
    expect(pressed(['c'], 'requests').wishes).toEqual(['cancel'])
    expect(pressed(['c'], 'overview').wishes).toEqual(['none'])
    for (const view of views) expect(pressed(['q'], view).wishes).toEqual(['quit'])
    const talk = newPlace(true, 'text')
    expect(press(talk, { name: 'q', text: 'q' }, null)).toBe('none')
    expect(talk.draft).toBe('q')
    expect(press(talk, { name: 'C-c', text: '\u0003' }, null)).toBe('quit')
  })

  it('type a line, and say it', () => {
    const talk = newPlace(true, 'text')
    for (const text of ['h', 'é', '光', '\u001b']) press(talk, { name: text, text }, null)
    press(talk, { name: 'backspace', text: '\b' }, null)
    expect(talk.draft).toBe('hé')
    expect(press(talk, { name: 'enter', text: '\r' }, null)).toBe('say')
    press(talk, { name: 'C-u', text: '\u0015' }, null)
    expect(press(talk, { name: 'enter', text: '\r' }, null)).toBe('none')
  })
})

describe('text of a model', () => {
  it('cannot move the cursor, in a screen or in a page', () => {
    expect(printable('a\u001b[2Jb\u0007c\u202ed\te')).toBe('a[2Jbcd  e')
    const evil = [{ kind: 'text', text: '<script>"&\u001b]0;x\u0007' }] as const
    const lines = frame({ ...sceneOf({ view: 'text' }), said: evil }, 80, 24)
    const page = screenPage(lines, 'a <title>')
    for (const danger of ['<script', '\u001b', '<title>a <']) expect(page).not.toContain(danger)
    expect(page).toContain('&lt;script>')
  })

  it('is wrapped between words, wide characters and long words where they must', () => {
    const lines = wrapped([{ kind: 'text', text: `one two three ${'x'.repeat(12)} 光光光` }], 8)
    expect(lines.map((one) => textOf(one).trimEnd())).toEqual([
      'one two',
      'three',
      'xxxxxxxx',
      'xxxx',
      '光光光',
    ])
    for (const one of lines) expect(widthOf(textOf(one))).toBeLessThanOrEqual(8)
    expect(columnsOf('光')).toBe(2)
  })

  it('is thinking up to the tag that closes it', () => {
    expect(saidOf('hm</think>yes')).toEqual([
      { kind: 'reasoning', text: 'hm</think>' },
      { kind: 'text', text: 'yes' },
    ])
    expect(saidOf('<think>hm')).toEqual([{ kind: 'reasoning', text: '<think>hm' }])
    expect(saidOf('yes')).toEqual([{ kind: 'text', text: 'yes' }])
    expect(saidOf(undefined)).toBeNull()
  })
})
