/**
 * What config.json and generation_config.json say about a model, checked and in our own words.
 * Nothing here looks at tensors: `checkpoint.ts` finds out whether they agree. The reader is chosen
 * by `architectures[0]` and never by `model_type`, which this family shares with an older one of
 * different mathematics. Every number has a bound, so that no later product can overflow.
 */
import fs from 'node:fs'
import { basename, join } from 'node:path'
import { totals } from './architecture.js'
import { ModelError, shown } from './error.js'
import { flag, nullish, object, oneOf, parseFields, type Read, real, whole } from './fields.js'
import { isRecord, parseObject } from './json.js'
import { type Quantisation, readQuantisation } from './quantisation.js'
import { readYarn, type Yarn } from './rope.js'
import { readText } from './window.js'

export interface ModelConfig extends Quantisation {
  readonly architecture: string
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** The first so many dimensions of a head are rotated; the rest pass through. Even. */
  readonly rotaryDim: number
  /** Inner width of the MLP of a dense layer. */
  readonly denseWidth: number
  /** Inner width of one routed expert. */
  readonly expertWidth: number
  readonly sharedExperts: number
  /** Inner width of the one MLP that all shared experts are stored as; 0 when there are none. */
  readonly sharedWidth: number
  readonly experts: number
  readonly topK: number
  readonly groups: number
  readonly groupsKept: number
  /** Layers before this one have a dense MLP; equal to `layers` when no layer has experts. */
  readonly firstMoeLayer: number
  readonly routedScale: number
  readonly epsilon: number
  readonly ropeTheta: number
  readonly yarn: Yarn | null
  /** Usable positions: max_position_embeddings, or what YaRN extends it to if that is more. */
  readonly context: number
  /** Positions the model has seen without YaRN's help. */
  readonly trainedContext: number
  readonly vocabulary: number
  readonly tiedEmbeddings: boolean
  /** Every token id that ends a generation, without repeats. */
  readonly eosIds: readonly number[]
  readonly bosId: number | null
  readonly padId: number | null
  /** What the config announces; a tensor that is missing against it is an error. */
  readonly announces: {
    readonly qkvBias: boolean
    readonly attentionOutBias: boolean
    readonly queryKeyNorm: boolean
    readonly expertBias: boolean
  }
}

export interface ConfigOptions {
  /** YaRN asked for by the user (`--rope-scaling yarn,FACTOR`), on top of what the config says. */
  readonly ropeScaling?: { readonly factor: number } | undefined
}

/** The architectures that can be run, by the name in `architectures[0]`. */
const parsers = new Map([['BailingMoeV2ForCausalLM', parseBailingMoeV2]])

/** A config is some kilobytes; lists of unquantised layers can make it grow, never to this. */
const CONFIG_BYTES_LIMIT = 16 * 2 ** 20
/** Parameters, bytes and offsets of a whole model must stay exact in a double. */
const PARAMETER_LIMIT = 2 ** 50
const CONTEXT_LIMIT = 2 ** 30

/**
 * The model that a folder's config.json describes, with the token ids of generation_config.json
 * (optional) merged in: every eos id of either file stops a generation.
 */
export function readConfig(folder: string, options: ConfigOptions = {}): ModelConfig {
  const path = join(folder, 'config.json')
  const config = parseConfig(readText(path, CONFIG_BYTES_LIMIT), basename(path), options)
  const generationPath = join(folder, 'generation_config.json')
  if (!fs.existsSync(generationPath)) return config
  const file = basename(generationPath)
  const raw = parseObject(readText(generationPath, CONFIG_BYTES_LIMIT), file)
  const generation = readTokenIds(raw, file, config.vocabulary)
  return {
    ...config,
    eosIds: [...new Set([...config.eosIds, ...generation.eosIds])],
    bosId: generation.bosId ?? config.bosId,
    padId: generation.padId ?? config.padId,
  }
}

/** The model that the text of a config.json describes. `file` names the text in errors. */
export function parseConfig(text: string, file: string, options: ConfigOptions = {}): ModelConfig {
  const raw = parseObject(text, file)
  const architecture = Array.isArray(raw.architectures) ? raw.architectures[0] : undefined
  const parse = typeof architecture === 'string' ? parsers.get(architecture) : undefined
  if (parse === undefined) {
    throw new ModelError(
      `${file}: architectures must begin with one of ${[...parsers.keys()].join(', ')}, found ${shown(architecture)}`,
    )
  }
  return parse(raw, file, options)
}

