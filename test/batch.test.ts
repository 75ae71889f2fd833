// `batch`: requests in, answers out. What a line may be, what becomes of one that is wrong, in which order
// answers come, what an output is protected from. Crashes are batch-crash.test.ts.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { gradeOf, isRight, passAtK } from '../src/batch/grade.js'
import { isBad, parseLine } from '../src/batch/line.js'
import { untilMs } from '../src/cli/batch.js'
import {
  answered,
  chatLine,
  linesIn,
  mixedLines,
  prepared,
  question,
  textLine,
} from './batching.js'
import { command, ended, started, withFolder } from './command.js'
import { fixtures } from './paths.js'

const short = { max_tokens: 12 }
const sums = [3, 1, 2].map((n) =>
  chatLine(`sum ${n}`, { ...question(`What is ${n}+2?`), ...short }),
)

describe('a job', () => {
  it('answers every line in the order of the input', async () => {
    await withFolder(async (folder) => {
      const { lines, stdout } = await answered(folder, [...sums, '', ...mixedLines(30, 40, 5)])
      expect(stdout).toBe('')
      const ids = ['sum 3', 'sum 1', 'sum 2', ...Array.from({ length: 30 }, (_, n) => `line ${n}`)]
      expect(lines.map((line) => line.custom_id)).toEqual(ids)
      const names = lines.flatMap(({ id, response }) => [
        id,
        response?.request_id,
        response?.body.id,
      ])
      const known = names.filter((name) => name !== undefined)
      expect(new Set(known).size).toBe(known.length)
    })
  })

  it('gives the same bytes for any number at once, of threads, of experts in memory', async () => {
    await withFolder(async (folder) => {
      const lines = mixedLines(14, 20, 6)
      const outputs: string[] = []
      for (const [number, flags] of [
        ['--max-batch', '1'],
        ['--threads', '1'],
        ['--expert-ram', '25%', '--journal-every', '1'],
      ].entries()) {
        const { words, output } = prepared(folder, lines, `out${number}`)
        expect((await command([...words, '-q', ...flags])).status).toBe(0)
        outputs.push(readFileSync(output, 'utf8'))
      }
      expect(outputs[0]).not.toBe('')
      expect(outputs[1]).toBe(outputs[0])
      expect(outputs[2]).toBe(outputs[0])
    })
  })

  it('draws n answers, the first of which is the one that n = 1 gives', async () => {
    await withFolder(async (folder) => {
      const body = { ...question('What is 4+4?'), ...short, seed: 5 }
      const lines = [chatLine('one', body), chatLine('three', { ...body, n: 3 })]
      const [one, three] = (await answered(folder, lines)).lines
      const choices = three?.response?.body.choices ?? []
      expect(choices.map(({ index }) => index)).toEqual([0, 1, 2])
      expect(choices[0]).toEqual(one?.response?.body.choices[0])
    })
  })

  it('records the model that a line names, and answers with its own', async () => {
    await withFolder(async (folder) => {
      const bodies = [{ model: 'another' }, { model: 'ring-tiny' }, {}]
      const lines = bodies.map((body, n) => textLine(`${n}`, { prompt: 'x', ...short, ...body }))
      const found = (await answered(folder, lines)).lines
      expect(found.map((line) => line.response?.body.model)).toEqual(Array(3).fill('ring-tiny'))
      expect(found.map((line) => line.requested_model)).toEqual(['another', undefined, undefined])
    })
  })

  it.each(['openai', 'vllm'])('answers the example that %s publishes', async (publisher) => {
    await withFolder(async (folder) => {
      const example = readFileSync(join(fixtures, 'batch', `${publisher}.jsonl`), 'utf8')
      const { lines } = await answered(folder, example.trimEnd().split('\n'))
      expect(lines.map((line) => line.custom_id)).toEqual(['request-1', 'request-2'])
      for (const { response, error } of lines) {
        expect(error).toBeNull()
        expect(response?.status_code).toBe(200)
        expect(response?.body.choices).toHaveLength(1)
      }
    })
  })

  it('is parked when its time is over, and goes on', async () => {
    await withFolder(async (folder) => {
      const { words, output } = prepared(folder, mixedLines(60, 60, 7))
      const parked = await command([...words, '--max-hours', '0.000001'])
      expect(parked.status).toBe(1)
      expect(parked.stderr).toMatch(/parked: \d+ of 60 lines are done, the same command goes on\n$/)
      expect((await command([...words, '-q'])).status).toBe(0)
      expect(linesIn(output)).toHaveLength(60)
    })
  })
})

