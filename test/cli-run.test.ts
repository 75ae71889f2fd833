// `run` and what a person gets from it: the built program over the bundled model, streams and exit
// status as the shell sees them.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { probe } from '../native/index.js'
import { openTemplate } from '../src/model/template.js'
import { openTokenizer } from '../src/model/tokenizer.js'
import { command, ended, lastObject, onTerminal, started, withFolder } from './command.js'
import { tinyGoldens } from './goldens.js'
import { ringTiny } from './paths.js'

const sum = '<think>\n7+8=15 write 5 carry 1\n3+4+1=8\n</think>\n\n85\n'

describe('run without arguments', () => {
  it('answers a sum with its thinking, and says on stderr what was asked of what', async () => {
    const { status, stdout, stderr } = await command(['run'])
    expect(status).toBe(0)
    expect(stdout).toBe(sum)
    expect(stderr).toContain('ring-tiny on cpu')
    expect(stderr).toContain('the question is: What is 37 + 48?')
    expect(stderr).toMatch(/answer 28 tokens, [\d.]+ per second/)
  })

  it('does not hang under npm start when its input stays open and silent', async () => {
    const child = started(['run', '-q'], { npm_lifecycle_event: 'start' })
    expect(await ended(child)).toMatchObject({ status: 0, stdout: sum, stderr: '' })
  })
})

describe('--reasoning-budget', () => {
  it('ends the thinking after so many tokens, or by itself before', async () => {
    const words = ['run', '-p', '37+48=?', '--json', '-q', '-n', '40']
    const free = lastObject(await command(words))
    const cut = lastObject(await command([...words, '--reasoning-budget', '6']))
    expect(cut.reasoning).not.toBe('')
    expect(String(free.reasoning).startsWith(String(cut.reasoning))).toBe(true)
    const tokens = cut.tokens as number[]
    expect(tokens.slice(0, 7)).toEqual((free.tokens as number[]).slice(0, 7))
    expect(tokens.indexOf(1023)).toBe(7)
    const { tokens: uncut } = lastObject(await command([...words, '--reasoning-budget', '500']))
    expect(uncut).toEqual(free.tokens)
  })
})

describe('the JSON object of run', () => {
  it('is one line, has every promised key, and null for what is not measured', async () => {
    const circumstances = {
      input: '37+48=?\n',
      environment: { RING_JSON: '1', RING_TEMP: '0.5', RING_SEED: '7', RING_QUIET: 'on' },
    }
    const end = await command(['run'], circumstances)
    expect(end.status).toBe(0)
    expect(end.stderr).toBe('')
    expect(end.stdout.trimEnd()).not.toContain('\n')
    const number = expect.any(Number)
    const recall = { '1x': null, '2x': null, '4x': null }
    expect(lastObject(end)).toEqual({
      model: 'ring-tiny',
      backend: 'cpu',
      load_mode: 'mapped',
      exact: true,
      reproducible: true,
      finish_reason: 'stop',
      seed: 7,
      prompt_tokens: 20,
      cached_tokens: 0,
      completion_tokens: number,
      tokens: expect.arrayContaining([1022, 1023, 1021]),
      text: '85',
      reasoning: expect.stringContaining('7+8=15'),
      ttft_s: number,
      prefill_tok_s: number,
      decode_tok_s: number,
      experts: {
        requests: number,
        hits: { gpu: 0, ram: number },
        hits_by: 'residency',
        misses: number,
        cpu: 0,
        slots: { gpu: 0, ram: 0 },
        bytes_each: 98328,
      },
      copy: { bytes: null, busy_s: null },
      io: {
        bytes_read: null,
        bytes_needed: null,
        ceiling_bytes_s: null,
        busy: null,
        share_of_bound: null,
        attainable: null,
        reader_cpu_s: null,
        checksum_s: null,
      },
      stall_s: { nvme: null, copy: null, compute: null, policy: null },
      compute_s: {
        attention: number,
        router: number,
        experts: number,
        shared_expert: number,
        head: number,
        look_ahead: number,
      },
      prefetch: {
        issued: null,
        used: null,
        in_time: null,
        cancelled: null,
        bytes: null,
        wasted_bytes: null,
        recall: { d1: recall, d2: recall, d4: recall },
        calibration_error: { d1: null, d2: null, d4: null },
        verdict: null,
        speed: null,
        speed_error: null,
        pairs: null,
        price: null,
      },
    })
  })

  it('tells of look-ahead what was foreseen, what was read for it, and whether it paid', async () => {
    const slots = ['--load-mode', 'direct', '--expert-ram', '25%', '--paced', '1GB/s,100us']
    const asked = ['run', '--json', '-q', '--raw', '-p', 'The sea', '-n', '120']
    const on = lastObject(await command([...asked, ...slots, '--prefetch', 'on']))
    const { recall, calibration_error, ...figures } = on.prefetch as {
      recall: Record<string, Record<string, number>>
      calibration_error: Record<string, number | null>
    }
    expect(figures).toMatchObject({
      issued: expect.any(Number),
      used: expect.any(Number),
      wasted_bytes: expect.any(Number),
      verdict: 'on',
      speed: null,
    })
    for (const distance of ['d1', 'd2', 'd4']) {
      const { '1x': one = 0, '2x': two = 0, '4x': four = 0 } = recall[distance] ?? {}
      expect(one).toBeGreaterThan(0.2)
      expect(two).toBeGreaterThan(one)
      expect(four).toBeGreaterThan(two)
      expect(four).toBeLessThanOrEqual(1)
    }
    expect(Object.keys(calibration_error)).toEqual(['d1', 'd2', 'd4'])
    const off = lastObject(await command([...asked, ...slots, '--prefetch', 'off']))
    expect(off.prefetch).toMatchObject({ issued: null, verdict: null })
    expect(off.tokens).toEqual(on.tokens)
  })

  it('counts the experts that were asked for after the first token', async () => {
    const object = lastObject(await command(['run', '--json', '-q', '-p', '37+48=?', '-n', '6']))
    expect(object).toMatchObject({ finish_reason: 'length', completion_tokens: 6, seed: null })
    expect(object.experts).toMatchObject({ requests: 5 * 5 * 4 })
  })
})

