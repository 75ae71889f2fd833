// A generation as it is read by a person: drawn tokens become whole characters, thinking is told from
// the answer, and each piece is handed on as soon as it is certain. The token that ends the answer is
// counted but is no part of its text.
import type { Generation } from '../engine/engine.js'
import type { Emission, Ending } from '../engine/loop.js'
import { TextStream } from '../model/textstream.js'
import { type TextPiece, ThinkingSplitter } from '../model/thinking.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { Prompt } from './conversation.js'

/** What a drawn token made certain. */
export interface Heard {
  /** Null: nothing more is drawn, and this is what was held back. */
  readonly emission: Emission | null
  readonly pieces: readonly TextPiece[]
}

export interface Answer {
  readonly tokens: readonly number[]
  readonly text: string
  readonly reasoning: string
  readonly ending: Ending
}

/** Hears a generation, token by token, to its end, however it ends. */
export async function* hear(
  generation: Generation,
  tokenizer: Tokenizer,
  prompt: Prompt,
  stopIds: readonly number[],
): AsyncGenerator<Heard> {
  const stream = new TextStream(tokenizer)
  const splitter = prompt.thinking === null ? null : new ThinkingSplitter(prompt.thinking)
  const split = (text: string): TextPiece[] => {
    if (splitter !== null) return splitter.push(text)
    return text === '' ? [] : [{ kind: 'text', text }]
  }
  for await (const emission of generation) {
    const isText = !stopIds.includes(emission.token)
    yield { emission, pieces: isText ? split(stream.push(emission.token)) : [] }
  }
  yield { emission: null, pieces: [...split(stream.end()), ...(splitter?.end() ?? [])] }
}

/** Reads a generation to its end, however it ends. */
export async function readAnswer(
  generation: Generation,
  tokenizer: Tokenizer,
  prompt: Prompt,
  stopIds: readonly number[],
  onPiece: (piece: TextPiece) => void,
): Promise<Answer> {
  const tokens: number[] = []
  const said = { text: '', reasoning: '' }
  for await (const { emission, pieces } of hear(generation, tokenizer, prompt, stopIds)) {
    if (emission !== null) tokens.push(emission.token)
    for (const piece of pieces) {
      said[piece.kind] += piece.text
      onPiece(piece)
    }
  }
  return { tokens, ...said, ending: await generation.ending }
}
