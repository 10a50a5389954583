// Talks to the server: requests with the token, jobs followed by their events, pictures as addresses.

let token = sessionStorage.getItem("token") ?? "";

async function askForToken() {
  const dialog = document.getElementById("token");
  dialog.querySelector(".status").textContent = token ? "The server does not accept this token." : "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "go") throw new Error("the server asks for its token; reload the page to give it");
  token = dialog.querySelector("input").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) token = "?"; // no header can hold it; the server refuses this one
  sessionStorage.setItem("token", token);
}

export async function request(path, body) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const options = { headers };
    if (body !== undefined) {
      options.method = "POST";
      options.body = JSON.stringify(body);
      headers["Content-Type"] = "application/json";
    }
    const answer = await fetch(path, options);
    if (answer.status === 401) {
      await askForToken();
      continue;
    }
    if (!answer.ok) {
      const told = await answer.json().catch(() => null);
      throw new Error(told?.error?.message ?? `the server answered ${answer.status}`);
    }
    return answer;
  }
}

export const json = async (path, body) => (await request(path, body)).json();

// Something that is loaded once: calls meanwhile wait for the same attempt, and after a failure the
// next call tries again.
export function once(load) {
  let attempt = null;
  return () => {
    attempt ??= load().catch((error) => {
      attempt = null;
      throw error;
    });
    return attempt;
  };
}

const ENDS = ["completed", "failed", "cancelled"];
const TRIES = 5, PAUSE = 1000; // tries in a row to follow a job whose stream broke off; milliseconds between them

// Follow a job: calls heard(kind, data) for each event, and returns the last one. A stream that
// breaks off is opened again, because the job goes on.
export async function follow(job, heard) {
  const seen = new Set(); // the pictures of the job so far, which a new stream may tell again
  const hear = (kind, data) => {
    if (kind === "picture" && data.url && seen.has(data.url)) return;
    if (kind === "picture") seen.add(data.url);
    heard(kind, data);
  };
  let last = null;
  for (let tried = 1; tried <= TRIES; tried += 1) {
    try {
      const end = await listen(job, hear);
      if (ENDS.includes(end?.kind)) return end;
      if (end) [last, tried] = [end, 1]; // it was there again
    } catch (error) {
      if (tried === TRIES) throw error;
    }
    await new Promise((later) => setTimeout(later, PAUSE));
  }
  return last;
}

// Read one stream of a job's events; returns the last event.
async function listen(job, hear) {
  const answer = await request(job.events_url);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let last = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return last;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [first, second] = part.split("\n");
      last = { kind: first.slice(7), data: JSON.parse(second.slice(6)) };
      hear(last.kind, last.data);
    }
  }
}

export function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}
