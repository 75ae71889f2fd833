// `npm run proof`: measures what must be shown as figures and writes them to docs/proof.md.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { include: ['test/**/*.proof.ts'], testTimeout: 300_000, pool: 'forks', maxWorkers: 1 },
})
