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
let unanswered = 0;
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
  unanswered = 0;

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
  if (state === "closing") return; // Closed by hand before the hello was here.
  enter("open");
  if (hello.resumed) tell(`Connected to ${colour}; the session goes on at ${hello.count}.`);
  else if (lost) tell(`Connected to ${colour}; it does not know the old session: a fresh session.`);
  else tell(`Connected to ${colour} with a new session.`);
}

function answered(count) {
  showCount(count);
  unanswered -= 1;
  if (state === "closing" && unanswered === 0) hangUp();
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

function send() {
  if (state !== "open") return;
  socket.send(view.text.value);
  unanswered += 1;
}

// After its own close() a browser delivers no more messages, so the server's bye and any answer
// on its way would be lost. With every message answered, the count is the total.
function close() {
  const answersExpected = state === "open" && unanswered > 0;
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
  view.send.setAttribute("aria-disabled", String(next !== "open"));
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
