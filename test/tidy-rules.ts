/**
 * The rules of the house as functions over a file's path and text; tidy.test.ts applies them to every
 * file and shows that each of them can fail. They read no disk. Code is judged on its syntax tree, so
 * that a word in a comment or a string is not taken for the thing itself; only wording rules read raw text.
 */
import { posix } from 'node:path'
import ts from 'typescript'

/** A text file of the repository; the path is relative to the root, with forward slashes. */
export interface SourceFile {
  path: string
  text: string
}

/** Gives one line per offence; an empty list is a tidy file. */
export type Rule = (file: SourceFile) => string[]

const typescriptLinesMax = 450
const nativeLinesMax = 600

/** The floors, lowest first; a folder stands on the first line that names it. */
const floors: readonly (readonly [prefix: string, floor: number])[] = [
  ['native/', 0],
  ['src/cache/', 1],
  ['src/model/', 1],
  ['src/prefetch/', 2],
  ['src/engine/', 3],
  ['src/simulate/', 3],
  ['src/cli/', 4],
  ['src/serve/', 4],
  ['src/batch/', 4],
  ['src/hub/', 4],
  ['src/plan/', 4],
  ['tui/', 4],
  ['src/library.ts', 4],
]
const facesFloor = 4
/** What beside the engine may know of it. */
const traceFormat = /^src\/engine\/(?:trace|half)\.ts$/

/** Imports point downward only; only the engine opens the door; some know one subject of it. */
export const importsPointDownward: Rule = ({ path, text }) => {
  if (!isProduct(path)) return []
  const from = house(path)
  if (from === undefined) return [`${path} stands on no floor`]
  const problems: string[] = []
  for (const specifier of importsOf(text)) {
    if (!specifier.startsWith('.')) continue
    const target = posix.join(posix.dirname(path), specifier).replace(/\.js$/, '.ts')
    const to = house(target)
    const offence = to === undefined ? 'no floor' : offenceOf(from, to, target)
    if (offence !== null) problems.push(`${path} imports ${target}: ${offence}`)
  }
  return problems
}

type House = readonly [prefix: string, floor: number]

function house(path: string): House | undefined {
  return floors.find(([prefix]) => path.startsWith(prefix))
}

function offenceOf(from: House, to: House, target: string): string | null {
  const [fromPrefix, fromFloor] = from
  const [toPrefix, toFloor] = to
  if (fromPrefix === toPrefix) return null
  if (fromPrefix === 'src/simulate/' && toPrefix === 'src/engine/') {
    return traceFormat.test(target) ? null : 'simulate knows only the format of traces'
  }
  if (toFloor === 0 && fromPrefix !== 'src/engine/') return 'only src/engine opens the door'
  if (fromPrefix === 'tui/') {
    return target === 'src/engine/telemetry.ts' ? null : 'tui knows only src/engine/telemetry.ts'
  }
  // The command line starts the other faces, and the library has its flags; the others do not know it.
  if (toPrefix === 'src/cli/' && fromPrefix !== 'src/library.ts')
    return 'only the library knows cli'
  if (fromFloor === facesFloor && toFloor === facesFloor) return null
  return toFloor < fromFloor ? null : 'imports point downward only'
}

