// A form that starts a job: its button, its bar, its line of words and its Stop.

import { follow, json } from "./api.js";

export function say(form, text, wrong = false) {
  const status = form.querySelector(".status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
}

const cancel = (job) => json(`/v1/jobs/${job.id}/cancel`, {});
const latest = new WeakMap(); // form -> its latest run; only this one may change the form

// The jobs that the forms of this tab follow, with what their pages must know to show the result. They
// are kept while the page is reloaded.
const KEPT = "jobs";
const kept = () => JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
function keep(form, held) {
  sessionStorage.setItem(KEPT, JSON.stringify({ ...kept(), [form.getAttribute("aria-label")]: held }));
}

// Leave what the form runs: the job is cancelled, and the form is free again.
export function leave(form) {
  const run = latest.get(form);
  latest.delete(form);
  keep(form, null);
  if (run?.job) cancel(run.job).catch(() => {}); // it may have ended
  form.querySelector("[type=submit]").disabled = false;
  form.querySelector(".cancel").disabled = true;
  form.querySelector("progress").value = 0;
  say(form, "");
}

// Ask for a job and follow it; gives its result, or null if it did not come to one. With `about`, which
// maps the request to what the page must know, a reload of the page does not lose the job.
export function perform(form, path, body, heard = () => {}, about = null) {
  return follows(form, heard, async (current) => {
    const asked = await body();
    const job = current() ? await json(path, asked) : null;
    if (job && about && current()) keep(form, { job, about: about(asked) });
    return job;
  });
}

// Follow the job that the form followed before the page was reloaded. `begin` is called with what was
// kept about it; it returns what hears the job's events. Gives null without a job or a result.
export async function resume(form, begin) {
  const held = kept()[form.getAttribute("aria-label")];
  if (!held) return null;
  const job = await json(held.job.poll_url).catch(() => null);
  if (latest.has(form)) return null; // the form was used meanwhile
  if (!job) { // it is kept for a limited time
    keep(form, null);
    return null;
  }
  const heard = begin(held.about);
  return follows(form, heard, async () => {
    keep(form, held);
    return job;
  });
}

// Follow a job that `start` asks for: the one place that changes a form while its job runs.
async function follows(form, heard, start) {
  const button = form.querySelector("[type=submit]");
  const stop = form.querySelector(".cancel");
  const bar = form.querySelector("progress");
  leave(form);
  const run = { job: null };
  const current = () => latest.get(form) === run;
  latest.set(form, run);
  button.disabled = true;
  say(form, "waiting");
  bar.scrollIntoView({ block: "nearest" });
  try {
    const job = await start(current);
    if (!current()) {
      if (job) await cancel(job);
      return null;
    }
    run.job = job;
    stop.disabled = false;
    stop.onclick = () => cancel(job).catch((error) => say(form, error.message, true));
    const end = await follow(job, (kind, data) => {
      if (!current()) return;
      if (kind === "progress") {
        bar.value = data.done / data.total;
        const waits = data.queue_position ? `: ${data.queue_position} before it` : "";
        say(form, `${data.what}${waits}${data.eta ? `, about ${data.eta.toFixed(0)} s left` : ""}`);
      }
      heard(kind, data);
    });
    if (!current()) return null;
    const stopped = !["completed", "failed", "cancelled"].includes(end?.kind);
    if (!stopped) keep(form, null);
    if (end?.kind !== "completed") {
      say(form, stopped ? "the server stopped" : end.data.error ?? end.kind, end?.kind !== "cancelled");
      return null;
    }
    bar.value = 1;
    say(form, `${end.data.seconds.toFixed(1)} s`);
    return { ...end.data, job };
  } catch (error) {
    if (current()) say(form, error.message, true);
    return null;
  } finally {
    if (current()) {
      latest.delete(form);
      button.disabled = false;
      stop.disabled = true;
    }
  }
}

// The page that came of a job, in a frame that may not speak to the server, and by itself.
export function show(frame, form, job) {
  const address = `/v1/jobs/${job.id}/page`;
  frame.contentWindow.location.replace(address); // no entry in the browser's history
  const alone = form.querySelector(".alone");
  alone.href = address;
  alone.hidden = false;
}
