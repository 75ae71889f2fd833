// What `simulate` found, as one page that needs nothing else: for each trace hit rate against slots, a
// heat map of which experts its layers use, and the figures as a table. What a page looks like is in
// page.ts, drawings are in simulatedrawing.ts.
import { decodeTokensOf, tokensOf } from '../simulate/routing.js'
import { escaped, legendOf, pageOf } from './page.js'
import { heatMap, hitChart, seriesOf } from './simulatedrawing.js'
import { scopeText } from './simulatetable.js'
import { nameOf, type Result, type Simulated } from './simulation.js'

export function simulationPage(simulated: readonly Simulated[]): string {
  return pageOf('Routing, simulated', simulated.map(section).join('\n'))
}

function section(trace: Simulated): string {
  const { routing, usage, results } = trace
  const mean = usage.distinct.reduce((sum, count) => sum + count, 0) / routing.layers.length
  const facts: [figure: string, label: string][] = [
    [`${routing.layers.length} × ${routing.experts}`, `layers × experts, top ${routing.topK}`],
    [
      tokensOf(routing).toLocaleString('en-US'),
      `tokens, ${decodeTokensOf(routing).toLocaleString('en-US')} of them decode`,
    ],
    [mean.toFixed(1), 'distinct experts in a layer, on average'],
  ]
  return `<section>
<h2>${escaped(routing.name)}</h2>
<p class="quiet">${escaped(routing.model)}</p>
<dl>${facts.map(([figure, label]) => `<div><dt>${label}</dt><dd>${figure}</dd></div>`).join('')}</dl>
<figure>
<figcaption>Hit rate of ${results[0]?.phase} against ${scopeText(results[0])}, as a share of its experts</figcaption>
${legendOf(seriesOf(trace))}
${hitChart(trace)}
</figure>
<figure>
<figcaption>Use of each expert, relative to the mean of its layer</figcaption>
${heatMap(trace)}
</figure>
${table(trace)}
</section>`
}

/** A row for each policy and number of slots. */
function table({ results }: Simulated): string {
  const hasTime = results.some(({ tokens_s: rate }) => rate !== null)
  const time = hasTime ? '<th>tokens a second</th><th>share of bound</th>' : ''
  const rows = results.map((result) => {
    const cells = [
      `<th>${escaped(nameOf(result))}</th>`,
      ...[
        String(result.slots_per_layer),
        percent(result.share),
        percent(result.hit_rate),
        percent(result.misses_against_lru),
        percent(result.gap_closed),
        ...(hasTime ? timeOf(result) : []),
      ].map((text) => `<td>${text}</td>`),
    ]
    return `<tr>${cells.join('')}</tr>`
  })
  return `<details><summary>Figures</summary>
<div class="wide"><table><thead><tr><th>policy</th><th>slots</th><th>share</th><th>hit rate</th><th>misses against lru</th><th>of the way from lru to belady</th>${time}</tr></thead>
<tbody>${rows.join('\n')}</tbody></table></div></details>`
}

function timeOf(result: Result): string[] {
  return [result.tokens_s?.toPrecision(3) ?? '–', percent(result.share_of_bound)]
}

function percent(value: number | null): string {
  return value === null ? '–' : `${(100 * value).toFixed(1)} %`
}
