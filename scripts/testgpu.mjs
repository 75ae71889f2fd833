/**
 * `npm run test:gpu`: the GPU backend on real hardware. Builds what is stale, runs ring_gpu_test (numbers,
 * ceilings, kernels, layers), checks ring-tiny's goldens end to end, measures decode of small models, and
 * prints one table last. It needs a GPU and either nvcc or a built ring_cuda.so, and no network. It also runs
 * within the archive of pack:gpu, where there is nothing to build.
 *
 * --only kernels, goldens, models or sanitizer (may be repeated): these parts. --keep: the table goes into
 * docs/benchmarks-gpu.md too. --sanitize: the sanitizer's part as well, small shapes under compute-sanitizer,
 * where that is. --library FILE: another library, at small shapes; the emulation of the tests needs no GPU.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { checkGoldens, readGoldens } from './gpugoldens.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const built = join(root, 'build/native/Release')
const program = join(root, 'dist/src/cli/main.js')
const page = join(root, 'docs/benchmarks-gpu.md')
/** Where the kept table begins on the page. */
const heading = '## The last table'
/** Of all parts together. */
const secondsMost = 480
/** From here on no part begins that takes long. */
const secondsToBegin = 400

/** Of a sanitizer, beyond that. */
const secondsOfTool = 400

/** Ends the run with one line. */
class Stop extends Error {}

const usualParts = ['kernels', 'goldens', 'models']
const parts = [...usualParts, 'sanitizer']
const { values: options } = parseArgs({
  options: {
    keep: { type: 'boolean', default: false },
    sanitize: { type: 'boolean', default: false },
    library: { type: 'string' },
    only: { type: 'string', multiple: true, default: usualParts },
  },
})
const isSmall = options.library !== undefined
const library = resolve(options.library ?? join(built, 'ring_cuda.so'))
/** In the archive there are no sources. */
const isPacked = !existsSync(join(root, 'CMakeLists.txt'))
const startMs = performance.now()
const secondsGone = () => (performance.now() - startMs) / 1000

/**
 * Runs a program whose stderr is shown and gives its stdout.
 * @param {string} command @param {string[]} words @param {Record<string, string>} [settings]
 * @param {number} [seconds] it may take
 */
function run(command, words, settings = {}, seconds = secondsMost - secondsGone()) {
  const { status, signal, stdout, error } = spawnSync(command, words, {
    cwd: root,
    env: { ...process.env, ...settings },
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: Math.ceil(Math.max(10, seconds) * 1000),
  })
  const how = error?.message ?? (signal === null ? `status ${status}` : `signal ${signal}`)
  return { status, how, stdout: stdout ?? '' }
}

/** @param {string} command */
const isOnPath = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0

function requireGpu() {
  const signs = ['/dev/nvidiactl', '/dev/nvidia0', '/dev/dxg', '/proc/driver/nvidia']
  if (!isSmall && !signs.some((sign) => existsSync(sign))) {
    throw new Stop('there is no NVIDIA GPU here')
  }
}

/** Builds what is stale, as far as this machine can. */
function build() {
  if (isPacked) return
  const bootstrap = run(process.execPath, [join(root, 'scripts/bootstrap.mjs'), '--build-only'])
  if (bootstrap.status !== 0) throw new Stop('the project does not build')
  if (isSmall) return
  if (isOnPath('nvcc') || existsSync('/usr/local/cuda/bin/nvcc')) {
    const words = ['--build', 'build/native', '--config', 'Release', '--target', 'ring_cuda']
    const made = run('cmake', [...words, '--parallel'])
    if (made.status !== 0) throw new Stop(`ring_cuda.so does not build: ${made.stdout}`)
  } else if (!existsSync(library)) {
    throw new Stop('there is neither nvcc nor a built ring_cuda.so')
  }
}

/** @type {{ what: string, cells: string }[]} */
const rows = []
let holds = true

/** @param {string} what @param {string} figure @param {number | string} count @param {string} bound @param {string} verdict */
function add(what, figure, count, bound, verdict) {
  const cells = `| ${what} | ${figure} | ${count} | ${bound} | | ${verdict} |`
  console.error(cells)
  rows.push({ what, cells })
}

/** @param {string} what @param {string} why */
const leaveOut = (what, why) => add(what, `not measured: ${why}`, '', '', '')

/** What the C++ program says: a line on the device, and rows of the table. */
function runKernels() {
  const words = isSmall ? [library, '--tiny', '--case', 'models'] : [library]
  const { status, how, stdout } = run(join(built, 'ring_gpu_test'), words)
  const lines = stdout.split('\n')
  const first = lines.findIndex((line) => line.startsWith('|'))
  if (first < 0) throw new Stop(`ring_gpu_test ended with ${how}`)
  if (status !== 0) holds = false
  // The head of the table is printed once, for all rows.
  for (const line of lines.slice(first + 2)) {
    if (line.startsWith('|')) rows.push({ what: line.split('|')[1]?.trim() ?? '', cells: line })
  }
  return lines[0] ?? ''
}

const settings = { RING_CUDA_LIBRARY: library }

function runGoldens() {
  const folder = join(root, 'test/fixtures/goldens')
  // The emulation takes a second for ten tokens.
  const goldens = readGoldens(folder, isSmall ? 16 : Number.POSITIVE_INFINITY)
  try {
    for (const check of checkGoldens(root, goldens, settings, isSmall ? 1 : 4)) {
      add(check.what, check.figure, check.count, check.bound, check.holds ? 'yes' : '**no**')
      if (!check.holds) holds = false
    }
  } catch (error) {
    holds = false
    add('ring-tiny, goldens', String(error), '', '', '**no**')
  }
}