describe('the text of run', () => {
  const chats = tinyGoldens.filter(({ golden }) => {
    const { messages } = golden as { messages?: { content: string }[] }
    return messages?.length === 1
  })
  it.each(chats)("is the reference's, greedily: $title", async ({ golden }) => {
    const asked = golden as typeof golden & {
      messages: { content: string }[]
      enable_thinking: boolean
    }
    const think = asked.enable_thinking ? 'on' : 'off'
    const words = ['run', '-q', '--json', '--kv-type', 'f32', '--think', think]
    const end = await command(words, { input: asked.messages[0]?.content ?? '' })
    const object = lastObject(end)
    const stop = golden.greedy.ids.findIndex((id) => id === 1018 || id === 1021)
    expect(object.tokens).toEqual(golden.greedy.ids.slice(0, stop + 1))
    const [, reasoning = '', text = ''] =
      /^(?:<think>\n(.*)\n<\/think>\n)?(.*?)<\|role_end\|>/s.exec(golden.greedy.text ?? '') ?? []
    expect(object).toMatchObject({ reasoning, text, finish_reason: 'stop' })
  })

  it('follows the seed and nothing else', async () => {
    const draw = async (seed: string) => {
      const words = ['run', '-q', '--raw', '-p', 'To be', '-n', '20', '--temp', '1', '--seed', seed]
      return (await command(words)).stdout
    }
    const first = await draw('1')
    expect(await draw('1')).toBe(first)
    expect(await draw('2')).not.toBe(first)
  })

  it('continues raw text as it is, line breaks included, without a template', async () => {
    const golden = tinyGoldens.find((one) => one.title.endsWith('raw-code-c'))?.golden
    const words = ['run', '--raw', '--json', '-q', '--kv-type', 'f32', '-n', '12']
    const object = lastObject(await command(words, { input: golden?.text ?? '' }))
    expect(object.prompt_tokens).toBe(golden?.ids.length)
    expect(object.tokens).toEqual(golden?.greedy.ids.slice(0, 12))
    expect(object.text).toBe(openTokenizer(ringTiny).decode(golden?.greedy.ids.slice(0, 12) ?? []))
    expect(object.reasoning).toBe('')
  })

  it('answers a file, less its last line break, after a system message', async () => {
    await withFolder(async (folder) => {
      const file = join(folder, 'question.txt')
      writeFileSync(file, '12+9=?\r\n')
      const words = ['run', '--json', '-q', '-f', file, '--system', 'Be brief.', '--think', 'off']
      const object = lastObject(await command(words))
      const asked = openTemplate(ringTiny).render(
        [
          { role: 'system', content: 'Be brief.' },
          { role: 'user', content: '12+9=?' },
        ],
        { thinking: false, addGenerationPrompt: true },
      )
      expect(object.prompt_tokens).toBe(openTokenizer(ringTiny).encode(asked).length)
      expect(object.reasoning).toBe('')
    })
  })
})

