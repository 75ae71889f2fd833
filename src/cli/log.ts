// What a command says beside its data, on stderr: what was opened, what was decided without being
// asked, how fast it went. Silent with --quiet; errors do not come through here.
import type { InRam } from '../engine/inram.js'
import type { EngineFacts } from '../engine/protocol.js'
import type { RequestStats, Usage } from '../engine/stats.js'
import { tell } from './failure.js'
import { type DrawFlags, idleFlags, type SharedFlags } from './flags.js'

/** The log of a command, which first says what it was given in vain. `say` takes its lines. */
export function logFor(flags: SharedFlags & Partial<DrawFlags>, say = tell): Log {
  const log = new Log(flags.quiet ?? false, say)
  for (const line of idleFlags(flags)) log.line(line)
  return log
}

export class Log {
  constructor(
    private readonly isQuiet: boolean,
    private readonly say: (line: string) => void = tell,
  ) {}

  line(text: string): void {
    if (!this.isQuiet) this.say(text)
  }

  /** The model and what it runs on, and every choice that a person might not expect. */
  opened(name: string, facts: EngineFacts, askedContext: number | undefined): void {
    const { config, plan, device } = facts
    this.line(`${name} on ${device}; context ${plan.contextTokens}, KV ${plan.kvType}`)
    for (const line of memoryLines(facts)) this.line(line)
    if (facts.note !== null) this.line(facts.note)
    if (config.yarn !== null && config.context > config.trainedContext) {
      this.line(
        `YaRN with factor ${config.yarn.factor} extends the context from ${config.trainedContext} to ${config.context}`,
      )
    }
    if (askedContext === undefined && plan.contextTokens < config.context) {
      this.line(
        `the context is reduced from ${config.context} to ${plan.contextTokens}, whose KV fits in half of the free memory; --ctx-size sets it`,
      )
    }
  }

  rates(stats: RequestStats, { experts }: EngineFacts): void {
    const { promptTokens, cachedTokens, completionTokens, firstTokenSeconds, decodeSeconds } = stats
    const prefill = rateOf(promptTokens - cachedTokens, firstTokenSeconds)
    const known = cachedTokens > 0 ? `, ${cachedTokens} of them known` : ''
    const decode = rateOf(completionTokens - 1, decodeSeconds)
    this.line(
      `prompt ${promptTokens} tokens${known}${prefill === null ? '' : `, ${shortly(prefill)} per second`}; ` +
        `answer ${completionTokens} tokens${decode === null ? '' : `, ${shortly(decode)} per second`}`,
    )
    const counted = countedHits(stats)
    if (counted !== null) this.line(hitsLine(counted, experts.loadMode))
  }
}

/** Over the decode part; null where nothing was decoded, or the system tells of no page. */
export function countedHits({ decode }: RequestStats): Usage | null {
  return decode !== null && decode.requests > 0 ? decode : null
}

/** Of mapped experts nobody decides which stay: they are found in memory, or they are not. */
function hitsLine({ requests, hits }: Usage, loadMode: 'mapped' | 'direct'): string {
  const share = (hits / requests).toFixed(3)
  return `experts: ${share} of ${requests} requests ${loadMode === 'direct' ? 'hit' : 'resident'}`
}

/** What was set aside, where experts live in slots: one line of sizes. */
function memoryLines({ experts, plan }: EngineFacts): string[] {
  if (experts.loadMode === 'mapped') return []
  const { tier, slots, rooms, slotsBelow, slotBytes, denseBytes, scaleBytes, scratchBytes } =
    experts
  const place = tier === 'gpu' ? 'GPU memory' : 'memory'
  const inRam =
    slotsBelow > 0 ? `slots for ${slotsBelow} (${sizeText(slotsBelow * slotBytes)}) and ` : ''
  const onTheWay = tier === 'gpu' ? `; in memory ${inRam}room for ${rooms} on their way` : ''
  const share = ((100 * slots) / experts.experts).toPrecision(3)
  return [
    `${place}: ${slots} of ${experts.experts} experts have a slot (${share} %), ${sizeText(slots * slotBytes)}; ` +
      `dense weights ${sizeText(denseBytes)}, scales ${sizeText(scaleBytes)}, KV ${sizeText(plan.kvBytes)}, ` +
      `scratch ${sizeText(scratchBytes)}${onTheWay}`,
    ...(experts.inRam === null ? [] : [inRamLine(experts.inRam)]),
  ]
}

/** What a GPU has no room for. */
function inRamLine({ mlps, bytes }: InRam): string {
  const also =
    mlps === 0 ? '' : ` and the MLPs of ${mlps === 1 ? 'layer 0' : `layers 0 to ${mlps - 1}`}`
  return `the GPU has no room for all that every token needs: the head${also} (${sizeText(bytes)}) stay in memory, and the processor computes with them`
}

/** Bytes with three digits, in powers of 1024. */
function sizeText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10))
  return `${shortly(bytes / 2 ** (10 * power))} ${units[power]}`
}

/** Per second; null where there is nothing to divide. */
export function rateOf(count: number, seconds: number): number | null {
  return count > 0 && seconds > 0 ? count / seconds : null
}

function shortly(value: number): string {
  return value.toPrecision(value < 1000 ? 3 : 4)
}