/**
 * Keys of Ring and Ling 2.0 (BailingMoeV2Config in the public configuration code). Keys that are
 * absent here change nothing in inference. `norm_topk_prob` is read by nobody on purpose: the
 * public modeling code normalises the chosen weights whenever more than one expert is chosen.
 */
const bailingMoeV2 = object({
  num_hidden_layers: whole(1, 1024),
  hidden_size: whole(1, 2 ** 20),
  num_attention_heads: whole(1, 4096),
  num_key_value_heads: whole(1, 4096),
  head_dim: nullish(whole(1, 4096)),
  rotary_dim: nullish(whole(2, 4096)),
  partial_rotary_factor: nullish(real(0, 1)),
  intermediate_size: whole(1, 2 ** 22),
  moe_intermediate_size: whole(1, 2 ** 22),
  moe_shared_expert_intermediate_size: nullish(whole(1, 2 ** 22)),
  num_shared_experts: nullish(whole(0, 64)),
  num_experts: whole(1, 65535),
  num_experts_per_tok: whole(1, 1024),
  n_group: nullish(whole(1, 65535)),
  topk_group: nullish(whole(1, 65535)),
  first_k_dense_replace: nullish(whole(0, 1024)),
  routed_scaling_factor: nullish(real(0, 1e6)),
  rms_norm_eps: real(0, 1),
  // A silent default here (10000 elsewhere) makes a model repeat itself, so there is none.
  rope_theta: real(1, 1e12),
  max_position_embeddings: whole(1, CONTEXT_LIMIT),
  vocab_size: whole(1, 2 ** 24),
  tie_word_embeddings: nullish(flag()),
  use_qkv_bias: nullish(flag()),
  use_bias: nullish(flag()),
  use_qk_norm: nullish(flag()),
  moe_router_enable_expert_bias: nullish(flag()),
  norm_head: nullish(oneOf(false)),
  score_function: nullish(oneOf('sigmoid')),
  hidden_act: nullish(oneOf('silu')),
})

type Raw = Read<typeof bailingMoeV2>

function parseBailingMoeV2(
  raw: Record<string, unknown>,
  file: string,
  options: ConfigOptions,
): ModelConfig {
  const keys = parseFields(bailingMoeV2, liftRopeParameters(raw), file)
  const sharedExperts = keys.num_shared_experts ?? 0
  const heads = readHeads(keys, file)
  const moe = readMoe(keys, file)
  const config: ModelConfig = {
    architecture: 'BailingMoeV2ForCausalLM',
    layers: keys.num_hidden_layers,
    hidden: keys.hidden_size,
    ...heads,
    denseWidth: keys.intermediate_size,
    expertWidth: keys.moe_intermediate_size,
    sharedExperts,
    // The 1T configs lack the key; then a shared expert is as wide as a routed one.
    sharedWidth:
      sharedExperts * (keys.moe_shared_expert_intermediate_size ?? keys.moe_intermediate_size),
    ...moe,
    routedScale: keys.routed_scaling_factor ?? 1,
    epsilon: keys.rms_norm_eps,
    ...readPositions(raw, keys, file, options),
    vocabulary: keys.vocab_size,
    tiedEmbeddings: keys.tie_word_embeddings ?? false,
    ...readTokenIds(raw, file, keys.vocab_size),
    ...readQuantisation(raw, file),
    announces: {
      qkvBias: keys.use_qkv_bias ?? false,
      attentionOutBias: keys.use_bias ?? false,
      queryKeyNorm: keys.use_qk_norm ?? false,
      expertBias: keys.moe_router_enable_expert_bias ?? false,
    },
  }
  refuseOverflow(config, file)
  return config
}

/** Newer tools write these two keys inside `rope_parameters` and nowhere else. */
function liftRopeParameters(raw: Record<string, unknown>): Record<string, unknown> {
  const inner = isRecord(raw.rope_parameters) ? raw.rope_parameters : {}
  return {
    ...raw,
    rope_theta: raw.rope_theta ?? inner.rope_theta,
    partial_rotary_factor: raw.partial_rotary_factor ?? inner.partial_rotary_factor,
  }
}

