// `npm run proof`: measures what must be shown as figures and writes them to docs/proof.md. Takes about
// 40 minutes and 10 GB of disk; `npm run proof -- kernels` and the like measure a part of it.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.proof.ts'],
    globalSetup: ['test/proof.setup.ts'],
    testTimeout: 3_600_000,
    hookTimeout: 600_000,
    pool: 'forks',
    maxWorkers: 1,
  },
})