/** Decode of a model as `bench` measures it. @param {string} name @param {string} model @param {string[]} words */
function bench(name, model, words) {
  const engine = ['--backend', 'cuda', '--no-tuned', '--profile', 'none', '--json', '-q']
  const { status, how, stdout } = run(
    process.execPath,
    [program, 'bench', model, ...words, ...engine],
    settings,
  )
  if (status !== 0) return leaveOut(name, `bench ended with ${how}`)
  const { warm } = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '')
  const rate = `${Number(warm.decode_tok_s).toPrecision(3)} tokens/s`
  add(name, `${rate}; prompts ${Number(warm.prefill_tok_s).toPrecision(3)} tokens/s`, 1, '', '')
}

function runModels() {
  const tiny = join(root, 'models/ring-tiny')
  bench('ring-tiny, bench, warm', tiny, isSmall ? ['-n', '2', '--prompt-tokens', '2'] : [])
  const name = 'ring-tiny widened to 4 GB, bench, warm'
  if (isSmall) return leaveOut(name, 'only on hardware')
  if (secondsGone() > secondsToBegin) return leaveOut(name, 'no time left')
  const { bavail, bsize } = statfsSync(tmpdir())
  if (bavail * bsize < 6e9) return leaveOut(name, 'no room for it')
  const folder = mkdtempSync(join(tmpdir(), 'ring-wide-'))
  try {
    const wide = join(folder, 'wide')
    const words = [program, 'widen', tiny, wide, '--hidden', '16', '--expert', '16', '-q']
    const { status, how } = run(process.execPath, words)
    if (status !== 0) return leaveOut(name, `widen ended with ${how}`)
    bench(name, wide, [])
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * What compute-sanitizer says on stdout, each line behind a mark: the one that sums up, and the rest of it,
 * as far as anybody reads.
 * @param {string} stdout
 */
function saidBySanitizer(stdout) {
  const said = stdout.split('\n').filter((line) => line.startsWith('========='))
  const last = said.findLast((line) => line.includes(' SUMMARY: '))
  return { summary: last?.replace(/^=* (?:\w+ )?SUMMARY: /, '') ?? null, lines: said.slice(0, 60) }
}

/** Small shapes under compute-sanitizer. */
function sanitize() {
  const known = ['compute-sanitizer', '/usr/local/cuda/bin/compute-sanitizer']
  const program = known.find(isOnPath)
  for (const tool of ['memcheck', 'racecheck']) {
    const what = `compute-sanitizer ${tool}, small shapes`
    if (program === undefined) {
      leaveOut(what, 'compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin')
      continue
    }
    const words = ['--tool', tool, '--error-exitcode', '9', join(built, 'ring_gpu_test'), library]
    const small = [...words, '--tiny', '--only', 'numbers']
    const { status, how, stdout } = run(program, small, {}, secondsOfTool)
    const { summary, lines } = saidBySanitizer(stdout)
    // One that says nothing has looked at nothing.
    const isClean = status === 0 && summary !== null
    if (!isClean) {
      holds = false
      for (const line of lines) console.error(line)
    }
    const ended = status === 0 ? 'ended without a summary' : `ended with ${how}`
    const figure = isClean ? summary : [ended, ...(summary === null ? [] : [summary])].join(', ')
    add(what, figure, '', '', isClean ? 'yes' : '**no**')
  }
}

/** @param {string} device */
function tableOf(device) {
  const git = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' })
  const packed = join(root, 'COMMIT')
  const commit = isPacked && existsSync(packed) ? readFileSync(packed, 'utf8') : git.stdout
  const told = '/proc/driver/nvidia/version'
  const driver = existsSync(told)
    ? /\b\d{3}(?:\.\d+)+\b/.exec(readFileSync(told, 'utf8'))?.[0]
    : null
  const words = [
    new Date().toISOString().slice(0, 10),
    device,
    ...(driver ? [`driver ${driver}`] : []),
    `commit ${commit?.trim() || 'unknown'}`,
    `${Math.round(secondsGone())} s`,
  ]
  const head = '| what | figure | n | must | good | holds |\n|---|---|---|---|---|---|'
  return `${words.join('; ')}.\n\n${head}\n${rows.map(({ cells }) => cells).join('\n')}\n`
}

/** @param {string} table */
function keep(table) {
  const text = readFileSync(page, 'utf8')
  const at = text.indexOf(heading)
  if (at < 0) throw new Stop(`${page} has no "${heading}"`)
  writeFileSync(page, `${text.slice(0, at)}${heading}\n\n${table}`)
}

try {
  if (options.keep && isSmall) throw new Stop('--keep is for figures of hardware')
  const strange = options.only.find((part) => !parts.includes(part))
  if (strange !== undefined) throw new Stop(`--only ${strange} is none of ${parts.join(', ')}`)
  requireGpu()
  build()
  const device = options.only.includes('kernels') ? runKernels() : basename(library)
  if (options.only.includes('goldens')) runGoldens()
  if (options.only.includes('models')) runModels()
  if (options.sanitize || options.only.includes('sanitizer')) sanitize()
  const table = tableOf(device)
  console.log(table)
  if (options.keep) keep(table)
  process.exitCode = holds ? 0 : 1
} catch (error) {
  if (!(error instanceof Stop)) throw error
  console.error(`test:gpu: ${error.message}`)
  process.exitCode = 1
}