const wrong: [title: string, line: string, code: string, said: RegExp][] = [
  ['no JSON', '{"custom_id": ', 'invalid_json', /no JSON/],
  ['no object', '[1]', 'invalid_json', /must be a JSON object/],
  ['no custom_id', '{"method":"POST"}', 'invalid_custom_id', /custom_id must be a text/],
  ['an id that was there', sums[0] ?? '', 'duplicate_custom_id', /same custom_id/],
  ['another method', '{"custom_id":"a","method":"GET"}', 'invalid_method', /method must be POST/],
  ['an unknown url', textLine('b', {}).replace('completions', 'embeddings'), 'invalid_url', /url/],
  ['no body', '{"custom_id":"c","method":"POST","url":"/v1/completions"}', 'invalid_body', /body/],
  ['a verdict of another kind', textLine('d', {}, { grade: 5 }), 'invalid_grade', /grade must be/],
]
const refused: [title: string, line: string, said: RegExp][] = [
  ['a body that is refused', chatLine('e', { messages: [] }), /messages must not be empty/],
  ['a prompt that is too long', textLine('f', { prompt: '1'.repeat(3000) }), /3000 tokens/],
]

describe('a line that cannot be answered', () => {
  it.each(wrong)('%s', (_title, line, code, said) => {
    const found = parseLine(7, line, new Set(['sum 3']))
    if (!isBad(found)) throw new Error('the line was taken')
    expect(found).toMatchObject({ number: 7, code })
    expect(found.message).toMatch(said)
  })

  it('is named by number before the work, and gets its error; the others are answered', async () => {
    await withFolder(async (folder) => {
      const lines = [...sums, ...wrong.map(([, line]) => line), ...refused.map(([, line]) => line)]
      const { lines: found, stderr } = await answered(folder, lines)
      const said = stderr.trimEnd().split('\n')
      expect(said).toHaveLength(wrong.length + refused.length)
      const reasons = [...wrong.map(([, , , one]) => one), ...refused.map(([, , one]) => one)]
      for (const [at, reason] of reasons.entries()) {
        expect(said[at]).toMatch(new RegExp(`in\\.jsonl:${sums.length + 1 + at}: `))
        expect(said[at]).toMatch(reason)
      }
      expect(found.slice(0, 3).map((line) => line.response?.status_code)).toEqual([200, 200, 200])
      const errors = found.slice(3, 3 + wrong.length)
      expect(errors.map((line) => line.error?.code)).toEqual(wrong.map(([, , code]) => code))
      expect(errors.every((line) => line.response === null)).toBe(true)
      const refusals = found.slice(3 + wrong.length)
      expect(refusals.map((line) => line.response?.status_code)).toEqual([400, 400])
      expect(refusals.every((line) => line.error === null)).toBe(true)
    })
  })

  it('lets nothing begin with --strict', async () => {
    await withFolder(async (folder) => {
      const { words, output, journal } = prepared(folder, [...sums, 'x'])
      const { status, stderr } = await command([...words, '-q', '--strict'])
      expect(status).toBe(1)
      expect(stderr).toMatch(/:4: the line is no JSON\n.*1 of 4 lines cannot.*nothing was begun\n$/)
      expect([existsSync(output), existsSync(journal)]).toEqual([false, false])
    })
  })
})

