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
import "./reduce.js";
import "./restore.js";
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
  const kinds = "kind=create&kind=trace&kind=restore&status=completed&status=cancelled";
  const { jobs } = await json(`/v1/jobs?count=${SHOWN}&${kinds}`);
  const done = jobs.filter((job) => job.result?.pictures.length);
  element.replaceChildren();
  if (!done.length) element.textContent = "No pictures yet.";
  for (const job of done.reverse()) {
    const { pictures } = job.result;
    const titles = { create: pictures[0].prompt, trace: `explained: ${pictures[0].prompt}`, restore: "a repaired photo" };
    run(element, titles[job.kind], pictures.length).finish(pictures);
  }
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
    if (page === "create") await create.open();
    if (page === "explain") await explain.open();
    if (page === "learn") await learn.open();
    if (page === "search") await search.open();
    if (page === "history") await history();
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
