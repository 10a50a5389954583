// The studio: all pages in one, chosen by the address's hash.

import { json } from "./api.js";
import { holdsFiles } from "./brush.js";
import { say } from "./job.js";
import * as create from "./create.js";
import * as explain from "./explain.js";
import { run } from "./gallery.js";
import { refill } from "./keep.js";
import "./own.js";
import * as learn from "./learn.js";
import "./lessons.js";
import * as reduce from "./reduce.js";
import * as restore from "./restore.js";
import * as search from "./search.js";

const pages = ["create", "restore", "explain", "reduce", "search", "learn", "history"];

const SAYS = { create: "pictures", trace: "an explanation", restore: "a photo", reduce: "a comparison", search: "a search",
  points: "points", lesson: "an experiment", probe: "your own picture" };

// A job that waits or runs, with a button that stops it.
function unfinished(id) {
  const item = document.createElement("li");
  const stop = document.createElement("button");
  item.dataset.job = id;
  stop.type = "button";
  stop.textContent = "Stop";
  stop.addEventListener("click", async () => {
    await json(`/v1/jobs/${id}/cancel`, {}).catch(() => null); // it may have ended meanwhile
    await history().catch(() => null);
  });
  item.append(document.createElement("span"), stop);
  return item;
}

// Show the unfinished jobs. A job keeps its line, so that its button keeps the keyboard's focus.
function list(jobs) {
  const box = document.querySelector("#history .changes");
  const lines = new Map([...box.children].map((item) => [item.dataset.job, item]));
  for (const job of jobs) {
    const item = lines.get(job.id) ?? unfinished(job.id);
    lines.delete(job.id);
    const where = job.status === "queued" ? "waits" : `${Math.round((100 * job.progress.done) / job.progress.total)} %`;
    const said = `${SAYS[job.kind]}, since ${new Date(job.created * 1000).toLocaleTimeString()}: ${where}`;
    item.querySelector("span").textContent = said;
    item.querySelector("button").setAttribute("aria-label", `Stop: ${said}`);
    if (!item.isConnected) box.append(item);
  }
  for (const ended of lines.values()) ended.remove();
}

const SHOWN = 40, AGAIN = 2000; // jobs with pictures; milliseconds until the list of unfinished jobs is read again
let timer = null;
let known = ""; // ids of the unfinished jobs

// The unfinished jobs, which are read again while there are some; true if some have ended since.
async function unfinishedJobs() {
  const before = known;
  try {
    const { jobs } = await json("/v1/jobs?status=queued&status=generating");
    list(jobs);
    known = jobs.map((job) => job.id).join(" ");
  } finally {
    clearTimeout(timer);
    if (known) timer = setTimeout(again, AGAIN); // also after a failure
  }
  return before !== known;
}

async function again() {
  if (location.hash !== "#history") return;
  const ended = await unfinishedJobs().catch(() => false);
  if (ended) await history().catch(() => null);
}

async function history() {
  say(document.getElementById("history"), "");
  const element = document.querySelector("#history .results");
  await unfinishedJobs();
  const kinds = "kind=create&kind=trace&kind=restore&kind=reduce&status=completed&status=cancelled";
  const { jobs } = await json(`/v1/jobs?count=${SHOWN}&${kinds}`);
  const done = jobs.filter((job) => job.result?.pictures.length);
  element.replaceChildren();
  if (!done.length) element.textContent = "No results yet.";
  for (const job of done.reverse()) {
    const { pictures } = job.result, [first] = pictures;
    const titles = { create: first.prompt, trace: `explained: ${first.prompt}`, restore: "a repaired photo",
      reduce: `compared: ${first.report?.data ?? "data"}` };
    const shown = pictures.map((one) => ({ prompt: one.name, ...one })); // figures of a comparison have names
    run(element, titles[job.kind], shown.length, origin(job)).finish(shown);
  }
}

// When a job was started, and its page if it has one.
function origin(job) {
  const line = document.createElement("p");
  line.className = "hint";
  line.textContent = new Date(job.created * 1000).toLocaleString();
  if (["trace", "reduce"].includes(job.kind) && job.status === "completed") {
    const page = document.createElement("a");
    page.href = `${job.poll_url}/page`;
    page.target = "_blank";
    page.textContent = job.kind === "trace" ? "Open the explanation" : "Open the report";
    line.append(", ", page);
  }
  return line;
}

async function open() {
  const wanted = location.hash.slice(1);
  const page = pages.includes(wanted) ? wanted : pages[0];
  for (const name of pages) document.getElementById(name).hidden = name !== page;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0); // not to the page's own beginning, below the links
  try {
    await { create, restore, explain, reduce, search, learn, history: { open: history } }[page].open();
  } catch (error) {
    say(document.getElementById(page), error.message, true);
  }
  document.body.dataset.ready = page;
}

addEventListener("hashchange", () => {
  document.getElementById("viewer").close();
  open();
});
// A wrong value in a closed part of a form is shown, so that the browser can say what is wrong.
addEventListener("invalid", (event) => {
  const part = event.target.closest("details");
  if (part) part.open = true;
}, true);
// A file that is dropped beside a form does not replace the studio.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => holdsFiles(event) && event.preventDefault());
for (const form of document.querySelectorAll("main form")) refill(form); // lists are filled when their page is opened
open();
