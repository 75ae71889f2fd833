/**
 * `npm run test:gpu:tiers`: experts in GPU slots over RAM over a drive, on real hardware. That answers have the
 * same bits wherever experts lie; what a miss costs beyond its bytes; how much of the link is used while
 * computing; and decode of a model of 30 GB and more that is made here, with parts of it in GPU memory and RAM.
 * Prints one table last. It needs what test:gpu needs, 40 GB of disk, and also runs within the archive of
 * pack:gpu: ./run.sh --tiers.
 *
 * --only oracle, misses or large (may be repeated): these parts. --keep: the table goes into docs/benchmarks-gpu.md
 * too. --library FILE: another library, at small sizes; the emulation of the tests needs no GPU.
 */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const built = join(root, 'build/native/Release')
const program = join(root, 'dist/src/cli/main.js')
const tiny = join(root, 'models/ring-tiny')
const page = join(root, 'docs/benchmarks-gpu.md')
/** Where the kept table begins on the page, and what follows it. */
const heading = '## Tiers, as last measured'
const nextHeading = '\n## '
const secondsMost = 480
/** From here on nothing begins that takes long. */
const secondsToBegin = 400

/** Ends the run with one line. */
class Stop extends Error {}

const parts = ['oracle', 'misses', 'large']
const { values: options } = parseArgs({
  options: {
    keep: { type: 'boolean', default: false },
    library: { type: 'string' },
    only: { type: 'string', multiple: true, default: parts },
  },
})
const isSmall = options.library !== undefined
const library = resolve(options.library ?? join(built, 'ring_cuda.so'))
const startMs = performance.now()
const secondsGone = () => (performance.now() - startMs) / 1000

/** @param {string} command @param {readonly string[]} words */
function run(command, words) {
  const seconds = Math.max(10, secondsMost - secondsGone())
  const { status, signal, stdout, stderr, error } = spawnSync(command, words, {
    cwd: root,
    env: { ...process.env, RING_CUDA_LIBRARY: library },
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    timeout: Math.ceil(seconds * 1000),
  })
  const how = error?.message ?? (signal === null ? `status ${status}` : `signal ${signal}`)
  return { status, how: `${how}: ${stderr?.trim().split('\n').at(-1) ?? ''}`, stdout: stdout ?? '' }
}

/** @type {string[]} */
const rows = []
let holds = true

/** @param {string} what @param {string} figure @param {number | string} count @param {string} must @param {string} good @param {boolean | null} isHeld */
function add(what, figure, count, must, good, isHeld) {
  const verdict = isHeld === null ? '' : isHeld ? 'yes' : '**no**'
  const cells = `| ${what} | ${figure} | ${count} | ${must} | ${good} | ${verdict} |`
  console.error(cells)
  rows.push(cells)
}

/** @param {string} what @param {string} why */
const leaveOut = (what, why) => add(what, `not measured: ${why}`, '', '', '', null)

/** The object that a command ends with. @param {readonly string[]} words */
function told(words) {
  const engine = ['--no-tuned', '--profile', 'none', '--json', '-q']
  const { status, how, stdout } = run(process.execPath, [program, ...words, ...engine])
  if (status !== 0) throw new Error(`${words[0]} ended with ${how}`)
  return JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '')
}

const onGpu = ['--backend', 'cuda']
const text = 'The sea was calm, and the two of them counted the boats that came home:'

