/**
 * Makes a checkout ready to run: installs packages, builds the addon, compiles the TypeScript, each
 * only where it is stale. It runs before npm start and npm test on a machine that may have nothing but
 * Node, so it imports nothing else. When all is fresh it prints nothing and ends at once. A step
 * records what it was made from only after it has succeeded, so a run killed half-way is made good by
 * the next. `--build-only` leaves packages alone: npm's own install calls it that way, here and where the
 * package is installed, which then builds its addon and finds its TypeScript compiled.
 */
import { spawnSync } from 'node:child_process'
import {
  accessSync,
  chmodSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  addonFile,
  addonFingerprint,
  addonFlags,
  addonStamp,
  installStamp,
  isAddonStale,
  isInstallStale,
  isTypescriptStale,
  lockFingerprint,
  npmRecord,
  packageFolder,
  typescriptFingerprint,
  typescriptStamp,
} from './fingerprint.mjs'
import { withLock } from './lock.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const isBuildOnly = process.argv.includes('--build-only')
/** Set for the npm that we start: it runs `prepare`, which must not wait for the lock we hold. */
const nestedMark = 'RING_BOOTSTRAP_RUNS'

/** Ends the run with one line for a person; what a tool printed goes before it. */
class Stop extends Error {}

/** Does whatever is stale, under the lock; decides again once it holds it. */
function main() {
  if (process.env[nestedMark] !== undefined) return
  if (!isAnythingStale()) return
  withLock(
    join(root, 'build/bootstrap.lock'),
    () => {
      if (isAddonStale(root)) requireTools()
      if (needsInstall()) install()
      else if (!isInstallStale(root, true)) record(installStamp, lockFingerprint(root))
      if (isAddonStale(root)) buildAddon()
      if (isTypescriptStale(root)) compileTypescript()
    },
    (owner) => say(`waiting for process ${owner}, which is building`),
  )
}

function isAnythingStale() {
  return needsInstall() || isAddonStale(root) || (isTypescriptStale(root) && !mustKeepDist())
}

/** Whether to run npm. A start that has its compiled dist/ can do without the packages that make it. */
function needsInstall() {
  if (isBuildOnly) return false
  return isInstallStale(root, !(isStarting() && mustKeepDist()))
}

function isStarting() {
  return process.env.npm_lifecycle_event === 'prestart'
}

/** Whether packages for development were left out but dist/ is there: then dist/ stays as it is. */
function mustKeepDist() {
  return !existsSync(join(root, compiler)) && existsSync(join(root, 'dist/src/cli/main.js'))
}

const compiler = 'node_modules/typescript/bin/tsc'

/** Installs what the lock file names, packages for building and testing included. */
function install() {
  say('installing packages')
  // npm starts by emptying node_modules; killed there, it must not leave a record of completeness.
  for (const stamp of [installStamp, npmRecord]) rmSync(join(root, stamp), { force: true })
  const prefix = dirname(dirname(process.execPath))
  const hasHeaders = existsSync(join(prefix, 'include/node/node_api.h'))
  const npm = npmCommand()
  run([...npm, 'ci', '--include=dev', '--no-audit', '--no-fund'], 'npm ci failed', {
    [nestedMark]: '1',
    // An optional package compiles; it must do so from source and against this Node's own headers,
    // because it would look for both in places that need not be reachable.
    npm_config_build_from_source: 'true',
    ...(hasHeaders ? { npm_config_nodedir: prefix } : {}),
  })
  record(installStamp, lockFingerprint(root))
}

/** @returns {string[]} the npm that runs us, else the one on PATH */
function npmCommand() {
  const running = process.env.npm_execpath
  if (running !== undefined && /^npm(-cli)?\.c?js$/.test(basename(running))) {
    return [process.execPath, running]
  }
  if (!isOnPath('npm')) throw new Stop('npm is not on PATH: install it with Node')
  return ['npm']
}

/** Stops with the one line that helps when a tool for the addon build is missing. */
function requireTools() {
  const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
  const missing = []
  if (!isOnPath('cmake')) missing.push('cmake')
  if (!compilers.some(isOnPath)) missing.push('g++')
  if (!isOnPath('make') && !isOnPath('ninja')) missing.push('make')
  if (missing.length > 0) {
    throw new Stop(
      `the addon cannot be built yet, run: sudo apt-get install -y ${missing.join(' ')}`,
    )
  }
}

