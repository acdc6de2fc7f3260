// One WebSocket, a few states, and a function for each thing that can happen to them.

// Full jitter: a retry waits anything from nothing up to a bound that doubles. All pages that a
// restart cut off at the same moment then come back spread out, not as one wave.
const RETRY_BASE_MS = 500;
const RETRY_CAP_MS = 15_000;

// Only a connection that lasted this long proves that the trouble is over. Without it a server
// that accepts and hangs up at once would be asked again and again at the shortest delay.
const STABLE_MS = 5_000;

// A handshake that hangs would hold the page for minutes if it were left to the browser.
const HELLO_MS_MAX = 10_000;

// A silence of this many heartbeats means a dead path: a browser does not notice one by itself.
const BEATS_MISSED_MAX = 3;

// How long a close by hand waits for answers that are still on their way.
const ANSWERS_MS_MAX = 1_000;

// The count is the acknowledgement of all messages up to it. A crash takes the server back to its
// last checkpoint, so an acknowledgement is final once it is older than that: a message is kept for
// twice the checkpoint's usual second.
const KEEP_MS = 2_000;
const KEPT_MAX = 1_000;

const REPEAT_MS = 1_000;
const EVENTS_MAX = 30;

const CLOSE_NORMAL = 1000;
const CLOSE_GOING_AWAY = 1001;
const CLOSE_TAKEN_OVER = 4001;

const STORAGE_KEY = "tally.session";
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

const view = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);
const root = document.documentElement;

let state = "closed";
let socket = null;
let session = recall();
let colour = "";
let openedAt = null; // By performance.now(); null until the hello has come.
let kept = []; // Messages whose count is not final, or not there: { text, countedAt }.
let final = 0; // The number of the last message before those.
let sent = 0; // The number of the last one sent over this connection.
let farewell = null; // The total of the server's bye.
let failures = 0;
let retryTimer = 0;
let repeatTimer = 0;
let silenceTimer = 0;
let answersTimer = 0;
let beatAt = null;

// The session's id is a credential: it stays in this tab, out of the address bar and the history.
function recall() {
  try {
    const stored = sessionStorage.getItem(STORAGE_KEY);
    return UUID.test(stored ?? "") ? stored : null;
  } catch {
    return null; // Storage is switched off; the session then lasts as long as the page.
  }
}

function remember(id) {
  session = id;
  try {
    sessionStorage.setItem(STORAGE_KEY, id);
  } catch {
    // As above.
  }
}

