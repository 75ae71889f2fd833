// What another engine said of tokens, as files have it: lines of `score`, lines of a batch's output, and
// the token ids and log-probabilities of prompts that vLLM adds to those. Every line becomes samples of one
// form, or a sentence on what is wrong with it. It must not know files or this engine's figures.
import { shown } from '../model/error.js'
import { isRecord } from '../model/json.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { checkedTokens, lengthFault, objectOf, type ScoreLimits, taskOf } from './scoreline.js'

type Json = Readonly<Record<string, unknown>>

export interface Sample {
  readonly id: string | number
  /** Of prompt and answer. */
  readonly tokens: Int32Array
  /** [tokens] of tokens[i] given what precedes it, as the other engine has it; NaN: it does not say. */
  readonly logprobs: Float32Array
  /** Null: it does not say. */
  readonly routing: SampleRouting | null
}

export interface SampleRouting {
  readonly layers: readonly number[]
  /** [layer][token][k] */
  readonly experts: readonly (readonly (readonly number[])[])[]
}

/** What a batch was asked. */
export interface AskedPrompts {
  /** The prompt of an answer, or a sentence on why there is none. */
  prompt(customId: string, choice: number): Promise<Int32Array | string>
}

/** OpenAI writes this for what is as good as impossible; how impossible is not told. */
const IMPOSSIBLE = -9999

/** None where a line of a batch has no answer. `asked` null: nobody knows what a batch was asked. */
export async function samplesOf(
  text: string | null,
  limits: ScoreLimits,
  asked: AskedPrompts | null,
): Promise<Sample[] | string> {
  const line = objectOf(text)
  if (typeof line === 'string') return line
  if (line.response === undefined && line.choices === undefined) {
    const sample = scoredSample(line, limits)
    return typeof sample === 'string' ? sample : [sample]
  }
  const body = line.response === undefined ? line : bodyOf(line.response)
  if (body === null || body.choices === undefined) return []
  const { choices } = body
  if (!Array.isArray(choices)) return `choices must be a list, found ${shown(choices)}`
  const samples: Sample[] = []
  for (const choice of choices) {
    if (!isRecord(choice)) return `a choice must be an object, found ${shown(choice)}`
    const sample = await answeredSample(line, body, choice, limits, asked)
    if (typeof sample === 'string') return sample
    samples.push(sample)
  }
  return samples
}

function bodyOf(response: unknown): Json | null {
  return isRecord(response) && isRecord(response.body) ? response.body : null
}

/** A line as `score` writes them, or with vLLM's names for the same. */
function scoredSample(line: Json, limits: ScoreLimits): Sample | string {
  const { prompt_token_ids, ...rest } = line
  const task = taskOf(
    prompt_token_ids === undefined ? rest : { ...rest, tokens: prompt_token_ids },
    limits,
  )
  if (typeof task === 'string') return task
  const { id, tokens } = task
  if (line.logprobs === undefined && line.prompt_logprobs === undefined) {
    return 'expected "logprobs" or "prompt_logprobs", found neither'
  }
  const logprobs =
    line.logprobs === undefined
      ? saidOfPrompt(line.prompt_logprobs, tokens)
      : numbers(line.logprobs, tokens.length, 'logprobs')
  if (typeof logprobs === 'string') return logprobs
  const routing = line.routing === undefined ? null : routingOf(line.routing, tokens.length)
  return typeof routing === 'string' ? routing : { id, tokens, logprobs, routing }
}

async function answeredSample(
  line: Json,
  body: Json,
  choice: Json,
  limits: ScoreLimits,
  asked: AskedPrompts | null,
): Promise<Sample | string> {
  const index = Number(choice.index ?? 0)
  const id = [line.custom_id, body.id].find((one) => typeof one === 'string')
  if (typeof id !== 'string') return 'expected a custom_id, found none'
  const name = `${id}#${index}`
  const prompt = await promptOf(line, body, choice, limits, asked)
  if (typeof prompt === 'string') return prompt
  const entries = entriesOf(choice.logprobs)
  if (typeof entries === 'string') return `${name}: ${entries}`
  const drawn =
    choice.token_ids === undefined
      ? idsOf(entries, limits.tokenizer())
      : checkedTokens(choice.token_ids, limits, 'token_ids')
  if (typeof drawn === 'string') return `${name}: ${drawn}`
  const said = numbers(
    entries.map(({ logprob }) => logprob),
    drawn.length,
    'logprobs',
  )
  if (typeof said === 'string') return `${name}: ${said}`
  const before = saidOfPrompt(choice.prompt_logprobs ?? body.prompt_logprobs, prompt)
  if (typeof before === 'string') return `${name}: ${before}`
  const all = prompt.length + drawn.length
  const fault = lengthFault(all, limits)
  if (fault !== null) return `${name}: ${fault}`
  const [tokens, logprobs] = [new Int32Array(all), new Float32Array(all)]
  tokens.set(prompt)
  tokens.set(drawn, prompt.length)
  logprobs.set(before)
  logprobs.set(said, prompt.length)
  return { id: name, tokens, logprobs, routing: null }
}

