// Two users talk through the SDK and a real node, both ways; then the node is killed with messages on their way and started
// again on the same data. Every message must arrive once, in order, with the ids that its sender was told.
// Usage: node check.mjs PATH-TO-JINDOU PATH-TO-BUNDLED-USER
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import readline from 'node:readline'

const [binary, userScript] = process.argv.slice(2)
const CONNECTED = 1
const deadline = setTimeout(() => fail('the whole check took longer than 90 s'), 90_000)
const children = new Set()
let nodeLog = ''

function fail (text) {
  console.error(`sdk check: ${text}`)
  if (nodeLog) console.error(`--- what the node said ---\n${nodeLog.slice(-4000)}`)
  for (const child of children) child.kill('SIGKILL')
  process.exit(1)
}

function expect (condition, text) {
  if (!condition) fail(text)
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function freePort () {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

function answers (port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.on('connect', () => { socket.destroy(); resolve(true) })
    socket.on('error', () => resolve(false))
  })
}

async function startNode (ports, data) {
  const settings = [
    `node.data_dir=${data}`, 'node.shards=1', 'journal.segment_bytes=4MiB',
    `listen.tcp=127.0.0.1:${ports.tcp}`, `listen.ws=127.0.0.1:${ports.ws}`, `listen.http=127.0.0.1:${ports.http}`,
  ]
  const node = spawn(binary, settings.flatMap((setting) => ['--set', setting]))
  children.add(node)
  node.stdout.on('data', (bytes) => { nodeLog += bytes })
  node.stderr.on('data', (bytes) => { nodeLog += bytes })
  node.ended = new Promise((resolve) => node.on('exit', (code, signal) => { children.delete(node); resolve({ code, signal }) }))
  node.ended.then(() => { node.gone = true })
  for (let tries = 0; tries < 100; tries++) {
    if (await answers(ports.ws)) return node
    expect(!node.gone, 'the node ended at its start')
    await pause(100)
  }
  return fail('the node does not answer within 10 s')
}

class User {
  constructor (uid, ports) {
    this.uid = uid
    this.events = []
    this.process = spawn(process.execPath, [userScript, uid, `ws://127.0.0.1:${ports.ws}`], { stdio: ['pipe', 'pipe', 'inherit'] })
    children.add(this.process)
    this.process.on('exit', () => children.delete(this.process))
    readline.createInterface({ input: this.process.stdout }).on('line', (line) => {
      const event = JSON.parse(line)
      if (event.event === 'fault') fail(`${uid}: the SDK threw: ${event.text}`)
      this.events.push(event)
    })
  }

  tell (command) { this.process.stdin.write(JSON.stringify(command) + '\n') }

  of (kind) { return this.events.filter((event) => event.event === kind) }

  async until (what, reached, seconds = 10) {
    for (let tries = 0; tries < seconds * 50; tries++) {
      if (reached()) return
      await pause(20)
    }
    fail(`${this.uid}: ${what} did not happen within ${seconds} s; saw ${JSON.stringify(this.events.slice(-5))}`)
  }

  connectedTimes () { return this.of('status').filter((event) => event.status === CONNECTED).length }
}

// What a user was given, without repeats: after a crash a node may deliver again what it no longer knows to be taken, and this
// SDK leaves it to the app to recognise a message by its id.
function unique (user) {
  const seen = new Map()
  for (const message of user.of('message')) {
    const first = seen.get(message.id)
    if (!first) seen.set(message.id, message)
    else expect(first.text === message.text && first.seq === message.seq, `${user.uid}: ${message.id} came again as something else`)
  }
  return [...seen.values()]
}

