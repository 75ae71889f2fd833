// The examples, each run as its head says, against the bundled model.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { checkoutIn, shell, typeless } from './checkout.js'
import { withFolder } from './command.js'
import { startServer } from './serving.js'

it('the library, from TypeScript', async () => {
  await withFolder(async (folder) => {
    const checkout = checkoutIn(folder)
    const { ran } = shell(checkout, `node ${typeless(checkout, 'examples/library.ts')}`)
    const { status, stdout, stderr } = await ran
    expect(stderr).toMatch(/^ring-tiny on cpu/)
    expect(stdout).toMatch(/^\[[^\]]+\]\n85\n\d+: \d+ tokens, \d+ per second\n$/)
    expect(status).toBe(0)
  })
})

it('the OpenAI client', async () => {
  const server = await startServer()
  try {
    await withFolder(async (folder) => {
      const checkout = checkoutIn(folder)
      const script = typeless(checkout, 'examples/openai-client.ts')
      const address = { OPENAI_BASE_URL: `${server.url}/v1` }
      const { status, stdout, stderr } = await shell(checkout, `node ${script}`, address).ran
      expect(stderr).toBe('')
      expect(stdout).toMatch(/^\[[^\]]+\]\n85\n\{"sum": [789]5\}\n$/)
      expect(status).toBe(0)
    })
  } finally {
    await server.close()
  }
})

it('the batch file', async () => {
  await withFolder(async (folder) => {
    const checkout = checkoutIn(folder)
    const words = 'npx ring-offload batch -i examples/sums.jsonl -o answers.jsonl'
    const { status, stderr } = await shell(checkout, words).ran
    expect(status, stderr).toBe(0)
    const lines = readFileSync(join(checkout.folder, 'answers.jsonl'), 'utf8').trim().split('\n')
    const right = lines.filter((line) => JSON.parse(line).grade.right[0] === true)
    expect([lines.length, right.length]).toEqual([24, 24])
  })
})
