// A thread that follows grammars: it compiles schemas, and computes the mask of a sequence's next draw
// while the engine computes the step before it. A plain loop; where there is nothing to do it sleeps on the
// bell that all grammar threads share. Whatever is wrong with its library ends it, and who started it
// reads what it was at (grammarthreads.ts).
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { ModelError } from '../model/error.js'
import { Grammars, type TokenMatcher } from './grammar.js'
import { AtWork, type GrammarSeat, publish, refuse, toldTo } from './grammarseat.js'

export interface GrammarThreadData {
  readonly folder: string
  /** Ids that have logits. */
  readonly vocabulary: number
  readonly port: MessagePort
  readonly bell: Int32Array
  /** [AtWork.count] */
  readonly atWork: Int32Array
}

interface Following {
  readonly number: number
  readonly schema: string
  readonly stopIds: readonly number[]
}

export type ToGrammarThread =
  /** Say whether an answer to this schema can begin. */
  | (Following & { readonly kind: 'try' })
  /** Follow a sequence. */
  | (Following & { readonly kind: 'follow'; readonly seat: GrammarSeat })
  /** The sequence is over. */
  | { readonly kind: 'leave'; readonly number: number }

/** `failure`: why not, or null. */
export interface FromGrammarThread {
  readonly number: number
  readonly failure: string | null
}

type Try = Extract<ToGrammarThread, { kind: 'try' }>

interface Follower extends Following {
  readonly seat: GrammarSeat
  /** Null until it is first asked. */
  matcher: TokenMatcher | null
  /** Tokens that the matcher has taken. */
  taken: number
}

const { folder, vocabulary, port, bell, atWork } = workerData as GrammarThreadData
const tries: Try[] = []
const followers = new Map<number, Follower>()
let grammars: Grammars | null = null

async function opened(): Promise<Grammars> {
  grammars ??= await Grammars.open(folder, vocabulary)
  return grammars
}

function drain(): void {
  for (;;) {
    const received: { message: ToGrammarThread } | undefined = receiveMessageOnPort(port)
    if (received === undefined) return
    const { message } = received
    if (message.kind === 'try') tries.push(message)
    else if (message.kind === 'follow') {
      followers.set(message.number, { ...message, matcher: null, taken: 0 })
    } else {
      followers.get(message.number)?.matcher?.dispose()
      followers.delete(message.number)
    }
  }
}

/** Whoever watches sees what is worked for, and that it got done. */
async function working(number: number, work: () => Promise<void>): Promise<void> {
  Atomics.store(atWork, AtWork.number, number)
  await work()
  Atomics.store(atWork, AtWork.number, 0)
  Atomics.add(atWork, AtWork.done, 1)
}

/** Computes the masks that are wanted; returns whether there were any. */
async function follow(): Promise<boolean> {
  let hasWorked = false
  for (const follower of followers.values()) {
    const isNew = follower.matcher === null
    if (!isNew && toldTo(follower.seat) === follower.taken) continue
    hasWorked = true
    await working(follower.number, () => advance(follower))
  }
  return hasWorked
}

async function advance(follower: Follower): Promise<void> {
  const { schema, stopIds, seat } = follower
  const matcher = follower.matcher ?? (await (await opened()).matcher(schema, stopIds))
  follower.matcher = matcher
  const told = toldTo(seat)
  for (; follower.taken < told; follower.taken += 1) {
    if (matcher.accept(seat.tokens[follower.taken] ?? -1)) continue
    follower.taken = told
    refuse(seat)
    return
  }
  await matcher.fill(seat.mask)
  publish(seat, told)
}

/** Answers the oldest question; returns whether there was one. */
async function tryOne(): Promise<boolean> {
  const next = tries.shift()
  if (next === undefined) return false
  const { number, schema, stopIds } = next
  await working(number, async () => {
    const answer: FromGrammarThread = { number, failure: await failureOf(schema, stopIds) }
    port.postMessage(answer)
  })
  return true
}

async function failureOf(schema: string, stopIds: readonly number[]): Promise<string | null> {
  try {
    const matcher = await (await opened()).matcher(schema, stopIds)
    const mask = new Uint32Array(Math.ceil(vocabulary / 32))
    await matcher.fill(mask)
    matcher.dispose()
    return mask.some((word) => word !== 0) ? null : 'allows no answer'
  } catch (error) {
    if (error instanceof ModelError) return error.message
    throw error
  }
}

for (;;) {
  const seen = Atomics.load(bell, 0)
  drain()
  // Who draws goes first.
  if (!(await follow()) && !(await tryOne())) Atomics.wait(bell, 0, seen)
}
