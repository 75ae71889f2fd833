/**
 * How the tests run: every test/**\/*.test.ts, straight from the TypeScript sources. Forked
 * processes, because a test may load the native addon, and a crash there must fail one file only.
 */
import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    // By itself vitest leaves a core free, which of two is half, and tests mostly wait for programs.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
})
