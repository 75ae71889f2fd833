// One program, run under the limits that the system keeps: its time, memory, files and processes, no
// network, nothing of the drives to write to but a folder in memory that is gone with it. It is done with
// the system's own commands (setpriv, unshare, prlimit), so what they may not do here cannot be had. It
// knows nothing of graders or jobs. It keeps mistakes, and what a model wrote, from doing harm; what the
// user may read can be read, and sockets in the file system can be reached.
import { type ChildProcess, spawn } from 'node:child_process'
import { chownSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'

export interface Limits {
  /** Of the clock, and of processor time for each process. */
  readonly seconds: number
  /** Address space of each process. */
  readonly memoryBytes: number
  /** All files together, where the program is confined; else each. */
  readonly fileBytes: number
}

/** How it ended; `refused`: it could not be begun; `stopped`: whoever asked wanted it no longer. */
export type Ended = `status ${number}` | `signal ${string}` | 'time' | 'refused' | 'stopped'

export interface Run {
  readonly ended: Ended
  /** Why it could not be begun, in the words of the system's commands. */
  readonly said: string
}

/** For the system's own part, which is not the program's time. */
const SETUP_MS = 30_000
const SAID_CHARS_MAX = 300
/** Nobody: root's files are not a stranger's to write to. */
const NOBODY = 65534

/**
 * $1 folder, $2 bytes of files, $3 bytes of memory, $4 seconds. Every mount but the folder becomes
 * read-only, then the right to undo that is given up. Descriptor 3 tells that the program begins. The shell
 * stays, because the first process of a namespace does not die of most signals; cat makes a pipe of the
 * socket that standard input is, which could not be opened by its name.
 */
const confinedScript = `
folder=$1 files=$2 memory=$3 seconds=$4
shift 4
mount -t tmpfs -o "size=$files,mode=0700,nosuid,nodev" tmpfs "$folder" || exit 125
while read -r _ _ _ _ place options _; do
  case $options in ro | ro,*) continue ;; esac
  place=$(printf %b "$place")
  if [ "$place" = "$folder" ] || [ "$place" = /proc ] || ! [ -e "$place" ]; then continue; fi
  mount -o "remount,bind,ro\${options#rw}" "$place" || exit 125
done < /proc/self/mountinfo
cd "$folder" || exit 125
echo >&3
exec 3>&-
cat |
  prlimit --core=0 --nofile=256 --nproc=64 "--as=$memory" "--cpu=$seconds:$((seconds + 1))" \\
    "--fsize=$files" \\
    setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@" > /dev/null 2>&1
exit $?
`

/** The same places; only what every shell can limit. */
const unconfinedScript = `
cd "$1" && ulimit -c 0 && ulimit -n 256 && ulimit -S -t "$4" && ulimit -H -t $(($4 + 1)) &&
  ulimit -v $(($3 / 1024)) && ulimit -f $(($2 / 512)) || exit 125
shift 4
echo >&3
exec 3>&-
cat | "$@" > /dev/null 2>&1
exit $?
`

/** `input` is its standard input; what it writes is nobody's. */
export async function runProgram(
  command: readonly string[],
  input: string,
  limits: Limits,
  isConfined: boolean,
  signal: AbortSignal,
): Promise<Run> {
  const folder = mkdtempSync(join(os.tmpdir(), 'ring-grade-'))
  try {
    const isRoot = process.getuid?.() === 0
    if (isConfined && isRoot) chownSync(folder, NOBODY, NOBODY)
    const { seconds, memoryBytes, fileBytes } = limits
    const numbers = [fileBytes, memoryBytes, Math.ceil(seconds)].map((one) => one.toFixed(0))
    const script = isConfined ? confinedScript : unconfinedScript
    const shell = ['sh', '-c', script, 'sh', folder, ...numbers, ...command]
    const [program = 'sh', ...words] = isConfined ? namespaced(shell, isRoot) : shell
    const child = spawn(program, words, {
      env: { PATH: process.env.PATH ?? '', LANG: 'C.UTF-8', HOME: folder, TMPDIR: folder },
      stdio: ['pipe', 'ignore', 'pipe', 'pipe'],
      detached: true,
    })
    return await endOf(child, input, seconds * 1000, signal)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Namespaces of its own, which end with it, and it with this process. */
function namespaced(words: readonly string[], isRoot: boolean): string[] {
  const nobody = isRoot ? [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'] : []
  const spaces = ['--user', '--map-root-user', '--net', '--ipc', '--mount', '--mount-proc']
  return [
    ...['setpriv', '--pdeathsig', 'KILL', ...nobody],
    ...['unshare', ...spaces, '--pid', '--fork', '--kill-child', '--', ...words],
  ]
}

function endOf(
  child: ChildProcess,
  input: string,
  programMs: number,
  signal: AbortSignal,
): Promise<Run> {
  return new Promise((resolve) => {
    let said = ''
    let isBegun = false
    let early: Ended | null = null
    const end = (why: Ended) => {
      early ??= why
      kill(child)
    }
    const stop = () => end('stopped')
    let timer = setTimeout(() => end('refused'), SETUP_MS)
    // A program need not read its input.
    child.stdin?.on('error', () => {}).end(input)
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(0, SAID_CHARS_MAX)
    })
    child.stdio[3]?.once('data', () => {
      isBegun = true
      clearTimeout(timer)
      timer = setTimeout(() => end('time'), programMs)
    })
    const done = (ended: Ended) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
      resolve({ ended: early ?? ended, said })
    }
    child.once('error', (error) => {
      said = error.message
      done('refused')
    })
    // What it left running.
    child.once('exit', () => kill(child))
    // All that it said is known only now.
    child.once('close', (status, died) => done(isBegun ? endedBy(status, died) : 'refused'))
    signal.addEventListener('abort', stop)
    if (signal.aborted) stop()
  })
}

/** Shells give 128 and more for signals, 126 and 127 for what they could not begin. */
function endedBy(status: number | null, died: NodeJS.Signals | null): Ended {
  const number = died === null ? (status ?? 0) - 128 : os.constants.signals[died]
  if (number === os.constants.signals.SIGXCPU) return 'time'
  const name = Object.entries(os.constants.signals).find(([, one]) => one === number)?.[0]
  if (name !== undefined) return `signal ${name}`
  return status === 126 || status === 127 ? 'refused' : `status ${status ?? 0}`
}

/** The process and its group: outside a namespace only the group ends with it. */
function kill({ pid }: ChildProcess): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // Nothing of it is left.
  }
}
