// Texts that `bench` decodes from, on different matters, so that no pass meets the same experts all
// the time. Raw text, no template.
export const benchPrompts: readonly string[] = [
  'The harbour lay quiet under the first snow, and nobody on the quay spoke.',
  'function mean(values) {\n  let total = 0\n  for (const value of values) {',
  'What is 412 + 365? First add the hundreds, then the tens,',
  'for (int i = 0; i < count; i++) {\n    if (table[i] == NULL) {',
  'My lord, the messenger has come from France and brings',
  'Sort these numbers from the smallest to the largest: 9, 4, 17, 2, 11.',
  'def read_lines(path):\n    with open(path) as handle:\n        return',
  'She asked him why the clocks of the town had all stopped at noon.',
]
