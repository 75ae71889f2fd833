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

/**
 * Files that start no process, open no device and change nothing that outlives them: they share the
 * processes that run them, which load sources and packages once.
 */
const pure = [
  'auto',
  'batch-size',
  'cache-ahead',
  'cache-rules',
  'cache',
  'checkpoint',
  'config',
  'energy',
  'forecast-learning',
  'forecast-margins',
  'forecast-simulate',
  'locate',
  'manifest',
  'memory',
  'pieces',
  'policy',
  'progress',
  'real-configs',
  'remedies',
  'safetensors',
  'serve-calls',
  'serve-reading',
  'simulate-figures',
  'simulate-generate',
  'simulate-learned',
  'simulate-machine',
  'simulate-policies',
  'simulate-rehearsal',
  'template',
  'text-fuzz',
  'textstream',
  'thinking',
  'tokenizer',
  'tune-search',
].map((name) => `test/${name}.test.ts`)

// By itself vitest leaves a core free, which of two is half. More than four would take too much memory.
const maxWorkers = Math.min(4, Math.max(2, availableParallelism() - 1))

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
          exclude: [...timed, ...pure],
          maxWorkers,
        },
      },
      {
        extends: true,
        test: { name: 'together', include: pure, isolate: false, maxWorkers },
      },
      {
        extends: true,
        test: { name: 'alone', include: timed, maxWorkers: 1, sequence: { groupOrder: 1 } },
      },
    ],
  },
})