// Everything `from` sent must be acknowledged, and at `to` once, in order, under the same names.
function compare (from, to) {
  const sent = from.of('sent')
  const acks = new Map(from.of('ack').map((ack) => [ack.clientSeq, ack]))
  const received = unique(to)
  expect(received.length === sent.length, `${to.uid} got ${received.length} messages, ${from.uid} sent ${sent.length}`)
  sent.forEach((message, index) => {
    const ack = acks.get(message.clientSeq)
    expect(ack && ack.reason === 1, `${from.uid}: message ${index} has no good SENDACK: ${JSON.stringify(ack)}`)
    const got = received.find((other) => other.number === message.number)
    expect(got, `${to.uid} never got ${message.number}`)
    const pairs = [
      ['message id', got.id, ack.id], ['message seq', got.seq, ack.seq], ['text', got.text, message.text],
      ['sender', got.from, from.uid], ['channel', got.channel, from.uid], ['channel type', got.kind, 1],
    ]
    for (const [name, is, should] of pairs) expect(is === should, `${to.uid}: ${name} of message ${index} is ${is}, not ${should}`)
    expect(Math.abs(got.timestamp - Date.now() / 1000) < 120, `${to.uid}: timestamp ${got.timestamp} is not about now`)
  })
  received.forEach((message, index) => {
    expect(index === 0 || received[index - 1].seq < message.seq, `${to.uid}: seq ${message.seq} came after ${received[index - 1]?.seq}`)
  })
  return sent.length
}

function repeats (users) {
  return users.reduce((sum, user) => sum + user.of('message').length - unique(user).length, 0)
}

function numbersAreDense (users) {
  const seqs = users.flatMap((user) => unique(user).map((message) => message.seq)).sort((a, b) => a - b)
  seqs.forEach((seq, index) => expect(seq === index + 1, `the channel's numbers are ${seqs}, not 1, 2, 3…`))
  const ids = new Set(users.flatMap((user) => unique(user).map((message) => message.id)))
  expect(ids.size === seqs.length, `${seqs.length} messages have only ${ids.size} ids`)
}

async function main () {
  const data = mkdtempSync(path.join(os.tmpdir(), 'jindou-sdk-'))
  const ports = { tcp: await freePort(), ws: await freePort(), http: await freePort() }
  let node = await startNode(ports, data)
  const alice = new User('alice', ports)
  const bob = new User('bob', ports)

  for (const user of [alice, bob]) user.tell({ do: 'connect' })
  for (const user of [alice, bob]) await user.until('being connected', () => user.connectedTimes() === 1)
  alice.tell({ do: 'subscribe' })
  await alice.until('the answer to a subscription', () => alice.of('subscribed').length > 0)

  const texts = ['hello', 'hé – 筋斗雲 🐒', 'x'.repeat(8000), '{"not":"parsed"}', 'the fifth']
  for (const text of texts) {
    alice.tell({ do: 'send', to: 'bob', text })
    bob.tell({ do: 'send', to: 'alice', text: 'back: ' + text })
  }
  await bob.until('five messages', () => bob.of('message').length >= 5)
  await alice.until('five messages', () => alice.of('message').length >= 5)
  for (const user of [alice, bob]) await user.until('five SENDACKs', () => user.of('ack').length >= 5)
  console.log(`both ways: ${compare(alice, bob)} + ${compare(bob, alice)} messages, ids, numbers and views agree`)

  // The plug: killed, three messages are sent into nothing, the SDK comes back by itself and resends them.
  node.kill('SIGKILL')
  await node.ended
  await alice.until('noticing that the node is gone', () => alice.of('status').some((event) => event.status === 0))
  for (const number of [1, 2, 3]) alice.tell({ do: 'send', to: 'bob', text: `while the plug is out ${number}` })
  await alice.until('three more messages on their way', () => alice.of('sent').length === 8)
  node = await startNode(ports, data)
  for (const user of [alice, bob]) await user.until('being connected again', () => user.connectedTimes() === 2, 20)
  await bob.until('three more messages', () => unique(bob).length >= 8)
  await alice.until('three more SENDACKs', () => alice.of('ack').length >= 8)
  await pause(500) // What comes twice comes about now.
  console.log(`after kill -9 and restart: ${compare(alice, bob)} + ${compare(bob, alice)} messages agree, ${repeats([alice, bob])} repeats recognised by id`)
  numbersAreDense([alice, bob])

  for (const user of [alice, bob]) user.tell({ do: 'leave' })
  node.kill('SIGTERM')
  const { code } = await Promise.race([node.ended, pause(10_000).then(() => fail('SIGTERM was not obeyed within 10 s'))])
  expect(code === 0, `the node ended with ${code} after SIGTERM`)
  rmSync(data, { recursive: true, force: true })
  clearTimeout(deadline)
  console.log('sdk check: all good')
  process.exit(0)
}

main().catch((fault) => fail(fault.stack))