/** Log-probabilities and routing of a text, and tokens that are drawn after it. @param {readonly string[]} words */
function answersOf(words) {
  const folder = mkdtempSync(join(tmpdir(), 'ring-tiers-'))
  try {
    const [asked, out] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
    const scored = isSmall ? text.slice(0, 16) : `${text} `.repeat(12)
    writeFileSync(asked, `${JSON.stringify({ id: 'text', text: scored })}\n`)
    const { status, how } = run(process.execPath, [
      ...[program, 'score', tiny, '-i', asked, '-o', out, '--top-logprobs', '8', '--routing'],
      ...['--ctx-size', '512', '--no-tuned', '--profile', 'none', '-q', ...words],
    ])
    if (status !== 0) throw new Error(`score ended with ${how}`)
    const drawing = ['--raw', '-p', isSmall ? 'The sea' : text, '-n', isSmall ? '4' : '96']
    const { tokens } = told(['run', tiny, ...drawing, '--ctx-size', '512', ...words])
    return `${readFileSync(out, 'utf8')}${JSON.stringify(tokens)}`
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Bytes of four slots of ring-tiny: as many as a token wants of a layer, which find next to nothing. */
const fewest = 4 * 131072

function runOracle() {
  /** @type {[string, string[]][]} */
  const settings = [
    ['50 % in slots', ['--expert-vram', '50%', '--expert-ram', '0']],
    ['25 % in slots, RAM for half', ['--expert-vram', '25%', '--expert-ram', '50%']],
    ['4 slots, nearly no hit', ['--expert-vram', `${fewest}`, '--expert-ram', '0']],
    ['4 slots over RAM for all', ['--expert-vram', `${fewest}`, '--expert-ram', '100%']],
  ]
  const late = ['--policy', 'random:7', '--paced', '400MB/s,300us', '--prefetch', 'on']
  const chosen = isSmall ? settings.slice(1, 2) : settings
  const expected = answersOf([...onGpu, '--expert-vram', '100%'])
  for (const [name, words] of chosen) {
    for (const more of isSmall ? [late] : [[], late]) {
      const how = more.length === 0 ? '' : ', random evictions, reads late'
      const isSame = answersOf([...onGpu, ...words, ...more]) === expected
      if (!isSame) holds = false
      const figure = isSame ? 'the same bits' : 'other bits'
      add(`residency oracle: ${name}${how}`, figure, 1, 'the same as with all in slots', '', isSame)
    }
  }
}

/** GB/s of pinned copies to the GPU and nothing else, as ring_gpu_test measures it. */
function linkCeiling() {
  const words = [library, ...(isSmall ? ['--tiny'] : []), '--only', 'ceilings']
  const { stdout, how } = run(join(built, 'ring_gpu_test'), words)
  const row = stdout.split('\n').find((line) => line.includes('host to GPU, pinned'))
  const rate = Number.parseFloat(row?.split('|')[2] ?? '')
  if (!(rate > 0)) throw new Error(`ring_gpu_test told no rate of the link: ${how}`)
  return rate * 1e9
}

/** The median of numbers, with the least and the most. @param {number[]} values @param {number} digits */
function spread(values, digits = 3) {
  const sorted = [...values].sort((a, b) => a - b)
  const of = (/** @type {number | undefined} */ value) => (value ?? Number.NaN).toPrecision(digits)
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
  return { median, text: `${of(median)} [${of(sorted[0])} to ${of(sorted.at(-1))}]` }
}

/** Decode as `bench` measures it, the warm pass; what is small is run once. @param {string} model @param {readonly string[]} words */
function bench(model, words) {
  const engine = [...onGpu, '--prefetch', 'off', ...words]
  if (isSmall) return told(['run', model, '--raw', '-p', 'The sea', '-n', '4', ...engine])
  return told(['bench', model, '-n', '64', ...engine]).warm
}

/** @param {{ experts: { hits: { ram: number } } }} pass */
const copiesOf = (pass) => pass.experts.hits.ram

/**
 * A miss of the GPU's slots whose expert lies in RAM, beside all in slots: what it takes beyond its bytes at
 * the link's rate, and how much of that rate copies have while others compute. @param {string} model
 */
function measureMisses(model) {
  const link = linkCeiling()
  const pairs = isSmall ? 1 : 5
  const below = ['--expert-vram', '25%', '--expert-ram', '100%']
  const overheads = []
  const shares = []
  for (let pair = 0; pair < pairs; pair += 1) {
    const all = bench(model, ['--expert-vram', '100%'])
    const some = bench(model, below)
    const tokens = some.completion_tokens
    const copies = copiesOf(some) / tokens
    const extra = 1 / some.decode_tok_s - 1 / all.decode_tok_s
    overheads.push((extra / copies - some.experts.bytes_each / link) * 1e6)
    shares.push(some.copy.bytes / some.copy.busy_s / link)
  }
  const overhead = spread(overheads)
  const share = spread(shares)
  const size = isSmall ? 'ring-tiny' : 'experts of 25 MB'
  const hits = isSmall ? '' : ', in microseconds'
  add(
    `${size}, 25 % in slots over RAM: a miss beyond its bytes at the link's rate${hits}`,
    `${overhead.text} us`,
    pairs,
    '25',
    '12',
    isSmall ? null : overhead.median <= 25,
  )
  add(
    `${size}, 25 % in slots over RAM: bytes copied while computing, of the link's ${(link / 1e9).toPrecision(3)} GB/s`,
    share.text,
    pairs,
    '0.95',
    '0.97',
    isSmall ? null : share.median >= 0.95,
  )
}

/** Whether the processor's help pays where experts lie in RAM. @param {string} model */
function measureSharing(model) {
  const pairs = isSmall ? 1 : 3
  const below = ['--expert-vram', '25%', '--expert-ram', '100%']
  const ratios = []
  let hosted = 0
  for (let pair = 0; pair < pairs; pair += 1) {
    const off = bench(model, below)
    const auto = bench(model, [...below, '--cpu-experts', 'auto'])
    ratios.push(auto.decode_tok_s / off.decode_tok_s)
    hosted += auto.experts.cpu / auto.experts.requests / pairs
  }
  const what = '25 % in slots over RAM, --cpu-experts auto: times as fast as off'
  const shared = `the processor computes ${(100 * hosted).toPrecision(3)} % of experts`
  add(what, `${spread(ratios).text}; ${shared}`, pairs, '', '', null)
}

/** @param {string} what @param {string} model @param {readonly string[]} words */
function tellDecode(what, model, words) {
  if (secondsGone() > secondsToBegin) return leaveOut(what, 'no time left')
  const pass = bench(model, words)
  const { hits, misses, requests } = pass.experts
  const of = (/** @type {number} */ count) => `${((100 * count) / requests).toFixed(1)} %`
  const { share_of_bound: share, attainable } = pass.io
  const isBound = misses > 0 && attainable > 0
  const ofAttainable = share / attainable
  add(
    what,
    `${Number(pass.decode_tok_s).toPrecision(3)} tokens/s; GPU ${of(hits.gpu)}, RAM ${of(hits.ram)}, drive ${of(misses)}` +
      (isBound ? `; ${ofAttainable.toFixed(3)} of the attainable share of the drive` : ''),
    1,
    isBound ? '0.92 of attainable' : '',
    isBound ? '0.97' : '',
    isSmall || !isBound ? null : ofAttainable >= 0.92,
  )
}

/** A model with the routing of ring-tiny and so many times its width. @param {number} hidden @param {number} expert @param {number} bytes @param {(model: string) => void} use */
function withWidened(hidden, expert, bytes, use) {
  const { bavail, bsize } = statfsSync(tmpdir())
  if (bavail * bsize < 1.1 * bytes) throw new Error(`no ${Math.ceil(bytes / 1e9)} GB of disk`)
  const folder = mkdtempSync(join(tmpdir(), 'ring-wide-'))
  try {
    const wide = join(folder, 'wide')
    const words = ['--hidden', `${hidden}`, '--expert', `${expert}`, '-q']
    const { status, how } = run(process.execPath, [program, 'widen', tiny, wide, ...words])
    if (status !== 0) throw new Error(`widen ended with ${how}`)
    use(wide)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function runMisses() {
  const measure = (/** @type {string} */ model) => {
    measureMisses(model)
    measureSharing(model)
  }
  if (isSmall) measure(tiny)
  else withWidened(16, 16, 4.5e9, measure)
}

function runLarge() {
  const measure = (/** @type {string} */ model) => {
    for (const share of isSmall ? ['25%'] : ['10%', '25%', '50%']) {
      const words = ['--expert-vram', share, '--expert-ram', share]
      tellDecode(
        `${isSmall ? 'ring-tiny' : '32 GB'}, ${share} in slots, ${share} in RAM`,
        model,
        words,
      )
    }
  }
  if (isSmall) measure(tiny)
  else withWidened(32, 64, 36e9, measure)
}

/** A part that cannot go on ends no other. @param {string} part @param {() => void} measure */
function attempt(part, measure) {
  if (!options.only.includes(part)) return
  if (secondsGone() > secondsToBegin) return leaveOut(part, 'no time left')
  try {
    measure()
  } catch (error) {
    holds = false
    add(part, String(error), '', '', '', false)
  }
}

function requireGpu() {
  const signs = ['/dev/nvidiactl', '/dev/nvidia0', '/dev/dxg', '/proc/driver/nvidia']
  if (!isSmall && !signs.some((sign) => existsSync(sign))) {
    throw new Stop('there is no NVIDIA GPU here')
  }
  if (!existsSync(library)) throw new Stop(`${library} is not built: npm run build:gpu`)
}

/** As the driver tells it. */
function cardName() {
  const folder = '/proc/driver/nvidia/gpus'
  const [first] = existsSync(folder) ? readdirSync(folder) : []
  if (first === undefined) return 'a GPU'
  const told = readFileSync(join(folder, first, 'information'), 'utf8')
  return /^Model:\s*(.+)$/m.exec(told)?.[1] ?? 'a GPU'
}

function table() {
  const git = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' })
  const packed = join(root, 'COMMIT')
  const commit = existsSync(packed) ? readFileSync(packed, 'utf8') : git.stdout
  const card = isSmall ? basename(library) : cardName()
  const words = [
    new Date().toISOString().slice(0, 10),
    card,
    `commit ${commit?.trim() || 'unknown'}`,
    `${Math.round(secondsGone())} s`,
  ]
  const head = '| what | figure | n | must | good | holds |\n|---|---|---|---|---|---|'
  return `${words.join('; ')}.\n\n${head}\n${rows.join('\n')}\n`
}

/** In place of the last table, before whatever follows it. @param {string} made */
function keep(made) {
  const kept = readFileSync(page, 'utf8')
  const at = kept.indexOf(heading)
  if (at < 0) throw new Stop(`${page} has no "${heading}"`)
  const next = kept.indexOf(nextHeading, at + heading.length)
  const rest = next < 0 ? '' : kept.slice(next)
  writeFileSync(page, `${kept.slice(0, at)}${heading}\n\n${made}${rest}`)
}

try {
  if (options.keep && isSmall) throw new Stop('--keep is for figures of hardware')
  const strange = options.only.find((part) => !parts.includes(part))
  if (strange !== undefined) throw new Stop(`--only ${strange} is none of ${parts.join(', ')}`)
  requireGpu()
  attempt('oracle', runOracle)
  attempt('misses', runMisses)
  attempt('large', runLarge)
  const made = table()
  console.log(made)
  if (options.keep) keep(made)
  process.exitCode = holds ? 0 : 1
} catch (error) {
  if (!(error instanceof Stop)) throw error
  console.error(`test:gpu:tiers: ${error.message}`)
  process.exitCode = 1
}
