"use strict";
// Texts of users become text nodes and properties only; nothing here makes markup.
const $ = (id) => document.getElementById(id);
const config = JSON.parse($("config").textContent);
const { rows: ROWS, given: GIVEN, suggested: SUGGESTED } = config.index;
const WORDS = ["accept", "keep", "other", "unsure"];
const PAST = { accept: "accepted", keep: "kept", other: "other class", unsure: "unsure" };
const COLUMNS = ["row", "id", "given_label", "decision", "label", "reviewer", "time", "result"];
const COMPARED = ["decision", "label", "reviewer", "time"];
const GRID_CARDS = 60;
const DOUBLE_CLICK_MS = 300;
const LISTED_CLASSES = 50;
const LISTED_PAIRS = 1000;

const values = config.values.map(String);
const classOf = new Map(values.map((value, k) => [value, k]));
const positionOf = new Map(ROWS.map((row, at) => [row, at]));

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const namesakes = new Map(); // how many classes have a name
for (const name of config.classes) namesakes.set(name, (namesakes.get(name) ?? 0) + 1);

function className(k) {
  const name = config.classes[k];
  if (name.trim() === "") return `class ${k}`;
  return namesakes.get(name) > 1 ? `${name} (${values[k]})` : name;
}

// ---- CSV: quotes as in RFC 4180, and no cell that a spreadsheet runs as a formula.

const FORMULA = /^'*[=+\-@\t\r]/;
const NUMBER = /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/;

function escapeFormula(text) {
  return FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
}

function unescapeFormula(text) {
  return text.startsWith("'") && FORMULA.test(text) ? text.slice(1) : text;
}

