// Asking the server. The token goes into a header and nowhere else; it is kept for
// this tab only. While the server cannot be reached, that is said, and whoever asks
// regularly waits longer and longer.

const KEPT = "oversync-operators-token";
const PAUSES = [1, 2, 4, 8, 15];

let token = sessionStorage.getItem(KEPT);
let failures = 0;
const listeners = new Set();

export const isSignedIn = () => token !== null;
export const onState = listener => listeners.add(listener);

function tell(state, detail) {
  for (const listener of listeners) listener(state, detail);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function signIn(text) {
  token = text.trim();
}

export function keep() {
  sessionStorage.setItem(KEPT, token);
  tell("connected");
}

export function signOut(reason) {
  token = null;
  sessionStorage.removeItem(KEPT);
  tell("signed-out", reason);
}

async function send(path, options) {
  const shown = token;
  let reply;
  try {
    reply = await fetch(path, { ...options, cache: "no-store", headers: { authorization: "Bearer " + shown } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    failures += 1;
    tell("lost");
    throw new Refused(0, "the server cannot be reached");
  }
  if (failures) { failures = 0; tell("connected"); }
  if (reply.status === 401) {
    if (shown === token && sessionStorage.getItem(KEPT) !== null) signOut("The server does not take this token any more.");
    throw new Refused(401, "the server does not take this token");
  }
  if (!reply.ok) {
    const body = await reply.json().catch(() => ({}));
    throw new Refused(reply.status, body.message ?? `the server answered ${reply.status}`);
  }
  return reply;
}

export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return path + "?" + new URLSearchParams(given);
}

export const ask = async (path, parameters = {}, signal = undefined) => (await send(query(path, parameters), { signal })).json();
export const askText = async path => (await send(path, {})).text();
export const post = async (path, body) => (await send(path, { method: "POST", body: JSON.stringify(body) })).json();

// Runs `work` again and again while it is wanted, `pause` seconds after its end.
export function repeat(pause, work) {
  let isOver = false;
  let timer;
  const turn = async () => {
    if (isOver) return;
    try {
      if (document.visibilityState === "visible" && isSignedIn()) await work();
    } catch (error) {
      if (!(error instanceof Refused) && error.name !== "AbortError") console.error(error);
    }
    if (isOver) return;
    const wait = failures ? PAUSES[Math.min(failures, PAUSES.length) - 1] : pause;
    timer = setTimeout(turn, wait * 1000);
  };
  turn();
  return () => { isOver = true; clearTimeout(timer); };
}
