// A generation as it is read by a person: drawn tokens become whole characters, thinking is told from
// the answer, and each piece is handed on as soon as it is certain. The token that ends the answer is
// counted but is no part of its text.
import type { Generation } from '../engine/engine.js'
import type { Ending } from '../engine/loop.js'
import { TextStream } from '../model/textstream.js'
import { type TextPiece, ThinkingSplitter } from '../model/thinking.js'
import type { Tokenizer } from '../model/tokenizer.js'
import type { Prompt } from './conversation.js'

export interface Answer {
  readonly tokens: readonly number[]
  readonly text: string
  readonly reasoning: string
  readonly ending: Ending
}

/** Reads a generation to its end, however it ends. */
export async function readAnswer(
  generation: Generation,
  tokenizer: Tokenizer,
  prompt: Prompt,
  stopIds: readonly number[],
  onPiece: (piece: TextPiece) => void,
): Promise<Answer> {
  const stream = new TextStream(tokenizer)
  const splitter = prompt.thinking === null ? null : new ThinkingSplitter(prompt.thinking)
  const tokens: number[] = []
  const said = { text: '', reasoning: '' }
  const give = (pieces: readonly TextPiece[]) => {
    for (const piece of pieces) {
      said[piece.kind] += piece.text
      onPiece(piece)
    }
  }
  const split = (text: string): TextPiece[] => {
    if (splitter !== null) return splitter.push(text)
    return text === '' ? [] : [{ kind: 'text', text }]
  }
  for await (const { token } of generation) {
    tokens.push(token)
    if (!stopIds.includes(token)) give(split(stream.push(token)))
  }
  give(split(stream.end()))
  give(splitter?.end() ?? [])
  return { tokens, ...said, ending: await generation.ending }
}