function readHeads(keys: Raw, file: string) {
  const heads = keys.num_attention_heads
  const kvHeads = keys.num_key_value_heads
  if (heads % kvHeads !== 0) {
    throw new ModelError(
      `${file}: num_attention_heads must be a multiple of num_key_value_heads (${kvHeads}), found ${heads}`,
    )
  }
  if (keys.head_dim == null && keys.hidden_size % heads !== 0) {
    throw new ModelError(
      `${file}: hidden_size must be a multiple of num_attention_heads (${heads}) where head_dim is absent, found ${keys.hidden_size}`,
    )
  }
  const headDim = keys.head_dim ?? keys.hidden_size / heads
  // Published 1T configs have rotary_dim, flash and mini have the factor; where both are missing
  // every working engine rotates half of a head.
  const key = keys.rotary_dim != null ? 'rotary_dim' : 'partial_rotary_factor'
  const rotaryDim = keys.rotary_dim ?? Math.floor(headDim * (keys.partial_rotary_factor ?? 0.5))
  if (rotaryDim % 2 !== 0 || rotaryDim < 2 || rotaryDim > headDim) {
    throw new ModelError(
      `${file}: ${key} must make the rotated dimensions an even number from 2 to head_dim (${headDim}), found ${rotaryDim}`,
    )
  }
  return { heads, kvHeads, headDim, rotaryDim }
}

function readMoe(keys: Raw, file: string) {
  const layers = keys.num_hidden_layers
  const experts = keys.num_experts
  const topK = keys.num_experts_per_tok
  const groups = keys.n_group ?? 1
  const groupsKept = keys.topk_group ?? 1
  const firstMoeLayer = keys.first_k_dense_replace ?? 0
  const refuse = (key: string, expected: string, found: number): never => {
    throw new ModelError(`${file}: ${key} must be ${expected}, found ${found}`)
  }
  if (firstMoeLayer > layers) {
    refuse('first_k_dense_replace', `at most num_hidden_layers (${layers})`, firstMoeLayer)
  }
  if (experts % groups !== 0) refuse('n_group', `a divisor of num_experts (${experts})`, groups)
  // A group is judged by its two best experts.
  if (groups > 1 && experts / groups < 2) {
    refuse('n_group', `at most half of num_experts (${experts})`, groups)
  }
  if (groupsKept > groups) refuse('topk_group', `at most n_group (${groups})`, groupsKept)
  const eligible = (experts / groups) * groupsKept
  if (topK > eligible) {
    refuse('num_experts_per_tok', `at most the ${eligible} experts of the kept groups`, topK)
  }
  return { experts, topK, groups, groupsKept, firstMoeLayer }
}

/**
 * Positions and rotation. With YaRN the usable context is the larger of max_position_embeddings
 * and factor x original: configs are found both with the first raised already and with it left at
 * the trained length. The factor is used as written.
 */
function readPositions(
  raw: Record<string, unknown>,
  keys: Raw,
  file: string,
  options: ConfigOptions,
) {
  const longest = keys.max_position_embeddings
  const yarn = readYarn(raw, file, longest, options.ropeScaling?.factor)
  const extended = yarn === null ? 0 : Math.floor(yarn.factor * yarn.originalContext)
  const context = Math.max(longest, extended)
  if (context > CONTEXT_LIMIT) {
    throw new ModelError(
      `${file}: YaRN must extend the context to at most ${CONTEXT_LIMIT} positions, found ${context}`,
    )
  }
  return {
    ropeTheta: keys.rope_theta,
    yarn,
    context,
    trainedContext: yarn?.originalContext ?? longest,
  }
}

function readTokenIds(raw: Record<string, unknown>, file: string, vocabulary: number) {
  const id = whole(0, vocabulary - 1)
  const shape = object({
    bos_token_id: nullish(id),
    pad_token_id: nullish(id),
  })
  const keys = parseFields(shape, raw, file)
  const eos: unknown[] = [raw.eos_token_id ?? []].flat()
  const eosIds = eos.map((value) => {
    if (id.is(value) && eos.length <= 1024) return value
    throw new ModelError(
      `${file}: eos_token_id must be ids from 0 to ${vocabulary - 1}, found ${shown(raw.eos_token_id)}`,
    )
  })
  return {
    eosIds: [...new Set(eosIds)],
    bosId: keys.bos_token_id ?? null,
    padId: keys.pad_token_id ?? null,
  }
}

/** Each size is within its bound, yet their product might not be exact any more. */
function refuseOverflow(config: ModelConfig, file: string): void {
  const { parameters } = totals(config)
  if (parameters > PARAMETER_LIMIT) {
    throw new ModelError(
      `${file}: num_hidden_layers, num_experts and all widths together must make at most 2^50 parameters, found ${parameters}`,
    )
  }
}
