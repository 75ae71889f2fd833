/**
 * Runs a stranger's jinja template within bounds. The library parses and evaluates but sets no
 * limit on work, so evaluation is counted here: steps, the length of a list, the length of a text.
 * Must not know what a chat is. The surprise: strip, lstrip and rstrip are ours, because the
 * library ignores their argument, and `lstrip('\n')` would eat the indentation of an answer.
 */
import { Environment, Interpreter, Template } from '@huggingface/jinja'

/** Steps of one rendering, some 50 for each message. At worst one takes 5 us, all of them 3 s. */
const STEPS_MAX = 500_000
/** Characters of any text on the way: 256 for each token of a 64 Ki context. */
const TEXT_CHARS_MAX = 2 ** 24
/** Entries of any list on the way. */
const LIST_LENGTH_MAX = 1_000_000
/** The library's lexer is quadratic in a run of whitespace. */
const WHITESPACE_RUN_MAX = 2000

/** A value on its way through the interpreter; `value` is text, a number, a list, a Map. */
interface Value {
  readonly value: unknown
}
interface Scope {
  set(name: string, value: unknown): unknown
}
interface Evaluator {
  run(program: unknown): Value
  evaluate(statement: unknown, scope: Scope): Value | undefined
}
// The package's declarations of these two do not resolve under NodeNext, so they are stated here.
const NewScope: new () => Scope = Environment
const NewEvaluator: new (scope: Scope) => Evaluator = Interpreter

/** A template that could not be rendered because it said so itself, with raise_exception. */
export class Raised extends Error {}

/** A parsed template; render it as often as you like. */
export class BoundedTemplate {
  readonly #program: unknown
  /** What each `for` of the program runs over: its length is charged as steps. */
  readonly #iterables = new Set<unknown>()

  /** Throws whatever the library throws where the source is no jinja. */
  constructor(source: string) {
    for (const [run] of source.matchAll(/\s+/g)) {
      if (run.length > WHITESPACE_RUN_MAX) {
        throw new Error(`${run.length} characters of whitespace in a row`)
      }
    }
    this.#program = new Template(source).parsed
    visit(this.#program, (node) => {
      if (node.type === 'For') this.#iterables.add(iterableOf(node))
      if (node.type === 'CallExpression') replaceStrip(node)
    })
  }

  /**
   * The text for these variables. Throws Raised where the template calls raise_exception, and an
   * Error where it fails or goes beyond a bound. Templates have no regular expressions, so the
   * bounds hold the time too.
   */
  render(variables: Readonly<Record<string, unknown>>): string {
    const scope = new NewScope()
    for (const [name, value] of Object.entries({ ...variables, ...GLOBALS })) {
      scope.set(name, value)
    }
    const result = new BoundedEvaluator(scope, this.#iterables).run(this.#program)
    return String(result.value)
  }
}

class BoundedEvaluator extends NewEvaluator {
  readonly #iterables: ReadonlySet<unknown>
  #steps = 0

  constructor(scope: Scope, iterables: ReadonlySet<unknown>) {
    super(scope)
    this.#iterables = iterables
  }

  override evaluate(statement: unknown, scope: Scope): Value | undefined {
    // The library's first and last of an empty list are no value at all, and crash it later; the
    // value of no statement is its undefined.
    const result = super.evaluate(statement, scope) ?? super.evaluate(undefined, scope)
    const value = result?.value
    this.#steps += 1
    if (typeof value === 'string') {
      if (value.length > TEXT_CHARS_MAX) throw new Error(`more than ${TEXT_CHARS_MAX} characters`)
    } else if (Array.isArray(value)) {
      if (value.length > LIST_LENGTH_MAX) {
        throw new Error(`a list beyond ${LIST_LENGTH_MAX} entries`)
      }
      if (this.#iterables.has(statement)) this.#steps += value.length
    }
    if (this.#steps > STEPS_MAX) throw new Error(`more than ${STEPS_MAX} steps of work`)
    return result
  }
}

/** What every template may use; a variable of the same name is hidden. */
const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: unknown) => {
    throw new Raised(String(message))
  },
  range,
  strftime_now: (format: unknown) =>
    new Template('{{ strftime_now(format) }}').render({ format: String(format) }),
  'str.strip': (text: unknown, characters?: unknown) => strip(text, characters, true, true),
  'str.lstrip': (text: unknown, characters?: unknown) => strip(text, characters, true, false),
  'str.rstrip': (text: unknown, characters?: unknown) => strip(text, characters, false, true),
}

/** Python's range, refused beyond the longest list. */
function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second]
  const length = Math.max(0, Math.ceil((stop - start) / step))
  if (!(length <= LIST_LENGTH_MAX)) throw new Error(`range() beyond ${LIST_LENGTH_MAX} entries`)
  return Array.from({ length }, (_, index) => start + index * step)
}

/** Python's str.strip family: without characters whitespace, else any of the characters given. */
function strip(text: unknown, characters: unknown, left: boolean, right: boolean): string {
  if (typeof text !== 'string') throw new Error('strip() of something that is no text')
  if (characters === undefined || characters === null) {
    const trimmed = left ? text.trimStart() : text
    return right ? trimmed.trimEnd() : trimmed
  }
  if (typeof characters !== 'string') throw new Error('strip() of something that are no characters')
  const unwanted = new Set(characters)
  const kept = Array.from(text)
  let begin = 0
  let end = kept.length
  while (left && begin < end && unwanted.has(kept[begin] ?? '')) begin++
  while (right && end > begin && unwanted.has(kept[end - 1] ?? '')) end--
  return kept.slice(begin, end).join('')
}

interface Node {
  type: string
  [key: string]: unknown
}

function isNode(value: unknown): value is Node {
  return (
    typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string'
  )
}

/** Calls `see` for every node of a syntax tree. */
function visit(value: unknown, see: (node: Node) => void): void {
  if (Array.isArray(value)) {
    for (const entry of value) visit(entry, see)
  } else if (value instanceof Map) {
    visit([...value.entries()], see)
  } else if (isNode(value)) {
    see(value)
    for (const child of Object.values(value)) visit(child, see)
  }
}

/** The list of `for x in list` or of `for x in list if condition`. */
function iterableOf(loop: Node): unknown {
  const { iterable } = loop
  return isNode(iterable) && iterable.type === 'SelectExpression' ? iterable.lhs : iterable
}

/** Turns `text.strip(characters)` into a call of our function, under a name no template can write. */
function replaceStrip(call: Node): void {
  const { callee, args } = call
  if (!isNode(callee) || callee.type !== 'MemberExpression' || callee.computed === true) return
  const method = callee.property
  if (!isNode(method) || !Array.isArray(args)) return
  if (method.value !== 'strip' && method.value !== 'lstrip' && method.value !== 'rstrip') return
  method.value = `str.${method.value}`
  call.callee = method
  call.args = [callee.object, ...args]
}
