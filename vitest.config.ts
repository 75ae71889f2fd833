/**
 * How the tests run: every test/**\/*.test.ts, straight from the TypeScript sources. Forked
 * processes, because a test may load the native addon, and a crash there must fail one file only.
 * Two or more files at a time, and last, one at a time, those that hold a time against a bound.
 */
import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

/** Files that another one beside them could make fail, each with what it holds. */
const timed = [
  // How late /health answers under load, beside how late the machine itself is.
  'test/serve-load.test.ts',
  // Which of two settings is surely faster.
  'test/tuned.test.ts',
  // How long a trillion parameters take to open, and that they do it within 2 GB.
  'test/geometry.test.ts',
  // That a command ends within a second or two of Ctrl-C.
  'test/cli-interrupt.test.ts',
]

export default defineConfig({
  test: {
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'side by side',
          include: ['test/**/*.test.ts'],
          exclude: timed,
          // By itself vitest leaves a core free, which of two is half. More than four would take too much memory.
          maxWorkers: Math.min(4, Math.max(2, availableParallelism() - 1)),
        },
      },
      {
        extends: true,
        test: { name: 'alone', include: timed, maxWorkers: 1, sequence: { groupOrder: 1 } },
      },
    ],
  },
})
