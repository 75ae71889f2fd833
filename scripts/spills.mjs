/**
 * What nvcc said of registers, read from the reports that lie beside the CUDA objects: a table of
 * every kernel on every architecture, and failure where one keeps values in local memory (spills or a
 * stack frame), since that is memory the kernels are too slow for. Knows nothing of what kernels do.
 *
 * The folder of the reports may be given; left out it is that of `npm run build:gpu`.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const folder = process.argv[2] ?? join(root, 'build/native/cuda')

/** @typedef {{ file: string, kernel: string, arch: string, registers: number, local: number }} Usage */

/** The last name in a mangled one, with its numbers of template arguments. @param {string} mangled */
function shortName(mangled) {
  const names = [...mangled.matchAll(/\d+([a-z][a-z_]*[a-z])/g)].map((match) => match[1] ?? '')
  const kernel = names.findLast((name) => name.includes('_')) ?? mangled
  const values = [...mangled.matchAll(/L[ib](\d+)E/g)].map((match) => match[1])
  const kind = /ILi\d+Ef/.test(mangled) ? ['f32'] : /ILi\d+Et/.test(mangled) ? ['bf16'] : []
  const stored = /(Fp8|Bf16)E/.exec(mangled)?.slice(1) ?? []
  const words = [...stored, ...values, ...kind]
  return words.length > 0 ? `${kernel}<${words.join(', ')}>` : kernel
}

/** @param {string} file @returns {Usage[]} */
function usagesOf(file) {
  const usages = []
  let kernel = ''
  let arch = ''
  let local = 0
  for (const line of readFileSync(join(folder, file), 'utf8').split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line)
    if (entry !== null) [, kernel = '', arch = ''] = entry
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/
    const kept = frame.exec(line)
    if (kept !== null) local = Math.max(...kept.slice(1).map(Number))
    const used = /Used (\d+) registers/.exec(line)
    if (used === null) continue
    usages.push({ file, kernel: shortName(kernel), arch, registers: Number(used[1]), local })
    local = 0
  }
  return usages
}

const usages = readdirSync(folder)
  .filter((file) => file.endsWith('.cu.o.txt'))
  .sort()
  .flatMap(usagesOf)
if (usages.length === 0) {
  console.error(`${folder} holds no report of nvcc: run npm run build:gpu`)
  process.exit(1)
}
const arches = [...new Set(usages.map((usage) => usage.arch))].sort()
console.log(['registers of'.padEnd(36), ...arches.map((arch) => arch.padStart(8))].join(''))
for (const name of new Set(usages.map((usage) => `${usage.file.split('.')[0]} ${usage.kernel}`))) {
  const cells = arches.map((arch) => {
    const found = usages.find(
      (usage) => usage.arch === arch && `${usage.file.split('.')[0]} ${usage.kernel}` === name,
    )
    const text = found === undefined ? '' : `${found.registers}${found.local > 0 ? '!' : ''}`
    return text.padStart(8)
  })
  console.log([name.padEnd(36), ...cells].join(''))
}
const spilled = usages.filter((usage) => usage.local > 0)
for (const { kernel, arch, local } of spilled) {
  console.error(`${kernel} keeps ${local} bytes in local memory on ${arch}`)
}
process.exit(spilled.length > 0 ? 1 : 0)
