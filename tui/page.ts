// A screen as a page that needs nothing else, and as plain text.
import { type Line, type Style, textOf } from './cells.js'

const colours: Readonly<Record<Style, string>> = {
  plain: 'color:#d0d0d0',
  dim: 'color:#808080',
  strong: 'color:#ffffff;font-weight:bold',
  title: 'color:#5fd7d7;font-weight:bold',
  good: 'color:#5fd75f',
  fair: 'color:#d7d75f',
  poor: 'color:#ff5f5f;font-weight:bold',
  cool: 'color:#5fafd7',
  chosen: 'color:#101010;background:#d0d0d0',
}

export function screenText(lines: readonly Line[]): string {
  return `${lines.map((one) => textOf(one).trimEnd()).join('\n')}\n`
}

export function screenPage(lines: readonly Line[], title: string): string {
  const styles = Object.entries(colours).map(([style, css]) => `.${style}{${css}}`)
  const body = lines.map((one) =>
    one.map(({ text, style }) => `<span class="${style}">${escaped(text)}</span>`).join(''),
  )
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${escaped(title)}</title>
<style>body{background:#101010}pre{font:14px/1.15 monospace}${styles.join('')}</style>
<pre>${body.join('\n')}</pre></html>
`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')
}
