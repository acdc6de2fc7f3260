// Says as many messages as it is told, one every 10 ms, and prints the last count.
//   node talk.mjs ws://127.0.0.1:8080/ws/chat/ 300
import { connect } from "./client.mjs";

const [url, messages] = process.argv.slice(2);
let said = 0;
const client = connect(url, (count) => {
  if (count < Number(messages)) return;
  console.log(count);
  clearInterval(talking);
  client.close();
});
const talking = setInterval(() => said < Number(messages) && client.say(String(++said)), 10);