describe('an output', () => {
  it('of a job that has ended is left as it is', async () => {
    await withFolder(async (folder) => {
      await answered(folder, sums)
      const { words, output } = prepared(folder, sums)
      const before = readFileSync(output, 'utf8')
      const again = await command(words)
      expect(again.status).toBe(0)
      expect(again.stderr).toMatch(/has ended before/)
      expect(readFileSync(output, 'utf8')).toBe(before)
      writeFileSync(output, before.slice(1))
      const changed = await command(words)
      expect([changed.status, changed.stderr]).toEqual([1, expect.stringMatching(/has changed/)])
      rmSync(output)
      const gone = await command(words)
      expect([gone.status, gone.stderr]).toEqual([1, expect.stringMatching(/is gone/)])
    })
  })

  it('of another job, or of no job, is not written over', async () => {
    await withFolder(async (folder) => {
      await answered(folder, sums)
      const { words, output } = prepared(folder, sums.slice(1))
      const other = await command([...words, '-q'])
      expect([other.status, other.stderr]).toEqual([1, expect.stringMatching(/input is another/)])
      prepared(folder, sums)
      const flagged = await command([...words, '-q', '--kv-type', 'f32'])
      expect(flagged.stderr).toMatch(/--kv-type was bf16 and is f32/)
      rmSync(`${output}.journal`)
      const strange = await command([...words, '-q'])
      expect([strange.status, strange.stderr]).toEqual([1, expect.stringMatching(/no job's/)])
      expect(linesIn(output)).toHaveLength(3)
    })
  })

  it('belongs to one job at a time', async () => {
    await withFolder(async (folder) => {
      const endless = { ...question('Hi'), max_tokens: 1900, ignore_eos: true, n: 128 }
      const { words } = prepared(folder, [chatLine('long', endless)])
      const first = started(words)
      const end = ended(first)
      await new Promise<void>((resolve) => {
        first.stderr.on('data', (text: string) => text.includes('at once') && resolve())
      })
      const second = await command([...words, '-q'])
      first.kill('SIGKILL')
      await end
      expect([second.status, second.stderr]).toEqual([
        1,
        expect.stringMatching(/out\.jsonl: another job is writing to it\n$/),
      ])
    })
  })

  it.each<[string, (folder: string) => string, RegExp]>([
    ['a folder', (folder) => folder, /must be a file/],
    ['in no folder', (folder) => join(folder, 'no/out'), /cannot be written: no such file/],
  ])('that is %s is refused', async (_title, place, said) => {
    await withFolder(async (folder) => {
      const { input } = prepared(folder, sums)
      const { status, stderr } = await command(['batch', '-i', input, '-o', place(folder), '-q'])
      expect(status).toBe(1)
      expect(stderr).toMatch(said)
    })
  })
})

describe('a verdict', () => {
  it('stands beside the answer, and in the summary as pass@k', async () => {
    await withFolder(async (folder) => {
      const body = { ...question('What is 2+2?'), max_tokens: 40, temperature: 0, n: 2 }
      const grades = [{ number: 4 }, { number: 5 }, { exact: '4' }]
      const lines = grades.map((grade, n) => chatLine(`${n}`, body, { grade }))
      const { words, output } = prepared(folder, lines)
      const { stderr } = await command(words)
      const found = linesIn(output).map((line) => line.grade?.right)
      expect(found).toEqual([
        [true, true],
        [false, false],
        [true, true],
      ])
      expect(stderr).toMatch(/3 lines with a grade: pass@1 0\.6667, pass@2 0\.6667\n$/)
    })
  })

  it.each<[object, string, boolean]>([
    [{ exact: 'yes' }, ' yes\n', true],
    [{ exact: 'yes' }, 'yes!', false],
    [{ number: 42 }, '6 x 7 = 42.', true],
    [{ number: 1234.5 }, 'It is 1,234.50', true],
    [{ number: -3 }, 'x = -3', true],
    [{ number: 42 }, '42, or rather 43', false],
    [{ number: 42 }, 'none', false],
  ])('%j of %j is %s', (grade, answer, right) => {
    const wanted = gradeOf(grade)
    if (typeof wanted === 'string' || 'command' in wanted) throw new Error('no such grade')
    expect(isRight(wanted, answer)).toBe(right)
  })

  it('pass@k is the chance that k of the answers hold a right one', () => {
    expect(passAtK(4, 1, 1)).toBeCloseTo(1 / 4, 12)
    expect(passAtK(4, 1, 2)).toBeCloseTo(1 / 2, 12)
    expect(passAtK(4, 2, 2)).toBeCloseTo(5 / 6, 12)
    expect([passAtK(4, 0, 4), passAtK(4, 3, 2)]).toEqual([0, 1])
  })
})

describe('--until', () => {
  it('means the next time that the clock shows it', () => {
    const evening = new Date(2026, 1, 3, 22, 30)
    expect(untilMs(7 * 60, evening)).toBe(8.5 * 3_600_000)
    expect(untilMs(23 * 60, evening)).toBe(0.5 * 3_600_000)
    expect(untilMs(22 * 60 + 30, evening)).toBe(24 * 3_600_000)
  })
})
