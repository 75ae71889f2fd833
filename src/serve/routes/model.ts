// What the server says of itself: the model, whether it is ready, what it was opened with, figures.
// Nothing here names a path.
import type { FastifyInstance } from 'fastify'
import { Refusal, unavailable } from '../refusal.js'
import type { Service } from '../service.js'

export function addModel(app: FastifyInstance, service: Service): void {
  const { model, keeper, metrics } = service
  const card = () => ({
    id: model,
    object: 'model',
    created: service.created,
    owned_by: 'ring-offload',
    ...(keeper.facts === null ? {} : { max_model_len: keeper.facts.plan.contextTokens }),
  })

  app.get('/health', async () => {
    if (!keeper.isReady) throw unavailable('Loading model', 1)
    return { status: 'ok' }
  })

  app.get('/v1/models', async () => ({ object: 'list', data: [card()] }))

  // A name in the hub has a slash.
  app.get<{ Params: { '*': string } }>('/v1/models/*', async (request) => {
    if (request.params['*'] === model) return card()
    throw new Refusal(404, `there is one model here, ${model}`, {
      param: 'model',
      code: 'model_not_found',
    })
  })

  app.get('/props', async () => {
    const { config, plan, experts, device, expertBytes } = keeper.readyFacts()
    return {
      model,
      build_info: service.version,
      device,
      total_slots: service.parallel,
      n_ctx: plan.contextTokens,
      kv_type: plan.kvType,
      vocabulary: config.vocabulary,
      eos_token_ids: config.eosIds,
      experts: {
        load_mode: experts.loadMode,
        total: experts.experts,
        slots: experts.slots,
        bytes_each: expertBytes,
      },
      default_generation_settings: { temperature: 1, top_p: 1, top_k: 0, min_p: 0 },
    }
  })

  app.get('/metrics', async (_request, reply) => {
    reply.type(metrics.registry.contentType)
    return metrics.registry.metrics()
  })

  app.all('/v1/embeddings', async () => {
    throw new Refusal(400, 'this server gives no embeddings: the model predicts text', {
      code: 'unsupported_endpoint',
    })
  })
}
