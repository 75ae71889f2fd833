/**
 * The C++ tests under sanitizers: addresses and undefined behaviour together, threads apart. Builds
 * only the core and its tests, in folders of its own under build/, and needs nothing of npm.
 */
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Cases that run threads of ours; under the thread sanitizer the others would only be slow. */
const threaded = /^a pool /

/**
 * @param {string} command @param {string[]} parameters @param {Record<string, string>} [settings]
 * @returns {boolean}
 */
function succeeds(command, parameters, settings = {}) {
  const env = { ...process.env, ...settings }
  const { status, error } = spawnSync(command, parameters, { cwd: root, stdio: 'inherit', env })
  if (error !== undefined) console.error(`${command}: ${error.message}`)
  return status === 0
}

/** @param {string} sanitizers @returns {string | null} the test program, null when it does not build */
function build(sanitizers) {
  const folder = `build/sanitize-${sanitizers.replace(',', '-')}`
  const jobs = String(availableParallelism())
  const isBuilt =
    succeeds('cmake', ['-S', '.', '-B', folder, `-DRING_SANITIZE=${sanitizers}`, '-Wno-dev']) &&
    succeeds('cmake', ['--build', folder, '--target', 'ring_tests', '--parallel', jobs])
  return isBuilt ? join(root, folder, 'ring_tests') : null
}

function passesAddress() {
  const program = build('address,undefined')
  // A bus error belongs to the maps, which are under test.
  return program !== null && succeeds(program, [], { ASAN_OPTIONS: 'handle_sigbus=0' })
}

function passesThread() {
  const program = build('thread')
  if (program === null) return false
  const { stdout } = spawnSync(program, ['--list'], { encoding: 'utf8' })
  const cases = stdout.split('\n').filter((name) => threaded.test(name))
  return cases.length > 0 && cases.every((name) => succeeds(program, [name]))
}

const hasPassed = [passesAddress(), passesThread()]
if (hasPassed.includes(false)) console.error('the C++ tests do not pass under a sanitizer')
process.exitCode = hasPassed.includes(false) ? 1 : 0