function csvCell(value) {
  const text = escapeFormula(String(value));
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvText(lines) {
  return lines.map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

function parseCsv(text) {
  const lines = [];
  let at = text.startsWith("\ufeff") ? 1 : 0;
  if (!/[\r\n]$/.test(text)) throw new Error("it ends in the middle of a line: is it cut off?");
  while (at < text.length) {
    const cells = [];
    for (;;) {
      let cell = "";
      if (text[at] === '"') {
        for (at += 1; ; ) {
          const end = text.indexOf('"', at);
          if (end < 0) throw new Error("it ends in a quoted cell: is it cut off?");
          cell += text.slice(at, end);
          at = end + 1;
          if (text[at] !== '"') break;
          cell += '"';
          at += 1;
        }
        if (at < text.length && !/[,\r\n]/.test(text[at])) throw new Error(`line ${lines.length + 1} has text after a quote`);
      } else {
        const start = at;
        while (at < text.length && !/[,\r\n]/.test(text[at])) at += 1;
        cell = text.slice(start, at);
      }
      cells.push(unescapeFormula(cell));
      if (text[at] !== ",") break;
      at += 1;
    }
    at += text.startsWith("\r\n", at) ? 2 : 1;
    if (cells.length > 1 || cells[0] !== "") lines.push(cells);
  }
  return lines;
}

// ---- Where decisions are: in the browser's storage.

function stored() {
  const prefix = `labelsieve-review ${config.fingerprint} `;
  let storage = null;
  try {
    storage = window.localStorage;
    storage.getItem(prefix);
  } catch {
    storage = null;
  }
  const failed = (why) =>
    warn("kept", `Decisions are not kept when this page is closed, since ${why}. Download them before you close it.`);
  const unkept = new Map(); // what the storage did not take
  const write = (action) => {
    try {
      if (storage !== null) action();
    } catch {
      failed("the browser's storage is full");
      return false;
    }
    if (storage === null) failed("the browser has no storage for it");
    return storage !== null;
  };
  return {
    async decisions() {
      if (storage === null) failed("the browser has no storage for it");
      const found = [...unkept.values()].filter((one) => one.decision !== null);
      for (let at = 0; at < (storage?.length ?? 0); at += 1) {
        const key = storage.key(at);
        if (!key.startsWith(prefix) || unkept.has(key)) continue;
        try {
          found.push(JSON.parse(storage.getItem(key)));
        } catch {
          // Not what this page wrote.
        }
      }
      return found;
    },
    save(decision) {
      const key = `${prefix}${decision.row} ${decision.reviewer}`;
      const text = JSON.stringify(decision);
      if (write(() => (decision.decision === null ? storage.removeItem(key) : storage.setItem(key, text)))) unkept.delete(key);
      else unkept.set(key, decision);
    },
    remember: (name, value) => write(() => storage.setItem(`labelsieve-review ${name}`, value)),
    recall: (name) => (storage === null ? null : storage.getItem(`labelsieve-review ${name}`)),
    onChange(action) {
      window.addEventListener("storage", (event) => {
        if (event.key === null || event.key.startsWith(prefix)) action();
      });
      // A page to which the browser goes back may be as it was.
      window.addEventListener("pageshow", (event) => event.persisted && action());
    },
  };
}

const source = stored();

// ---- Decisions: one of each reviewer about a row.

const byReviewer = new Map();
let reviewer = "";
let downloaded = true;
let lastTime = 0;

function decisionsOf(name) {
  if (!byReviewer.has(name)) byReviewer.set(name, new Map());
  return byReviewer.get(name);
}

const mine = () => decisionsOf(reviewer);

function decisionFor(at, k) {
  // What it means to give the row at a position the class k, or none.
  if (k === null) return { decision: "unsure", label: "" };
  if (k === GIVEN[at]) return { decision: "keep", label: "" };
  return { decision: k === SUGGESTED[at] ? "accept" : "other", label: values[k] };
}

function checked(decision) {
  // Return a decision from outside as this page makes it, or null if it is not one about a row of this page.
  if (decision === null || typeof decision !== "object") return null;
  const at = positionOf.get(Number(decision.row));
  if (at === undefined || !WORDS.includes(decision.decision)) return null;
  if (decision.given_label !== undefined && String(decision.given_label) !== values[GIVEN[at]]) return null;
  let k = classOf.get(String(decision.label)); // what is accepted depends on the page: with probabilities it suggests more
  if (decision.decision === "keep") k = GIVEN[at];
  if (decision.decision === "unsure") k = null;
  if (k === undefined) return null;
  return {
    row: ROWS[at],
    given_label: config.values[GIVEN[at]],
    ...decisionFor(at, k),
    reviewer: String(decision.reviewer ?? ""),
    time: String(decision.time ?? ""),
  };
}

function now() {
  // Each decision has a time of its own, so that their order is known.
  lastTime = Math.max(Date.now(), lastTime + 1);
  return new Date(lastTime).toISOString();
}

function isLater(one, other) {
  // Whether a decision, if there is one, was made after another; if a time is not known it was not.
  return one !== undefined && Date.parse(one.time) > Date.parse(other.time);
}

function keepDecision(decision) {
  const own = decisionsOf(decision.reviewer);
  own.delete(decision.row); // the last one made is at the end
  if (decision.decision !== null) own.set(decision.row, decision);
}

function storeDecision(decision) {
  keepDecision(decision);
  source.save(decision);
  downloaded = false;
}

function removeDecision(row, name) {
  const at = positionOf.get(row);
  const given = config.values[GIVEN[at]];
  storeDecision({ row, given_label: given, decision: null, label: "", reviewer: name, time: now() });
}

async function restore() {
  const found = (await source.decisions()).map(checked).filter((one) => one !== null);
  found.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  byReviewer.clear();
  for (const one of found) decisionsOf(one.reviewer).set(one.row, one);
}

function decisionLines() {
  const lines = [COLUMNS];
  for (const [at, row] of ROWS.entries()) {
    for (const own of byReviewer.values()) {
      const one = own.get(row);
      if (one === undefined) continue;
      lines.push([row, config.rows[at].id ?? "", one.given_label, one.decision, one.label, one.reviewer, one.time, config.fingerprint]);
    }
  }
  return lines;
}

function importedDecisions(text) {
  const [header, ...lines] = parseCsv(text);
  for (const name of ["row", "given_label", "decision", "label"]) {
    if (!header || !header.includes(name)) throw new Error(`it has no column ${name}`);
  }
  const found = [];
  let others = 0;
  for (const [number, cells] of lines.entries()) {
    const where = `line ${number + 2}`;
    if (cells.length !== header.length) throw new Error(`${where} has ${cells.length} cells, the header has ${header.length}`);
    const one = Object.fromEntries(header.map((name, at) => [name, cells[at]]));
    if (one.result && one.result !== config.fingerprint) throw new Error(`${where} is about another result`);
    if (!/^[0-9]+$/.test(one.row)) throw new Error(`${where}: ${one.row} is not a row`);
    if (!positionOf.has(Number(one.row))) {
      others += 1;
      continue;
    }
    const decision = checked(one);
    if (decision === null) throw new Error(`${where} has another given label, or no decision and label of this page`);
    found.push(decision);
  }
  return { found, others };
}

// ---- What is shown.

let shown = []; // positions, ascending
let current = 0;
let isGrid = false;
let lastClick = 0;
let single = true; // whether single keys work
const undoable = [];

const warnings = new Map();

function warn(about, text) {
  // What is warned of stays until it is over, whatever else is warned of meanwhile.
  if (text === "") warnings.delete(about);
  else warnings.set(about, text);
  $("warning").textContent = [...warnings.values()].join(" ");
  $("warning").hidden = warnings.size === 0;
}

function say(text) {
  $("said").textContent = text.trim();
}

function percent(p) {
  return p === undefined || p === null ? "" : `${(100 * p).toFixed(p < 0.0995 && p > 0 ? 2 : 1)}%`;
}

function lowerBound(at) {
  let [low, high] = [0, shown.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (shown[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

function filterRows() {
  const status = $("status").value;
  const given = $("given-filter").value;
  const pair = $("pair-filter").value;
  const own = mine();
  const fits = (at) => {
    if (given !== "" && GIVEN[at] !== Number(given)) return false;
    if (pair !== "" && `${GIVEN[at]} ${SUGGESTED[at]}` !== pair) return false;
    if (status === "all") return true;
    const one = own.get(ROWS[at]);
    if (status === "undecided") return one === undefined;
    return one !== undefined && (status === "decided" || one.decision === status);
  };
  shown = [];
  for (let at = 0; at < ROWS.length; at += 1) if (fits(at)) shown.push(at);
}

function settle() {
  // Keep the current row among those that are shown.
  if (shown.length && shown[lowerBound(current)] !== current) current = shown[Math.min(lowerBound(current), shown.length - 1)];
}

function candidates(at, row) {
  const found = new Map();
  for (const [k, p] of row.top ?? []) found.set(k, p);
  if (SUGGESTED[at] >= 0) found.set(SUGGESTED[at], row.p_suggested ?? found.get(SUGGESTED[at]));
  found.set(GIVEN[at], row.p_given ?? found.get(GIVEN[at]));
  return [...found].sort(([, p], [, q]) => (q ?? -1) - (p ?? -1));
}

function inWords(one) {
  const to = one.label === "" ? "" : `: ${className(classOf.get(one.label))}`;
  return `${PAST[one.decision]}${to}`;
}

function textOf(row) {
  if (row.marked === undefined) return [row.text ?? ""];
  const [before, within, after] = row.marked;
  const rest = row.text === undefined ? [] : [`\n\n${row.text}`];
  return [before, element("mark", { textContent: within }), after, ...rest];
}

function rowName(at, row) {
  return row.id === undefined ? `Row ${ROWS[at]}` : `Row ${ROWS[at]}: ${row.id}`;
}

function drawProgress() {
  const n = mine().size;
  $("done").max = Math.max(1, ROWS.length);
  $("done").value = n;
  $("done-text").textContent = `${n.toLocaleString("en")} of ${ROWS.length.toLocaleString("en")} decided`;
}

function drawActions() {
  const some = shown.length > 0;
  const suggestion = some ? SUGGESTED[current] : -1;
  const own = some ? mine().get(ROWS[current]) : undefined;
  $("accept").disabled = !some || suggestion < 0;
  $("accept").querySelector("span").textContent = suggestion < 0 ? "No suggestion" : `Accept ${className(suggestion)}`;
  $("keep").querySelector("span").textContent = some ? `Keep ${className(GIVEN[current])}` : "Keep";
  for (const id of ["keep", "unsure", "other"]) $(id).disabled = !some;
  for (const id of ["accept", "keep", "unsure"]) $(id).setAttribute("aria-pressed", String(own?.decision === id));
  $("undo").disabled = lastOwn() === undefined;
  const place = lowerBound(current);
  $("back").disabled = !some || place === 0;
  $("forward").disabled = !some || place >= shown.length - 1;
}

function drawAbout(row) {
  const place = (lowerBound(current) + 1).toLocaleString("en");
  const score = row.score === undefined ? "" : ` · score ${row.score.toPrecision(3)}`;
  const where = row.place === undefined ? "" : ` · ${row.place}`;
  $("row-about").textContent = `${place} of ${shown.length.toLocaleString("en")} shown${where}${score}`;
}

function drawOne(row) {
  const at = current;
  $("row-name").textContent = rowName(at, row);
  drawAbout(row);
  const url = row.picture;
  $("figure").hidden = url === undefined;
  if (url === undefined) $("picture").removeAttribute("src");
  else if ($("picture").getAttribute("src") !== url) {
    $("picture").src = url;
    // The picture of another row must not stay until this one is loaded.
    $("picture").classList.toggle("loading", !$("picture").complete);
  }
  $("picture").alt = `Picture of row ${ROWS[at]}`;
  $("text").hidden = row.text === undefined && row.marked === undefined;
  $("text").replaceChildren(...textOf(row));
  const own = mine().get(ROWS[at]);
  const chosen = own === undefined ? null : own.decision === "keep" ? GIVEN[at] : own.label === "" ? null : classOf.get(own.label);
  const hadFocus = $("classes").contains(document.activeElement);
  $("classes").replaceChildren(
    ...candidates(at, row).map(([k, p], number) => {
      const tags = [];
      if (k === GIVEN[at]) tags.push(element("span", { className: "tag", textContent: "given" }));
      if (k === SUGGESTED[at]) tags.push(element("span", { className: "tag suggested", textContent: "suggested" }));
      const button = element(
        "button",
        { type: "button" },
        element("kbd", { textContent: String(number + 1) }),
        element("span", {}, element("bdi", { textContent: className(k) }), ...tags),
        element("span", { className: "p", textContent: percent(p) }),
      );
      if (p !== undefined && p !== null) {
        const bar = element("progress", { max: 1, value: Math.min(1, Math.max(0, p)) });
        bar.setAttribute("aria-hidden", "true");
        button.append(bar);
      }
      button.setAttribute("aria-pressed", String(k === chosen));
      button.addEventListener("click", (event) => isDoubled(event) || decide(k));
      return element("li", {}, button);
    }),
  );
  if (hadFocus) $("row-name").focus();
  $("decided").hidden = own === undefined;
  if (own !== undefined) {
    const who = own.reviewer === "" ? "" : ` by ${own.reviewer}`;
    const when = Number.isNaN(Date.parse(own.time)) ? "" : `, ${new Date(own.time).toLocaleString()}`;
    $("decided").textContent = `Decided: ${inWords(own)}${who}${when}`;
  }
}

function card(at, row) {
  const own = mine().get(ROWS[at]);
  const made = element("div", { className: own === undefined ? "card" : "card done", id: `card-${at}` });
  made.setAttribute("role", "option");
  made.setAttribute("aria-selected", String(at === current));
  const url = row.picture;
  if (url !== undefined) {
    const image = element("img", { alt: "", loading: "lazy", src: url });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 128));
    made.append(image);
  }
  if (row.marked !== undefined) made.append(element("p", { className: "excerpt", dir: "auto" }, ...textOf({ marked: row.marked })));
  else if (row.text !== undefined) made.append(element("p", { className: "excerpt", dir: "auto", textContent: row.text.slice(0, 200) }));
  const names = element("span", { className: "names" }, element("bdi", { textContent: className(GIVEN[at]) }));
  if (SUGGESTED[at] >= 0) names.append(" → ", element("bdi", { textContent: className(SUGGESTED[at]) }));
  made.append(element("span", { textContent: rowName(at, row).slice(0, 80) }), names);
  if (own !== undefined) made.append(element("span", { className: "state", textContent: inWords(own) }));
  made.addEventListener("click", () => move(at));
  made.addEventListener("dblclick", () => setGrid(false));
  return made;
}

function gridPositions() {
  const start = Math.floor(lowerBound(current) / GRID_CARDS) * GRID_CARDS;
  return [start, shown.slice(start, start + GRID_CARDS)];
}

function drawGrid() {
  const [start, positions] = gridPositions();
  $("grid").replaceChildren(...positions.map((at) => card(at, config.rows[at])));
  $("grid").setAttribute("aria-activedescendant", `card-${current}`);
  $(`card-${current}`)?.scrollIntoView({ block: "nearest" });
  const last = start + positions.length;
  $("grid-about").textContent = `${(start + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${shown.length.toLocaleString("en")} shown`;
}

function draw() {
  drawProgress();
  drawActions();
  $("nothing").hidden = shown.length > 0;
  $("one").hidden = isGrid || shown.length === 0;
  $("many").hidden = !isGrid || shown.length === 0;
  if (shown.length === 0) return;
  if (isGrid) drawGrid();
  else drawOne(config.rows[current]);
}

function move(at) {
  if (at === undefined || shown.length === 0) return;
  const isOther = current !== at;
  current = at;
  draw();
  // On a small screen the classes are below the picture: begin at the top of the next row.
  if (isOther && !isGrid && $("one").getBoundingClientRect().top < 0) $("one").scrollIntoView({ block: "start" });
  const suggestion = SUGGESTED[at] < 0 ? "" : `, suggested ${className(SUGGESTED[at])}`;
  const own = mine().get(ROWS[at]);
  say(`Row ${ROWS[at]}, given ${className(GIVEN[at])}${suggestion}${own === undefined ? "" : `, ${inWords(own)}`}`);
}

function step(by) {
  const place = lowerBound(current);
  const isShown = shown[place] === current;
  const wanted = by > 0 && !isShown ? place + by - 1 : place + by;
  move(shown[Math.max(0, Math.min(shown.length - 1, wanted))]);
}

function decide(k) {
  if (shown.length === 0) return;
  const at = current;
  const row = ROWS[at];
  const before = mine().get(row);
  const one = { row, given_label: config.values[GIVEN[at]], ...decisionFor(at, k), reviewer, time: now() };
  undoable.push({ row, reviewer, before, time: one.time });
  storeDecision(one);
  const place = lowerBound(at);
  filterRows();
  const after = lowerBound(at + 1);
  // The next row; after a first decision, the next one that is not decided.
  let next = shown[after];
  if (before === undefined) {
    const own = mine();
    const isOpen = (position) => !own.has(ROWS[position]);
    next = shown.slice(after).find(isOpen) ?? shown.slice(0, place).find(isOpen);
  }
  settle();
  say("");
  if (shown.length) move(next ?? current);
  else draw(); // it was the last one that these filters show
  const rest = ROWS.length - mine().size;
  const left = rest === 0 ? ". All rows are decided: download the decisions" : "";
  say(`Row ${row} ${inWords(one)}${left}. ${$("said").textContent}`);
}

function isDoubled(click) {
  // The second click of a double one would decide about the next row, which nobody has seen.
  const pause = click.timeStamp - lastClick;
  lastClick = click.timeStamp;
  return click.detail > 1 && pause < DOUBLE_CLICK_MS;
}

function lastOwn() {
  return [...mine().values()].findLast((one) => one.reviewer === reviewer);
}

function undo() {
  let last;
  for (;;) {
    const place = undoable.findLastIndex((one) => one.reviewer === reviewer);
    if (place < 0) break;
    [last] = undoable.splice(place, 1);
    if (mine().get(last.row)?.time === last.time) break;
    last = undefined; // it was changed since, from another tab or a table
  }
  if (last === undefined) {
    // After a reload: the last decision that is there.
    const own = lastOwn();
    if (own === undefined) return;
    last = { row: own.row, reviewer, before: undefined };
  }
  if (last.before === undefined) removeDecision(last.row, last.reviewer);
  else storeDecision(last.before);
  filterRows();
  const at = positionOf.get(last.row);
  if (shown[lowerBound(at)] !== at) {
    for (const id of ["status", "given-filter", "pair-filter"]) $(id).selectedIndex = 0;
    filterRows();
  }
  move(at);
  say(`Undone: row ${last.row}. ${$("said").textContent}`);
}

function focusRow() {
  if (shown.length === 0) document.activeElement.blur();
  else $(isGrid ? "grid" : "row-name").focus();
}

function setGrid(on) {
  isGrid = on;
  $("view").setAttribute("aria-pressed", String(on));
  draw();
  focusRow();
}

function setReviewer(name) {
  const adopted = reviewer === "" && name !== "" ? [...mine().values()] : [];
  reviewer = name;
  $("reviewer").value = name;
  const replaced = new Map();
  for (const one of adopted) {
    removeDecision(one.row, "");
    const earlier = mine().get(one.row);
    if (isLater(earlier, one)) continue;
    replaced.set(one.row, earlier);
    storeDecision({ ...one, reviewer: name });
  }
  for (const one of undoable) {
    if (one.reviewer !== "" || !replaced.has(one.row)) continue;
    one.reviewer = name;
    one.before = one.before === undefined ? replaced.get(one.row) : { ...one.before, reviewer: name };
  }
  source.remember("reviewer", name);
  drawReviewers();
  refilter();
  if (adopted.length) say(`${adopted.length} decisions without a name are now ${name}'s.`);
}

function drawReviewers() {
  const all = [...byReviewer.values()].flatMap((own) => [...own.values()]);
  const names = [...new Set(all.map((one) => one.reviewer))].filter((name) => name !== "" && name !== reviewer);
  $("reviewers").replaceChildren(...names.map((name) => element("option", { value: name })));
}

function refilter() {
  filterRows();
  settle();
  draw();
}

function download() {
  const text = csvText(decisionLines());
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const name = reviewer.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  element("a", { href: url, download: name === "" ? "decisions.csv" : `decisions-${name}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  downloaded = true;
  say("The decisions are downloaded.");
}

async function importFile(file) {
  try {
    const { found, others } = importedDecisions(await file.text());
    let nLater = 0;
    for (const one of found) {
      const own = decisionsOf(one.reviewer).get(one.row);
      if (isLater(own, one)) nLater += 1;
      else if (own === undefined || COMPARED.some((name) => own[name] !== one[name])) storeDecision(one);
    }
    drawReviewers();
    refilter();
    const left = [];
    if (others) left.push(`${others} decisions are about rows that are not on this page; they are not imported.`);
    if (nLater) left.push(`${nLater} decisions were changed here later; they stay as they are here.`);
    warn("import", left.join(" "));
    say(`${found.length - nLater} decisions are imported.`);
  } catch (error) {
    warn("import", `${file.name} is not imported: ${error.message}`);
  }
}

// ---- Another class: type a part of its name.

function plain(text) {
  const letters = text.normalize("NFKD").toLowerCase();
  return letters.replace(/\p{M}/gu, "") || letters;
}

let folded = null; // names as they are compared; made when they are needed first
let options = [];
let chosenOption = 0;

function matches(text) {
  folded ??= config.classes.map(plain);
  const wanted = plain(text.trim());
  if (wanted === "") {
    const row = config.rows[current];
    const first = candidates(current, row).map(([k]) => k);
    const rest = [];
    for (let k = 0; k < folded.length && first.length + rest.length < LISTED_CLASSES; k += 1) if (!first.includes(k)) rest.push(k);
    return [...first, ...rest];
  }
  // The very name comes before its label as a number, and both before what differs in case or accents.
  const typed = text.trim();
  const groups = [[], [], [], [], [], [], []];
  for (const [k, name] of folded.entries()) {
    const at = name.indexOf(wanted);
    const own = config.classes[k].trim();
    if (own === typed) groups[0].push(k);
    else if (values[k] === typed) groups[1].push(k);
    else if (own.toLowerCase() === typed.toLowerCase()) groups[2].push(k);
    else if (name === wanted) groups[3].push(k);
    else if (at >= 0) groups[at === 0 ? 4 : /[\p{L}\p{N}]/u.test(name[at - 1]) ? 6 : 5].push(k);
  }
  return groups.flat().slice(0, LISTED_CLASSES);
}

function drawOptions(open) {
  options = open && shown.length ? matches($("other").value) : [];
  chosenOption = Math.max(0, Math.min(chosenOption, options.length - 1));
  $("other-list").hidden = !open;
  $("other").setAttribute("aria-expanded", String(open));
  const items = options.map((k, number) => {
    const isNamed = className(k) !== config.classes[k] || values[k] === config.classes[k];
    const stored = isNamed || typeof config.values[k] === "string" ? "" : ` (${values[k]})`;
    const tag = k === GIVEN[current] ? " · given" : k === SUGGESTED[current] ? " · suggested" : "";
    const item = element("li", { id: `option-${number}` }, element("bdi", { textContent: className(k) }), `${stored}${tag}`);
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(number === chosenOption));
    item.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    item.addEventListener("click", () => takeOption(number));
    return item;
  });
  if (open && !items.length) items.push(element("li", { className: "none", textContent: "no class has this in its name" }));
  const list = $("other-list");
  list.replaceChildren(...items);
  list.style.left = "0"; // and to the left of the field where the window ends
  const over = list.getBoundingClientRect().right + 8 - document.documentElement.clientWidth;
  if (over > 0) list.style.left = `${-over}px`;
  if (options.length) $("other").setAttribute("aria-activedescendant", `option-${chosenOption}`);
  else $("other").removeAttribute("aria-activedescendant");
  if (options.length) $(`option-${chosenOption}`).scrollIntoView({ block: "nearest" });
}

function closeOptions() {
  $("other").value = "";
  chosenOption = 0;
  drawOptions(false);
  focusRow();
}

function takeOption(number) {
  const k = options[number];
  if (k === undefined) return;
  closeOptions();
  decide(k);
}

$("other").addEventListener("focus", () => {
  chosenOption = 0;
  $("other").select(); // what was typed for another row is replaced
  drawOptions(true);
});
$("other").addEventListener("blur", () => drawOptions(false));
$("other").addEventListener("input", () => {
  chosenOption = 0;
  drawOptions(true);
});
$("other").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (by !== undefined && options.length) {
    chosenOption = (chosenOption + by + options.length) % options.length;
    drawOptions(true);
  } else if (event.key === "Enter") takeOption(chosenOption);
  else if (event.key === "Escape") closeOptions();
  else return;
  event.preventDefault();
});

// ---- Keys.

function columnsOfGrid() {
  return getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
}

const ACTIONS = {
  a: () => SUGGESTED[current] >= 0 && decide(SUGGESTED[current]),
  k: () => decide(GIVEN[current]),
  u: () => decide(null),
  z: undo,
  Backspace: undo,
  o: () => $("other").focus(),
  "/": () => $("other").focus(),
  ArrowLeft: () => step(-1),
  p: () => step(-1),
  ArrowRight: () => step(1),
  n: () => step(1),
  Home: () => move(shown[0]),
  End: () => move(shown.at(-1)),
  g: () => setGrid(!isGrid),
  d: download,
  "?": () => $("keys").showModal(),
};

function actionOf(key) {
  if (/^[1-9]$/.test(key)) {
    const row = isGrid ? undefined : config.rows[current];
    const found = row === undefined ? undefined : candidates(current, row)[Number(key) - 1];
    return found === undefined ? undefined : () => decide(found[0]);
  }
  if (isGrid && (key === "ArrowUp" || key === "ArrowDown")) return () => step(key === "ArrowUp" ? -columnsOfGrid() : columnsOfGrid());
  if (isGrid && key === "Enter" && document.activeElement === $("grid")) return () => setGrid(false);
  return ACTIONS[key.length === 1 ? key.toLowerCase() : key];
}

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.altKey || event.isComposing || $("keys").open) return;
  if (target instanceof HTMLSelectElement || target instanceof HTMLInputElement) {
    const isDone = key === "Escape" || (key === "Enter" && target === $("reviewer"));
    if (isDone && target !== $("other")) focusRow();
    return;
  }
  const isUndo = (event.ctrlKey || event.metaKey) && key === "z";
  if ((event.ctrlKey || event.metaKey) && !isUndo) return;
  if (key.length === 1 && !single && !isUndo) return;
  if (event.repeat && !key.startsWith("Arrow")) return; // a key that is held decides once
  const action = actionOf(key);
  if (action === undefined || (shown.length === 0 && !["g", "?", "z", "backspace", "d"].includes(key.toLowerCase()))) return;
  event.preventDefault();
  action();
});

for (const [id, action] of Object.entries({ accept: ACTIONS.a, keep: ACTIONS.k, unsure: ACTIONS.u, undo })) {
  $(id).addEventListener("click", (event) => isDoubled(event) || action());
}
for (const [id, action] of Object.entries({
  back: ACTIONS.p,
  forward: ACTIONS.n,
  view: ACTIONS.g,
  download,
  help: ACTIONS["?"],
  "close-keys": () => $("keys").close(),
})) {
  $(id).addEventListener("click", () => action());
}
for (const id of ["status", "given-filter", "pair-filter"]) $(id).addEventListener("change", refilter);
$("reviewer").addEventListener("change", () => setReviewer($("reviewer").value.trim()));
$("single-keys").addEventListener("change", () => (single = $("single-keys").checked));
$("import").addEventListener("change", async () => {
  const [file] = $("import").files;
  if (file) await importFile(file);
  $("import").value = "";
});
$("picture").addEventListener("load", () => {
  $("picture").classList.remove("loading");
  $("picture").classList.toggle("small", $("picture").naturalWidth <= 128);
});
$("picture").addEventListener("error", () => $("picture").classList.remove("loading")); // its text is shown
window.addEventListener("beforeunload", (event) => {
  if (!downloaded && warnings.has("kept")) event.preventDefault();
});

function countedOptions(keys, nameOf, most) {
  const counts = new Map();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  const ordered = [...counts].sort(([, n], [, m]) => m - n).slice(0, most);
  return ordered.map(([key, n]) => element("option", { value: key, textContent: `${nameOf(key)} (${n.toLocaleString("en")})` }));
}

async function start() {
  $("given-filter").append(...countedOptions(GIVEN, className, LISTED_PAIRS));
  const pairs = GIVEN.map((k, at) => (SUGGESTED[at] < 0 || SUGGESTED[at] === k ? null : `${k} ${SUGGESTED[at]}`));
  const nameOfPair = (pair) => pair.split(" ").map((k) => className(Number(k))).join(" → ");
  $("pair-filter").append(...countedOptions(pairs.filter(Boolean), nameOfPair, LISTED_PAIRS));
  if (ROWS.length === 0) $("nothing").textContent = "There are no rows to review.";
  try {
    await restore();
  } catch (error) {
    warn("loaded", `Decisions cannot be loaded: ${error.message}`);
  }
  reviewer = source.recall("reviewer") ?? [...mine().values()].pop()?.reviewer ?? "";
  $("reviewer").value = reviewer;
  drawReviewers();
  filterRows();
  const first = shown.find((at) => !mine().has(ROWS[at]));
  current = first ?? 0;
  draw();
  source.onChange(() => restore().then(refilter));
  document.documentElement.dataset.ready = "true";
}

start();