/** Every module a text names: static and dynamic imports, re-exports, and scripts of workers. */
export function importsOf(text: string): string[] {
  const named = ts.preProcessFile(text, true, true).importedFiles.map((file) => file.fileName)
  const urls = text.matchAll(/new URL\(\s*['"`](\.[^'"`]*)['"`]\s*,\s*import\.meta\.url\s*\)/g)
  // A URL is an import only where it names a module; others name data files.
  const scripts = [...urls].map((match) => match[1] ?? '').filter((url) => /\.[jt]s$/.test(url))
  return [...named, ...scripts]
}

/** The step, the cache, the prefetcher and the door decide at once: no promise in any of them. */
export const stepHasNoPromise: Rule = ({ path, text }) => {
  const isStep = path === 'src/engine/step.ts' || path === 'native/index.ts'
  if (!isStep && !/^src\/(cache|prefetch)\/.*\.ts$/.test(path)) return []
  return nodesOf(path, text, (node) => {
    if (node.kind === ts.SyntaxKind.AsyncKeyword) return 'async'
    if (ts.isAwaitExpression(node)) return 'await'
    if (ts.isIdentifier(node) && node.text === 'Promise') return 'Promise'
    if (ts.isPropertyAccessExpression(node) && node.name.text === 'then') return '.then'
    return null
  })
}

/** No way round the type checker, and no test left out or picked alone. */
export const typesAreKept: Rule = ({ path, text }) => {
  if (!/\.ts$/.test(path) || !/^(src|tui|native|test)\//.test(path)) return []
  const problems = nodesOf(path, text, (node) => {
    if (node.kind === ts.SyntaxKind.AnyKeyword) return 'any'
    if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return null
    const callee = node.expression.getText()
    return /^(it|test|describe|suite)\b.*\.(only|skip)$/.test(callee) ? callee : null
  })
  if (isRulebook(path)) return problems
  return [...problems, ...wordsIn(path, text, /@ts-(?:ignore|nocheck)/g)]
}

/** Nothing is left for later in the code: issues hold that. */
export const nothingIsLeftForLater: Rule = ({ path, text }) => {
  if (!/^(src|tui|native|test|scripts|tools)\//.test(path) || !isCode(path)) return []
  return isRulebook(path) ? [] : wordsIn(path, text, /\b(?:TODO|FIXME|XXX)\b/g)
}

/** A file is named after its subject; these names are drawers. */
export const namesSayTheSubject: Rule = ({ path }) => {
  const drawers = /^(?:utils?|helpers?|common|misc|managers?|base|types)$/i
  const parts = path.split('/').map((part) => part.replace(/(?<=.)\..*$/, ''))
  return parts.filter((part) => drawers.test(part)).map((part) => `${path} is named ${part}`)
}

/** Each file of code begins by saying what it is. */
export const beginsWithAComment: Rule = ({ path, text }) => {
  if (!isCode(path)) return []
  const body = text.replace(/^#!.*\n/, '').trimStart()
  const opening = /\.(ts|mjs|cc|cu|h|c)$/.test(path) ? /^(\/\/|\/\*)/ : /^(#|""")/
  return opening.test(body) ? [] : [`${path} does not begin with a comment`]
}

/** Node's native interface is known to one C++ file and to the door. */
export const onlyTheAddonKnowsNode: Rule = ({ path, text }) => {
  if (/^native\/(?:addon\.cc|arguments\.(?:cc|h)|index\.ts)$/.test(path)) return []
  if (!/^(src|tui|native|test\/native)\//.test(path)) return []
  return wordsIn(path, text, /napi|node_api/gi)
}

/** Files stay short enough to be read; past the cap another noun hides in one. */
export const filesAreShort: Rule = ({ path, text }) => {
  const cap = /\.(ts|mjs)$/.test(path)
    ? typescriptLinesMax
    : /\.(cc|cu|h)$/.test(path)
      ? nativeLinesMax
      : Number.POSITIVE_INFINITY
  const lines = text.split('\n').length - 1
  return lines > cap ? [`${path} has ${lines} lines, at most ${cap} are wanted`] : []
}

/** Nothing names a place on one machine, or a page that is not in this repository. */
export const namesNoOtherPlace: Rule = ({ path, text }) => {
  if (isRulebook(path)) return []
  const places = /(?<![\w.$~/-])\/(?:home|Users|root|work|tmp)\/[\w.-]+/g
  const pages = /\bmodel-facts\b|\bDESIGN(?:\.md|,? §)|\bshared\/(?=[a-z-]+\/|DESIGN)/g
  return [...wordsIn(path, text, places), ...wordsIn(path, text, pages)]
}

/** The lock names no host, and every package that another may ask for. */
export const lockIsComplete: Rule = ({ path, text }) => {
  if (path !== 'package-lock.json') return []
  const { packages }: { packages: Record<string, LockedPackage> } = JSON.parse(text)
  const problems: string[] = []
  for (const [place, entry] of Object.entries(packages)) {
    if (entry.resolved !== undefined) problems.push(`${path}: ${place} names where it came from`)
    // npm leaves out packages that it could not look up, and then `npm ci` refuses the lock file.
    for (const name of Object.keys(entry.optionalDependencies ?? {})) {
      const isLocked = [`${place}/node_modules/${name}`, `node_modules/${name}`].some(
        (key) => packages[key]?.version !== undefined,
      )
      if (!isLocked) problems.push(`${path}: ${name}, which ${place} may want, is missing`)
    }
  }
  return problems
}

interface LockedPackage {
  version?: string
  resolved?: string
  optionalDependencies?: Record<string, string>
}

function isProduct(path: string): boolean {
  return path.endsWith('.ts') && /^(src|tui|native)\//.test(path)
}

function isCode(path: string): boolean {
  return /\.(ts|mjs|cc|cu|h|c|py|cmake)$/.test(path) || /(^|\/)(CMakeLists\.txt|run)$/.test(path)
}

/** This file and its test spell out what they forbid. */
function isRulebook(path: string): boolean {
  return path === 'test/tidy-rules.ts' || path === 'test/tidy.test.ts'
}

function wordsIn(path: string, text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map((match) => {
    const line = text.slice(0, match.index).split('\n').length
    return `${path}:${line} says ${match[0]}`
  })
}

/** Walks the syntax tree and names each node that `offence` gives a word for. */
function nodesOf(path: string, text: string, offence: (node: ts.Node) => string | null): string[] {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true)
  const problems: string[] = []
  const visit = (node: ts.Node): void => {
    const word = offence(node)
    if (word !== null) {
      const { line } = source.getLineAndCharacterOfPosition(node.getStart())
      problems.push(`${path}:${line + 1} has ${word}`)
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return problems
}
