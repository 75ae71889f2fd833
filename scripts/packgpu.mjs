/**
 * `npm run pack:gpu`: one archive for a GPU machine that has neither Node nor nvcc nor a network: Node's own
 * binary, the built project with the packages it loads, ring_cuda.so for all architectures, ring_gpu_test,
 * ring-tiny with its goldens, and run.sh, which is test:gpu. Built where nvcc is, or of what was built. What
 * the target must have is read from the binaries and printed.
 *
 * --library FILE: that library goes in as well, for a try on a machine without a GPU:
 * `./run.sh --library build/native/Release/NAME`. --output FILE: where the archive goes.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const built = 'build/native/Release'
const archiveBytesMost = 60e6
/** Only to build with; the archive is built. */
const notLoaded = new Set(['cmake-js', 'node-addon-api'])
/** What packages hold for people and for compilers. */
const notRun =
  /\.(?:map|md|markdown|flow|[cm]?ts|tsbuildinfo)$|\/(?:tests?|docs|examples?|\.github)$/

const { values: options } = parseArgs({
  options: { library: { type: 'string' }, output: { type: 'string' } },
})
const name = 'ring-offload-gpu'
const folder = join(root, 'build/gpu-archive', name)
const output = resolve(options.output ?? join(root, `build/${name}.tar.gz`))

/** Ends the run with one line. */
class Stop extends Error {}

