// The refusal of a body that is too long, given so that its sender reads it. Most clients send all before
// they read, and what comes in after a connection is closed destroys what went out on it; so the refusal is
// out at once, complete by its length, and the rest of the body is read and thrown away, within bounds.
import type { FastifyReply } from 'fastify'

/** Far beyond any body by mistake. */
const DRAIN_BYTES_MAX = 64 * 2 ** 20
const DRAIN_MS = 10_000

export function refuseUnread(
  reply: FastifyReply,
  status: number,
  headers: Readonly<Record<string, string>>,
  body: string,
): void {
  const { raw: response, request } = reply
  const own = Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)])
  reply.hijack()
  response.writeHead(status, {
    ...Object.fromEntries(own),
    ...headers,
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    connection: 'close',
  })
  response.on('error', () => {})
  response.write(body)
  let bytes = 0
  const end = () => response.end()
  const timer = setTimeout(end, DRAIN_MS)
  response.once('close', () => clearTimeout(timer))
  request.raw.on('data', (part: Buffer) => {
    bytes += part.length
    if (bytes > DRAIN_BYTES_MAX) end()
  })
  request.raw.on('end', end).on('error', end)
  request.raw.resume()
}
