/**
 * The C++ tests under sanitizers: addresses and undefined behaviour together, threads apart. Builds
 * only the core and its tests, in folders of its own under build/, and needs nothing of npm. Each of
 * the two ends as passed, failed or not run; not run is what becomes of a sanitizer that this
 * machine's compiler or kernel cannot run at all, and it is no failure. The surprise: sanitizers of
 * older compilers want memory where a kernel that lays it out at random may have put something, so
 * the programs run with that laying out switched off, where the system lets us.
 *
 * --report=FILE also writes {passed, failed, notRun: [why]} there, for .ci/run.
 */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Cases that run threads of ours; under the thread sanitizer the others would only be slow. */
const threaded = /^(?:a pool|slots over) /

/** What a sanitizer says when memory is laid out in a way that it cannot live with. */
const misfit =
  /unexpected memory mapping|incompatible memory layout|Shadow memory range interleaves/

/** @typedef {{ verdict: 'passed' | 'failed' | 'not run', why: string }} Ending */

/** @param {string} why @returns {Ending} */
const failed = (why) => ({ verdict: 'failed', why })

/**
 * @param {string} command @param {string[]} parameters @param {Record<string, string>} [settings]
 * @param {string} [input]
 */
function run(command, parameters, settings = {}, input = '') {
  const env = { ...process.env, ...settings }
  const options = { cwd: root, env, input, maxBuffer: 2 ** 28 }
  const { status, signal, stdout, stderr, error } = spawnSync(command, parameters, {
    ...options,
    encoding: 'utf8',
  })
  const how = error?.message ?? (signal === null ? `status ${status}` : `signal ${signal}`)
  return { isGood: status === 0, how, stdout: stdout ?? '', text: `${stdout ?? ''}${stderr ?? ''}` }
}

/** What stands before a program so that the kernel lays its memory out the same way each time. */
function orderly() {
  const parameters = [run('uname', ['-m']).stdout.trim(), '-R']
  return run('setarch', [...parameters, 'true']).isGood ? ['setarch', ...parameters] : []
}

/** Whether the compiler has the sanitizer's library. @param {string} sanitizers */
function links(sanitizers) {
  const parameters = [`-fsanitize=${sanitizers}`, '-x', 'c++', '-', '-o', '/dev/null']
  return run(process.env.CXX ?? 'c++', parameters, {}, 'int main() { return 0; }\n').isGood
}

/** @param {string} sanitizers @returns {string | null} the test program, null when it does not build */
function build(sanitizers) {
  const folder = `build/sanitize-${sanitizers.replace(',', '-')}`
  const jobs = String(availableParallelism())
  for (const parameters of [
    ['-S', '.', '-B', folder, `-DRING_SANITIZE=${sanitizers}`, '-Wno-dev'],
    ['--build', folder, '--target', 'ring_tests', '--parallel', jobs],
  ]) {
    const { isGood, text } = run('cmake', parameters)
    if (isGood) continue
    console.error(text)
    return null
  }
  return join(root, folder, 'ring_tests')
}

/**
 * Runs the program once for each list of parameters; the first run that fails ends it.
 * @param {(parameters: string[]) => ReturnType<typeof run>} program @param {string[][]} runs
 * @returns {Ending}
 */
function test(program, runs) {
  for (const parameters of runs) {
    const { isGood, how, text } = program(parameters)
    if (isGood) continue
    if (misfit.test(text)) {
      return { verdict: 'not run', why: 'this kernel lays memory out where the sanitizer needs it' }
    }
    console.error(text.replace(/^(?:ok|skip) .*\n/gm, ''))
    return failed(`${parameters[0] ?? 'the program'} ended with ${how}`)
  }
  return { verdict: 'passed', why: '' }
}

/**
 * @param {string} sanitizers @param {Record<string, string>} settings
 * @param {(names: string[]) => string[][]} runsOf parameters of each run, by the names of the cases
 * @returns {Ending}
 */
function check(sanitizers, settings, runsOf) {
  if (!links(sanitizers)) {
    return { verdict: 'not run', why: `the compiler cannot link with -fsanitize=${sanitizers}` }
  }
  const built = build(sanitizers)
  if (built === null) return failed('the C++ tests do not build')
  const [command = built, ...before] = [...orderly(), built]
  /** @param {string[]} parameters */
  const program = (parameters) => run(command, [...before, ...parameters], settings)
  const listed = program(['--list'])
  // Where not even the names can be had, the first run says why.
  const runs = listed.isGood ? runsOf(listed.stdout.trim().split('\n')) : [['--list']]
  return runs.length > 0 ? test(program, runs) : failed('no case has threads')
}

const checks = {
  // A bus error belongs to the maps, which are under test.
  'address,undefined': () =>
    check('address,undefined', { ASAN_OPTIONS: 'handle_sigbus=0' }, () => [[]]),
  thread: () =>
    check('thread', {}, (names) =>
      names.filter((name) => threaded.test(name)).map((name) => [name]),
    ),
}

/** @type {{ passed: number, failed: number, notRun: string[] }} */
const report = { passed: 0, failed: 0, notRun: [] }
for (const [name, start] of Object.entries(checks)) {
  const startMs = performance.now()
  const { verdict, why } = start()
  const seconds = Math.round((performance.now() - startMs) / 1000)
  if (verdict === 'not run') report.notRun.push(`sanitizer ${name}: ${why}`)
  else report[verdict] += 1
  console.log(`sanitizer ${name}: ${verdict}${why === '' ? '' : `: ${why}`} (${seconds} s)`)
}
const reportOption = process.argv.find((argument) => argument.startsWith('--report='))
if (reportOption !== undefined) {
  writeFileSync(reportOption.slice('--report='.length), JSON.stringify(report))
}
process.exitCode = report.failed > 0 ? 1 : 0
