"use strict";

// The review of uncertain rows, one by one. Every answer is sent at once, and counts when the
// server says that it is on disk. Texts reach the page through textContent alone.

const data = JSON.parse(document.getElementById("data").textContent);
const answers = new Map(Object.entries(data.answers).map(([row, label]) => [Number(row), label]));
const given = []; // rows answered here, the last one last
const part = (id) => document.getElementById(id);
let at = 0;
let busy = false;

/** The first row from a place on that has no answer; the number of rows where there is none. */
function open(from) {
  const found = data.rows.findIndex((row, k) => k >= from && !answers.has(row.number));
  return found < 0 ? data.rows.length : found;
}

function say(text, fault = false) {
  part("said").textContent = text;
  part("said").classList.toggle("fault", fault);
}

function choice(row, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "choice";
  button.setAttribute("aria-pressed", String(answers.get(row.number) === label));
  const key = document.createElement("kbd");
  key.textContent = label < 9 ? String(label + 1) : "·";
  const name = document.createElement("span");
  name.textContent = data.labels[label] + (row.label === label ? " (found)" : "");
  name.dir = "auto";
  const sure = document.createElement("span");
  sure.className = "number";
  sure.textContent = row.probabilities[label].toFixed(2);
  button.append(key, name, sure);
  button.addEventListener("click", () => answer(label));
  return button;
}

/** Show the row at a place, or that none is left. */
function show(place) {
  at = Math.max(0, Math.min(place, data.rows.length));
  const row = data.rows[at];
  part("card").hidden = !row;
  part("done").hidden = Boolean(row);
  if (row) {
    const label = row.label === null ? "no label" : `found: ${data.labels[row.label]}`;
    const sure = row.confidence.toFixed(2);
    part("place").textContent = `Row ${row.number} · ${label}, confidence ${sure}`;
    part("text").textContent = row.text;
    part("text").scrollTop = 0;
    part("choices").replaceChildren(...data.labels.map((_, k) => choice(row, k)));
  }
  part("back").disabled = at === 0;
  part("next").disabled = part("skip").disabled = !row;
  part("undo").disabled = given.length === 0;
  const n = data.rows.filter((one) => answers.has(one.number)).length;
  part("progress").textContent = `${n} of ${data.rows.length} answered`;
  part("bar").style.width = `${(100 * n) / Math.max(1, data.rows.length)}%`;
}

/** Store an answer, or take it back where the label is null; whether it is on disk. */
async function store(row, label) {
  busy = true;
  try {
    const reply = await fetch("answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ row, label }),
    });
    const told = await reply.json();
    if (!reply.ok) say(`Not stored: ${told.error}`, true);
    return reply.ok;
  } catch {
    say("Not stored: the review has ended. Start `icm-fast review` again.", true);
    return false;
  } finally {
    busy = false;
  }
}

async function answer(label) {
  const row = data.rows[at];
  if (busy || !row || !(await store(row.number, label))) return;
  answers.set(row.number, label);
  given.push(row.number);
  say(`Row ${row.number}: ${data.labels[label]}`);
  const next = open(at);
  show(next < data.rows.length ? next : open(0));
}

async function undo() {
  if (busy || given.length === 0) return;
  const row = given[given.length - 1];
  if (!(await store(row, null))) return;
  given.pop();
  answers.delete(row);
  say(`Row ${row}: answer taken back`);
  show(data.rows.findIndex((one) => one.number === row));
}

function skip() {
  if (busy || !data.rows[at]) return;
  say(`Row ${data.rows[at].number}: skipped`);
  show(open(at + 1));
}

/** Move the focus among the labels. */
function turn(step) {
  const buttons = [...part("choices").children];
  const now = buttons.indexOf(document.activeElement);
  buttons[(now + step + buttons.length) % buttons.length]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || busy) return;
  const number = Number(event.key);
  const actions = {
    ArrowLeft: () => show(at - 1),
    ArrowRight: () => show(at + 1),
    ArrowUp: () => turn(document.activeElement.closest(".choice") ? -1 : 0),
    ArrowDown: () => turn(1),
    s: skip,
    u: undo,
  };
  if (number >= 1 && number <= Math.min(9, data.labels.length)) answer(number - 1);
  else if (event.key in actions) actions[event.key]();
  else return;
  event.preventDefault();
});
part("back").addEventListener("click", () => show(at - 1));
part("next").addEventListener("click", () => show(at + 1));
part("skip").addEventListener("click", skip);
part("undo").addEventListener("click", undo);
show(open(0));
