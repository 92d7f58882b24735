// Talking to the server. Every tab has a session of its own; its token never leaves this page.

const KEY = "denseclip-session";
let token = sessionStorage.getItem(KEY);

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers, "x-denseclip": token ?? "new" };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused("The server of this page does not answer. Is denseclip serve still running?", 0);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(said.error ?? `The server is busy (${response.status}). Try again.`, response.status);
}

const post = (path, body) => call(path, { method: "POST", body: JSON.stringify(body) });

export async function openSession() {
  token = null;
  ({ token } = await (await call("/api/session", { method: "POST" })).json());
  sessionStorage.setItem(KEY, token);
}

// What this tab showed before it was reloaded, or null in a new session.
export async function restore() {
  if (token) {
    try {
      return await (await call("/api/session")).json();
    } catch (error) {
      if (error.status !== 410) throw error;
    }
  }
  await openSession();
  return null;
}

export const about = async () => (await call("/api/about")).json();
export const choose = async (index) => (await call(`/api/example/${index}`, { method: "POST" })).json();
export const pixel = async (row, column) => (await post("/api/pixel", { row, column })).json();
export const ask = async (question) => unpack(await post("/api/answer", question));
export const heat = async (index, scale) => unpack(await call(`/api/heat/${index}?scale=${scale}`));
export const sets = async () => (await call("/api/sets")).json();
export const turn = async (number) => (await call(`/api/picture/${number}`, { method: "POST" })).json();
export const small = async (number) => (await call(`/api/picture/${number}/small.jpg`)).blob();
export const download = async (name) => (await call(`/api/${name}`)).blob();

export async function upload(file) {
  const headers = { "x-name": encodeURIComponent(file.name) };
  return (await call("/api/picture", { method: "POST", headers, body: file })).json();
}

// See `packed` in views.py: length of the header, header, plane.
async function unpack(response) {
  const body = await response.arrayBuffer();
  const end = 4 + new DataView(body).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(body.slice(4, end)));
  const plane = header.bytes === 1 ? new Uint8Array(body.slice(end)) : new Uint16Array(body.slice(end));
  return { ...header, plane };
}
