#!/usr/bin/env node
// The program: which commands there are, and how they end. Each command's own code is loaded only when
// it is asked for, so that help is instant and an answer begins soon. Nothing but this file prints
// errors or sets the exit status: 0 done, 1 failed, 2 wrong usage.
import { Command, CommanderError } from 'commander'
import { systemReason } from '../model/error.js'
import { addBatchFlags, type BatchFlags } from './batchflags.js'
import { addBenchFlags, type BenchFlags } from './benchflags.js'
import { addDoctorFlags, type DoctorFlags } from './doctorflags.js'
import { Failure, failureOf, oneLine, Status, stackOf, tell } from './failure.js'
import {
  addDrawFlags,
  addPromptFlags,
  addServeFlags,
  addSharedFlags,
  addTalkFlags,
  addVerifyFlags,
  type ChatFlags,
  type RunFlags,
  type ServeFlags,
  type SharedFlags,
  type VerifyFlags,
} from './flags.js'
import { addSynthFlags, addWidenFlags, type SynthFlags, type WidenFlags } from './newmodelflags.js'
import { addPlanFlags, type PlanFlags } from './planflags.js'
import { addPullFlags, type PullFlags } from './pullflags.js'
import { addScoreFlags, type ScoreFlags } from './scoreflags.js'
import { addScreenFlags, addTopFlags, type TopFlags } from './screenflags.js'
import { addSimulateFlags, type SimulateFlags } from './simulateflags.js'
import { packageVersion } from './source.js'
import { addTuneFlags, type TuneFlags } from './tuneflags.js'

guardStreams()
process.on('uncaughtException', (error) => process.exit(told(error)))
process.exitCode = await main(process.argv)

async function main(words: readonly string[]): Promise<number> {
  try {
    const ended: { status: number } = { status: Status.done }
    const program = programOf((status) => {
      ended.status = status
    })
    settleEnvironment(program)
    await program.parseAsync(words)
    return ended.status
  } catch (error) {
    // Commander has said what is wrong with the words already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? Status.done : Status.usage
    return told(error)
  }
}

function told(error: unknown): number {
  const { message, status } = failureOf(error)
  tell(message)
  const stack = stackOf(error)
  if (stack !== null) process.stderr.write(`${stack}\n`)
  return status
}

