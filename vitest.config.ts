/**
 * How the tests run: every test/**\/*.test.ts, straight from the TypeScript sources. Forked
 * processes, because a test may load the native addon, and a crash there must fail one file only.
 */
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
})
