"use strict";

/**
 * The answer as a strip: a column a token, its text above the match ratio of its bin, so that the chart stands under the tokens
 * however the strip is wrapped. Texts come from models and readers: they enter the page by `textContent` alone.
 */

/** An element with a class, a text and children. */
function element(tag, { className = "", text = null, title = null } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (title !== null) made.title = title;
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

const SIGNS = { intersection: "∩", union: "∪" };
const NAMES = { intersection: "Intersection", union: "Union" };
const MARKS = { accepted: "✓", corrected: "✗", insisted: "!" };
const VERDICTS = { accepted: "accepted", corrected: "corrected", insisted: "target insists" };

/** How a token came to be emitted. */
function verdictOf(line) {
  return line.match ? "accepted" : line.insisted ? "insisted" : "corrected";
}

/** One line about a token: what hovering shows and a screen reader says. */
function spokenToken(line) {
  const parts = [line.retracted && "taken back", line.text, VERDICTS[verdictOf(line)], NAMES[line.scheme]];
  parts.push(`match ratio ${matchesOf(line)} of ${line.bin_tokens}, threshold ${line.threshold.toFixed(2)}`);
  if (line.decided === "alarm") parts.push("alarm");
  return parts.filter(Boolean).join(", ");
}

/** Matches of a token's bin, itself included. */
function matchesOf(line) {
  return Math.round(line.match_ratio * line.bin_tokens);
}

/** The mark of an alarm, with the bin's matches where there is room for them. */
function alarmSign(matches, tokens) {
  return element("b", { className: "alarm", text: tokens > 3 ? `▲ ${matches}/${tokens}` : "▲" });
}

class Strip {
  /**
   * @param {HTMLElement} box
   * @param {function(number)} onChoose Called with the number of the token that was chosen.
   */
  constructor(box, onChoose) {
    Object.assign(this, { box, onChoose, lines: [], columns: [], chosen: null });
    box.addEventListener("click", ({ target }) => this.pick(this.columns.indexOf(target.closest("[role=option]"))));
    box.addEventListener("keydown", (event) => this.key(event));
  }

  /**
   * Begin a new answer after these prefilled tokens.
   *
   * @param {string[]} pieces
   * @param {object} counted `matches`: which of the last ones the draft would have written; `alarmed` (decoder.js).
   */
  clear(pieces = [], { matches = null, alarmed = false } = {}) {
    Object.assign(this, { lines: [], columns: [], chosen: null });
    this.box.replaceChildren();
    const others = pieces.length - (matches?.length ?? 0);
    pieces.forEach((text, place) => this.box.append(this.prefilled(text, matches?.[place - others])));
    if (alarmed) this.box.lastChild.lastChild.append(alarmSign(matches.filter(Boolean).length, matches.length));
  }

  prefilled(text, match) {
    const column = element("span", { className: "column prefill", title: "written by the attacker" }, wordOf(text));
    if (match === undefined) return column;
    column.title += match ? ": the draft’s own choice" : ": not what the draft would write";
    column.append(element("span", { className: "chart" }));
    column.append(element("span", { className: "mark", text: match ? MARKS.accepted : MARKS.corrected }));
    column.append(element("span", { className: "sign" }));
    return column;
  }

  /** One more token. */
  add(line) {
    const before = this.lines.at(-1),
      number = this.lines.length;
    const begins = line.bin_tokens === 1,
      verdict = verdictOf(line);
    const chart = element(
      "span",
      { className: "chart" },
      element("i", { className: "ratio" }),
      element("i", { className: "limit" }),
    );
    chart.style.setProperty("--ratio", line.match_ratio);
    chart.style.setProperty("--limit", line.threshold);
    const sign = element("span", {
      className: "sign",
      text: begins && before?.scheme !== line.scheme ? SIGNS[line.scheme] : "",
    });
    if (line.decided === "alarm") sign.append(alarmSign(matchesOf(line), line.bin_tokens));
    const column = element("span", { className: `column ${verdict} ${line.scheme}` }, wordOf(line.text), chart);
    column.append(element("span", { className: "mark", text: MARKS[verdict] }), sign);
    column.classList.toggle("begins", begins);
    column.setAttribute("role", "option");
    column.setAttribute("aria-selected", "false");
    column.tabIndex = number ? -1 : 0;
    this.box.append(column);
    this.lines.push(line);
    this.columns.push(column);
    this.describe(number);
  }

  describe(number) {
    const text = spokenToken(this.lines[number]);
    this.columns[number].setAttribute("aria-label", text);
    this.columns[number].title = text;
  }

  /** The last `count` tokens of the answer are taken back: they stay in the strip, struck through. */
  takeBack(count) {
    for (let number = this.lines.length - 1; count > 0; number--) {
      if (this.lines[number].retracted) continue;
      this.lines[number].retracted = true;
      this.columns[number].classList.add("retracted");
      this.describe(number);
      count -= 1;
    }
  }

  /** Show a token as the chosen one. */
  choose(number) {
    this.columns.forEach((column, place) => {
      column.setAttribute("aria-selected", String(place === number));
      column.tabIndex = place === (number ?? 0) ? 0 : -1;
    });
    this.chosen = number;
  }

  pick(number) {
    if (number >= 0 && number < this.lines.length) this.onChoose(number);
  }

  key(event) {
    const here = this.columns.indexOf(document.activeElement),
      last = this.columns.length - 1;
    if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const goes = {
      ArrowRight: () => Math.min(here + 1, last),
      ArrowLeft: () => Math.max(here - 1, 0),
      Home: () => 0,
      End: () => last,
      ArrowDown: () => this.nextLine(here, 1),
      ArrowUp: () => this.nextLine(here, -1),
      Enter: () => here,
      " ": () => here,
    }[event.key];
    if (!goes) return;
    event.preventDefault();
    const number = goes();
    this.pick(number);
    this.columns[number].focus();
  }

  /** The token that stands nearest on the next line of the strip, or the one before it. */
  nextLine(here, step) {
    const place = (number) => this.columns[number].getBoundingClientRect();
    const { top, left } = place(here);
    const others = this.columns.map((_, number) => number).filter((number) => (place(number).top - top) * step > 4);
    const line = others.length ? place(step > 0 ? others[0] : others.at(-1)).top : null;
    const near = others.filter((number) => Math.abs(place(number).top - line) < 4);
    return near.sort((one, other) => Math.abs(place(one).left - left) - Math.abs(place(other).left - left))[0] ?? here;
  }
}

/** A token's text with its writing direction kept to itself; a space at its beginning is one that a line may break at. */
function wordOf(text) {
  return element("bdi", { className: "word", text: text.replace(/^ +$/, (spaces) => "␣".repeat(spaces.length)) });
}