/** As the answer itself has it, else as it was asked. */
async function promptOf(
  line: Json,
  body: Json,
  choice: Json,
  limits: ScoreLimits,
  asked: AskedPrompts | null,
): Promise<Int32Array | string> {
  const told = choice.prompt_token_ids ?? body.prompt_token_ids
  if (told !== undefined && told !== null) return checkedTokens(told, limits, 'prompt_token_ids')
  if (asked === null) {
    return 'has no prompt_token_ids: name the lines that were asked with -i, or ask for return_token_ids'
  }
  return asked.prompt(String(line.custom_id), Number(choice.index ?? 0))
}

interface Entry {
  readonly token: unknown
  readonly bytes: unknown
  readonly logprob: unknown
}

/** Of a chat a list of entries, thinking first; of a completion lists that run beside each other. */
function entriesOf(logprobs: unknown): Entry[] | string {
  const said = 'has no log-probabilities: ask for logprobs'
  if (!isRecord(logprobs)) return said
  const { content, reasoning_content: reasoning = [], tokens, token_logprobs: values } = logprobs
  if (Array.isArray(tokens) && Array.isArray(values)) {
    return tokens.map((token, at) => ({ token, bytes: null, logprob: values[at] }))
  }
  if (!Array.isArray(content) || !Array.isArray(reasoning)) return said
  return [...reasoning, ...content].map((entry) => {
    const { token, bytes, logprob }: Json = isRecord(entry) ? entry : {}
    return { token, bytes, logprob }
  })
}

/** Ids by vLLM's "token_id:N", by bytes, or by text. */
function idsOf(entries: readonly Entry[], tokenizer: Tokenizer): Int32Array | string {
  const ids = new Int32Array(entries.length)
  for (const [at, { token, bytes }] of entries.entries()) {
    const named = /^token_id:(\d{1,8})$/.exec(String(token))?.[1]
    const raw = Array.isArray(bytes) ? Buffer.from(bytes.map(Number)) : Buffer.from(String(token))
    const id = named === undefined ? vocabularyOf(tokenizer).get(keyOf(raw)) : Number(named)
    if (id === undefined || id >= tokenizer.size) {
      return `token ${at} is ${shown(token)}, which is none of this model's, or several`
    }
    ids[at] = id
  }
  return ids
}

const vocabularies = new WeakMap<Tokenizer, ReadonlyMap<string, number>>()

/** Ids by bytes; where two have the same ones, a control token gives way, and else neither is meant. */
function vocabularyOf(tokenizer: Tokenizer): ReadonlyMap<string, number> {
  const known = vocabularies.get(tokenizer)
  if (known !== undefined) return known
  const ids = new Map<string, number>()
  const doubled = new Set<string>()
  for (let id = 0; id < tokenizer.size; id += 1) {
    const key = keyOf(Buffer.from(tokenizer.bytesOf(id)))
    const other = ids.get(key)
    if (key === '' || (other !== undefined && tokenizer.isSpecial(id))) continue
    if (other !== undefined && !tokenizer.isSpecial(other)) doubled.add(key)
    ids.set(key, id)
  }
  for (const key of doubled) ids.delete(key)
  vocabularies.set(tokenizer, ids)
  return ids
}

function keyOf(bytes: Buffer): string {
  return bytes.toString('latin1')
}

/** vLLM has for each position an object of log-probabilities by token id, and null for the first. */
function saidOfPrompt(said: unknown, tokens: Int32Array): Float32Array | string {
  if (said === undefined || said === null) return new Float32Array(tokens.length).fill(Number.NaN)
  if (!Array.isArray(said)) return `prompt_logprobs must be a list, found ${shown(said)}`
  const own = said.map((position, at) => {
    const entry = isRecord(position) ? position[String(tokens[at])] : null
    return isRecord(entry) ? entry.logprob : entry
  })
  return numbers(own, tokens.length, 'prompt_logprobs')
}

/** Log-probabilities as float32, as engines have them; null and what is as good as impossible is NaN. */
function numbers(list: unknown, count: number, name: string): Float32Array | string {
  if (!Array.isArray(list)) return `${name} must be a list, found ${shown(list)}`
  if (list.length !== count) return `${name} has ${list.length} entries for ${count} tokens`
  const isSaid = (value: unknown) => value !== null && value !== undefined
  const wrong = list.findIndex((value) => isSaid(value) && !isLogprob(value))
  if (wrong >= 0) {
    return `${name}[${wrong}] must be a log-probability or null, found ${shown(list[wrong])}`
  }
  return Float32Array.from(list, (value) => {
    return isSaid(value) && Number(value) > IMPOSSIBLE ? Number(value) : Number.NaN
  })
}

/** Rounding may leave a certain token a little above 0. */
function isLogprob(value: unknown): boolean {
  return typeof value === 'number' && value <= 1e-3
}

function routingOf(routing: unknown, tokens: number): SampleRouting | string {
  const said = 'routing must have "layers" and "experts": [layer][position][k]'
  if (!isRecord(routing)) return said
  const { layers, experts } = routing
  if (!isNumbers(layers) || !Array.isArray(experts) || experts.length !== layers.length) return said
  const isWhole = (layer: unknown) =>
    Array.isArray(layer) && layer.length === tokens && layer.every(isNumbers)
  const wrong = experts.findIndex((layer) => !isWhole(layer))
  if (wrong >= 0) return `${said}; layer ${layers[wrong]} has not the experts of ${tokens} tokens`
  return { layers, experts }
}

function isNumbers(list: unknown): list is number[] {
  return Array.isArray(list) && list.every(Number.isInteger)
}
