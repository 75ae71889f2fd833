/**
 * The package as a stranger gets it: packs it, installs the packed file into an empty project (where its
 * addon is built), type-checks and runs a program that imports the library, and runs the command. Each of
 * these ends as passed or failed. It needs what a build needs, and of the network only what npm has not
 * kept from installing here. The surprise: the empty project is given a lock, made of ours, because npm
 * would else ask the registry for the newest of everything below our own dependencies.
 *
 * --report=FILE also writes {passed, failed, notRun: [why]} there, for .ci/run.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const project = mkdtempSync(join(tmpdir(), 'ring-pack-'))
/** What the packed file may weigh; nearly all of it is ring-tiny, which does not shrink. */
const packedBytesMost = 20e6

const program = `
import { Engine, EngineError, type Reply, type TextPiece } from 'ring-offload'

await using engine = await Engine.open(undefined, { expertRam: '50%', parallel: 2 })
const reply: Reply = engine.chat('What is 37 + 48?', { predict: 200 })
const kinds = new Set<TextPiece['kind']>()
for await (const piece of reply) kinds.add(piece.kind)
const { text, finishReason, stats } = await reply.whole()
const refused = await Engine.open('no/where').catch((error: unknown) => error)
console.log(JSON.stringify({
  text,
  finishReason,
  kinds: [...kinds],
  tokens: stats.completionTokens > 0,
  slots: engine.facts.expertSlots > 0,
  isRefused: refused instanceof EngineError,
}))
`

const settings = {
  compilerOptions: {
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    target: 'ES2022',
    lib: ['ES2023'],
    module: 'NodeNext',
    typeRoots: [join(root, 'node_modules/@types')],
    types: ['node'],
  },
  files: ['use.ts'],
}

/** What a step finds wrong, in a sentence. */
class Wrong extends Error {}

/**
 * Runs a program in the project and gives what it wrote to stdout.
 * @param {string} command @param {string[]} words @param {string} [folder]
 */
function run(command, words, folder = project) {
  // Of npm's variables those that were meant for the project that starts us would mislead another npm.
  const ours = Object.entries(process.env).filter(([name]) => !/^npm_(?!config_)/.test(name))
  const { status, stdout, stderr, error } = spawnSync(command, words, {
    cwd: folder,
    env: Object.fromEntries(ours),
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  if (status === 0) return stdout
  const how = error?.message ?? `status ${status}`
  throw new Wrong(`${command} ${words.join(' ')} ended with ${how}\n${stdout}${stderr}`)
}

/** @param {string} path @param {unknown} value */
function writeJson(path, value) {
  writeFileSync(join(project, path), JSON.stringify(value, null, 2))
}

/** @param {string} path @returns {Record<string, any>} */
function readJson(path) {
  return JSON.parse(readFileSync(path, 'utf8'))
}

/** @param {unknown} found @param {unknown} expected @param {string} what */
function expectSame(found, expected, what) {
  const [left, right] = [found, expected].map((value) => JSON.stringify(value))
  if (left !== right) throw new Wrong(`${what}: expected ${right}, found ${left}`)
}

let file = ''

const steps = {
  'packs, and holds what it needs and no more': () => {
    const words = ['pack', '--json', '--ignore-scripts', '--pack-destination', project]
    const [packed] = JSON.parse(run('npm', words, root))
    file = packed.filename
    if (packed.size > packedBytesMost) {
      throw new Wrong(`it has ${packed.size} bytes, at most ${packedBytesMost} are wanted`)
    }
    const paths = /** @type {{ path: string }[]} */ (packed.files).map(({ path }) => path)
    const known = /^(?:dist|native|docs|models|scripts)\/|^[\w.]+$/
    const strange = paths.filter((path) => !known.test(path) || /\.node$|\.stamp$/.test(path))
    expectSame(strange, [], 'files that have no place in it')
    console.log(`${file}: ${(packed.size / 1e6).toFixed(1)} MB, ${paths.length} files`)
  },

  'installs into an empty project': () => {
    const manifest = readJson(join(root, 'package.json'))
    const { name, version, bin, dependencies, optionalDependencies } = manifest
    const wanted = { dependencies: { [name]: `file:${file}` } }
    writeJson('package.json', { private: true, type: 'module', ...wanted })
    const { packages, ...lock } = readJson(join(root, 'package-lock.json'))
    const theirs = Object.entries(packages).filter(([path, { dev }]) => path !== '' && dev !== true)
    const own = { version, resolved: `file:${file}`, bin, dependencies, optionalDependencies }
    writeJson('package-lock.json', {
      lockfileVersion: lock.lockfileVersion,
      requires: true,
      packages: {
        '': wanted,
        [`node_modules/${name}`]: { ...own, hasInstallScript: true },
        ...Object.fromEntries(theirs),
      },
    })
    // What is optional would be compiled too, and is not what is looked at.
    run('npm', ['ci', '--omit=optional', '--prefer-offline', '--no-audit', '--no-fund'])
  },

  'is typed': () => {
    writeFileSync(join(project, 'use.ts'), program)
    writeJson('tsconfig.json', settings)
    run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', '.'])
  },

  'runs as a library': () => {
    const said = JSON.parse(run(process.execPath, ['use.js']))
    const expected = { text: '85', finishReason: 'stop', kinds: ['reasoning', 'text'] }
    expectSame(said, { ...expected, tokens: true, slots: true, isRefused: true }, 'use.ts')
  },

  'runs as a command': () => {
    const words = ['--no-install', 'ring-offload', 'run', '-q', '--json', '-p', '12+9=?']
    const { text } = JSON.parse(run('npx', words))
    expectSame(text, '21', 'the answer')
  },
}

/** @type {{ passed: number, failed: number, notRun: string[] }} */
const report = { passed: 0, failed: 0, notRun: [] }
try {
  for (const [name, step] of Object.entries(steps)) {
    const startMs = performance.now()
    // Each stands on the one before it.
    if (report.failed > 0) break
    try {
      step()
      report.passed += 1
    } catch (error) {
      report.failed += 1
      console.error(error instanceof Wrong ? error.message : error)
    }
    const seconds = Math.round((performance.now() - startMs) / 1000)
    console.log(`package ${name}: ${report.failed > 0 ? 'failed' : 'passed'} (${seconds} s)`)
  }
} finally {
  rmSync(project, { recursive: true, force: true })
}
const reportOption = process.argv.find((argument) => argument.startsWith('--report='))
if (reportOption !== undefined) {
  writeFileSync(reportOption.slice('--report='.length), JSON.stringify(report))
}
process.exitCode = report.failed > 0 ? 1 : 0
