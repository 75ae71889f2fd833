/**
 * The bootstrap, run as a program in small checkouts made for it, where stand-ins for npm, cmake-js and
 * tsc write down that they were called. So these tests say what is done when, in milliseconds; that the
 * real tools build the real tree is shown by every other test, since none would run without it.
 */
import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  addonFile,
  addonStamp,
  isAddonStale,
  isInstallStale,
  isTypescriptStale,
  typescriptStamp,
} from '../scripts/fingerprint.mjs'
import { withLock } from '../scripts/lock.mjs'

const scripts = join(dirname(fileURLToPath(import.meta.url)), '../scripts')
let root = ''

/** Each stand-in appends its name to `calls`, and fails when a file `NAME.fails` says so. */
const standIn = (name: string, work: string) => `
const { appendFileSync, copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } = require('node:fs')
appendFileSync('calls', '${name}\\n')
if (existsSync('${name}.fails')) { console.error('${name}: line 7 is wrong'); process.exit(3) }
${work}`

const npm = standIn(
  'npm',
  `mkdirSync('node_modules', { recursive: true })
  copyFileSync('package-lock.json', 'node_modules/.package-lock.json')`,
)
const cmakeJs = standIn(
  'cmake-js',
  `mkdirSync('build/native/Release', { recursive: true })
  writeFileSync('${addonFile}', '')`,
)
const tsc = standIn(
  'tsc',
  `const out = process.argv[process.argv.indexOf('--outDir') + 1]
  mkdirSync(out + '/src/cli', { recursive: true })
  for (const name of readdirSync('src/cli')) writeFileSync(out + '/src/cli/' + name.replace('.ts', '.js'), '')`,
)

function write(path: string, text: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true })
  writeFileSync(join(root, path), text)
}

function program(path: string, text: string): void {
  write(path, text)
  chmodSync(join(root, path), 0o755)
}

/** The only programs that a run sees: stand-ins for what a build needs. */
function environment(extra: Record<string, string> = {}): Record<string, string> {
  return { PATH: join(root, 'bin'), ...extra }
}

function bootstrap(words: string[] = [], extra = {}): SpawnSyncReturns<string> {
  const script = join(root, 'scripts/bootstrap.mjs')
  return spawnSync(process.execPath, [script, ...words], {
    cwd: root,
    env: environment(extra),
    encoding: 'utf8',
  })
}

/** What was called since the last time this was asked. */
function calls(): string[] {
  const path = join(root, 'calls')
  const names = existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n') : []
  rmSync(path, { force: true })
  return names
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'ring-bootstrap-'))
  cpSync(scripts, join(root, 'scripts'), { recursive: true })
  write('package.json', '{"type":"module"}')
  write('package-lock.json', '{"packages":{"node_modules/typescript":{"version":"5.0.0"}}}')
  write('CMakeLists.txt', 'project(ring)')
  write('native/device.cc', 'int main() {}')
  write('src/serve/page/index.html', '')
  write('src/cli/main.ts', 'export {}')
  write('src/cli/old.ts', 'export {}')
  write('tsconfig.json', '{}')
  write('node_modules/cmake-js/package.json', '{"version":"8.0.0"}')
  write('node_modules/cmake-js/bin/cmake-js', cmakeJs)
  write('node_modules/typescript/package.json', '{"version":"5.0.0"}')
  write('node_modules/typescript/bin/tsc', tsc)
  write('node_modules/@mlc-ai/web-xgrammar/lib/index.js', '')
  write('npm.cjs', npm)
  program('bin/npm', `#!/bin/sh\nexec "${process.execPath}" npm.cjs\n`)
  for (const name of ['cmake', 'c++', 'make']) program(`bin/${name}`, '#!/bin/sh\n')
})

afterEach(() => {
  rmSync(root, { recursive: true, force: true })
})