function programOf(end: (status: number) => void): Command {
  const program = new Command('ring-offload')
    .description('Runs a mixture-of-experts model that is larger than memory.')
    .version(packageVersion())
    .exitOverride()
    .configureOutput({
      outputError: (text, write) =>
        write(`ring-offload: ${oneLine(text.replace(/^error: /, ''))}\n`),
    })
  const command = (name: string, description: string) =>
    program
      .command(name)
      .description(description)
      .argument('[MODEL]', 'a folder, or ORG/NAME in the Hugging Face cache (default: ring-tiny)')

  const run = command('run', 'answer one prompt; greedy unless --temp is given')
  addScreenFlags(addDrawFlags(addTalkFlags(addPromptFlags(run)))).action(
    async (model: string | undefined, flags: RunFlags) => {
      end(await (await import('./run.js')).run(model, flags))
    },
  )
  const chat = command('chat', 'talk, line by line')
  addScreenFlags(addDrawFlags(addTalkFlags(chat))).action(
    async (model: string | undefined, flags: ChatFlags) => {
      end(await (await import('./chat.js')).chat(model, flags))
    },
  )
  const batch = command('batch', 'answer a file of requests; goes on after any end')
  addScreenFlags(addBatchFlags(batch)).action(
    async (model: string | undefined, flags: BatchFlags) => {
      end(await (await import('./batch.js')).batch(model, flags))
    },
  )
  const score = command('score', 'log-probabilities and chosen experts of given tokens or texts')
  addScoreFlags(score).action(async (model: string | undefined, flags: ScoreFlags) => {
    end(await (await import('./score.js')).score(model, flags))
  })
  const serve = command('serve', 'answer over HTTP, in the manner of OpenAI')
  addScreenFlags(addServeFlags(serve)).action(
    async (model: string | undefined, flags: ServeFlags) => {
      end(await (await import('./serve.js')).serve(model, flags))
    },
  )
  const top = program.command('top').description('the dashboard on a running server')
  addTopFlags(top).action(async (flags: TopFlags) => {
    end(await (await import('./top.js')).top(flags))
  })
  const inspect = command('inspect', 'what a checkpoint is, and what of it fits this machine')
  inspect.action(async (model: string | undefined, flags: SharedFlags) => {
    end(await (await import('./inspect.js')).inspect(model, flags))
  })
  const bench = command('bench', 'how fast a model runs here, and what bounds it')
  addBenchFlags(bench).action(async (model: string | undefined, flags: BenchFlags) => {
    end(await (await import('./bench.js')).bench(model, flags))
  })
  const verify = command('verify', 'read all weights: record their checksums, or compare them')
  addVerifyFlags(verify).action(async (model: string | undefined, flags: VerifyFlags) => {
    end(await (await import('./verify.js')).verify(model, flags))
  })
  const tune = command('tune', 'find settings that make a model faster here, and keep them')
  addTuneFlags(tune).action(async (model: string | undefined, flags: TuneFlags) => {
    end(await (await import('./tune.js')).tune(model, flags))
  })
  const shared = [batch, bench, run, chat, serve, score, inspect, verify, tune]
  for (const one of shared) addSharedFlags(one)
  const pull = program
    .command('pull')
    .description('fetch a model from the Hugging Face hub into its cache, checked')
    .argument('<MODEL>', 'ORG/NAME, with @REVISION where it is not main')
  addPullFlags(pull).action(async (model: string, flags: PullFlags) => {
    end(await (await import('./pull.js')).pull(model, flags))
  })
  const doctor = program
    .command('doctor')
    .description('what this machine is worth to a large model, measured, and what would help it')
    .argument(
      '[DIR...]',
      'folders on the drives to look at (default: the Hugging Face cache and .)',
    )
  addDoctorFlags(doctor).action(async (folders: string[], flags: DoctorFlags) => {
    end(await (await import('./doctor.js')).doctor(folders, flags))
  })
  const plan = program
    .command('plan')
    .description('what to expect of a model on a machine, before its weights are there')
    .argument('<MODEL>', 'ORG/NAME of a published model, a folder, or a config.json')
  addPlanFlags(plan).action(async (model: string, flags: PlanFlags) => {
    end(await (await import('./plan.js')).plan(model, flags))
  })
  const widen = program
    .command('widen')
    .description('a larger model with the routing of SRC, for measuring')
    .argument('<SRC>', 'a folder, or ORG/NAME in the Hugging Face cache')
    .argument('<OUT>', 'a new or an empty folder')
  addWidenFlags(widen).action(async (model: string, out: string, flags: WidenFlags) => {
    end(await (await import('./widen.js')).widen(model, out, flags))
  })
  const synth = program
    .command('synth')
    .description('a model of any config with random weights, for measuring')
    .argument('<CONFIG>', 'a config.json, or a folder that has one')
    .argument('<OUT>', 'a new or an empty folder')
  addSynthFlags(synth).action(async (config: string, out: string, flags: SynthFlags) => {
    end(await (await import('./synth.js')).synth(config, out, flags))
  })
  const simulate = program
    .command('simulate')
    .description('what policies and slots would make of recorded routing')
    .argument('[TRACE...]', 'routing traces, as --trace writes them or as CSV')
  addSimulateFlags(simulate).action(async (traces: string[], flags: SimulateFlags) => {
    end(await (await import('./simulate.js')).simulate(traces, flags))
  })
  return program
}

/**
 * Commander takes a switch for given whenever its variable exists, whatever it says. So a variable
 * that is empty, or that switches off, is taken out here; one that says neither is a mistake.
 */
function settleEnvironment(program: Command): void {
  for (const { envVar, required } of program.commands.flatMap((command) => command.options)) {
    const value = envVar === undefined ? undefined : process.env[envVar]
    if (envVar === undefined || value === undefined) continue
    const isOff = !required && /^(?:0|false|no|off)$/i.test(value)
    if (value === '' || isOff) {
      delete process.env[envVar]
    } else if (!required && !/^(?:1|true|yes|on)$/i.test(value)) {
      throw new Failure(`${envVar} must be 1 or 0, found ${value}`, Status.usage)
    }
  }
}

/** A reader that has had enough, such as head, is no failure; a full disk is. */
function guardStreams(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(Status.done)
    process.exit(told(new Failure(`standard output: cannot be written: ${systemReason(error)}`)))
  })
  process.stderr.on('error', () => {})
}
