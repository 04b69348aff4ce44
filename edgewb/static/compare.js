// The view of edgewb's compare widget (an anywidget module: plain ESM, nothing to build).
//
// Python owns the truth: tokens, states, where a lane departs, figures. This file draws it and sends back four
// small requests: run, stop, measure, resync. Tokens come in batches {run, lanes: [{i, at, toks, ...facts}]}, where
// `at` is the index of the batch's first token in its lane. So a batch can be applied twice without harm, and a
// missing one shows as a gap, which this view closes by telling Python how far each lane got ("resync").
//
// What a model wrote only ever enters the page as text nodes (textContent). Marks are attributes and ::before
// content, so the text of a lane is exactly the model's text: what you select and copy is what it wrote.

const ACTIVE = new Set(["loading", "prefill", "running", "stopping"]);
const SVG = "http://www.w3.org/2000/svg";
let serial = 0;

/** An element with properties, attributes and children (strings become text nodes, never markup). */
function h(tag, attrs = {}, ...children) {
  const el = document.createElement(tag);
  for (const [key, value] of Object.entries(attrs)) {
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (value !== undefined) el.setAttribute(key, value);
  }
  el.append(...children);
  return el;
}

const figure = (x) => (x == null ? "–" : x.toFixed(x < 10 ? 2 : x < 100 ? 1 : 0));
const percent = (p) => (p == null ? "" : p >= 0.9995 && p < 1 ? ">99.9%" : `${(100 * p).toFixed(1)}%`);
const seconds = (s) => (s == null ? "–" : s < 1 ? `${(1000 * s).toFixed(s < 0.1 ? 1 : 0)} ms` : `${s.toFixed(2)} s`);
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
/** White space made visible, for a token shown on its own. */
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";

/** A button that stays in the tab order when it has nothing to do, so pressing it never loses the keyboard's place. */
function button(label, name, action) {
  const el = h("button", { type: "button", "aria-label": name, onclick: () => el.enabled && action() }, label);
  Object.defineProperty(el, "enabled", {
    get: () => el.getAttribute("aria-disabled") !== "true",
    set: (on) => el.setAttribute("aria-disabled", String(!on)),
  });
  return el;
}

/** One target's column. Tokens arrive as [id, text, p, t, [[id, text, p], ...]]. */
class Lane {
  constructor(view, i, facts) {
    Object.assign(this, { view, i, facts, toks: [], now: { state: "idle" }, pinned: true, cursor: -1, spot: null });
    this.rate = h("span", { class: "ewb-rate" }, "–");
    this.detail = h("span", { class: "ewb-detail" });
    this.state = h("span", { class: "ewb-state" }, "idle");
    this.note = h("p", { class: "ewb-note", hidden: "" });
    this.departs = h("span", { class: "ewb-departs" });
    this.stop = button("Stop", `Stop ${facts.name}`, () => view.model.send({ t: "stop", i }));
    this.area = document.createElementNS(SVG, "path");
    this.path = document.createElementNS(SVG, "path");
    const spark = document.createElementNS(SVG, "svg");
    for (const [k, v] of Object.entries({ class: "ewb-spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" }))
      spark.setAttribute(k, v);
    spark.append(this.area, this.path);
    // The log is read out token by token if it is live; the status line speaks for it instead.
    this.log = h("div", { class: "ewb-log", role: "log", tabindex: "0", "aria-live": "off", "aria-label": `Text of ${facts.name}`,
      "aria-description": "Arrow keys walk the tokens, d goes to the departure",
      onscroll: () => { this.pinned = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 24; },
      onkeydown: (e) => this.key(e) });
    this.el = h("article", { class: "ewb-lane", "aria-label": facts.name },
      h("header", {},
        h("h4", {}, h("span", { class: "ewb-engine" }, facts.engine), " ", h("span", { class: "ewb-format" }, facts.format)),
        this.departs),
      h("div", { class: "ewb-figures" }, h("span", {}, this.rate, h("span", { class: "ewb-unit" }, " tok/s")), spark),
      h("div", { class: "ewb-line" }, this.state, this.detail, this.stop),
      this.note, this.log);
  }

  clear() {
    Object.assign(this, { toks: [], now: { state: "idle" }, pinned: true, cursor: -1, spot: null });
    this.log.replaceChildren();
  }

  /** Take a batch. False says that tokens before it are missing. */
  take(d) {
    const { at, toks, ...facts } = d;
    if (at > this.toks.length) return false;
    const fresh = toks.slice(this.toks.length - at);
    for (const tok of fresh) {
      const span = h("span", { class: "ewb-t" });
      span.textContent = tok[1];
      span.index = this.toks.push(tok) - 1;
      this.log.append(span);
    }
    this.now = facts;
    return true;
  }

