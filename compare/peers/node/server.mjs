// Node's `ws` without compression. Its own set of clients is how it advises to broadcast.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const [port, milliseconds] = process.argv.slice(2).map(Number);
const http = createServer();
const server = new WebSocketServer({ server: http, perMessageDeflate: false });

server.on("connection", (socket) => {
  socket.count = 0;
  // The library has answered a Close by the time it tells: no bye fits in before it.
  socket.on("message", () => socket.send(`{"count":${++socket.count}}`));
  socket.on("error", () => {});
});

setInterval(() => {
  const beat = Buffer.from(JSON.stringify({ ts: new Date().toISOString() }));
  for (const socket of server.clients) socket.send(beat, { binary: false });
}, milliseconds);

process.on("SIGTERM", () => {
  for (const socket of server.clients) {
    socket.send(`{"bye":true,"total":${socket.count}}`);
    socket.close(1001);
  }
  server.close();
  http.close(() => process.exit(0));
});

http.listen({ port, host: "127.0.0.1", backlog: 4096 });
