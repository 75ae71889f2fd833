// The lines of `score`, in and out. An input line is checked for everything that could stop its
// computation, so that a bad one is named before the first is computed. It must not know files.
import type { Scored } from '../engine/score.js'
import type { ModelConfig } from '../model/config.js'
import { ModelError, shown } from '../model/error.js'
import { isRecord } from '../model/json.js'
import type { Tokenizer } from '../model/tokenizer.js'

/** What one input line asks for. */
export interface ScoreTask {
  readonly id: string | number
  readonly tokens: Int32Array
}

/** What a line is checked against. */
export interface ScoreLimits {
  readonly vocabulary: number
  readonly contextTokens: number
  /** Called for lines with text only; throws ModelError where the model has none. */
  readonly tokenizer: () => Tokenizer
}

/** The task of a line, or a sentence on what is wrong with it. Null text: the bytes are no UTF-8. */
export function parseTask(text: string | null, limits: ScoreLimits): ScoreTask | string {
  const line = objectOf(text)
  return typeof line === 'string' ? line : taskOf(line, limits)
}

/** The object of a line, or a sentence on what is wrong with it. */
export function objectOf(text: string | null): Record<string, unknown> | string {
  if (text === null) return 'expected UTF-8, found other bytes'
  let line: unknown
  try {
    line = JSON.parse(text)
  } catch {
    return 'expected one JSON object, found text that does not parse'
  }
  return isRecord(line) ? line : `expected one JSON object, found ${shown(line)}`
}

/** The task of an object, or a sentence on what is wrong with it. */
export function taskOf(
  line: Readonly<Record<string, unknown>>,
  limits: ScoreLimits,
): ScoreTask | string {
  const { id } = line
  if (typeof id !== 'string' && !(typeof id === 'number' && Number.isFinite(id))) {
    return `id must be text or a number, found ${shown(id)}`
  }
  if ((line.tokens === undefined) === (line.text === undefined)) {
    const found = line.tokens === undefined ? 'neither' : 'both'
    return `expected either "tokens" or "text", found ${found}`
  }
  const tokens =
    line.tokens === undefined ? encoded(line.text, limits) : checkedTokens(line.tokens, limits)
  if (typeof tokens === 'string') return tokens
  return lengthFault(tokens.length, limits) ?? { id, tokens }
}

/** What is wrong with so many tokens; null: nothing. */
export function lengthFault(tokens: number, { contextTokens }: ScoreLimits): string | null {
  if (tokens === 0) return 'expected at least one token, found none'
  if (tokens <= contextTokens) return null
  return `has ${tokens} tokens, and the context holds ${contextTokens} (--ctx-size)`
}

/** Token ids of this model, or a sentence on what is wrong with them. `name`: of the list. */
export function checkedTokens(
  tokens: unknown,
  { vocabulary }: ScoreLimits,
  name = 'tokens',
): Int32Array | string {
  if (!Array.isArray(tokens)) return `${name} must be a list of token ids, found ${shown(tokens)}`
  const isId = (token: unknown) =>
    Number.isInteger(token) && Number(token) >= 0 && Number(token) < vocabulary
  const wrong = tokens.findIndex((token) => !isId(token))
  if (wrong >= 0) {
    return `${name}[${wrong}] must be a token id from 0 to ${vocabulary - 1}, found ${shown(tokens[wrong])}`
  }
  return Int32Array.from(tokens)
}

function encoded(text: unknown, { tokenizer, vocabulary }: ScoreLimits): Int32Array | string {
  if (typeof text !== 'string') return `text must be text, found ${shown(text)}`
  try {
    const tokens = tokenizer().encode(text)
    const strange = tokens.find((token) => token >= vocabulary)
    if (strange === undefined) return tokens
    return `tokenizer.json gives token ${strange}, and the model has ids 0 to ${vocabulary - 1}`
  } catch (error) {
    if (error instanceof ModelError) return error.message
    throw error
  }
}

/** How the experts lie in what the engine gives. */
export interface RoutingShape {
  readonly firstMoeLayer: number
  readonly moeLayers: number
  readonly topK: number
}

export function routingShape({ firstMoeLayer, layers, topK }: ModelConfig): RoutingShape {
  return { firstMoeLayer, moeLayers: layers - firstMoeLayer, topK }
}

/** One output line; `routing` null: not asked for. What is no finite number is null. */
export function resultLine(task: ScoreTask, scored: Scored, routing: RoutingShape | null): string {
  const { topCount, topIds, topLogprobs } = scored
  const positions = Array.from(task.tokens.keys())
  const topAt = (position: number) =>
    Array.from({ length: topCount }, (_, rank) => [
      topIds[position * topCount + rank],
      float(topLogprobs[position * topCount + rank]),
    ])
  return JSON.stringify({
    id: task.id,
    tokens: Array.from(task.tokens),
    logprobs: Array.from(scored.logprobs, float),
    ...(topCount > 0 ? { top_logprobs: positions.map(topAt) } : {}),
    ...(routing === null ? {} : { routing: routingOf(positions, scored, routing) }),
  })
}

function routingOf(
  positions: readonly number[],
  { experts, weights }: Scored,
  { firstMoeLayer, moeLayers, topK }: RoutingShape,
) {
  const layers = Array.from({ length: moeLayers }, (_, layer) => layer)
  const cut = <Item>(list: Iterable<number> & ArrayLike<number>, item: (value: number) => Item) =>
    layers.map((layer) =>
      positions.map((position) => {
        const first = (layer * positions.length + position) * topK
        return Array.from({ length: topK }, (_, rank) => item(list[first + rank] ?? Number.NaN))
      }),
    )
  return {
    layers: layers.map((layer) => firstMoeLayer + layer),
    experts: cut(experts, (expert) => expert),
    weights: cut(weights, float),
  }
}

/** Nine digits are enough to give a float32 back to the last bit. */
function float(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? Number(value.toPrecision(9)) : null
}
