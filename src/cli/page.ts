// A page of figures that needs nothing else: no script, no font, nothing fetched. Light and dark by the reader's
// own setting. Text of strangers (names of traces and models) is shown in it, never obeyed.

/** What a line of a drawing is called, and the class that gives it its colour and dashes. */
export interface Named {
  readonly name: string
  readonly className: string
}

/** `body`: sections. */
export function pageOf(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>${escaped(title)}</h1>
${body}
</main>
</body>
</html>
`
}

export function legendOf(lines: readonly Named[]): string {
  const entries = lines.map(
    ({ name, className }) =>
      `<li class="${className}"><svg viewBox="0 0 24 8" aria-hidden="true"><path d="M0 4H24"/></svg>${escaped(name)}</li>`,
  )
  return `<ul class="legend">${entries.join('')}</ul>`
}

export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

const style = `
:root { color-scheme: light dark; --surface: #fcfcfb; --page: #f4f4f2; --ink: #1a1a19; --quiet: #63625e;
  --rule: #e3e2de; --s1: #2a78d6; --s2: #d95926; --s3: #12805c; --s4: #b37400; --s5: #c2417a; --s6: #4a3aa7;
  --s7: #008300; --s8: #c92f2f; --h0: #f0efec; --h1: #cde2fb; --h2: #9ec5f4; --h3: #6da7ec; --h4: #3987e5;
  --h5: #256abf; --h6: #184f95; --h7: #0d366b }
@media (prefers-color-scheme: dark) { :root { --surface: #1a1a19; --page: #111110; --ink: #f4f3ef;
  --quiet: #a3a29c; --rule: #34332f; --s1: #4b96ee; --s2: #e8764a; --s3: #2bb58c; --s4: #d39a2a; --s5: #e573a5;
  --s6: #9d92ef; --s7: #4caf50; --s8: #ea6f6f; --h0: #232321; --h1: #0d2f5c; --h2: #184f95; --h3: #256abf;
  --h4: #3987e5; --h5: #6da7ec; --h6: #9ec5f4; --h7: #e3effd } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 24px; font-weight: 600; margin: 0 0 24px }
h2 { font-size: 18px; font-weight: 600; margin: 0; overflow-wrap: anywhere }
section { background: var(--surface); border: 1px solid var(--rule); border-radius: 10px; padding: 24px; margin: 0 0 24px }
.quiet, figcaption, dt { color: var(--quiet) }
.quiet { margin: 0 0 16px; font-size: 13px; overflow-wrap: anywhere }
dl { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 0 0 20px }
dl div { display: flex; flex-direction: column-reverse }
dt { font-size: 13px }
dd { margin: 0; font-size: 22px; font-weight: 600 }
figure { margin: 0 0 28px }
figcaption { font-size: 14px; margin: 0 0 8px }
figure svg { display: block; width: 100%; height: auto }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 0 0 4px; padding: 0; font-size: 14px }
.legend svg { display: inline-block; width: 24px; height: 8px; margin-right: 7px; vertical-align: middle }
.legend path, .line { fill: none; stroke: var(--of); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.band { fill: var(--of); opacity: 0.13 }
.bound path, .bound .line { stroke-dasharray: 5 5 }
.dot { fill: var(--of); stroke: var(--surface); stroke-width: 2 }
.hit { fill: transparent }
.grid { stroke: var(--rule) }
text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums }
${[1, 2, 3, 4, 5, 6, 7, 8].map((at) => `.s${at} { --of: var(--s${at}) }`).join(' ')}
${[0, 1, 2, 3, 4, 5, 6, 7].map((at) => `.h${at} { fill: var(--h${at}) }`).join(' ')}
summary { cursor: pointer; color: var(--quiet) }
.wide { overflow-x: auto }
pre { margin: 12px 0 0; font-size: 13px }
table { border-collapse: collapse; margin-top: 12px; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule) }
th:first-child { text-align: left }
thead th { color: var(--quiet); font-weight: 400; vertical-align: bottom }
tbody th { font-weight: 500 }
`
