// Figures as a person reads them: numbers of three digits, bars, small curves. What is not there is a
// dash, which is no zero.
import { type Line, line, type Span, type Style, span } from './cells.js'

export const absent = '–'

const eighths = ' ▏▎▍▌▋▊▉█'
const heights = '▁▂▃▄▅▆▇█'

export function countText(value: number | undefined): string {
  if (value === undefined) return absent
  if (value < 100_000) return String(Math.round(value))
  return value < 1e8 ? `${(value / 1e6).toPrecision(3)}M` : `${(value / 1e9).toPrecision(3)}G`
}

export function rateText(value: number | undefined): string {
  if (value === undefined) return absent
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)
}

export function shareText(share: number | undefined): string {
  return share === undefined ? absent : `${(100 * share).toFixed(1)} %`
}

/** Decimal units, three digits. */
export function bytesText(bytes: number | undefined): string {
  if (bytes === undefined) return absent
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  let [value, unit] = [bytes, 0]
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${unit === 0 ? value.toFixed(0) : value.toPrecision(3)} ${units[unit]}`
}

export function secondsText(seconds: number | undefined): string {
  if (seconds === undefined) return absent
  if (seconds < 60) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** A bar of so many columns; what is not known is dotted. */
export function gauge(share: number | undefined, columns: number, style: Style): Line {
  if (share === undefined) return line(span('·'.repeat(columns), 'dim'))
  const filled = Math.max(0, Math.min(1, share)) * columns
  const whole = Math.floor(filled)
  const part = whole < columns ? (eighths[Math.floor((filled - whole) * 8)] ?? '').trim() : ''
  const bar = '█'.repeat(whole) + part
  return line(span(bar, style), span('░'.repeat(columns - whole - part.length), 'dim'))
}

/** The last values, one column each; the highest of them, or `most`, is a full column. */
export function curve(
  values: readonly (number | undefined)[],
  columns: number,
  style: Style,
  most?: number,
): Span {
  if (columns <= 0) return span('', style)
  const last = values.slice(-columns)
  const top = most ?? Math.max(...last.map((value) => value ?? 0))
  const drawn = last.map((value) => {
    if (value === undefined) return ' '
    const level = top > 0 ? Math.round(Math.max(0, Math.min(1, value / top)) * 7) : 0
    return heights[level] ?? ' '
  })
  return span(' '.repeat(columns - drawn.length) + drawn.join(''), style)
}
