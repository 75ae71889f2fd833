// What KV blocks still remember: a tree of runs of tokens, a block to a node, so that a sequence whose
// first tokens were computed before takes their keys and values instead of computing them again. Blocks
// that hold a full run are shared by number, from the moment they are full; of another one the tokens
// that agree are copied. A block that nobody uses is as good as a free one: the least recently used leaf
// is forgotten first, and nobody waits for a block because of what it remembers. Knows no drive.
import { blocksFor, type KvBlocks, kvBlockTokens } from './kv.js'
import type { Sequence } from './sequence.js'

export interface PrefixNode {
  /** Null: at the beginning of the text. */
  readonly parent: PrefixNode | null
  readonly block: number
  /** A whole block of them, or fewer where a sequence ended. */
  readonly tokens: Int32Array
  readonly children: PrefixNode[]
  /** Sequences in work that have it. */
  users: number
  /** False: forgotten, and the block may hold something else. */
  isKept: boolean
}

/** Copies the first tokens of a block into another one. */
export type CopyBlock = (from: number, to: number, tokens: number) => void

export class PrefixTree {
  /** Holds no tokens: its children are where texts begin. */
  readonly #root = newNode(null, -1, new Int32Array(0))
  /** Nodes without users, the least recently used first, and every child before its parent. */
  readonly #unused = new Set<PrefixNode>()

  /** `onKept` hears of every node that was computed. */
  constructor(
    private readonly kv: KvBlocks,
    private readonly copy: CopyBlock,
    private readonly onKept: (node: PrefixNode) => void = () => {},
  ) {}

  /** Blocks that could be had now. */
  get free(): number {
    return this.kv.free + this.#unused.size
  }

  /** Of them, those that remember something. */
  get remembering(): number {
    return this.#unused.size
  }

  /**
   * Takes the blocks that the sequence begins with, and what is known of its first tokens; of those,
   * the last is always left to compute. False, and nothing is taken: fewer than `spareLeast` would be left.
   */
  admit(sequence: Sequence, spareLeast = 0): boolean {
    const { tokens } = sequence
    const most = sequence.reusable
    const path: PrefixNode[] = []
    for (let node = this.#whole(this.#root, tokens, 0, most); node !== null; ) {
      path.push(node)
      node = this.#whole(node, tokens, path.length * kvBlockTokens, most)
    }
    const wanted = blocksFor(sequence.reserved) - path.length
    for (const node of path) this.#pin(node)
    const spare = this.free - wanted
    if (spare < spareLeast) {
      this.#unpin(path)
      return false
    }
    const begin = path.length * kvBlockTokens
    const source = this.#longest(path.at(-1) ?? this.#root, tokens, begin, most)
    const agreed =
      spare > 0 || (source?.users ?? 0) > 0 ? agreement(source, tokens, begin, most) : 0
    if (source !== null && agreed > 0) this.#touch(source)
    const fresh = this.#take(wanted)
    if (source !== null && agreed > 0) this.copy(source.block, fresh[0] ?? -1, agreed)
    sequence.path = path
    sequence.blocks = [...path.map(({ block }) => block), ...fresh]
    sequence.reuse(begin + agreed)
    return true
  }

