// The formats of text that JSON schemas name and an answer can be held to, as patterns of the whole text.
// Each allows no text that is not of its format, and nearly all that are in use.

const date =
  '([0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])' +
  '|[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)' +
  '|[0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8]))'
const time =
  '([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])'
const byte = '(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
const label = '[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?'
const host = `${label}(\\.${label}){1,4}`
const path = "[A-Za-z0-9._~!$&'()*+,;=:@-]"

export const formats: Readonly<Record<string, string>> = {
  date: `^${date}$`,
  time: `^${time}$`,
  'date-time': `^${date}T${time}$`,
  uuid: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$',
  ipv4: `^${byte}\\.${byte}\\.${byte}\\.${byte}$`,
  email: `^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32})?@${host}$`,
  uri: `^https?://${host}(:[1-9][0-9]{1,3})?(/${path}*)*(\\?${path}*)?(#${path}*)?$`,
}
