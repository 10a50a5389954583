// A form that starts a job: its button, its bar, its line of words and its Stop.

import { follow, json } from "./api.js";

export function say(form, text, wrong = false) {
  const status = form.querySelector(".status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
}

const cancel = (job) => json(`/v1/jobs/${job.id}/cancel`, {});
const latest = new WeakMap(); // form -> its latest run; only this one may change the form

// Leave what the form runs: the job is cancelled, and the form is free again.
export function leave(form) {
  const run = latest.get(form);
  latest.delete(form);
  if (run?.job) cancel(run.job).catch(() => {}); // it may have ended
  form.querySelector("[type=submit]").disabled = false;
  form.querySelector(".cancel").disabled = true;
  form.querySelector("progress").value = 0;
  say(form, "");
}

// Ask for a job and follow it; gives its result, or null if it did not come to one.
export async function perform(form, path, body, heard = () => {}) {
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
    const asked = await body();
    const job = current() ? await json(path, asked) : null;
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
        const waits = data.queue_position ? `, ${data.queue_position} before it` : "";
        say(form, `${data.what}${waits}${data.eta ? `, about ${data.eta.toFixed(0)} s left` : ""}`);
      }
      heard(kind, data);
    });
    if (!current()) return null;
    if (end?.kind !== "completed") {
      const stopped = !["failed", "cancelled"].includes(end?.kind);
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
