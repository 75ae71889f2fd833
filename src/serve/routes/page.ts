// The page at `/`: three files, read once and given from memory. The browser may load nothing from
// elsewhere and run nothing that stands in the page itself. It is the same for everybody and tells
// nothing of the model; what it then asks for needs the key like everything else.
import { readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'

const folder = new URL('../page/', import.meta.url)

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "form-action 'none'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')

const files = [
  ['/', 'index.html', 'text/html; charset=utf-8'],
  ['/page/page.css', 'page.css', 'text/css; charset=utf-8'],
  ['/page/page.js', 'page.js', 'text/javascript; charset=utf-8'],
] as const

export function addPage(app: FastifyInstance): void {
  for (const [url, name, type] of files) {
    const content = readFileSync(new URL(name, folder))
    app.get(url, async (_request, reply) => {
      reply.type(type)
      reply.header('content-security-policy', policy)
      reply.header('x-content-type-options', 'nosniff')
      reply.header('referrer-policy', 'no-referrer')
      reply.header('cache-control', 'no-cache')
      return content
    })
  }
}