/** @param {string} command a name to look for in PATH, or a path @returns {boolean} */
function isOnPath(command) {
  const program = command.split(' ')[0] ?? command
  const folders = program.includes('/') ? [''] : (process.env.PATH ?? '').split(delimiter)
  return folders.some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** Builds addon and C++ tests in build/native, reusing what an earlier build left there. */
function buildAddon() {
  say('building the native addon')
  const folder = packageFolder(root, 'cmake-js')
  if (folder === null) throw new Stop('cmake-js is not installed: run npm install')
  const generator = isOnPath('ninja') ? 'Ninja' : 'Unix Makefiles'
  const running = join(root, 'build/native.running')
  // A killed compiler can leave half an object file that looks newer than its source.
  if (existsSync(running) || !isConfiguredFor(generator)) {
    rmSync(join(root, 'build/native'), { recursive: true, force: true })
  }
  const fingerprint = addonFingerprint(root)
  mkdirSync(join(root, 'build'), { recursive: true })
  writeFileSync(running, '')
  rmSync(join(root, addonStamp), { force: true })
  const jobs = String(availableParallelism())
  const driver = join(folder, 'bin/cmake-js')
  const command = [process.execPath, driver, ...addonFlags, '-G', generator, '-p', jobs, '-d', root]
  run(command, 'the addon does not build', {}, () => rmSync(running, { force: true }))
  if (!existsSync(join(root, addonFile))) throw new Stop(`the build made no ${addonFile}`)
  record(addonStamp, fingerprint)
}

/**
 * Whether build/native, if it is there, was configured in this place and for this generator; cmake
 * refuses to go on with any other.
 * @param {string} generator
 */
function isConfiguredFor(generator) {
  const cache = join(root, 'build/native/CMakeCache.txt')
  if (!existsSync(cache)) return !existsSync(join(root, 'build/native'))
  const text = readFileSync(cache, 'utf8')
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(text)?.[1]
  const made = /^CMAKE_GENERATOR:INTERNAL=(.*)$/m.exec(text)?.[1]
  return home !== undefined && join(home, '.') === join(root, '.') && made === generator
}

/** Compiles into a fresh folder and puts it in the place of dist/, so no output of a removed source stays. */
function compileTypescript() {
  if (mustKeepDist()) return
  if (!existsSync(join(root, compiler))) {
    throw new Stop('TypeScript is not installed: run npm install without --omit=dev')
  }
  say('compiling TypeScript')
  for (const name of readdirSync(join(root, 'build'))) {
    if (name.startsWith('dist-')) rmSync(join(root, 'build', name), { recursive: true })
  }
  const fingerprint = typescriptFingerprint(root)
  const made = `build/dist-${process.pid}`
  const previous = `${made}-previous`
  const command = [process.execPath, join(root, compiler), '-p', root, '--outDir', made]
  run(command, 'the TypeScript does not compile')
  // The page is served as it is written.
  cpSync(join(root, 'src/serve/page'), join(root, made, 'src/serve/page'), { recursive: true })
  // A CommonJS file in a package that says it holds none: it loads under this name only.
  const grammars = 'node_modules/@mlc-ai/web-xgrammar/lib/index.js'
  cpSync(join(root, grammars), join(root, made, 'src/xgrammar.cjs'))
  const program = join(root, made, 'src/cli/main.js')
  if (existsSync(program)) chmodSync(program, 0o755)
  writeFileSync(join(root, made, basename(typescriptStamp)), fingerprint)
  if (existsSync(join(root, 'dist'))) renameSync(join(root, 'dist'), join(root, previous))
  renameSync(join(root, made), join(root, 'dist'))
  rmSync(join(root, previous), { recursive: true, force: true })
}

/**
 * Runs a tool in the root with its output held back; shows all of it when the tool fails.
 * @param {string[]} command
 * @param {string} failure what to say then
 * @param {Record<string, string>} [environment] added to ours
 * @param {() => void} [ended] called when the tool ended by itself, well or not
 */
function run([program = '', ...words], failure, environment = {}, ended) {
  const result = spawnSync(program, words, {
    cwd: root,
    env: { ...process.env, ...environment },
    encoding: 'utf8',
    maxBuffer: 256 * 1024 * 1024,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (result.error === undefined && result.signal === null) ended?.()
  if (result.status === 0) return
  process.stderr.write(result.stdout ?? '')
  process.stderr.write(result.stderr ?? '')
  throw new Stop(result.error ? `${failure}: ${result.error.message}` : failure)
}

/**
 * Records what a part was made from, whole or not at all.
 * @param {string} stamp
 * @param {string} fingerprint
 */
function record(stamp, fingerprint) {
  const path = join(root, stamp)
  writeFileSync(`${path}.${process.pid}`, fingerprint)
  renameSync(`${path}.${process.pid}`, path)
}

/** @param {string} line */
function say(line) {
  process.stderr.write(`ring-offload: ${line}\n`)
}

try {
  main()
} catch (error) {
  if (!(error instanceof Error)) throw error
  say(error instanceof Stop ? error.message : `bootstrap failed: ${error.message}`)
  process.exitCode = 1
}
