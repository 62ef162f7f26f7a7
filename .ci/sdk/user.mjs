// One user behind the SDK. The SDK keeps its state in module globals, so a process is one user. Commands come in on standard
// input and events go out on standard output, one JSON object a line. It judges nothing: check.mjs does.
import readline from 'node:readline'
import WebSocket from 'ws'
import WKSDK from 'wukongimjssdk'

globalThis.WebSocket = WebSocket
console.log = (...words) => { if (process.env.SDK_LOG) console.error(...words) }

const [uid, address] = process.argv.slice(2)
const say = (event) => process.stdout.write(JSON.stringify(event) + '\n')
process.on('unhandledRejection', (fault) => say({ event: 'fault', text: String(fault && fault.stack || fault) }))

const sdk = WKSDK.shared()
sdk.config.uid = uid
sdk.config.token = 'token-of-' + uid
sdk.config.addr = address

sdk.connectManager.addConnectStatusListener((status, reason) => say({ event: 'status', status, reason }))
sdk.chatManager.addMessageStatusListener((ack) => say({
  event: 'ack',
  id: ack.messageID.toString(),
  seq: ack.messageSeq,
  clientSeq: ack.clientSeq,
  reason: ack.reasonCode,
}))
sdk.chatManager.addMessageListener((message) => {
  if (message.fromUID === uid) return // The SDK shows a sender its own message before it is sent.
  say({
    event: 'message',
    id: message.messageID,
    seq: message.messageSeq,
    from: message.fromUID,
    channel: message.channel.channelID,
    kind: message.channel.channelType,
    number: message.clientMsgNo,
    timestamp: message.timestamp,
    text: message.content.text,
  })
})

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line)
  if (command.do === 'connect') sdk.connect()
  if (command.do === 'subscribe') {
    sdk.onSubscribe(sdk.newChannel('news', 7), (message, reason) => say({ event: 'subscribed', reason }))
  }
  if (command.do === 'send') {
    const message = await sdk.chatManager.send(sdk.newMessageText(command.text), sdk.newChannel(command.to, 1))
    say({ event: 'sent', clientSeq: message.clientSeq, number: message.clientMsgNo, text: command.text })
  }
  if (command.do === 'leave') {
    sdk.disconnect()
    process.exit(0)
  }
})
