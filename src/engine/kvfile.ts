// One KV block as a file: its name and its bytes. The name is a chain of hashes, so it says all that the
// keys and values were made from: what computed them, every token before, and its own. The file holds a
// head, the tokens, and the bytes as the device gives them; whatever is not exactly so is not taken.
// Where files lie, and which of them stay, is not known here.
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { kvBlockTokens } from './kv.js'

/** Of everything below: a file of another version is foreign. */
const version = 1
const magic = 0x564b_4752 // "RGKV"
/** Little-endian words: magic, version, tokens, checksum; then two names and the length. */
const parentAt = 16
const ownAt = 32
const lengthAt = 48
const tokensAt = 64
/** Bytes before the keys and values. */
export const kvHeadBytes = tokensAt + 4 * kvBlockTokens
const checksumAt = 12
/** Of hash kept: 128 bits. */
const nameDigits = 32

/** Parent, own name, count of tokens. */
const pattern = /^([0-9a-f]{32})-([0-9a-f]{32})-(\d{1,2})\.kv$/

/** What all texts begin with: the names of two identities share nothing. */
export function rootName(identity: string): string {
  return hashed(`ring-offload KV ${version}\n${identity}`)
}

/** The name of a run of tokens behind another one. */
export function runName(parent: string, tokens: Int32Array): string {
  const bytes = Buffer.from(tokens.buffer, tokens.byteOffset, tokens.byteLength)
  return hashed(Buffer.concat([Buffer.from(parent, 'hex'), bytes]))
}

export interface KvFileName {
  readonly parent: string
  readonly own: string
  readonly count: number
}

export function fileOf({ parent, own, count }: KvFileName): string {
  return `${parent}-${own}-${count}.kv`
}

/** Null: not a file of ours. */
export function parseFile(file: string): KvFileName | null {
  const [, parent, own, digits] = pattern.exec(file) ?? []
  const count = Number(digits)
  if (parent === undefined || own === undefined || count < 1 || count > kvBlockTokens) return null
  return { parent, own, count }
}

/** Writes the head into the first kvHeadBytes of a file's bytes; the rest are keys and values. */
export function sealFile(bytes: Uint8Array, parent: string, tokens: Int32Array): void {
  const view = viewOf(bytes)
  bytes.fill(0, 0, kvHeadBytes)
  view.setUint32(0, magic, true)
  view.setUint32(4, version, true)
  view.setUint32(8, tokens.length, true)
  bytes.set(Buffer.from(parent, 'hex'), parentAt)
  bytes.set(Buffer.from(runName(parent, tokens), 'hex'), ownAt)
  view.setBigUint64(lengthAt, BigInt(bytes.length), true)
  for (const [at, token] of tokens.entries()) view.setInt32(tokensAt + 4 * at, token, true)
  view.setUint32(checksumAt, crc32(bytes), true)
}

/** The tokens that a head names; null where it is not the head of that file. */
export function tokensIn(head: Uint8Array, name: KvFileName): Int32Array | null {
  if (head.length < kvHeadBytes) return null
  const view = viewOf(head)
  if (view.getUint32(0, true) !== magic || view.getUint32(4, true) !== version) return null
  if (view.getUint32(8, true) !== name.count) return null
  const tokens = Int32Array.from({ length: name.count }, (_, at) =>
    view.getInt32(tokensAt + 4 * at, true),
  )
  return runName(name.parent, tokens) === name.own ? tokens : null
}

/** Whether a whole file is what its name says, to the last byte. */
export function isSound(bytes: Uint8Array, name: KvFileName): boolean {
  if (tokensIn(bytes, name) === null) return false
  const view = viewOf(bytes)
  if (view.getBigUint64(lengthAt, true) !== BigInt(bytes.length)) return false
  const told = view.getUint32(checksumAt, true)
  view.setUint32(checksumAt, 0, true)
  const found = crc32(bytes)
  view.setUint32(checksumAt, told, true)
  return found === told
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

function hashed(of: string | Buffer): string {
  return createHash('sha256').update(of).digest('hex').slice(0, nameDigits)
}