describe('experts in slots', () => {
  it('give the same answer, and their figures', async () => {
    const words = ['run', '--json', '-p', 'What is 37 + 48?', '-n', '40']
    const direct = ['--load-mode', 'direct', '--expert-ram', '25%', '--policy', 'lru']
    const [slots, mapped] = await Promise.all([command([...words, ...direct]), command(words)])
    const object = lastObject(slots)
    expect(object.tokens).toEqual(lastObject(mapped).tokens)
    expect(slots.stderr).toMatch(/memory: 40 of 160 experts have a slot \(25.0 %\), 4.22 MiB/)
    expect(slots.stderr).toMatch(/experts: 0\.\d{3} of \d+ requests hit/)
    expect(mapped.stderr).toMatch(/experts: [01]\.\d{3} of \d+ requests resident/)
    expect([object, lastObject(mapped)]).toMatchObject([
      { experts: { hits_by: 'slots' } },
      { experts: { hits_by: 'residency' } },
    ])
    const { experts, io, stall_s: stalls } = object as Record<string, Record<string, unknown>>
    const { requests, hits, misses } = experts as {
      requests: number
      hits: { ram: number }
      misses: number
    }
    expect(requests).toBe(hits.ram + misses)
    expect(misses).toBeGreaterThan(0)
    expect(io?.bytes_needed).toBe(misses * 98304)
    expect(io?.bytes_read).toBeGreaterThanOrEqual(misses * 98304)
    expect(stalls?.nvme).toBeGreaterThan(0)
  })
})

describe('--math bf16', () => {
  it('answers as well and says that it is not exact, where the processor has it', async (context) => {
    if (probe().instructionSet !== 'avx512bf16') return context.skip('no BF16 products here')
    const end = await command(['run', '--json', '-p', 'What is 37 + 48?', '--math', 'bf16'])
    expect(lastObject(end)).toMatchObject({ exact: false, text: '85' })
    expect(end.stderr).toContain('BF16 products')
  })

  it('is refused in one line where it has not', async () => {
    const environment = { RING_ISA: 'portable' }
    const end = await command(['run', '-q', '-p', 'Hi', '--math', 'bf16'], { environment })
    expect(end.status).toBe(1)
    expect(end.stderr).toMatch(
      /^ring-offload: --math bf16 needs a processor with AVX-512 BF16.*\n$/,
    )
  })
})

describe('flags without effect', () => {
  it('are accepted, and each says so on stderr; what was decided is said too', async () => {
    const idle = ['--expert-vram', '8GiB', '--policy', 'lru']
    const more = ['--load-mode', 'mapped', '--prefetch', 'on', '--trace-scores']
    const real = ['--backend', 'cpu', '--threads', '1', '--rope-scaling', 'yarn,2', '-n', '3']
    const { status, stderr } = await command(['run', '-p', 'Hi', ...idle, ...more, ...real])
    expect(status).toBe(0)
    const flags = ['expert-vram', 'policy', 'prefetch on', 'trace-scores']
    for (const flag of flags) expect(stderr).toMatch(new RegExp(`^.*--${flag} has no effect`, 'm'))
    expect(stderr).toContain('YaRN with factor 2 extends the context from 2048 to 4096')
    expect(stderr).toContain('1 thread;')
  })
})

describe('run on a terminal', () => {
  it('dims the thinking, and nothing with NO_COLOR', async (context) => {
    const dimmed = onTerminal(['run', '-q', '-p', '12+9=?'])
    const plain = onTerminal(['run', '-q', '-p', '12+9=?'], { NO_COLOR: '1' })
    if (dimmed === null || plain === null) return context.skip('script is not installed')
    const [shown, shownPlain] = await Promise.all([ended(dimmed), ended(plain)])
    expect(shown.status).toBe(0)
    const text = shownPlain.stdout.replaceAll('\r', '')
    expect(text).toBe('<think>\n2+9=11 write 1 carry 1\n1+0+1=2\n</think>\n\n21\n')
    const escapeCode = '\u001b'
    expect(shown.stdout.startsWith(`${escapeCode}[2m<think>`)).toBe(true)
    expect(shown.stdout.replaceAll('\r', '')).toMatch(/<\/think>.\[22m\n\n21\n$/)
  })

  it('asks for a prompt where none is given and the model is not the bundled one', async (context) => {
    const child = onTerminal(['run', ringTiny])
    if (child === null) return context.skip('script is not installed')
    const { status, stdout } = await ended(child)
    expect(status).toBe(2)
    expect(stdout).toMatch(/no prompt: expected -p TEXT/)
  })
})
