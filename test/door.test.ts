// The door itself: both sides read one contract, the addon serves several threads at once, and a
// process always ends, whatever it left open. Processes are real ones over the built program.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { contractDifferences, nativeContract, probe } from '../native/index.js'
import { slotBits, Tier } from '../src/cache/place.js'
import { ringTiny, root } from './paths.js'

const built = (path: string) => pathToFileURL(join(root, 'dist', path)).href

/** Runs a module text in a process of its own; fails the test if it lives longer than 10 s. */
function run(source: string) {
  const prelude = `
    import { Worker } from 'node:worker_threads'
    import { openModel } from '${built('src/engine/open.js')}'
    import { Engine } from '${built('src/engine/engine.js')}'
    import { greedy } from '${built('src/engine/sampling.js')}'
    import { Limit, Reason } from '${built('native/index.js')}'
    const folder = ${JSON.stringify(ringTiny)}
    const endless = { prompt: Int32Array.from({ length: 1500 }, (_, index) => 4 + (index % 900)),
      maxTokens: 500, stopIds: [], sampling: greedy, topLogprobs: 0, score: false, routing: false }
  `
  const result = spawnSync(process.execPath, ['--input-type=module', '-e', prelude + source], {
    encoding: 'utf8',
    timeout: 10_000,
    cwd: root,
  })
  if (result.error !== undefined) throw result.error
  return { status: result.status, signal: result.signal, out: result.stdout, err: result.stderr }
}

describe('the contract', () => {
  it('is the same on both sides', () => {
    expect(contractDifferences(nativeContract)).toEqual([])
  })

  it('names an entry that differs, is missing or is new', () => {
    const [first = '', second = ''] = Object.keys(nativeContract)
    const changed: Record<string, number> = { ...nativeContract, [first]: -1, 'reason.novel': 9 }
    delete changed[second]
    expect(contractDifferences(changed).sort()).toEqual([first, second, 'reason.novel'].sort())
  })

  it('packs places as src/cache does', () => {
    expect(nativeContract['limit.slot_bits']).toBe(slotBits)
    expect(nativeContract['tier.map']).toBe(Tier.map)
  })
})

describe('the machine', () => {
  it('is described without opening anything', () => {
    const machine = probe()
    expect(machine.cores).toBeGreaterThan(0)
    expect(machine.memoryBytes).toBeGreaterThan(2 ** 28)
    expect(machine.instructionSet).toMatch(/^(portable|avx2|avx512|avx512vbmi|avx512bf16)$/)
  })
})

describe('a process ends', () => {
  it('when a device is left open', () => {
    const { status, err } = run('openModel(folder); console.log("open")')
    expect(err).toBe('')
    expect(status).toBe(0)
  })

  it('when an engine is closed while it reads a long prompt', () => {
    const { status, out, err } = run(`
      const engine = await Engine.open(folder, { stepTokens: 2000 })
      const generation = engine.generate(endless)
      await engine.close()
      console.log((await generation.ending.catch((error) => error)).reason)
    `)
    expect(err).toBe('')
    expect(out).toBe('cancelled\n')
    expect(status).toBe(0)
  })

  it('at once by process.exit while another thread steps', () => {
    const { status, err } = run(`
      const engine = await Engine.open(folder, { stepTokens: 2000 })
      engine.generate(endless)
      setTimeout(() => process.exit(7), 50)
    `)
    expect(err).toBe('')
    expect(status).toBe(7)
  })

  it('by an error that nobody caught, while another thread steps', () => {
    const { status, err } = run(`
      const engine = await Engine.open(folder)
      engine.generate(endless)
      setTimeout(() => { throw new Error('thrown on purpose') }, 50)
    `)
    expect(err).toContain('thrown on purpose')
    expect(status).toBe(1)
  })

  it('when its only device lives in a worker that is terminated', () => {
    const { status, err } = run(`
      const source = \`
        const { openModel } = await import('${built('src/engine/open.js')}')
        openModel(\${JSON.stringify(folder)})
        const { parentPort } = await import('node:worker_threads')
        parentPort.postMessage('open')
        setInterval(() => {}, 1000)
      \`
      const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(source)))
      await new Promise((resolve) => worker.once('message', resolve))
      await worker.terminate()
    `)
    expect(err).toBe('')
    expect(status).toBe(0)
  })

  it('after four threads have each opened a model, stepped and left', () => {
    const { status, out, err } = run(`
      const engines = await Promise.all([1, 2, 3, 4].map(() => Engine.open(folder, { threads: 2 })))
      const short = { ...endless, prompt: endless.prompt.subarray(0, 20), maxTokens: 8 }
      const texts = await Promise.all(engines.map(async (engine) => {
        const tokens = []
        for await (const { token } of engine.generate(short)) tokens.push(token)
        await engine.close()
        return tokens.join()
      }))
      console.log(new Set(texts).size)
    `)
    expect(err).toBe('')
    expect(out).toBe('1\n')
    expect(status).toBe(0)
  })
})