  draw() {
    const { state, tps, ttft, dep, rel, note } = this.now;
    const active = ACTIVE.has(state);
    this.el.dataset.state = state;
    this.state.textContent = state;
    this.rate.textContent = figure(tps);
    this.detail.textContent = this.toks.length ? `${plural(this.toks.length, "token")} · TTFT ${seconds(ttft)}` : "";
    this.stop.enabled = active && state !== "stopping";
    this.log.setAttribute("aria-busy", String(active));
    this.note.hidden = !note;
    this.note.textContent = note || "";
    this.departs.textContent = rel ?? (this.facts.reference ? "reference" : "");
    this.departs.classList.toggle("ewb-off", dep != null);
    this.mark(dep);
  }

  /** The first token that differs gets a glyph, its index and a wavy line; CSS dots what follows it. */
  mark(dep) {
    const spot = this.log.children[dep] ?? null;
    if (spot === this.spot) return;
    this.spot?.classList.remove("ewb-dep");
    this.spot = spot;
    if (!spot) return;
    spot.classList.add("ewb-dep");
    spot.dataset.mark = `◆${dep}`;
  }

  /** Rate over time; the area below is the number of tokens. All lanes share both axes, so a glance compares them. */
  spark(long, top) {
    const n = this.toks.length, step = Math.max(2, Math.ceil(n / 40));
    let d = "", x0 = 0, x1 = 0;
    for (let a = 0; a + step < n; a += step) {
      const t0 = this.toks[a][3], t1 = this.toks[a + step][3];
      const y = (20 - 19 * Math.min(1, step / (t1 - t0) / top)).toFixed(1);
      x1 = (100 * t1 / long).toFixed(1);
      if (!d) { x0 = (100 * t0 / long).toFixed(1); d = `M${x0} ${y}`; }
      d += `L${x1} ${y}`;
    }
    this.path.setAttribute("d", d);
    this.area.setAttribute("d", d && `${d}L${x1} 20L${x0} 20Z`);
  }

  /** Arrow keys walk the tokens, so the alternatives need no mouse. */
  key(e) {
    const last = this.toks.length - 1;
    const to = { ArrowRight: this.cursor + 1, ArrowLeft: this.cursor - 1, Home: 0, End: last,
      d: this.now.dep ?? this.cursor }[e.key];
    if (e.key === "Escape") { this.log.focus(); return this.view.hide(); }
    if (to === undefined || last < 0 || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    this.cursor = Math.max(0, Math.min(last, to));
    const span = this.log.children[this.cursor];
    span.tabIndex = -1; // focusable only while it is the keyboard's place: one tab stop a lane
    span.focus();
  }
}

class View {
  constructor(model, el) {
    Object.assign(this, { model, run: -1, id: `ewb-${++serial}`, asked: -Infinity, frame: 0 });
    this.lanes = model.get("lanes").map((facts, i) => new Lane(this, i, facts));
    this.prompt = h("textarea", { class: "ewb-prompt", rows: "2", "aria-label": "Prompt", spellcheck: "false",
      onchange: () => { model.set("prompt", this.prompt.value); model.save_changes(); },
      onkeydown: (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey || e.shiftKey)) { e.preventDefault(); this.go(); } } });
    this.runs = button("Run", "Run all lanes", () => this.go());
    this.stops = button("Stop all", "Stop all lanes", () => model.send({ t: "stop" }));
    this.measures = button("Measure undisturbed", "Measure undisturbed, one target at a time", () => model.send({ t: "measure", prompt: this.prompt.value }));
    this.status = h("span", { class: "ewb-status", role: "status", "aria-live": "polite" });
    this.figures = h("div", { class: "ewb-table" });
    this.card = h("div", { class: "ewb-card", role: "tooltip", id: `${this.id}-card`, hidden: "" });
    this.grid = h("div", { class: "ewb-lanes" }, ...this.lanes.map((lane) => lane.el));
    this.root = h("section", { class: "ewb", "aria-label": "Compare targets", "data-lm-suppress-shortcuts": "true" },
      h("div", { class: "ewb-top" }, this.prompt, h("div", { class: "ewb-buttons" }, this.runs, this.stops)),
      this.grid,
      h("div", { class: "ewb-foot" }, this.status, this.measures),
      this.figures, this.card);
    this.size = new ResizeObserver(() => this.columns());
    this.size.observe(this.grid);
    const show = (e) => this.show(e.target.closest?.(".ewb-t"));
    this.root.addEventListener("mouseover", show);
    this.root.addEventListener("focusin", show);
    this.root.addEventListener("mouseleave", () => this.hide());
    // A static copy of this widget sits below it for readers without a kernel; here it would only repeat.
    const twin = h("style");
    twin.textContent = `#edgewb-${CSS.escape(model.get("twin"))} { display: none }`;
    el.append(twin, this.root);

