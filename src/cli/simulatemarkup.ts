// Text of strangers inside a page: names of traces and models are shown, never obeyed.

export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}