describe('a run', () => {
  it('installs, builds and compiles once, and says each in a line', () => {
    const first = bootstrap()
    expect(first.stderr.trim().split('\n')).toEqual([
      'ring-offload: installing packages',
      'ring-offload: building the native addon',
      'ring-offload: compiling TypeScript',
    ])
    expect(first.stdout).toBe('')
    expect(first.status).toBe(0)
    expect(calls()).toEqual(['npm', 'cmake-js', 'tsc'])
  })

  it('does nothing, silently and in under a second, when all is fresh', () => {
    bootstrap()
    calls()
    const started = performance.now()
    const second = bootstrap()
    expect(performance.now() - started).toBeLessThan(1000)
    expect(second.stderr + second.stdout).toBe('')
    expect(second.status).toBe(0)
    expect(calls()).toEqual([])
  })

  it('does only what a changed file makes stale', () => {
    bootstrap()
    calls()
    write('native/device.cc', 'int main() { return 0; }')
    bootstrap()
    expect(calls()).toEqual(['cmake-js'])
    write('src/cli/main.ts', 'export const a = 1')
    bootstrap()
    expect(calls()).toEqual(['tsc'])
    write('package-lock.json', '{"packages":{"node_modules/typescript":{"version":"5.0.1"}}}')
    bootstrap()
    expect(calls()).toEqual(['npm'])
  })

  it('leaves no output of a source that was removed', () => {
    bootstrap()
    expect(existsSync(join(root, 'dist/src/cli/old.js'))).toBe(true)
    rmSync(join(root, 'src/cli/old.ts'))
    bootstrap()
    expect(existsSync(join(root, 'dist/src/cli/old.js'))).toBe(false)
    expect(existsSync(join(root, 'dist/src/cli/main.js'))).toBe(true)
  })

  it('leaves packages alone when it builds only', () => {
    bootstrap(['--build-only'])
    expect(calls()).toEqual(['cmake-js', 'tsc'])
  })

  it('builds the addon where it is installed, with packages that lie beside it', () => {
    bootstrap()
    calls()
    const place = join(root, 'project/node_modules/ring-offload')
    for (const part of ['dist', 'native', 'scripts', 'package.json', 'CMakeLists.txt']) {
      cpSync(join(root, part), join(place, part), { recursive: true })
    }
    cpSync(join(root, 'node_modules'), join(place, '..'), { recursive: true })
    const script = join(place, 'scripts/bootstrap.mjs')
    const installed = spawnSync(process.execPath, [script, '--build-only'], {
      cwd: place,
      env: environment(),
      encoding: 'utf8',
    })
    expect(installed.stderr).toBe('ring-offload: building the native addon\n')
    expect(installed.status).toBe(0)
    expect(readFileSync(join(place, 'calls'), 'utf8')).toBe('cmake-js\n')
  })

  it('keeps a compiled dist/ where the packages that compile were left out', () => {
    bootstrap()
    calls()
    rmSync(join(root, 'node_modules/typescript'), { recursive: true })
    write('src/cli/main.ts', 'export const a = 2')
    expect(bootstrap(['--build-only']).status).toBe(0)
    expect(calls()).toEqual([])
  })
})

