"use strict";

// The behaviour of a report: the theme, and the table of rows. Texts of the data reach the page
// through textContent alone, never as markup.

/** Let people choose between the scheme of their system, light and dark. */
function startTheme() {
  const button = document.getElementById("theme");
  const names = ["system", "light", "dark"];
  let at = 0;
  try {
    at = Math.max(0, names.indexOf(localStorage.getItem("icm-fast-theme")));
  } catch {
    // Pages from files may not keep anything; the choice then lasts as long as the page.
  }
  const show = () => {
    document.documentElement.dataset.theme = names[at];
    button.textContent = `Theme: ${names[at]}`;
  };
  button.addEventListener("click", () => {
    at = (at + 1) % names.length;
    show();
    try {
      localStorage.setItem("icm-fast-theme", names[at]);
    } catch {
      // See above.
    }
  });
  button.hidden = false;
  show();
}

/** Mark the section that is being read in the list of contents. */
function startContents() {
  const links = new Map();
  for (const link of document.querySelectorAll(".contents a")) {
    links.set(link.hash.slice(1), link);
  }
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          for (const link of links.values()) link.removeAttribute("aria-current");
          links.get(entry.target.id)?.setAttribute("aria-current", "true");
        }
      }
    },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  for (const id of links.keys()) watch.observe(document.getElementById(id));
}

/** An element with a class and a text. */
function element(name, className = "", text = null) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

/** The table of rows: only what can be seen is drawn, so that any number of rows scrolls. */
class RowTable {
  static BEYOND = 6; // rows drawn above and below what can be seen

  constructor(data) {
    this.data = data;
    this.texts = data.texts.map((text, k) => `${text}\n${data.ids[k]}`.toLowerCase());
    this.orders = new Map();
    this.drawn = new Map();
    this.sort = { key: "confidence", down: false };
    this.scroller = document.getElementById("rows-scroll");
    this.table = this.scroller.querySelector("table");
    this.body = this.table.tBodies[0];
    this.status = document.getElementById("rows-status");
    this.fields = document.getElementById("rows-controls");
    this.detail = document.getElementById("rows-detail");
    this.spaces = [this.space(), this.space()];
    this.body.replaceChildren(...this.spaces);
    this.measure();
    this.listen();
    this.apply();
  }

  space() {
    const row = element("tr", "space");
    row.setAttribute("aria-hidden", "true");
    row.append(element("td"));
    return row;
  }

