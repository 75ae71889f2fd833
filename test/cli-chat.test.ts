// `chat` with lines piped in: the rounds a model hears of, the commands, and a round that fails.
import { describe, expect, it } from 'vitest'
import { command } from './command.js'

describe('chat', () => {
  it('answers each line, knows the earlier ones without their thinking, and obeys /reset', async () => {
    const lines = [
      '37+48=?',
      '',
      'Reverse: k d p q',
      '/reset',
      '37+48=?',
      '/help',
      '/dance',
      '/exit',
      '1+1=?',
    ]
    const { status, stdout, stderr } = await command(['chat'], { input: lines.join('\n') })
    expect(status).toBe(0)
    const answers = stdout.split(/<think>[^<]*<\/think>\n\n/)
    expect(answers).toEqual(['', '85\n', 'q p d k\n', '85\n'])
    expect(stderr).toContain('forgotten')
    expect(stderr).toContain('/dance is no command here')
    expect(stderr).toContain('/reset  forget what was said')
  })

  it('goes on after a round that does not fit', async () => {
    const input = `${'12'.repeat(1500)}\n12+9=?\n`
    const { status, stdout, stderr } = await command(['chat', '-q'], { input })
    expect(status).toBe(0)
    expect(stderr).toMatch(/^ring-offload: the prompt has 3\d\d\d tokens, [^\n]* 2048 [^\n]*\n$/)
    expect(stdout.endsWith('\n21\n')).toBe(true)
  })
})
