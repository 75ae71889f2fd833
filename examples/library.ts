// The library: an answer as it comes, its thinking in brackets; then what a second one cost, with a limit to
// its thoughts and to its time. Run it with `node examples/library.ts` (Node 22.18 and newer take TypeScript
// as it is, older ones through tsx).
import { Engine, EngineError } from 'ring-offload'

// Left out, the model is the small one of the package; else a folder, or ORG/NAME in the Hugging Face cache.
const engine = await Engine.open(process.argv[2], { expertRam: '50%', log: console.error })
try {
  let last = ''
  for await (const { kind, text } of engine.chat('What is 37 + 48?')) {
    if (kind !== last) process.stdout.write(kind === 'reasoning' ? '[' : ']\n')
    process.stdout.write(text)
    last = kind
  }
  const messages = [
    { role: 'user', content: 'What is 5 + 6?' },
    { role: 'assistant', content: '11' },
    { role: 'user', content: 'What is 12 + 9?' },
  ] as const
  const signal = AbortSignal.timeout(60_000)
  const answer = await engine.chat(messages, { reasoningBudget: 64, signal }).whole()
  const { completionTokens, decodeSeconds } = answer.stats
  const rate = Math.round((completionTokens - 1) / decodeSeconds)
  console.log(`\n${answer.text}: ${completionTokens} tokens, ${rate} per second`)
} catch (error) {
  // What goes wrong is a sentence for a person.
  if (!(error instanceof EngineError)) throw error
  console.error(error.message)
  process.exitCode = 1
} finally {
  await engine.close()
}