describe('a run that cannot go on', () => {
  it('names in one line the packages that are missing, and no others', () => {
    rmSync(join(root, 'bin/cmake'))
    rmSync(join(root, 'bin/c++'))
    const result = bootstrap()
    expect(result.stderr).toBe(
      'ring-offload: the addon cannot be built yet, run: sudo apt-get install -y cmake g++\n',
    )
    expect(result.status).toBe(1)
    expect(calls()).toEqual([])
  })

  it('takes the compiler that CXX names', () => {
    rmSync(join(root, 'bin/c++'))
    program('bin/my-c++', '#!/bin/sh\n')
    expect(bootstrap([], { CXX: 'my-c++' }).status).toBe(0)
  })

  it('needs no tools where the addon is fresh', () => {
    bootstrap()
    rmSync(join(root, 'bin/cmake'))
    write('src/cli/main.ts', 'export const a = 3')
    expect(bootstrap().status).toBe(0)
  })

  it.each(['npm', 'cmake-js', 'tsc'])('shows what %s said, fails, and tries again', (tool) => {
    write(`${tool}.fails`, '')
    const result = bootstrap()
    expect(result.stderr).toContain(`${tool}: line 7 is wrong`)
    expect(result.status).toBe(1)
    rmSync(join(root, `${tool}.fails`))
    calls()
    expect(bootstrap().status).toBe(0)
    expect(calls()[0]).toBe(tool)
  })

  it('builds anew from nothing after a build that was killed', () => {
    write('build/native.running', '')
    write('build/native/half-an-object.o', '')
    expect(bootstrap().status).toBe(0)
    expect(existsSync(join(root, 'build/native/half-an-object.o'))).toBe(false)
    expect(existsSync(join(root, 'build/native.running'))).toBe(false)
  })
})

describe('staleness', () => {
  it('goes by content: the addon and the TypeScript have their own inputs', () => {
    bootstrap()
    expect([isAddonStale(root), isTypescriptStale(root)]).toEqual([false, false])
    write('tui/main.ts', 'export {}')
    expect([isAddonStale(root), isTypescriptStale(root)]).toEqual([false, true])
    write('test/native/tests.cc', 'int a;')
    expect([isAddonStale(root), isTypescriptStale(root)]).toEqual([true, true])
  })

  it('does not go by time', () => {
    bootstrap()
    write('native/device.cc', 'int main() {}')
    expect(isAddonStale(root)).toBe(false)
  })

  it('notices outputs that were removed', () => {
    bootstrap()
    rmSync(join(root, addonFile))
    rmSync(join(root, 'dist'), { recursive: true })
    expect([isAddonStale(root), isTypescriptStale(root)]).toEqual([true, true])
  })

  it('keeps the records with what they speak of', () => {
    bootstrap()
    expect(addonStamp.startsWith('build/')).toBe(true)
    expect(existsSync(join(root, typescriptStamp))).toBe(true)
  })

  it('takes packages that npm installed by hand for installed', () => {
    expect(isInstallStale(root, true)).toBe(true)
    write('node_modules/.package-lock.json', readFileSync(join(root, 'package-lock.json'), 'utf8'))
    expect(isInstallStale(root, true)).toBe(false)
  })
})

describe('the lock', () => {
  it('lets one of several runs do the work, and the others wait for it', async () => {
    const runs = [1, 2, 3].map(() =>
      spawn(process.execPath, [join(root, 'scripts/bootstrap.mjs')], {
        cwd: root,
        env: environment(),
        stdio: 'ignore',
      }),
    )
    const ends = await Promise.all(runs.map((run) => once(run, 'exit')))
    expect(ends.map(([status]) => status)).toEqual([0, 0, 0])
    expect(calls()).toEqual(['npm', 'cmake-js', 'tsc'])
  })

  it('is broken when its owner no longer runs', () => {
    const gone = spawnSync(process.execPath, ['-e', ''])
    write('build/bootstrap.lock/owner', `${gone.pid} 1`)
    expect(bootstrap().status).toBe(0)
    expect(existsSync(join(root, 'build/bootstrap.lock'))).toBe(false)
  })

  it('is broken when another process has the number of its owner', () => {
    write('build/bootstrap.lock/owner', `${process.pid} 1`)
    expect(bootstrap().status).toBe(0)
  })

  it('is given back when the work fails, and leaves nothing behind', () => {
    const path = join(root, 'locks/one')
    const fail = () => {
      throw new Error('no')
    }
    expect(() => withLock(path, fail)).toThrow('no')
    expect(withLock(path, () => 7)).toBe(7)
    expect(existsSync(path)).toBe(false)
  })
})
