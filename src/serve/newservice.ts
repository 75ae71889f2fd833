// Puts the parts of a service together. Apart from what routes know of one, because a batch job has the
// shapes of the routes and none of these parts.
import { GrammarThreads } from '../engine/grammarthreads.js'
import { thinkingTagsOf } from '../model/thinkingtags.js'
import { Gate } from './gate.js'
import { GrammarTrials } from './grammars.js'
import { Keeper } from './keeper.js'
import { Metrics } from './metrics.js'
import { Prompts } from './prompts.js'
import type { Service, ServiceWishes } from './service.js'
import { Streams } from './streams.js'

/** The parts of a service; the model is opened later. */
export function newService(wishes: ServiceWishes): Service {
  const streams = wishes.showsText === true ? new Streams(wishes.tokenizer) : null
  const grammars = new GrammarThreads(wishes.folder)
  const open = () => wishes.open(grammars)
  const keeper = new Keeper(open, wishes.log, (engine) => {
    streams?.forget()
    if (streams !== null) engine.onToken = (number, token) => streams.drew(number, token)
  })
  const gate = new Gate(wishes.parallel, wishes.queue)
  return {
    ...wishes,
    created: Math.floor(Date.now() / 1000),
    keeper,
    streams,
    gate,
    thinking: { tags: thinkingTagsOf(wishes.tokenizer), budget: wishes.reasoningBudget },
    prompts: new Prompts(wishes.folder),
    grammars: new GrammarTrials(grammars),
    metrics: new Metrics(gate, keeper),
    shutdown: new AbortController(),
  }
}