    this.handlers = {
      "msg:custom": (m) => this.take(m),
      "change:snapshot": () => this.take(model.get("snapshot")),
      "change:prompt": () => { if (document.activeElement !== this.prompt) this.prompt.value = model.get("prompt"); },
      "change:figures": () => this.table(),
      "change:state": () => this.later(),
      "change:status": () => this.later(),
    };
    for (const [event, f] of Object.entries(this.handlers)) model.on(event, f);
    this.prompt.value = model.get("prompt");
    this.table();
    this.take(model.get("snapshot"));
    this.later();
  }

  dispose() {
    for (const [event, f] of Object.entries(this.handlers)) this.model.off(event, f);
    cancelAnimationFrame(this.frame);
    this.size.disconnect();
  }

  /** Rows of equal length: as few as the width allows, and four lanes never stand as three and one. */
  columns() {
    const n = this.lanes.length, most = Math.max(1, Math.floor((this.grid.clientWidth + 28) / (240 + 28)));
    this.grid.style.gridTemplateColumns = `repeat(${Math.ceil(n / Math.ceil(n / most))}, minmax(0, 1fr))`;
  }

  go() {
    if (this.runs.enabled) this.model.send({ t: "run", prompt: this.prompt.value });
  }

  take(message) {
    if (!message?.lanes || message.run < this.run) return;
    if (message.run > this.run) {
      this.run = message.run;
      this.hide();
      for (const lane of this.lanes) lane.clear();
    }
    const whole = message.lanes.map((d) => this.lanes[d.i].take(d)).every(Boolean);
    if (!whole && performance.now() - this.asked > 500) {
      this.asked = performance.now();
      this.model.send({ t: "resync", run: this.run, have: this.lanes.map((lane) => lane.toks.length) });
    }
    this.later();
  }

  /** However many batches come between two frames, the page is laid out once. */
  later() {
    this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  draw() {
    const state = this.model.get("state");
    const active = this.lanes.filter((lane) => ACTIVE.has(lane.now.state)).length;
    this.runs.enabled = state !== "measuring";
    this.stops.enabled = active > 0 || state === "measuring";
    this.measures.enabled = state !== "running" && state !== "measuring";
    const status = this.model.get("status");
    if (this.status.textContent !== status) this.status.textContent = status;
    const long = Math.max(0.05, ...this.lanes.map((lane) => lane.toks.at(-1)?.[3] ?? 0));
    const fast = 1.25 * Math.max(1, ...this.lanes.map((lane) => lane.now.tps ?? 0));
    for (const lane of this.lanes) { lane.draw(); lane.spark(long, fast); }
    // Reading a height lays the page out, so all writing comes before it; a reader who scrolled up is left in peace.
    for (const { log } of this.lanes.filter((lane) => lane.pinned)) log.scrollTop = log.scrollHeight;
  }

  /** The figures of the undisturbed pass; Python formats them, so the static copy shows the same. */
  table() {
    const { caption, head, rows } = this.model.get("figures") ?? {};
    if (!rows?.length) return this.figures.replaceChildren();
    const row = (cells, tag) => h("tr", {}, ...cells.map((c, j) =>
      j && tag === "td" ? h("td", {}, c) : h("th", { scope: tag === "td" ? "row" : "col" }, c)));
    this.figures.replaceChildren(h("table", {}, h("caption", {}, caption),
      h("thead", {}, row(head, "th")), h("tbody", {}, ...rows.map((r) => row(r, "td")))));
  }

  /** A token's card: what else the model could have said here. The same place in the other lanes lights up. */
  show(span) {
    if (!span) return this.hide();
    const lane = this.lanes.find((l) => l.log === span.parentNode), i = span.index, tok = lane?.toks[i];
    if (!tok) return;
    this.hide();
    this.lit = this.lanes.map((l) => l.log.children[i]).filter(Boolean);
    for (const peer of this.lit) peer.classList.add("ewb-peer");
    span.setAttribute("aria-describedby", this.card.id);
    const [id, text, p, , top] = tok;
    const list = (top ?? []).some((c) => c[0] === id) || p == null ? top ?? [] : [...(top ?? []), [id, text, p]];
    const reference = this.lanes.find((l) => l.facts.reference)?.toks[i];
    this.card.replaceChildren(
      h("div", { class: "ewb-card-head" }, h("b", {}, visible(text)), ` token ${i} · id ${id}`),
      ...(i === lane.now.dep && reference ? [h("div", { class: "ewb-card-dep" }, `◆ the reference wrote ${visible(reference[1])} ${percent(reference[2])}`)] : []),
      h("ul", {}, ...list.map(([cid, ctext, cp]) => {
        const bar = h("i");
        bar.style.width = `${100 * cp}%`;
        return h("li", cid === id ? { class: "ewb-chosen" } : {},
          h("span", { class: "ewb-alt" }, visible(ctext)), h("span", { class: "ewb-bar" }, bar), h("span", { class: "ewb-p" }, percent(cp)));
      })),
      ...(list.length ? [] : ["no probabilities were asked for (top=0)"]));
    this.card.hidden = false;
    const at = span.getClientRects()[0] ?? span.getBoundingClientRect(), box = this.root.getBoundingClientRect();
    this.card.style.left = `${Math.max(0, Math.min(at.left - box.left, box.width - this.card.offsetWidth))}px`;
    this.card.style.top = `${at.bottom - box.top + 6}px`;
  }

  hide() {
    for (const peer of this.lit ?? []) { peer.classList.remove("ewb-peer"); peer.removeAttribute("aria-describedby"); }
    this.lit = [];
    this.card.hidden = true;
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.dispose();
  },
};
