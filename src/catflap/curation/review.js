"use strict";
// One card is shown at a time. What a person decides is in `state`, and nowhere else.
const data = JSON.parse(document.getElementById("data").textContent);
const { cards, labels, small } = data;
const STORE = `catflap.review.${data.manifest.slice(0, 16)}.${data.key}`;
const KINDS = {
  label_error: ["Wrong label", "Wrong labels"],
  two_labels: ["Two labels", "Two labels"],
  look_alike: ["Look-alike", "Look-alikes"],
  outlier: ["Outlier", "Outliers"],
  disagreement: ["Disagreement", "Disagreements"],
  uncertain: ["Uncertain", "Uncertain"],
  unusual: ["Unusual", "Unusual"],
};
const FIELD = {
  disagreement: "Two bundles judged it and disagree.",
  uncertain: "The bundle was not sure.",
  unusual: "It is strange to the network, or much darker, brighter, flatter or less sharp than the others.",
};
const REASONS = ["shows none of the labels", "shows several of the labels", "too poor to tell", "no photo: a drawing, a page or a screen"];
const KEYS = [
  ["A", "accept what is suggested"], ["R", "reject it: the label is right"], ["D", "drop the photo"], ["1 … 9", "give it this label"],
  ["S", "skip, decide later"], ["← →", "back and forth, without deciding"], ["U", "undo"], ["E", "download the decisions"], ["?", "these keys"],
];
const state = { decisions: {}, history: [], at: 0, kind: "", letters: true };
const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const name = (label, own) => make("bdi", own ? { class: "own" } : {}, labels[label]);
const percent = (share) => `${share >= 0.995 && share < 1 ? ">99" : share < 0.005 && share > 0 ? "<1" : Math.round(100 * share)} %`;
const listed = () => cards.filter((card) => !state.kind || card.kind === state.kind);
const current = () => listed()[state.at];

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
    return true;
  } catch {
    return false;
  }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) || "{}");
    const known = new Set(cards.map((card) => card.id));
    for (const [id, decision] of Object.entries(kept.decisions || {})) if (known.has(id)) state.decisions[id] = decision;
    state.history = (kept.history || []).filter((step) => known.has(step.id));
    state.letters = kept.letters !== false;
    if (Object.hasOwn(KINDS, kept.kind || "") && cards.some((card) => card.kind === kept.kind)) state.kind = kept.kind;
    state.at = Math.min(Math.max(0, Number(kept.at) || 0), listed().length);
  } catch {
    say("Nothing could be read from this browser; you begin anew.");
  }
}

function say(text) {
  $("status").textContent = text;
}

function words(decision) {
  if (!decision) return "";
  if (decision.decision === "keep") return `Kept: ${labels[decision.label]}`;
  if (decision.decision === "drop") return `Dropped: ${decision.reason}`;
  return `Now: ${labels[decision.label]}`;
}

function decide(decision) {
  const card = current();
  if (!card) return;
  state.history.push({ id: card.id, before: state.decisions[card.id] || null, at: state.at, kind: state.kind });
  state.decisions[card.id] = decision;
  state.at = following(state.at);
  const stored = keep();
  show();
  say(`${words(decision)}. U takes it back.${stored ? "" : " This browser keeps nothing: download before you close the page."}`);
}

function following(at) {
  const rest = listed();
  for (let next = at + 1; next < rest.length; next += 1) if (!state.decisions[rest[next].id]) return next;
  return rest.length;
}

function give(label) {
  const card = current();
  if (card) decide(label === card.label ? { decision: "keep", label } : { decision: "relabel", label });
}

function accept() {
  const card = current();
  if (!card) return;
  if (card.suggested === null) askReason();
  else give(card.suggested);
}

function reject() {
  const card = current();
  if (card) give(card.label);
}

function move(step) {
  state.at = Math.min(Math.max(0, state.at + step), listed().length);
  keep();
  show();
}

function skip() {
  if (!current()) return;
  state.at = following(state.at);
  keep();
  show();
  say("Skipped. It comes again at the end.");
}

