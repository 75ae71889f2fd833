/**
 * What the built parts were built from: one hash over the contents of their inputs. It knows which
 * files feed which part and nothing of how a part is built. Contents are hashed and times are not
 * looked at, because a checkout, a branch switch and a copied folder all lie about times; the tree is
 * small enough that reading all of it costs a few milliseconds.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Flags of the addon build; a change of them makes the addon stale. */
export const addonFlags = ['compile', '-O', 'build/native', '-B', 'Release']

/** Where the parts lie, relative to the root. A part's stamp holds the fingerprint it was built from. */
export const addonFile = 'build/native/Release/ring_native.node'
export const addonStamp = 'build/native.stamp'
export const typescriptStamp = 'dist/.stamp'
export const installStamp = 'node_modules/.ring-lock'

/** npm's own record of what it installed. */
export const npmRecord = 'node_modules/.package-lock.json'

/**
 * The fingerprint of everything the addon and the C++ tests are built from.
 * @param {string} root folder of the checkout
 * @returns {string} hex SHA-256
 */
export function addonFingerprint(root) {
  const inputs = ['CMakeLists.txt', 'native', 'test/native', 'test/bench']
  return fingerprint(root, inputs, [
    ...addonFlags,
    `node ${process.versions.node.split('.')[0]} ${process.arch}`,
    `node-addon-api ${installedVersion(root, 'node-addon-api')}`,
    `cmake-js ${installedVersion(root, 'cmake-js')}`,
  ])
}

/**
 * The fingerprint of everything in dist/.
 * @param {string} root folder of the checkout
 * @returns {string} hex SHA-256
 */
export function typescriptFingerprint(root) {
  const inputs = ['src', 'tui', 'native/index.ts', 'tsconfig.json']
  return fingerprint(root, inputs, [`typescript ${installedVersion(root, 'typescript')}`])
}

/**
 * @param {string} root
 * @returns {boolean} whether the addon is missing or was built from something else
 */
export function isAddonStale(root) {
  return (
    !existsSync(join(root, addonFile)) || readStamp(root, addonStamp) !== addonFingerprint(root)
  )
}

/**
 * @param {string} root
 * @returns {boolean} whether dist/ is missing or was compiled from something else
 */
export function isTypescriptStale(root) {
  return readStamp(root, typescriptStamp) !== typescriptFingerprint(root)
}

/**
 * Whether node_modules must be installed anew. The recorded hash of the lock file answers at once;
 * where it does not (someone ran npm by hand), npm's own record of what it installed is compared
 * with the lock file, package by package.
 * @param {string} root
 * @param {boolean} withDevelopment whether packages needed only for building and testing count
 * @returns {boolean}
 */
export function isInstallStale(root, withDevelopment) {
  if (readStamp(root, installStamp) === lockFingerprint(root)) return false
  const wanted = readPackages(join(root, 'package-lock.json'))
  const found = readPackages(join(root, npmRecord))
  if (wanted === null || found === null) return true
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '' || entry.optional || entry.devOptional) continue
    if (entry.dev && !withDevelopment) continue
    if (found[path]?.version !== entry.version) return true
  }
  return false
}

/**
 * @param {string} root
 * @returns {string} what `installStamp` holds after a complete install
 */
export function lockFingerprint(root) {
  return fingerprint(root, ['package-lock.json'], [])
}

/**
 * @param {string} root
 * @param {string} name of a package
 * @returns {string} its version as installed, or 'none'
 */
export function installedVersion(root, name) {
  const folder = packageFolder(root, name)
  if (folder === null) return 'none'
  return String(JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).version)
}

/**
 * Where Node finds a package: below the root, or beside it where ring-offload itself is installed.
 * @param {string} root
 * @param {string} name of a package
 * @returns {string | null} its folder
 */
export function packageFolder(root, name) {
  for (let above = root; ; above = dirname(above)) {
    const folder = join(above, 'node_modules', name)
    if (existsSync(join(folder, 'package.json'))) return folder
    if (above === dirname(above)) return null
  }
}

/**
 * One hash over files and folders, by name and content. What does not exist is left out.
 * @param {string} root
 * @param {readonly string[]} inputs files and folders, relative to root
 * @param {readonly string[]} words anything else that decides the outcome
 * @returns {string} hex SHA-256
 */
function fingerprint(root, inputs, words) {
  const hash = createHash('sha256')
  for (const word of words) hash.update(`word ${word.length} ${word}\n`)
  for (const input of inputs) {
    for (const path of filesUnder(root, input)) {
      const content = readFileSync(join(root, path))
      hash.update(`file ${path} ${content.length}\n`).update(content)
    }
  }
  return hash.digest('hex')
}

/**
 * @param {string} root
 * @param {string} path file or folder, relative to root
 * @returns {string[]} files below it in a fixed order; editors' hidden and backup files are left out
 */
function filesUnder(root, path) {
  if (!existsSync(join(root, path))) return []
  /** @type {string[]} */
  const files = []
  /** @param {string} folder */
  const walk = (folder) => {
    const entries = readdirSync(join(root, folder), { withFileTypes: true })
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (entry.name.startsWith('.') || entry.name.endsWith('~')) continue
      const child = `${folder}/${entry.name}`
      if (entry.isDirectory()) walk(child)
      else if (entry.isFile()) files.push(child)
    }
  }
  try {
    walk(path)
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ENOTDIR') throw error
    files.push(path)
  }
  return files
}

/**
 * @param {string} root
 * @param {string} stamp
 * @returns {string | null} the recorded fingerprint, null when there is none
 */
function readStamp(root, stamp) {
  const path = join(root, stamp)
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : null
}

/**
 * @typedef {{ version?: string, dev?: boolean, optional?: boolean, devOptional?: boolean }} Package
 * @param {string} path of a lock file
 * @returns {Record<string, Package> | null} null when there is no readable lock file
 */
function readPackages(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).packages ?? null
  } catch {
    return null
  }
}
