// What the dashboard and the page are fed: a snapshot of the engine (engine/telemetry.ts), and the end of
// a request on demand. What was answered is told only where the server was started with --show-text, what
// was asked never.
import type { FastifyInstance } from 'fastify'
import { snapshotOf } from '../../engine/observer.js'
import type { Snapshot } from '../../engine/telemetry.js'
import { Refusal } from '../refusal.js'
import type { Service } from '../service.js'

/** What the server tells of itself, the engine's figures included when it is open. */
export function serverSnapshot(service: Service, hasMap: boolean): Snapshot {
  const { keeper, gate, model, ceiling } = service
  const facts = keeper.isReady ? keeper.facts : null
  const surroundings = { model, waiting: 0, restarts: keeper.restarts, ceiling }
  const snapshot = snapshotOf(facts, surroundings, hasMap)
  // The gate knows of those that have not reached the engine as well.
  const { running, waiting } = gate
  return { ...snapshot, requests: { ...snapshot.requests, running, waiting } }
}

export function addTelemetry(app: FastifyInstance, service: Service): void {
  const { keeper } = service

  app.get<{ Querystring: { map?: string; text?: string } }>(
    '/telemetry',
    async (request, reply) => {
      reply.header('cache-control', 'no-store')
      const { map, text } = request.query
      const said = text === undefined ? undefined : service.streams?.textOf(Number(text))
      const snapshot = serverSnapshot(service, map === '1')
      return said === undefined ? snapshot : { ...snapshot, said }
    },
  )

  app.delete<{ Params: { number: string }; Querystring: { slot?: string } }>(
    '/telemetry/requests/:number',
    async (request) => {
      const number = Number(request.params.number)
      const slot = Number(request.query.slot)
      if (!Number.isInteger(number) || !Number.isInteger(slot) || !keeper.cancel(slot, number)) {
        throw new Refusal(404, 'there is no such request in work', { code: 'request_not_found' })
      }
      return { cancelled: number }
    },
  )
}
