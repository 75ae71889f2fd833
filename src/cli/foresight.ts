// `simulate --foresight`: how much of what layers choose is foreseen, for each way to foresee it, as a
// table or an object. Shares are fractions from 0 to 1.
import { type Foreseen, foresee } from '../simulate/foresight.js'
import { knownRouters, type Routers, readRouters } from '../simulate/foresightrouter.js'
import { type Found, widths } from '../simulate/foresighttally.js'
import type { Routing } from '../simulate/routing.js'
import { tokenIdsOf } from '../simulate/tracefile.js'
import { findModel } from './source.js'

/**
 * What is printed of some traces. `model`: the one that they were recorded from, whose routers' bias and
 * groups count; left out: the bundled one where a trace is of that, else neither.
 */
export function foresight(
  routings: readonly Routing[],
  model: string | undefined,
  isJson: boolean,
): string {
  const found = routings.map((routing) => ({
    routing,
    rows: foresee(routing, tokenIdsOf(routing), routersOf(routing, model)),
  }))
  if (!isJson) return found.map(({ routing, rows }) => tableOf(routing, rows)).join('\n')
  const report = { foresight: found.map(({ routing, rows }) => reportOf(routing, rows)) }
  return `${JSON.stringify(report)}\n`
}

export function routersOf(routing: Routing, model: string | undefined): Routers {
  return model === undefined ? knownRouters(routing) : readRouters(findModel(model).folder, routing)
}

function reportOf({ name, model, layers }: Routing, rows: readonly Foreseen[]) {
  return {
    trace: name,
    model,
    rows: rows.map(({ guess, distance, tally, reliability }) => ({
      guess,
      distance,
      ...named(tally.total()),
      calibration_error: reliability?.error() ?? null,
      layers: layers.map((layer, moeLayer) => ({ layer, ...named(tally.layer(moeLayer)) })),
    })),
  }
}

function named({ recall, weight }: Found) {
  const byWidth = (shares: Found['recall']) =>
    Object.fromEntries(widths.map((times, at) => [`${times}x`, shares[at] ?? null]))
  return { recall: byWidth(recall), weight: byWidth(weight) }
}

function tableOf({ name, layers, experts, topK }: Routing, rows: readonly Foreseen[]): string {
  const header = ['guess', 'layers ahead', ...headings('recall'), ...headings('weight'), 'off by']
  const cells = rows.map(({ guess, distance, tally, reliability }) => {
    const { recall, weight } = tally.total()
    const error = reliability?.error()
    return [guess, String(distance ?? ''), ...[...recall, ...weight].map(text), text(error ?? null)]
  })
  const widest = header.map((title, column) =>
    Math.max(title.length, ...cells.map((row) => row[column]?.length ?? 0)),
  )
  const lines = [header, ...cells].map((row) =>
    `  ${row.map((cell, at) => (at === 0 ? cell.padEnd(widest[0] ?? 0) : cell.padStart(widest[at] ?? 0))).join('  ')}`.trimEnd(),
  )
  return `${name}: ${layers.length} layers x ${experts} experts, top ${topK}\n${lines.join('\n')}\n`
}

function headings(title: string): string[] {
  return widths.map((times) => `${title} ${times}x`)
}

function text(share: number | null): string {
  return share === null ? '' : share.toFixed(3)
}
