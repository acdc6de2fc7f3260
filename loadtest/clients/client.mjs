// A client that loses nothing: it keeps what it has said until the count of it is final.
const KEEP_MS = 2_000; // Twice the server's TALLY_CHECKPOINT.

export function connect(url, onCount) {
  let session, socket, open = false, failures = 0;
  let final = 0; // Messages up to this number are kept no longer; kept[0] is the next one.
  let sent = 0; // The last number that went over this connection.
  const kept = [];

  function dial() {
    const dialled = (socket = new WebSocket(`${url}?hello=1${session ? `&session=${session}` : ""}`));
    dialled.onmessage = ({ data }) => receive(JSON.parse(data));
    dialled.onclose = dialled.onerror = ({ code }) => {
      if (socket !== dialled) return; // The second event of the two.
      open = false;
      socket = null; // Full jitter, so that a crowd comes back spread out. 4001: taken over elsewhere.
      const bound = Math.min(15_000, 200 * 2 ** failures++);
      if (code !== 4001) setTimeout(dial, Math.random() * bound);
    };
  }
  function receive(frame) {
    if ("session" in frame) {
      session = frame.session; // The server's count says what it has; the rest is sent again.
      final = frame.resumed ? Math.min(final, frame.count) : 0;
      sent = frame.count;
      kept.forEach((message, i) => final + i >= sent && (message.at = Infinity));
      open = true;
      failures = 0;
      flush();
    } else if ("count" in frame) {
      kept[frame.count - final - 1].at = Date.now();
      for (; kept[0]?.at < Date.now() - KEEP_MS; final += 1) kept.shift();
      onCount(frame.count);
    }
  }
  function flush() {
    while (open && sent < final + kept.length) socket.send(kept[sent++ - final].text);
  }
  dial();
  const say = (text) => (kept.push({ text, at: Infinity }), flush());
  function close() {
    const last = socket;
    socket = null; // Whatever it says from now on, nobody dials again.
    last?.close();
  }
  return { say, close };
}