function undo() {
  const last = state.history.pop();
  if (!last) return say("There is nothing to undo.");
  if (last.before) state.decisions[last.id] = last.before;
  else delete state.decisions[last.id];
  state.kind = last.kind;
  state.at = last.at;
  keep();
  show();
  say("Taken back.");
}

function choose(kind) {
  state.kind = kind;
  state.at = 0;
  const first = listed().findIndex((card) => !state.decisions[card.id]);
  state.at = first < 0 ? listed().length : first;
  keep();
  show();
}

function askReason() {
  if (!current()) return;
  $("reason").value = "";
  $("drop").showModal();
}

function drop(reason) {
  const text = reason.trim();
  if (!text) return $("reason").focus();
  $("reason").blur(); // the next key is no letter of the reason, even before the dialog is drawn away
  $("drop").close();
  decide({ decision: "drop", reason: text });
}

function answer() {
  const decisions = [];
  for (const card of cards) {
    const made = state.decisions[card.id];
    if (!made) continue;
    for (const id of [card.id, ...card.copies]) {
      const line = { id, was: labels[card.label], decision: made.decision };
      if (made.decision === "relabel") line.label = labels[made.label];
      if (made.decision === "drop") line.reason = made.reason;
      decisions.push(line);
    }
  }
  return { catflap: "decisions", version: 1, manifest: data.manifest, decisions };
}