  listen() {
    this.fields.addEventListener("input", () => this.apply());
    this.fields.addEventListener("submit", (event) => event.preventDefault());
    this.fields.addEventListener("reset", () => setTimeout(() => this.apply()));
    this.table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.sortBy(button.dataset.key);
    });
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => {
      this.measure();
      this.draw();
    }).observe(this.scroller);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr.row");
      if (row) this.show(Number(row.dataset.place));
    });
    const click = (name, action) => {
      this.detail.querySelector(`[data-do="${name}"]`).addEventListener("click", action);
    };
    click("close", () => this.detail.close());
    click("back", () => this.show(this.shown - 1));
    click("next", () => this.show(this.shown + 1));
    this.detail.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.show(this.shown - 1);
      if (event.key === "ArrowRight") this.show(this.shown + 1);
    });
    this.detail.addEventListener("click", (event) => {
      if (event.target === this.detail) this.detail.close();
    });
  }

  sortBy(key) {
    this.sort = { key, down: this.sort.key === key && !this.sort.down };
    this.apply();
  }

  /** Positions of all rows, ordered by a column; equal ones stay in the order of the data. */
  order(key) {
    if (!this.orders.has(key)) {
      const values = key === "text" ? this.texts : key === "row" ? null : this.data[key];
      const order = this.texts.map((_, k) => k);
      if (values) {
        order.sort((a, b) => (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : a - b));
      }
      this.orders.set(key, order);
    }
    return this.orders.get(key);
  }

  /** Filter and sort, and draw from the top. */
  apply() {
    const given = new FormData(this.fields);
    const words = given.get("search").toLowerCase().split(/\s+/).filter(Boolean);
    const pick = (name) => (given.get(name) ? Number(given.get(name)) : null);
    const [label, decided, gold] = [pick("label"), pick("decided"), given.get("gold")];
    const [low, high] = [pick("low") ?? -1, pick("high") ?? 2];
    const { data, texts } = this;
    this.visible = this.order(this.sort.key).filter(
      (k) =>
        (label === null || data.found[k] === label) &&
        (decided === null || data.decided[k] === decided) &&
        data.confidence[k] >= low &&
        data.confidence[k] <= high &&
        (!gold || this.againstGold(k) === gold) &&
        words.every((word) => texts[k].includes(word)),
    );
    if (this.sort.down) this.visible.reverse();
    for (const head of this.table.tHead.querySelectorAll("th")) {
      const key = head.firstElementChild?.dataset.key;
      if (key === this.sort.key) {
        head.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      } else {
        head.removeAttribute("aria-sort");
      }
    }
    const n = this.visible.length.toLocaleString("en");
    const all = texts.length.toLocaleString("en");
    this.status.textContent =
      n === all ? `All ${all} rows` : n === "0" ? `None of ${all} rows` : `${n} of ${all} rows`;
    this.table.setAttribute("aria-rowcount", String(this.visible.length + 1));
    for (const row of this.drawn.values()) row.remove();
    this.drawn.clear();
    this.scroller.scrollTop = 0;
    this.draw();
  }

  againstGold(k) {
    const { gold, found } = this.data;
    return gold[k] < 0 || found[k] < 0 ? "unknown" : gold[k] === found[k] ? "same" : "other";
  }

  /** Read once per size of the window what drawing needs: reading it makes browsers lay out. */
  measure() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.height = rem * parseFloat(getComputedStyle(this.table).getPropertyValue("--row"));
    this.room = Math.ceil(this.scroller.clientHeight / this.height);
    const heads = [...this.table.tHead.rows[0].cells];
    const columns = heads.filter((head) => head.offsetWidth > 0).length;
    for (const space of this.spaces) space.firstChild.colSpan = columns; // phones show fewer
  }

  /** Draw the rows that can be seen. Those that stay keep their elements, and so their focus. */
  draw() {
    const { height } = this;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / height) - RowTable.BEYOND);
    const last = Math.min(this.visible.length, first + this.room + 2 * RowTable.BEYOND);
    for (const [place, row] of this.drawn) {
      if (place < first || place >= last) {
        row.remove();
        this.drawn.delete(place);
      }
    }
    let after = this.spaces[0];
    for (let place = first; place < last; place += 1) {
      let row = this.drawn.get(place);
      if (!row) {
        row = this.row(place);
        this.drawn.set(place, row);
        after.after(row);
      }
      after = row;
    }
    this.spaces[0].firstChild.style.height = `${first * height}px`;
    this.spaces[1].firstChild.style.height = `${(this.visible.length - last) * height}px`;
  }

  row(place) {
    const k = this.visible[place];
    const { data } = this;
    const row = element("tr", "row");
    row.dataset.place = String(place);
    row.setAttribute("aria-rowindex", String(place + 2));
    const open = element("button", "open");
    open.type = "button";
    open.setAttribute("aria-haspopup", "dialog");
    const text = element("span", "", data.texts[k]);
    text.dir = "auto";
    open.append(text);
    const cell = element("td");
    cell.append(open);
    row.append(element("td", "id", data.ids[k]), cell, this.named("td", data.found[k]));
    row.append(this.confidence(k), element("td", "how", data.deciders[data.decided[k]]));
    if (data.gold) {
      const gold = this.named("td", data.gold[k], "–");
      gold.className = "gold";
      if (this.againstGold(k) === "other") gold.firstChild.classList.add("wrong");
      row.append(gold);
    }
    return row;
  }

  named(tag, label, none = "(no label)") {
    const cell = element(tag);
    const name = element("span", "name", label < 0 ? none : this.data.labels[label]);
    name.dir = "auto";
    cell.append(name);
    return cell;
  }

  confidence(k) {
    const value = this.data.confidence[k];
    const cell = element("td", "number", value.toFixed(2));
    const meter = element("span", "meter");
    const inner = element("i");
    inner.style.width = `${100 * value}%`;
    meter.append(inner);
    cell.append(meter);
    return cell;
  }

  /** Show everything about the row at a place of the table. */
  show(place) {
    if (place < 0 || place >= this.visible.length) return;
    this.shown = place;
    const k = this.visible[place];
    const { data } = this;
    const facts = [
      ["Label", data.found[k] < 0 ? "(no label)" : data.labels[data.found[k]]],
      ["Confidence", data.confidence[k].toFixed(4)],
      [data.decidedBy, data.deciders[data.decided[k]]],
      ...(data.gold ? [["Gold", data.gold[k] < 0 ? "unknown" : data.labels[data.gold[k]]]] : []),
      ...data.more.map(([name, values]) => [name, values[k]]),
    ];
    const list = this.detail.querySelector("dl");
    list.replaceChildren(
      ...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]),
    );
    this.detail.querySelector("h3").textContent = `Row ${data.ids[k]}`;
    this.detail.querySelector(".whole").textContent = data.texts[k];
    this.detail.querySelector('[data-do="back"]').disabled = place === 0;
    this.detail.querySelector('[data-do="next"]').disabled = place === this.visible.length - 1;
    if (!this.detail.open) this.detail.showModal();
  }
}

startTheme();
startContents();
const content = JSON.parse(document.getElementById("data").textContent);
if (content.rows) new RowTable(content.rows);
