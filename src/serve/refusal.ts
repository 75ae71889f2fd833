// What a request is refused with, in the shape that OpenAI's clients read: a status and one record of
// message, type, param and code. Handlers throw it, server.ts sends it. A message may quote the
// request, so it goes back to whoever sent that and never into the log.

export interface RefusalDetails {
  readonly type?: string
  /** The field of the body that is at fault. */
  readonly param?: string | null
  readonly code?: string | number | null
  /** When to come again. */
  readonly retryAfterSeconds?: number
  /** Whether the same request may do better later; false tells clients not to send it again. */
  readonly mayRetry?: boolean
}

export class Refusal extends Error {
  override readonly name = 'Refusal'

  constructor(
    readonly status: number,
    message: string,
    readonly details: RefusalDetails = {},
  ) {
    super(message)
  }

  get body(): { readonly error: Record<string, unknown> } {
    const { type = typeOf(this.status), param = null, code = null } = this.details
    return { error: { message: this.message, type, param, code } }
  }

  get headers(): Record<string, string> {
    const { retryAfterSeconds, mayRetry = true } = this.details
    return {
      ...(retryAfterSeconds === undefined ? {} : { 'retry-after': String(retryAfterSeconds) }),
      ...(mayRetry ? {} : { 'x-should-retry': 'false' }),
    }
  }
}

/** The request is at fault: `param` names the field. */
export function badRequest(message: string, param: string | null = null, code?: string): Refusal {
  return new Refusal(400, message, { param, code: code ?? null })
}

/** What the request asks for left nothing to draw, at some place of its answer. */
export function barred(message: string): Refusal {
  return new Refusal(400, message, { code: 'nothing_to_draw', mayRetry: false })
}

export function unavailable(message: string, retryAfterSeconds: number): Refusal {
  return new Refusal(503, message, { code: 503, retryAfterSeconds })
}

/** Whoever asked is gone: there is nobody to tell. */
export function gone(): Refusal {
  return new Refusal(499, 'the client closed the connection')
}

function typeOf(status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 403) return 'permission_error'
  if (status === 429) return 'rate_limit_error'
  if (status === 503) return 'unavailable_error'
  if (status === 504) return 'timeout_error'
  return status < 500 ? 'invalid_request_error' : 'server_error'
}
