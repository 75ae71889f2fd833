// The public OpenAI client against `npx ring-offload serve`: a streamed answer, its thinking in brackets, then
// one as JSON of a given shape. OPENAI_BASE_URL says where the server is; a key is needed only where the
// server was given one. Run it with `node examples/openai-client.ts` (Node 22.18 and newer, or tsx).
import OpenAI from 'openai'

const { OPENAI_BASE_URL, OPENAI_API_KEY } = process.env
const client = new OpenAI({
  baseURL: OPENAI_BASE_URL ?? 'http://127.0.0.1:8080/v1',
  apiKey: OPENAI_API_KEY ?? 'none',
  // A cold prompt of a model of a terabyte takes minutes.
  timeout: 60 * 60 * 1000,
})

const question = { role: 'user', content: 'What is 37 + 48?' } as const
const common = { model: 'any', messages: [question], temperature: 0, max_tokens: 200 }
const stream = await client.chat.completions.create({ ...common, stream: true })
let wasThinking = false
for await (const { choices } of stream) {
  // The client's types do not know of thinking; the field is there.
  const delta: { content?: string | null; reasoning_content?: string } = choices[0]?.delta ?? {}
  const isThinking = delta.reasoning_content !== undefined
  if (isThinking !== wasThinking) process.stdout.write(isThinking ? '[' : ']\n')
  process.stdout.write(delta.reasoning_content ?? delta.content ?? '')
  wasThinking = isThinking
}

const schema = { type: 'object', properties: { sum: { enum: [75, 85, 95] } }, required: ['sum'] }
const shaped = await client.chat.completions.create({
  ...common,
  response_format: { type: 'json_schema', json_schema: { name: 'sum', strict: true, schema } },
})
console.log(`\n${shaped.choices[0]?.message.content}`)