  /** Sees to it that the sequence has blocks for its next tokens. False, and nothing is taken: too few. */
  extend(sequence: Sequence, tokens: number): boolean {
    const { blocks, computed } = sequence
    const wanted = blocksFor(computed + tokens) - blocks.length
    if (wanted > this.free) return false
    if (wanted > 0) blocks.push(...this.#take(wanted))
    return true
  }

  /** Takes the next whole blocks of a running sequence's prompt, if others have computed them meanwhile. */
  follow(sequence: Sequence): void {
    const { path, tokens, blocks } = sequence
    for (;;) {
      const begin = path.length * kvBlockTokens
      const node = this.#whole(path.at(-1) ?? this.#root, tokens, begin, sequence.reusable)
      if (node === null) return
      this.kv.give([blocks[path.length] ?? -1])
      blocks[path.length] = node.block
      this.#pin(node)
      path.push(node)
      sequence.reuse(path.length * kvBlockTokens)
    }
  }

  /** Remembers the blocks of a sequence that are full by now; `isNew`: they were computed. */
  grow(sequence: Sequence, isNew = true): void {
    const { path, tokens, blocks, computed } = sequence
    while ((path.length + 1) * kvBlockTokens <= computed) {
      const at = path.length
      const begin = at * kvBlockTokens
      const parent = path.at(-1) ?? this.#root
      const known = this.#whole(parent, tokens, begin, computed)
      const block = blocks[at] ?? -1
      if (known === null) {
        path.push(this.#add(parent, block, tokens.slice(begin, begin + kvBlockTokens), 1, isNew))
      } else {
        // Computed twice at the same time, with the same bits.
        this.kv.give([block])
        blocks[at] = known.block
        this.#pin(known)
        path.push(known)
      }
    }
  }

  /**
   * Takes the blocks of a sequence back. What they hold is remembered, or only as far as its first `useful`
   * tokens reach.
   */
  release(sequence: Sequence, useful = sequence.computed): void {
    const { path, tokens, blocks } = sequence
    const computed = Math.min(sequence.computed, useful)
    const begin = path.length * kvBlockTokens
    const last = path.at(-1) ?? this.#root
    let rest = blocks.slice(path.length)
    if (computed > begin && rest.length > 0) {
      const known = this.#longest(last, tokens, begin, computed)
      if (known !== null && agreement(known, tokens, begin, computed) === computed - begin) {
        this.#touch(known)
      } else {
        const node = this.#add(last, rest[0] ?? -1, tokens.slice(begin, computed), 0, true)
        this.#unused.add(node)
        rest = rest.slice(1)
      }
    }
    this.kv.give(rest)
    this.#unpin(path)
    for (const node of path.slice(blocksFor(useful)).toReversed())
      if (node.users === 0 && node.children.length === 0) this.#forget(node)
    sequence.path = []
    sequence.blocks = []
  }

  /** Whether `other` is about to compute the whole block that comes next in the sequence's prompt too. */
  isNextOf(sequence: Sequence, other: Sequence, otherTokens: number): boolean {
    const begin = sequence.path.length * kvBlockTokens
    const end = begin + kvBlockTokens
    return (
      end <= sequence.reusable &&
      other.path.length === sequence.path.length &&
      other.path.at(-1) === sequence.path.at(-1) &&
      other.computed + otherTokens >= end &&
      sameRun(sequence.tokens, other.tokens, begin, end)
    )
  }

  #add(
    parent: PrefixNode,
    block: number,
    tokens: Int32Array,
    users: number,
    isNew: boolean,
  ): PrefixNode {
    // What ended within these tokens is told by them.
    for (const child of [...parent.children]) {
      const { length } = child.tokens
      if (length < tokens.length && agreement(child, tokens, 0, tokens.length) === length)
        this.#forget(child)
    }
    const node = newNode(parent, block, tokens)
    node.users = users
    parent.children.push(node)
    if (isNew) this.onKept(node)
    return node
  }

  #forget(node: PrefixNode): void {
    const siblings = node.parent?.children ?? []
    siblings.splice(siblings.indexOf(node), 1)
    this.#unused.delete(node)
    node.isKept = false
    this.kv.give([node.block])
  }

  #take(count: number): number[] {
    while (this.kv.free < count) {
      const [oldest] = this.#unused
      if (oldest === undefined) throw new Error('more KV blocks were taken than there are')
      this.#forget(oldest)
    }
    return this.kv.take(count) ?? []
  }

  #pin(node: PrefixNode): void {
    if (node.users === 0) this.#unused.delete(node)
    node.users += 1
  }

  /** The deepest first, so that no parent is forgotten before its children. */
  #unpin(path: readonly PrefixNode[]): void {
    for (const node of path.toReversed()) {
      node.users -= 1
      if (node.users === 0) this.#unused.add(node)
    }
  }

  /** Only for one whose parent is in use. */
  #touch(node: PrefixNode): void {
    if (this.#unused.delete(node)) this.#unused.add(node)
  }

  /** The child that holds the next whole block of these tokens; those from `end` on are not looked at. */
  #whole(node: PrefixNode, tokens: Int32Array, begin: number, end: number): PrefixNode | null {
    if (begin + kvBlockTokens > end) return null
    const first = tokens[begin]
    for (const child of node.children) {
      if (child.tokens[0] !== first || child.tokens.length !== kvBlockTokens) continue
      if (agreement(child, tokens, begin, end) === kvBlockTokens) return child
    }
    return null
  }

  /** The child that agrees with the most of these tokens. */
  #longest(node: PrefixNode, tokens: Int32Array, begin: number, end: number): PrefixNode | null {
    let best: PrefixNode | null = null
    let most = 0
    for (const child of node.children) {
      const agreed = agreement(child, tokens, begin, end)
      if (agreed <= most) continue
      most = agreed
      best = child
    }
    return best
  }
}

function newNode(parent: PrefixNode | null, block: number, tokens: Int32Array): PrefixNode {
  return { parent, block, tokens, children: [], users: 0, isKept: true }
}

/** How many first tokens of a node are those of [begin, end). */
function agreement(
  node: PrefixNode | null,
  tokens: Int32Array,
  begin: number,
  end: number,
): number {
  if (node === null) return 0
  const most = Math.min(node.tokens.length, end - begin)
  let count = 0
  while (count < most && node.tokens[count] === tokens[begin + count]) count += 1
  return count
}

function sameRun(one: Int32Array, other: Int32Array, begin: number, end: number): boolean {
  for (let at = begin; at < end; at += 1) if (one[at] !== other[at]) return false
  return true
}
