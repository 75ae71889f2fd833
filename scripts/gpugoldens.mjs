/**
 * Whether a GPU's answers are the reference's: ring-tiny's goldens scored by the program itself, with
 * experts in the GPU's slots. A router may choose another set only where the reference's margin is small,
 * or where an earlier choice was another one; log-probabilities are near before that. And a line gives the
 * same bits alone, among others, and again. It knows nothing of what computes.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const marginMost = 5e-3
const logprobMost = 0.1

/**
 * @typedef {{ layer: number, ids: number[][], margin: number[] }} GoldenLayer
 * @typedef {{ name: string, ids: number[], top20: { ids: number[], values: number[] }[], router: GoldenLayer[] }} Golden
 * @typedef {{ id: string, top_logprobs: [number, number][][], routing: { experts: number[][][] } }} Scored
 * @typedef {{ what: string, figure: string, count: number, bound: string, holds: boolean }} Check
 */

/** @param {string} folder @param {number} tokensMost @returns {Golden[]} */
export function readGoldens(folder, tokensMost) {
  return readdirSync(folder)
    .filter((file) => /^(?:chat|raw)-.*\.json$/.test(file))
    .map((file) => /** @type {Golden} */ (JSON.parse(readFileSync(join(folder, file), 'utf8'))))
    .filter((golden) => golden.ids.length <= tokensMost)
}

/** @param {readonly number[]} list */
const asSet = (list) => String([...list].sort((a, b) => a - b))

/** Choices that differ though nothing before them did. @param {Scored} scored @param {Golden} golden */
function firstFlips(scored, golden) {
  const flips = golden.router.flatMap(({ ids, margin }, layer) =>
    ids.flatMap((theirs, token) => {
      const ours = scored.routing.experts[layer]?.[token] ?? []
      return asSet(ours) === asSet(theirs) ? [] : [{ layer, token, margin: margin[token] ?? 1 }]
    }),
  )
  const causes = flips.filter(
    (flip) => !flips.some((other) => other.layer < flip.layer && other.token <= flip.token),
  )
  return { count: flips.length, causes, token: Math.min(...flips.map((flip) => flip.token)) }
}

/**
 * The largest difference among the reference's best 20 at a position, both relative to its best one.
 * @param {[number, number][]} ours @param {{ ids: number[], values: number[] }} theirs
 */
function differenceAt(ours, theirs) {
  const logprobs = new Map(ours)
  const anchor = logprobs.get(theirs.ids[0] ?? -1)
  if (anchor === undefined) return Number.POSITIVE_INFINITY
  const best = theirs.values[0] ?? 0
  const last = (theirs.values.at(-1) ?? 0) - best
  return Math.max(
    ...theirs.ids.map((id, rank) => {
      const expected = (theirs.values[rank] ?? 0) - best
      const found = logprobs.get(id)
      // The twentieth may change places with the twenty-first.
      return Math.abs(found === undefined ? expected - last : found - anchor - expected)
    }),
  )
}

/** @param {Golden[]} goldens @param {string[]} lines of the program, one a golden @returns {Check[]} */
export function judgeGoldens(goldens, lines) {
  let sets = 0
  let flipped = 0
  let margin = 0
  let difference = 0
  let positions = 0
  for (const [index, golden] of goldens.entries()) {
    const scored = /** @type {Scored} */ (JSON.parse(lines[index] ?? ''))
    if (scored.id !== golden.name) throw new Error(`${golden.name} was not scored`)
    const { count, causes, token } = firstFlips(scored, golden)
    sets += golden.ids.length * golden.router.length
    flipped += count
    margin = Math.max(margin, ...causes.map((flip) => flip.margin))
    for (let at = 0; at < Math.min(golden.ids.length, token); at += 1) {
      const theirs = golden.top20[at]
      if (theirs === undefined) continue
      difference = Math.max(difference, differenceAt(scored.top_logprobs[at] ?? [], theirs))
      positions += 1
    }
  }
  const of = `ring-tiny, ${goldens.length} goldens`
  return [
    {
      what: `${of}: margin of router sets that differ, and that no earlier one caused`,
      figure: `${margin.toExponential(1)} (${flipped} of ${sets} differ)`,
      count: sets,
      bound: String(marginMost),
      holds: sets > 0 && margin < marginMost,
    },
    {
      what: `${of}: log-probability difference before the first`,
      figure: difference.toExponential(1),
      count: positions,
      bound: String(logprobMost),
      holds: positions > 0 && difference < logprobMost,
    },
  ]
}

/**
 * Scores goldens with the program and gives its lines.
 * @param {string} root @param {readonly Golden[]} goldens @param {Record<string, string>} settings
 */
export function scoreGoldens(root, goldens, settings) {
  const folder = mkdtempSync(join(tmpdir(), 'ring-goldens-'))
  try {
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')]
    const tasks = goldens.map(({ name, ids }) => JSON.stringify({ id: name, tokens: ids }))
    writeFileSync(input, `${tasks.join('\n')}\n`)
    const program = join(root, 'dist/src/cli/main.js')
    const model = join(root, 'models/ring-tiny')
    const words = ['score', model, '-i', input, '-o', output, '--routing', '--top-logprobs', '20']
    const engine = ['--backend', 'cuda', '--no-tuned', '--profile', 'none', '-q']
    const { status, stderr } = spawnSync(process.execPath, [program, ...words, ...engine], {
      env: { ...process.env, ...settings },
      encoding: 'utf8',
    })
    if (status !== 0) throw new Error(`score ended with ${status}: ${stderr.trim()}`)
    return readFileSync(output, 'utf8').trimEnd().split('\n')
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * The goldens' numbers, then the same lines again and alone.
 * @param {string} root @param {Golden[]} goldens @param {Record<string, string>} settings @param {number} alone
 * @returns {Check[]}
 */
export function checkGoldens(root, goldens, settings, alone) {
  const lines = scoreGoldens(root, goldens, settings)
  const again = scoreGoldens(root, goldens, settings)
  const same = lines.filter((line, index) => line === again[index]).length
  // Short ones share steps with many others; the shortest is a single token.
  const some = [...goldens.keys()]
    .sort((a, b) => (goldens[a]?.ids.length ?? 0) - (goldens[b]?.ids.length ?? 0))
    .slice(1, 1 + alone)
  const sameAlone = some.filter((index) => {
    const [line] = scoreGoldens(root, goldens.slice(index, index + 1), settings)
    return line === lines[index]
  }).length
  return [
    ...judgeGoldens(goldens, lines),
    {
      what: 'the same bits run to run',
      figure: `${same} of ${goldens.length} goldens`,
      count: goldens.length,
      bound: 'all',
      holds: same === goldens.length,
    },
    {
      what: 'the same bits alone as among others',
      figure: `${sameAlone} of ${some.length} goldens`,
      count: some.length,
      bound: 'all',
      holds: sameAlone === some.length,
    },
  ]
}
