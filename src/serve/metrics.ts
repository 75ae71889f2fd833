// Figures for Prometheus, under the names that vLLM has made usual, with our prefix. What the engine
// counts is read from its shared memory at the moment of asking; it starts again at 0 with a new
// engine, as counters may.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { KvFigure, readUsage, type Usage } from '../engine/stats.js'
import type { Gate } from './gate.js'
import type { Keeper } from './keeper.js'

/** Seconds: from ring-tiny's milliseconds to a cold prompt of the largest model. */
const firstTokenBuckets = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]
const tokenBuckets = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]
const wholeBuckets = [0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]

export class Metrics {
  readonly registry = new Registry()
  readonly #promptTokens: Counter
  readonly #generationTokens: Counter
  readonly #successes: Counter<'finished_reason'>
  readonly #firstToken: Histogram
  readonly #betweenTokens: Histogram
  readonly #whole: Histogram

  constructor(gate: Gate, keeper: Keeper) {
    const registers = [this.registry]
    const counter = (name: string, help: string) => new Counter({ name, help, registers })
    const histogram = (name: string, help: string, buckets: number[]) =>
      new Histogram({ name, help, buckets, registers })
    this.#promptTokens = counter('ring_prompt_tokens_total', 'Tokens of prompts taken')
    this.#generationTokens = counter('ring_generation_tokens_total', 'Tokens drawn')
    this.#successes = new Counter({
      name: 'ring_request_success_total',
      help: 'Answers given, by why they ended',
      labelNames: ['finished_reason'],
      registers,
    })
    this.#firstToken = histogram(
      'ring_time_to_first_token_seconds',
      'From a prompt handed to the engine to its first token',
      firstTokenBuckets,
    )
    this.#betweenTokens = histogram(
      'ring_inter_token_latency_seconds',
      'Between two tokens of an answer',
      tokenBuckets,
    )
    this.#whole = histogram(
      'ring_e2e_request_latency_seconds',
      'From a prompt handed to the engine to the end of its answer',
      wholeBuckets,
    )
    addGauges(this.registry, gate, keeper)
    addEngine(this.registry, keeper)
    addKv(this.registry, keeper)
    collectDefaultMetrics({ register: this.registry })
  }

  /** A prompt was handed to the engine; its answer is watched from now on. */
  watch(promptTokens: number): Watch {
    this.#promptTokens.inc(promptTokens)
    const begin = performance.now()
    let last: number | null = null
    return {
      token: () => {
        const now = performance.now()
        this.#generationTokens.inc()
        if (last === null) this.#firstToken.observe((now - begin) / 1000)
        else this.#betweenTokens.observe((now - last) / 1000)
        last = now
      },
      end: (reason) => {
        this.#successes.inc({ finished_reason: reason })
        this.#whole.observe((performance.now() - begin) / 1000)
      },
    }
  }
}

export interface Watch {
  token(): void
  /** The answer was given; not called for one that failed or was not wanted any more. */
  end(reason: string): void
}

function addGauges(registry: Registry, gate: Gate, keeper: Keeper): void {
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(read())
      },
    })
  gauge('ring_num_requests_running', 'Sequences in work', () => gate.running)
  gauge('ring_num_requests_waiting', 'Sequences that wait', () => gate.waiting)
  gauge('ring_engine_ready', '1 when the model is loaded', () => (keeper.isReady ? 1 : 0))
}

function addEngine(registry: Registry, keeper: Keeper): void {
  const counter = (name: string, help: string, read: () => number, tier?: () => string) =>
    new Counter({
      name,
      help,
      ...(tier === undefined ? {} : { labelNames: ['tier'] }),
      registers: [registry],
      collect() {
        this.reset()
        const value = read()
        if (tier === undefined) this.inc(value)
        else this.inc({ tier: tier() }, value)
      },
    })
  const usage = (of: (usage: Usage) => number) => () =>
    keeper.facts === null ? 0 : of(readUsage(keeper.facts.counters))
  const tier = () => keeper.facts?.experts.tier ?? 'ram'
  counter('ring_engine_restarts_total', 'Engines lost and opened again', () => keeper.restarts)
  new Counter({
    name: 'ring_expert_hits_total',
    help: 'Experts wanted that were in a slot, or in mapped mode resident',
    labelNames: ['tier'],
    registers: [registry],
    collect() {
      this.reset()
      this.inc({ tier: tier() }, usage(({ hits, hitsBelow }) => hits - hitsBelow)())
      if ((keeper.facts?.experts.slotsBelow ?? 0) > 0)
        this.inc({ tier: 'ram' }, usage(({ hitsBelow }) => hitsBelow)())
    },
  })
  counter(
    'ring_expert_misses_total',
    'Experts wanted that had to be read',
    usage(({ misses }) => misses),
    tier,
  )
  counter(
    'ring_nvme_read_bytes_total',
    'Bytes of experts read',
    usage(({ bytesRead }) => bytesRead),
  )
  counter(
    'ring_nvme_busy_seconds_total',
    'Time with a read outstanding',
    usage(({ driveBusySeconds }) => driveBusySeconds),
  )
  counter(
    'ring_nvme_stall_seconds_total',
    'Time steps waited for reads with nothing to compute',
    usage(({ stallSeconds }) => stallSeconds),
  )
  counter(
    'ring_copy_stall_seconds_total',
    'Time steps waited for copies to the GPU with nothing to compute or read',
    usage(({ copyStallSeconds }) => copyStallSeconds),
  )
  counter(
    'ring_prefetch_issued_total',
    'Experts read before their layer had routed',
    usage(({ ahead }) => ahead),
  )
  counter(
    'ring_prefetch_used_total',
    'Of those, experts that their layer then wanted',
    usage(({ ahead, aheadWasted }) => ahead - aheadWasted),
  )
  counter(
    'ring_prefetch_wasted_total',
    'Of those, experts that it did not want',
    usage(({ aheadWasted }) => aheadWasted),
  )
}

/** KV blocks, and what earlier requests have spared later ones. */
function addKv(registry: Registry, keeper: Keeper): void {
  const read = (figure: number) => keeper.facts?.counters.kv[figure] ?? 0
  const registers = [registry]
  const gauge = (name: string, help: string, figure: number) =>
    new Gauge({
      ...{ name, help, registers },
      collect() {
        this.set(read(figure))
      },
    })
  const counter = (name: string, help: string, figure: number) =>
    new Counter({
      ...{ name, help, registers },
      collect() {
        this.reset()
        this.inc(read(figure))
      },
    })
  gauge('ring_kv_blocks', 'KV blocks in memory', KvFigure.blocks)
  gauge('ring_kv_blocks_used', 'Of those, blocks of sequences in work', KvFigure.used)
  gauge('ring_prefix_blocks', 'KV blocks kept for later requests', KvFigure.remembering)
  gauge('ring_prefix_disk_blocks', 'KV blocks on the drive', KvFigure.diskBlocks)
  gauge('ring_prefix_disk_bytes', 'Their bytes', KvFigure.diskBytes)
  counter('ring_prefix_query_tokens_total', 'Tokens of prompts looked for', KvFigure.queryTokens)
  counter('ring_prefix_hit_tokens_total', 'Of those, tokens that were known', KvFigure.hitTokens)
  counter('ring_prefix_read_bytes_total', 'Bytes of KV read', KvFigure.bytesRead)
  counter('ring_prefix_written_bytes_total', 'Bytes of KV written', KvFigure.bytesWritten)
  counter('ring_prefix_damaged_total', 'Files of KV that were damaged', KvFigure.damaged)
}