/** @param {string} command @param {string[]} words @param {string} failure */
function run(command, words, failure) {
  const { status, stdout, stderr, error } = spawnSync(command, words, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  if (status === 0) return stdout
  throw new Stop(`${failure}: ${error?.message ?? `${stdout}${stderr}`.trim()}`)
}

/** @param {string} command */
const isOnPath = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0

function build() {
  run(process.execPath, ['scripts/bootstrap.mjs', '--build-only'], 'the project does not build')
  if (isOnPath('nvcc') || existsSync('/usr/local/cuda/bin/nvcc')) {
    const words = ['--build', 'build/native', '--config', 'Release', '--target', 'ring_cuda']
    run('cmake', [...words, '--parallel'], 'ring_cuda.so does not build')
  }
  if (!existsSync(join(root, built, 'ring_cuda.so'))) {
    throw new Stop('there is neither nvcc nor a built ring_cuda.so')
  }
}

/** @param {string} path of a file or a folder, in the archive where it is here @param {RegExp} [without] */
function copy(path, without) {
  const options = { recursive: true, dereference: true }
  /** @param {string} source */
  const filter = (source) => without === undefined || !without.test(source)
  cpSync(join(root, path), join(folder, path), { ...options, filter })
}

/** The packages that the program may load, by the lock file. @returns {Set<string>} folders */
function loadedPackages() {
  const text = readFileSync(join(root, 'package-lock.json'), 'utf8')
  /** @type {Record<string, { dependencies?: Record<string, string> }>} */
  const packages = JSON.parse(text).packages
  /** Where Node finds a package from another one's folder. @param {string} from @param {string} wanted */
  const placeOf = (from, wanted) => {
    for (
      let above = from;
      ;
      above = above.slice(0, Math.max(0, above.lastIndexOf('node_modules/') - 1))
    ) {
      const path = `${above === '' ? '' : `${above}/`}node_modules/${wanted}`
      if (packages[path] !== undefined) return path
      if (above === '') throw new Stop(`package-lock.json lacks ${wanted}`)
    }
  }
  /** @type {Set<string>} */
  const found = new Set()
  /** @param {string} path */
  const visit = (path) => {
    for (const wanted of Object.keys(packages[path]?.dependencies ?? {})) {
      const place = placeOf(path, wanted)
      if (notLoaded.has(wanted) || found.has(place)) continue
      found.add(place)
      visit(place)
    }
  }
  visit('')
  return found
}

/** @param {string} path absolute; what a debugger would want goes */
function strip(path) {
  if (isOnPath('strip')) run('strip', ['--strip-unneeded', path], `${path} cannot be stripped`)
}

const script = `#!/bin/sh
# npm run test:gpu without npm, Node, a compiler or a network. Takes its options: --keep, --sanitize,
# --library FILE. After --tiers: test:gpu:tiers and its options. The kernels alone, without Node: ${built}/ring_gpu_test ${built}/ring_cuda.so
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit 1
LD_LIBRARY_PATH="$here/lib\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LD_LIBRARY_PATH
script=testgpu
if [ "\${1:-}" = --tiers ]; then
  script=testgputiers
  shift
fi
exec "$here/node" "$here/scripts/$script.mjs" "$@"
`

function fill() {
  rmSync(dirname(folder), { recursive: true, force: true })
  mkdirSync(join(folder, 'lib'), { recursive: true })
  for (const path of ['package.json', 'scripts/testgpu.mjs', 'scripts/gpugoldens.mjs']) copy(path)
  copy('scripts/testgputiers.mjs')
  copy('docs/benchmarks-gpu.md')
  copy('models/ring-tiny')
  copy('dist', /\.(?:d\.ts|map)$|\.stamp$/)
  copy('test/fixtures/goldens', /\.npy$/)
  for (const path of loadedPackages()) copy(path, notRun)
  const binaries = ['ring_native.node', 'ring_cuda.so', 'ring_gpu_test'].map(
    (file) => `${built}/${file}`,
  )
  for (const path of binaries) {
    copy(path)
    strip(join(folder, path))
  }
  if (options.library !== undefined) {
    cpSync(options.library, join(folder, built, basename(options.library)))
  }
  cpSync(process.execPath, join(folder, 'node'))
  strip(join(folder, 'node'))
  // The addon's one library that machines may lack; C and C++ libraries of the target are used.
  const linked = run('ldd', [join(root, built, 'ring_native.node')], 'ldd failed')
  const uring = /liburing\.so\.\d+ => (\S+)/.exec(linked)?.[1]
  if (uring !== undefined) cpSync(realpathSync(uring), join(folder, 'lib', basename(uring)))
  const commit = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' })
  writeFileSync(join(folder, 'COMMIT'), commit.stdout ?? '')
  writeFileSync(join(folder, 'run.sh'), script)
  chmodSync(join(folder, 'run.sh'), 0o755)
}

/** The newest version of a library that any binary asks for. @param {string} library */
function newest(library) {
  const files = [
    'node',
    ...['ring_native.node', 'ring_cuda.so', 'ring_gpu_test'].map((file) => join(built, file)),
  ]
  for (const file of readdirSync(join(folder, 'lib'))) files.push(join('lib', file))
  const versions = files.flatMap((file) => {
    const text = readFileSync(join(folder, file), 'latin1')
    return [...text.matchAll(new RegExp(`\\b${library}_(\\d+(?:\\.\\d+)+)\\0`, 'g'))].map(
      (match) => match[1] ?? '',
    )
  })
  const order = new Intl.Collator('en', { numeric: true })
  return versions.sort(order.compare).at(-1) ?? 'none'
}

try {
  build()
  fill()
  mkdirSync(dirname(output), { recursive: true })
  run(
    'tar',
    ['--owner=0', '--group=0', '-C', dirname(folder), '-I', 'gzip -9', '-cf', output, name],
    'tar failed',
  )
  const { size } = statSync(output)
  console.log(`${output}: ${(size / 1e6).toFixed(1)} MB`)
  console.log(
    `needs ${process.arch}, glibc ${newest('GLIBC')}, libstdc++ with GLIBCXX_${newest('GLIBCXX')}, tar, gzip and an NVIDIA driver`,
  )
  if (size > archiveBytesMost) throw new Stop(`at most ${archiveBytesMost / 1e6} MB are wanted`)
  rmSync(dirname(folder), { recursive: true, force: true })
} catch (error) {
  if (!(error instanceof Stop)) throw error
  console.error(`pack:gpu: ${error.message}`)
  process.exitCode = 1
}
