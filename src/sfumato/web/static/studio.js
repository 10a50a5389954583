// The studio: all pages in one, chosen by the address's hash.

import { json } from "./api.js";
import * as create from "./create.js";
import * as explain from "./explain.js";
import { run } from "./gallery.js";
import "./own.js";
import * as learn from "./learn.js";
import "./lessons.js";
import "./reduce.js";
import "./restore.js";
import * as search from "./search.js";

const pages = ["create", "restore", "explain", "reduce", "search", "learn", "history"];

async function history() {
  const element = document.querySelector("#history .results");
  const { jobs } = await json("/v1/jobs?count=40");
  const done = jobs.filter((job) => job.status === "completed" && ["create", "trace", "restore"].includes(job.kind));
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
    create.tell(error.message, true);
  }
  document.body.dataset.ready = page;
}

addEventListener("hashchange", open);
open();
