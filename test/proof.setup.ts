// Makes the table of all figures once every proof file has run. Figures that were not measured this time
// keep their line, with the commit and the day on which they were.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { type Figure, notesVariable } from './figure.js'
import { root } from './paths.js'

const page = join(root, 'docs/proof.md')

export function setup(): () => void {
  const folder = mkdtempSync(join(os.tmpdir(), 'ring-proof-'))
  const notes = join(folder, 'notes')
  writeFileSync(notes, '')
  process.env[notesVariable] = notes
  return () => {
    const lines = readFileSync(notes, 'utf8').split('\n').filter(Boolean)
    rmSync(folder, { recursive: true })
    const table = printed(lines.map((line) => JSON.parse(line) as Figure))
    writeFileSync(page, table)
    process.stdout.write(table)
  }
}

function printed(figures: readonly Figure[]): string {
  const rows = new Map(existsSync(page) ? rowsOf(readFileSync(page, 'utf8')) : [])
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
    cwd: root,
    encoding: 'utf8',
  }).trim()
  const when = `${commit}, ${new Date().toISOString().slice(0, 10)}`
  for (const { what, figure, bound, holds } of figures) {
    const verdict = holds === null ? '' : holds ? 'yes' : 'no'
    rows.set(what, `| ${what} | ${figure} | ${bound} | ${verdict} | ${when} |`)
  }
  const cpu = os.cpus()
  return [
    '# Figures',
    '',
    `Written by \`npm run proof\` on ${cpu.length} shared cores of ${cpu[0]?.model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}. Medians [least to most]; ratios are taken within a run. No GPU: CUDA is not measured.`,
    '',
    '| what | figure | bound | holds | measured |',
    '|---|---|---|---|---|',
    ...rows.values(),
    '',
  ].join('\n')
}

function rowsOf(text: string): [string, string][] {
  return text
    .split('\n')
    .slice(text.split('\n').findIndex((line) => line.startsWith('|---')) + 1)
    .flatMap((row): [string, string][] => {
      const what = /^\| (.*?) \|/.exec(row)?.[1]
      return what === undefined ? [] : [[what, row]]
    })
}
