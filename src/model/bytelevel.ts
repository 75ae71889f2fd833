/**
 * The alphabet of byte-level BPE: each of the 256 bytes is written as one printable character, so
 * that a vocabulary can be a table of strings. It is the mapping that GPT-2 introduced: printable
 * Latin-1 characters stand for themselves, the other bytes take U+0100 onwards in rising order.
 * Knows no vocabulary and no file.
 */

/** The character that stands for each byte, by byte. */
export const SYMBOL_OF_BYTE: readonly string[] = byteSymbols()

const BYTE_OF_SYMBOL: ReadonlyMap<string, number> = new Map(
  SYMBOL_OF_BYTE.map((symbol, byte) => [symbol, byte]),
)

const utf8 = new TextEncoder()

/**
 * The raw bytes that a vocabulary entry stands for. An entry with a character outside the alphabet
 * was never made of bytes and stands for its own UTF-8 text.
 */
export function bytesOfPiece(piece: string): Uint8Array {
  const bytes = new Uint8Array(piece.length)
  for (let i = 0; i < piece.length; i++) {
    const byte = BYTE_OF_SYMBOL.get(piece.charAt(i))
    if (byte === undefined) return utf8.encode(piece)
    bytes[i] = byte
  }
  return bytes
}

/** Whether valid UTF-8 can hold this byte: 0xC0, 0xC1 and 0xF5 to 0xFF occur in no text. */
export function occursInText(byte: number): boolean {
  return byte !== 0xc0 && byte !== 0xc1 && byte < 0xf5
}

function byteSymbols(): string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad)
    return String.fromCharCode(isPrintable ? byte : next++)
  })
}