function connect() {
  clearTimeout(retryTimer);
  const address = new URL("/ws/chat/?hello=1", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (session) address.searchParams.set("session", session);
  openedAt = farewell = beatAt = null;

  const opened = new WebSocket(address);
  socket = opened;
  const ifCurrent = (handle) => (event) => socket === opened && handle(event);
  opened.addEventListener("message", ifCurrent((event) => receive(JSON.parse(event.data))));
  opened.addEventListener("close", ifCurrent(closed));
  silenceTimer = setTimeout(abandon, HELLO_MS_MAX);
}

function receive(frame) {
  if ("session" in frame) welcome(frame);
  else if ("bye" in frame) farewell = showCount(frame.total);
  else if ("count" in frame) answered(frame.count);
  else if ("ts" in frame) beat(new Date(frame.ts));
}

function welcome(hello) {
  const lost = session !== null && !hello.resumed;
  openedAt = performance.now();
  colour = hello.colour;
  remember(hello.session);
  showCount(hello.count);
  root.dataset.colour = view.colour.textContent = colour;
  view.session.textContent = `${hello.session.slice(0, 8)}…`;
  view.origin.textContent = hello.resumed ? "resumed" : lost ? "fresh" : "new";
  reconcile(hello);
  if (state === "closing") return; // Closed by hand before the hello was here.
  enter("open");
  if (hello.resumed) tell(`Connected to ${colour}; the session goes on at ${hello.count}.`);
  else if (lost) tell(`Connected to ${colour}; it does not know the old session: a fresh session.`);
  else tell(`Connected to ${colour} with a new session.`);
  const again = kept.slice(sent - final).filter((message) => message.tried).length;
  if (again > 0) tell(`Sent again what was not counted: ${again}.`);
  transmit();
}

// What the server has counted is counted; what it has not, though it may have said so, is sent again.
function reconcile({ resumed, count }) {
  const tried = kept.filter((message) => message.tried).length;
  if (!resumed) final = 0;
  else if (count < final) tell("The server went back further than this page remembers.");
  // Another connection of the session may have counted, too.
  final = Math.max(Math.min(final, count), count - tried);
  sent = count;
  kept.forEach((message, index) => {
    message.countedAt = final + index < count ? (message.countedAt ?? performance.now()) : null;
  });
}

function unanswered() {
  return sent - final - kept.findLastIndex((message) => message.countedAt !== null) - 1;
}

function answered(count) {
  showCount(count);
  const message = kept[count - final - 1];
  if (message) message.countedAt = performance.now();
  forget();
  if (state === "closing" && unanswered() === 0) hangUp();
}

function forget() {
  const due = performance.now() - KEEP_MS;
  while (kept.length > 0 && kept[0].countedAt !== null && kept[0].countedAt < due) {
    kept.shift();
    final += 1;
  }
}

function transmit() {
  while (sent < final + kept.length) {
    const message = kept[sent - final];
    socket.send(message.text);
    message.tried = true;
    sent += 1;
  }
}

function beat(time) {
  view.heartbeat.textContent = clock(time);
  view.heartbeat.dateTime = time.toISOString();
  const now = performance.now();
  clearTimeout(silenceTimer);
  // The interval is the server's setting; two beats tell it.
  if (beatAt !== null && state === "open") {
    silenceTimer = setTimeout(abandon, BEATS_MISSED_MAX * Math.max(now - beatAt, 1_000));
  }
  beatAt = now;
}

function abandon() {
  const silent = socket;
  socket = null;
  silent.close();
  if (state !== "reconnecting") tell("Nothing heard for a while; giving this connection up.");
  retry();
}

function closed({ code }) {
  socket = null;
  const total = farewell === null ? "" : ` ${farewell} in total.`;
  if (state === "closing") {
    enter("closed");
    tell(openedAt === null ? "Closed." : `Closed. ${view.count.textContent} in total.`);
  } else if (code === CLOSE_TAKEN_OVER) {
    enter("taken over");
    tell("This session goes on over another connection. Connect to take it back.");
  } else {
    // A handshake that failed has no more to say than 1006: browsers hide its status.
    if (code === CLOSE_GOING_AWAY) tell(`The ${colour} server is going away.${total}`);
    else if (openedAt !== null) tell(`The connection was lost (${code}).${total}`);
    else if (state === "connecting") tell("No connection yet; trying again by itself.");
    retry();
  }
}

function retry() {
  const lasted = openedAt === null ? 0 : performance.now() - openedAt;
  failures = lasted < STABLE_MS ? failures + 1 : 1;
  const bound = Math.min(RETRY_CAP_MS, RETRY_BASE_MS * 2 ** (failures - 1));
  enter("reconnecting");
  view.attempt.textContent = failures > 1 ? `attempt ${failures}` : "";
  retryTimer = setTimeout(connect, Math.random() * bound);
}

// While the page is on its way back, what is said waits for it.
function send() {
  if (!speaking()) return;
  forget();
  if (kept.length >= KEPT_MAX) return tell(`${KEPT_MAX} messages wait already; this one is not taken.`);
  kept.push({ text: view.text.value, countedAt: null, tried: false });
  if (state === "open") transmit();
  else tell("Not connected; the message waits.");
}

function speaking() {
  return state === "open" || state === "connecting" || state === "reconnecting";
}

// After its own close() a browser delivers no more messages, so the server's bye and any answer
// on its way would be lost. With every message answered, the count is the total.
function close() {
  const answersExpected = state === "open" && unanswered() > 0;
  enter("closing");
  if (answersExpected) answersTimer = setTimeout(hangUp, ANSWERS_MS_MAX);
  else hangUp();
}

function hangUp() {
  clearTimeout(answersTimer);
  socket.close(CLOSE_NORMAL);
}

function toggle() {
  if (state === "open" || state === "connecting") {
    close();
  } else if (state === "reconnecting") {
    const pending = socket;
    socket = null;
    pending?.close();
    enter("closed");
    tell("Closed; not trying again.");
  } else if (state !== "closing") {
    start();
  }
}

function start() {
  failures = 0;
  enter("connecting");
  connect();
}

function enter(next) {
  state = next;
  root.dataset.state = next;
  view.state.textContent = next;
  view.attempt.textContent = "";
  clearTimeout(retryTimer);
  clearTimeout(silenceTimer);
  clearTimeout(answersTimer);
  const resting = next === "closed" || next === "taken over";
  view.toggle.textContent = resting ? "Connect" : "Close";
  view.toggle.setAttribute("aria-disabled", String(next === "closing"));
  view.send.setAttribute("aria-disabled", String(!speaking()));
}

function showCount(count) {
  view.count.textContent = count;
  return count;
}

function tell(text) {
  const time = document.createElement("time");
  const entry = document.createElement("li");
  const now = new Date();
  time.textContent = clock(now);
  time.dateTime = now.toISOString();
  entry.append(time, text);
  view.events.prepend(entry);
  while (view.events.children.length > EVENTS_MAX) view.events.lastChild.remove();
  view.detail.textContent = text;
}

function clock(time) {
  return time.toLocaleTimeString([], { hourCycle: "h23" });
}

view.toggle.addEventListener("click", toggle);
view.form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
  // Enter sends the same again, typing replaces it. Left alone when a button was used: focus would
  // open a phone's keyboard.
  if (document.activeElement === view.text) view.text.select();
});
view.repeat.addEventListener("change", () => {
  clearInterval(repeatTimer);
  if (view.repeat.checked) repeatTimer = setInterval(send, REPEAT_MS);
});
// Back on the network: there is no reason left to wait.
window.addEventListener("online", () => state === "reconnecting" && !socket && connect());

start();
