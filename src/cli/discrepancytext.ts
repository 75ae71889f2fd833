// The figures of `score --against` for people, a subject a line, and as an object whose keys are a promise
// to scripts. What they mean is discrepancy.ts.
import { type DiscrepancyFigures, type RoutingFigures, sizeEnds } from './discrepancy.js'
import type { Band } from './scoreflags.js'

const NAME_COLUMNS = 12

export function discrepancyLines(figures: DiscrepancyFigures, band: Band): string[] {
  const { samples, tokens, unsaid, mean, median, p1, p99, largest, worst } = figures
  const { below, above, k3, k1, routing } = figures
  const silent = unsaid === 0 ? '' : `; of ${unsaid} more nothing is said`
  return [
    row('compared', `${counted(tokens, 'token')} of ${counted(samples, 'sample')}${silent}`),
    row(
      'log p',
      `here - there: mean ${nats(mean)}, 1 % ${nats(p1)}, median ${nats(median)}, 99 % ${nats(p99)}`,
    ),
    row('largest', `${nats(largest)}, of token ${worst.token} of ${JSON.stringify(worst.id)}`),
    row('sizes', sizesText(figures.sizes)),
    row(
      'outside',
      `${percent(below + above)} of the tokens have a ratio outside ${band.least} to ${band.most}: ${percent(below)} below, ${percent(above)} above`,
    ),
    row('KL', `${nats(k3)} nats a token (k3), ${nats(k1)} (k1), if the other engine drew them`),
    ...(routing === null ? [] : routingLines(routing)),
  ]
}

function routingLines({ tokens, agreeEverywhere, layers }: RoutingFigures): string[] {
  return [
    row(
      'routing',
      `${percent(agreeEverywhere)} of ${counted(tokens, 'token')} have the same experts in every layer`,
    ),
    ...layers.map(({ layer, agree, overlap }) =>
      row(
        `  layer ${layer}`,
        `${percent(agree)} have the same experts, ${percent(overlap)} shared`,
      ),
    ),
  ]
}

/** Shares of tokens by the size of their difference: "0: 96.2 %  to 1e-6: 0 %  ...  more: 0 %". */
function sizesText(sizes: readonly number[]): string {
  const name = (end: number) =>
    end === 0 ? '0' : Number.isFinite(end) ? `to ${shortly(end)}` : 'more'
  return sizes.map((share, at) => `${name(sizeEnds[at] ?? 0)}: ${percent(share)}`).join('  ')
}

export function discrepancyObject(
  model: string,
  figures: DiscrepancyFigures,
  band: Band,
): Record<string, unknown> {
  const { samples, tokens, unsaid, mean, median, p1, p99, largest, worst, routing } = figures
  return {
    model,
    samples,
    tokens,
    unsaid,
    difference: { mean, median, p1, p99, max_abs: largest, max_at: worst },
    sizes: figures.sizes.map((share, at) => ({
      up_to: Number.isFinite(sizeEnds[at]) ? sizeEnds[at] : null,
      share,
    })),
    band: [band.least, band.most],
    outside: { share: figures.below + figures.above, below: figures.below, above: figures.above },
    kl: { k3: figures.k3, k1: figures.k1 },
    routing:
      routing === null
        ? null
        : {
            tokens: routing.tokens,
            agree_everywhere: routing.agreeEverywhere,
            layers: routing.layers,
          },
  }
}

function row(name: string, text: string): string {
  return `${name.padEnd(NAME_COLUMNS)}${text}`
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}

function nats(value: number): string {
  return value === 0 ? '0' : shortly(Number(value.toPrecision(3)))
}

function shortly(value: number): string {
  return Math.abs(value) < 1e-3 ? value.toExponential() : String(value)
}

function percent(share: number): string {
  return share === 0 || share === 1 ? `${100 * share} %` : `${(100 * share).toPrecision(3)} %`
}
