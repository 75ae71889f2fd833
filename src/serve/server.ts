// The HTTP server: limits, keys, errors in one shape, routes; and its life: it listens before the
// model is loaded, so that whoever waits can see that it loads, and when asked to stop it lets what is
// in work end. Everything that a stranger can send is bounded here: connections, headers, bodies, how
// deep a body nests, how long it may take to arrive. CORS is off: no page of another origin may ask.
import { randomUUID } from 'node:crypto'
import type { Socket } from 'node:net'
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import { BODY_BYTES_MAX, bodyOf, sendError } from './faults.js'
import { hostNamed, isLoopback, type Keys } from './keys.js'
import { badRequest, Refusal, unavailable } from './refusal.js'
import { addChat } from './routes/chat.js'
import { addCompletions } from './routes/completions.js'
import { addMessages } from './routes/messages.js'
import { addModel } from './routes/model.js'
import { addPage } from './routes/page.js'
import { addResponses } from './routes/responses.js'
import { addTelemetry } from './routes/telemetry.js'
import { addTokens } from './routes/tokens.js'
import type { Service } from './service.js'

const BODY_DEPTH_MAX = 64
const HEADER_BYTES_MAX = 16 * 2 ** 10
const CONNECTIONS_MAX = 1024
/** For headers and body to arrive. */
const ARRIVAL_MS = 60_000

export interface Address {
  readonly host: string
  /** 0: any that is free. */
  readonly port: number
  readonly keys: Keys
}

export class Server {
  readonly #app: FastifyInstance
  #isDraining = false

  private constructor(
    private readonly service: Service,
    private readonly address: Address,
  ) {
    this.#app = newApp(service)
    this.#guard()
    addModel(this.#app, service)
    addTokens(this.#app, service)
    addTelemetry(this.#app, service)
    addPage(this.#app)
    addChat(this.#app, service)
    addCompletions(this.#app, service)
    addResponses(this.#app, service)
    addMessages(this.#app, service)
  }

  /** Listens. Rejects when the port cannot be had. */
  static async listen(service: Service, address: Address): Promise<Server> {
    const server = new Server(service, address)
    await server.#app.listen({ host: address.host, port: address.port })
    const { server: http } = server.#app
    http.maxConnections = CONNECTIONS_MAX
    http.on('request', (_request, response) => {
      // A connection that was kept for more would keep a closing server open.
      response.once('close', () => {
        if (server.#isDraining) setImmediate(() => http.closeIdleConnections())
      })
    })
    return server
  }

  get url(): string {
    const bound = this.#app.server.address()
    const port = typeof bound === 'object' ? bound?.port : this.address.port
    return `http://${this.address.host.includes(':') ? `[${this.address.host}]` : this.address.host}:${port}`
  }

  /** Takes no more work, waits for what there is, at most so long, and closes all. */
  async close(graceMs: number): Promise<void> {
    this.#isDraining = true
    const closed = this.#app.close()
    const timer = setTimeout(() => {
      this.service.shutdown.abort()
      // Those that can be told are told first.
      setTimeout(() => this.#app.server.closeAllConnections(), 100).unref()
    }, graceMs)
    await closed
    clearTimeout(timer)
    await this.service.keeper.close()
    await this.service.prompts.close()
    await this.service.grammars.close()
  }

  /** Before anything else of a request is looked at. */
  #guard(): void {
    const { keys, host } = this.address
    const isLocal = keys.areNone && isLoopback(host)
    this.#app.addHook('onRequest', async (request, reply) => {
      reply.header('x-request-id', request.id)
      // What was open before the draining began may still carry requests.
      if (this.#isDraining) {
        reply.header('connection', 'close')
        throw unavailable('the server is closing', 5)
      }
      if (isLocal && !isLoopback(hostNamed(request.headers.host))) {
        throw new Refusal(403, 'this server answers to the name of this machine only', {
          code: 'foreign_host',
        })
      }
      if (keys.areNone || isOpen(request.routeOptions.url)) return
      if (!keys.admit(request.headers)) {
        throw new Refusal(401, 'a key is needed: Authorization: Bearer KEY, or x-api-key: KEY', {
          code: 'invalid_api_key',
        })
      }
    })
  }
}

function newApp(service: Service): FastifyInstance {
  const app = fastify({
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: ARRIVAL_MS,
    http: { maxHeaderSize: HEADER_BYTES_MAX },
    // The hook above says it in our shape.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    genReqId: () => `req_${randomUUID().replaceAll('-', '')}`,
    requestIdHeader: false,
    clientErrorHandler: (error, socket) => endSocket(error.code, socket),
    frameworkErrors: (error, _request, reply) => sendError(error, reply, service.log, bodyOf),
  })
  // Text can be sent by a page of any origin without asking; JSON cannot.
  app.removeContentTypeParser('text/plain')
  app.setErrorHandler((error, _request, reply: FastifyReply) =>
    sendError(error, reply, service.log, bodyOf),
  )
  app.setNotFoundHandler(async () => {
    throw new Refusal(404, 'there is no such endpoint, or not for this method')
  })
  app.addHook('preValidation', async (request) => {
    if (isDeeper(request.body, BODY_DEPTH_MAX)) {
      throw badRequest(`the body nests deeper than ${BODY_DEPTH_MAX} levels`)
    }
  })
  return app
}

/** Told to anybody: whether it lives, and the page in which a key can be typed. */
function isOpen(url: string | undefined): boolean {
  return url === '/health' || url === '/' || url?.startsWith('/page/') === true
}

/** What node's parser refuses has no request yet, only a socket. */
function endSocket(code: string | undefined, socket: Socket): void {
  if (code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy()
    return
  }
  const [status, text, message] =
    code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'Request Header Fields Too Large', `the headers exceed ${HEADER_BYTES_MAX} bytes`]
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'Request Timeout', `the request took longer than ${ARRIVAL_MS / 1000} s to arrive`]
        : [400, 'Bad Request', 'this is no HTTP request that can be read']
  const body = JSON.stringify(new Refusal(status, message).body)
  socket.end(
    `HTTP/1.1 ${status} ${text}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  )
}

/** Without recursion: the body is a stranger's. */
function isDeeper(value: unknown, depthMax: number): boolean {
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > depthMax) return true
    level = level.flatMap((one) =>
      typeof one === 'object' && one !== null ? Object.values(one) : [],
    )
  }
  return false
}