function download() {
  const made = answer();
  if (!made.decisions.length) return say("Nothing is decided yet.");
  const address = URL.createObjectURL(new Blob([`${JSON.stringify(made, null, 1)}\n`], { type: "application/json" }));
  const link = make("a", { href: address, download: "decisions.json" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
  say(`decisions.json holds ${made.decisions.length} decisions.`);
}

function show() {
  const card = current();
  const decided = cards.filter((one) => state.decisions[one.id]).length;
  $("bar").firstElementChild.style.width = `${cards.length ? (100 * decided) / cards.length : 0}%`;
  $("bar").setAttribute("aria-valuemax", cards.length);
  $("bar").setAttribute("aria-valuenow", decided);
  const here = cards.reduce((sum, one) => sum + 1 + one.copies.length, 0);
  const more = data.suspects > here ? `; ${(data.suspects - here).toLocaleString("en")} more suspects are not on this page` : "";
  $("count").textContent = `${decided} of ${cards.length} decided${more}`;
  $("stage").hidden = !card;
  $("end").hidden = Boolean(card);
  showKinds();
  showStrip();
  if (card) showCard(card);
  else showEnd();
}

function showKinds() {
  const buttons = [["", "All", cards.length]];
  for (const [kind, [, plural]] of Object.entries(KINDS)) {
    const count = cards.filter((card) => card.kind === kind).length;
    if (count) buttons.push([kind, plural, count]);
  }
  $("kinds").hidden = buttons.length < 3;
  $("kinds").replaceChildren(
    ...buttons.map(([kind, text, count]) =>
      make("button", { type: "button", "aria-pressed": kind === state.kind, onclick: () => choose(kind) }, `${text} ${count}`)),
  );
}

function showCard(card) {
  const made = state.decisions[card.id];
  $("photo").hidden = !card.photo;
  $("gone").hidden = Boolean(card.photo);
  if (card.photo) $("photo").src = card.photo;
  $("photo").alt = `The photo in question, labelled ${labels[card.label]}`;
  $("stamp").className = made ? made.decision : "";
  $("stamp").textContent = words(made);
  const badge = make("span", { class: `badge ${card.kind}` }, KINDS[card.kind][0]);
  const copies = card.copies.length ? ` · with ${card.copies.length} more that show${card.copies.length > 1 ? "" : "s"} the same` : "";
  $("place").replaceChildren(badge, `${state.at + 1} of ${listed().length}${card.role ? ` · ${card.role}` : ""}${copies}`);
  $("question").replaceChildren(...question(card));
  $("why").textContent = why(card);
  showOdds(card);
  showChoices(card, made);
  showBeside(card);
  $("path").textContent = card.uri;
  $("panel").scrollTop = 0;
}

function question(card) {
  if (card.suggested === null) return ["Does this show ", name(card.label, true), "?"];
  if (!card.probabilities.length) return ["Is this ", name(card.suggested), " or ", name(card.label, true), "?"];
  return [FIELD[card.kind] ? "Taken for " : "Labelled ", name(card.label, true), ". Is it ", name(card.suggested), "?"];
}

function why(card) {
  if (FIELD[card.kind]) return FIELD[card.kind];
  if (card.kind === "two_labels" && !card.probabilities.length) return "The same file lies under both labels, so neither is used until you choose.";
  if (card.kind === "two_labels") return "The same picture stands under both labels; one of them is wrong.";
  if (card.kind === "outlier") return "It is unlike all other photos of its label.";
  if (card.kind === "look_alike") return "A model that never saw this photo takes it for the other. It may only look like it.";
  return "A model that never saw this photo takes it for the other, and is seldom wrong when it is so sure.";
}

function showOdds(card) {
  const rows = [card.label, card.suggested].filter((label) => label !== null && label < card.probabilities.length);
  $("odds").replaceChildren(
    ...rows.map((label) => {
      const bar = make("i", {});
      bar.style.width = `${100 * card.probabilities[label]}%`;
      return make("div", { class: label === card.label ? "odd own" : "odd" }, make("bdi", {}, labels[label]), make("div", {}, bar),
        make("span", {}, percent(card.probabilities[label])));
    }),
  );
}

function showChoices(card, made) {
  const chosen = (decision, label) => made?.decision === decision && (label === undefined || made.label === label);
  const button = (text, key, action, pressed, style) =>
    make("button", { type: "button", class: style, "aria-pressed": Boolean(pressed), onclick: action }, make("span", {}, ...text), make("kbd", {}, key));
  const nodes = [];
  if (card.suggested === null) {
    nodes.push(button(["No, drop it…"], "A", askReason, chosen("drop"), "strong"), button(["Yes, keep ", name(card.label)], "R", reject, chosen("keep")));
  } else {
    nodes.push(
      button([card.probabilities.length ? "Yes, it is " : "It is ", name(card.suggested)], "A", accept, chosen("relabel", card.suggested), "strong"),
      button([card.probabilities.length ? "No, keep " : "It is ", name(card.label)], "R", reject, chosen("keep")),
      button(["Drop it…"], "D", askReason, chosen("drop")),
    );
  }
  nodes.push(button(["Skip for now"], "S", skip, false));
  const others = labels.map((_, label) => label).filter((label) => label !== card.label && label !== card.suggested);
  if (others.length) nodes.push(otherLabels(others, made));
  $("choices").replaceChildren(...nodes);
}

function otherLabels(others, made) {
  if (labels.length <= 9) {
    const buttons = others.map((label) =>
      make("button", { type: "button", "aria-pressed": made?.decision === "relabel" && made.label === label, onclick: () => give(label) }, name(label),
        make("kbd", {}, String(label + 1))));
    return make("div", { class: "wide group", role: "group", "aria-label": "Other labels" }, "Or it is", ...buttons);
  }
  const options = others.map((label) => make("option", { value: label }, labels[label]));
  const list = make("select", { "aria-label": "Another label", onchange: (event) => give(Number(event.target.value)) },
    make("option", { value: "" }, "Another label…"), ...options);
  if (made?.decision === "relabel" && others.includes(made.label)) list.value = made.label;
  return make("div", { class: "wide" }, list);
}

function showBeside(card) {
  const blocks = [];
  const block = (title, items, marked) => {
    if (!items.length) return;
    const thumbs = items.map((item) => {
      const image = small[item.id] ? make("img", { src: small[item.id], alt: `Labelled ${labels[item.label]}`, loading: "lazy" }) : "";
      return make("div", { class: "thumb" }, image, ...(marked ? [make("span", {}, name(item.label))] : []));
    });
    blocks.push(make("h3", {}, ...title), make("div", { class: "thumbs" }, ...thumbs));
  };
  block(["The same picture"], card.beside.filter((item) => item.copy), true);
  for (const label of [card.suggested, card.label]) {
    if (label !== null) block(["Most like it under ", name(label)], card.beside.filter((item) => !item.copy && item.label === label), false);
  }
  $("beside").replaceChildren(...blocks);
}

function showStrip() {
  const all = listed();
  const reach = Math.max(1, Math.min(7, Math.floor((window.innerWidth - 212) / 128)));
  const first = Math.max(0, Math.min(state.at - reach, all.length - 2 * reach - 1));
  const around = all.slice(first, first + 2 * reach + 1).map((card, offset) => {
    const made = state.decisions[card.id];
    const at = first + offset;
    const title = `${at + 1}: ${labels[card.label]}${made ? `, ${words(made)}` : ""}`;
    return make("button", { type: "button", class: made ? `decided ${made.decision}` : "", "aria-current": at === state.at, "aria-label": title, onclick: () => move(at - state.at) },
      ...(card.photo ? [make("img", { src: card.photo, alt: "" })] : []));
  });
  const step = (text, label, by) => make("button", { type: "button", class: "move", "aria-label": label, onclick: () => move(by) }, text);
  $("strip").hidden = !all.length;
  $("strip").replaceChildren(step("‹", "Back", -1), ...around, step("›", "Next", 1));
}

function showEnd() {
  const undecided = cards.filter((card) => !state.decisions[card.id]).length;
  $("end-title").textContent = cards.length ? (undecided ? "You are at the end" : "Everything is decided") : "There is nothing to review";
  $("end-text").textContent = !cards.length ? "The audit found no suspects." : undecided ? `${undecided} of ${cards.length} photos are not decided; they stay as they are.` : "";
  const count = (decision) => Object.values(state.decisions).filter((made) => made.decision === decision).length;
  const lines = [["relabel", "get another label"], ["keep", "keep theirs"], ["drop", "are dropped"]];
  $("end-counts").replaceChildren(...lines.map(([decision, text]) => make("li", {}, make("b", {}, String(count(decision))), text)));
  $("end-skipped").hidden = !undecided;
  $("command").textContent = data.command;
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.letters && event.key.length === 1) return;
  if (document.querySelector("dialog[open]")) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const actions = {
    a: accept, r: reject, d: askReason, s: skip, u: undo, e: download, ArrowRight: () => move(1), ArrowLeft: () => move(-1), n: () => move(1), p: () => move(-1),
    "?": () => $("help").showModal(),
  };
  const digit = /^[1-9]$/.test(key) ? Number(key) - 1 : -1;
  if (Object.hasOwn(actions, key)) actions[key]();
  else if (digit >= 0 && digit < labels.length && labels.length <= 9) give(digit);
  else return;
  event.preventDefault();
}

function begin() {
  $("reasons").replaceChildren(...REASONS.map((reason, at) =>
    make("button", { type: "button", onclick: () => drop(reason) }, make("span", {}, reason), make("kbd", {}, String(at + 1)))));
  $("keys").replaceChildren(...KEYS.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)]));
  $("reason-button").addEventListener("click", () => drop($("reason").value));
  $("drop").addEventListener("keydown", (event) => {
    if (event.target === $("reason")) {
      if (event.key !== "Enter") return;
      event.preventDefault();
      return drop($("reason").value);
    }
    if (!/^[1-9]$/.test(event.key) || !REASONS[Number(event.key) - 1]) return;
    event.preventDefault();
    drop(REASONS[Number(event.key) - 1]);
  });
  $("download").addEventListener("click", download);
  $("end-download").addEventListener("click", download);
  $("end-skipped").addEventListener("click", () => choose(""));
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("shortcuts").addEventListener("change", (event) => {
    state.letters = event.target.checked;
    keep();
  });
  document.addEventListener("keydown", press);
  window.addEventListener("resize", showStrip);
  recall();
  $("shortcuts").checked = state.letters;
  show();
}

begin();
