// Another language's reading and writing of XML-RPC. Reads JSON lines from standard input and answers each with one:
//   {"read": "call" | "response", "xml": base64}  ->  {"method": ..., "params": [...]} | {"value": ...} | {"fault": [code, text]}
//   {"write": method, "params": [...]}            ->  {"xml": base64}
//   anything that fails                           ->  {"error": text}
// JSON has fewer types than XML-RPC, so each value is a pair of its type and its contents.
'use strict'

const readline = require('readline')
const { Readable } = require('stream')
const Deserializer = require('xmlrpc/lib/deserializer')
const Serializer = require('xmlrpc/lib/serializer')

function shown (value) {
  if (value === null) return ['nil']
  if (typeof value === 'boolean') return ['boolean', value]
  if (typeof value === 'number') return ['number', Object.is(value, -0) ? '-0' : String(value)]
  if (typeof value === 'string') return ['string', value]
  if (Buffer.isBuffer(value)) return ['bytes', value.toString('base64')]
  if (value instanceof Date) return ['time', value.toISOString()]
  if (Array.isArray(value)) return ['array', value.map(shown)]
  return ['struct', Object.keys(value).map(key => [key, shown(value[key])])]
}

function meant ([type, contents]) {
  if (type === 'nil') return null
  if (type === 'number') return Number(contents)
  if (type === 'bytes') return Buffer.from(contents, 'base64')
  if (type === 'time') return new Date(contents)
  if (type === 'array') return contents.map(meant)
  if (type === 'struct') return Object.fromEntries(contents.map(([key, value]) => [key, meant(value)]))
  return contents
}

function answer (reply) {
  process.stdout.write(JSON.stringify(reply) + '\n')
}

function read (kind, xml) {
  const stream = Readable.from([Buffer.from(xml, 'base64')], { objectMode: false })
  if (kind === 'call') {
    new Deserializer().deserializeMethodCall(stream, (error, method, params) => {
      answer(error ? { error: String(error) } : { method, params: params.map(shown) })
    })
  } else {
    new Deserializer().deserializeMethodResponse(stream, (error, value) => {
      if (error && 'faultCode' in error) answer({ fault: [error.faultCode, error.faultString] })
      else answer(error ? { error: String(error) } : { value: shown(value) })
    })
  }
}

readline.createInterface({ input: process.stdin }).on('line', line => {
  try {
    const asked = JSON.parse(line)
    if (asked.read) read(asked.read, asked.xml)
    else answer({ xml: Buffer.from(Serializer.serializeMethodCall(asked.write, asked.params.map(meant))).toString('base64') })
  } catch (error) {
    answer({ error: String(error) })
  }
})
