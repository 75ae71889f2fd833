// What a command says beside its data, on stderr: what was opened, what was decided without being
// asked, how fast it went. Silent with --quiet; errors do not come through here.
import type { EngineFacts } from '../engine/protocol.js'
import type { RequestStats } from '../engine/stats.js'
import { tell } from './failure.js'
import { type DrawFlags, idleFlags, type SharedFlags } from './flags.js'

/** The log of a command, which first says what it was given in vain. */
export function logFor(flags: SharedFlags & Partial<DrawFlags>): Log {
  const log = new Log(flags.quiet ?? false)
  for (const line of idleFlags(flags)) log.line(line)
  return log
}

export class Log {
  constructor(private readonly isQuiet: boolean) {}

  line(text: string): void {
    if (!this.isQuiet) tell(text)
  }

  /** The model and what it runs on, and every choice that a person might not expect. */
  opened(name: string, facts: EngineFacts, askedContext: number | undefined): void {
    const { config, plan, device } = facts
    this.line(`${name} on ${device}; context ${plan.contextTokens}, KV ${plan.kvType}`)
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

  rates(stats: RequestStats): void {
    const { promptTokens, completionTokens, firstTokenSeconds, decodeSeconds } = stats
    const prefill = rateOf(promptTokens, firstTokenSeconds)
    const decode = rateOf(completionTokens - 1, decodeSeconds)
    this.line(
      `prompt ${promptTokens} tokens${prefill === null ? '' : `, ${shortly(prefill)} per second`}; ` +
        `answer ${completionTokens} tokens${decode === null ? '' : `, ${shortly(decode)} per second`}`,
    )
  }
}

/** Per second; null where there is nothing to divide. */
export function rateOf(count: number, seconds: number): number | null {
  return count > 0 && seconds > 0 ? count / seconds : null
}

function shortly(value: number): string {
  return value.toPrecision(value < 1000 ? 3 : 4)
}
