// What went wrong with a request becomes what its client is told: a refusal as it is, a fault of the
// request in our words, a fault of ours as no more than that, with its place in the log.
import type { FastifyError, FastifyReply } from 'fastify'
import { refuseUnread } from './oversize.js'
import { badRequest, Refusal } from './refusal.js'

export const BODY_BYTES_MAX = 8 * 2 ** 20

/** OpenAI's shape of a refusal. */
export function bodyOf({ body }: Refusal): object {
  return body
}

/** Answers with the error, in the shape that the client's family of routes has. */
export function sendError(
  error: unknown,
  reply: FastifyReply,
  log: (line: string) => void,
  shapeOf: (refusal: Refusal) => object,
): void {
  const refusal = refusalOf(error)
  if (refusal === null) {
    // Its message may quote the request, so the log has its kind and place only.
    log(`internal error: ${placeOf(error)}`)
    reply.status(500).send(shapeOf(new Refusal(500, 'internal error')))
    return
  }
  const { status, headers } = refusal
  if (status === 413) refuseUnread(reply, status, headers, JSON.stringify(shapeOf(refusal)))
  else reply.status(status).headers(headers).send(shapeOf(refusal))
}

/** What a client is told; null: the fault is ours. */
function refusalOf(error: unknown): Refusal | null {
  if (error instanceof Refusal) return error
  if (!(error instanceof Error)) return null
  const { statusCode = 500, code = '' } = error as Partial<FastifyError>
  if (statusCode < 400 || statusCode >= 500) return null
  if (statusCode === 413) {
    return new Refusal(413, `the body is larger than ${BODY_BYTES_MAX} bytes`)
  }
  if (statusCode === 415)
    return new Refusal(415, 'the body must be JSON: content-type application/json')
  if (code.startsWith('FST_ERR_CTP_')) return badRequest('the body is no JSON that can be read')
  return new Refusal(statusCode, error.message, { code })
}

function placeOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error
  const [, place = ''] = /\n\s+(at .*)/.exec(error.stack ?? '') ?? []
  return `${error.name} ${place}`
}
