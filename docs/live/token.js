"use strict";

/** The chosen token: why it was emitted, and P_M, P_m and F of all candidates. Texts enter the page by `textContent` alone. */

const DECADES = 6; // of the bars' logarithmic scale: from 10⁻⁶ to 1
const LEFT_OUT = 3; // tokens outside V that are shown, to see what it keeps out

/** A text in the quotes of the page, spaces visible. */
function quoted(text) {
  return `“${text.replaceAll(" ", "␣")}”`;
}

/** Why this token, in two or three sentences, as texts and elements. `text` gives a token's text as it would stand here. */
function whyOf(line, config, text, prefill) {
  const sentences = [];
  if (!line.position && !line.retracted && prefill?.alarmed) {
    const matched = `${prefill.matches.filter(Boolean).length} of the last ${prefill.matches.length}`;
    sentences.push(`The prefill raised the alarm: the draft would have written ${matched} of its tokens. `);
  }
  if (line.insisted)
    sentences.push(
      `Intersection: the target’s favourite, ${quoted(text(line.favourite))}, is not among the draft’s ${line.k} likeliest tokens (it is number ${line.favourite_rank + 1} there), so the target insists.`,
    );
  else if (line.scheme === "union")
    sentences.push(
      `Union: of the ${line.space} tokens among the ${config.candidates} likeliest of either model it has the highest `,
      formulaOf(line.alpha),
      ".",
    );
  else
    sentences.push(
      `Intersection: of the ${line.space} tokens among the ${line.k} likeliest of both models it has the highest `,
      formulaOf(line.alpha),
      ".",
    );
  if (line.match) sentences.push(" It is the draft’s own choice: accepted.");
  else sentences.push(` The draft’s ${quoted(text(line.proposal))} is rejected.`);
  if (line.decided) sentences.push(` ${binOf(line, config)}`);
  else if (line.retracted) sentences.push(" Its bin was taken back and decoded again in Union.");
  return sentences;
}

/** F = P_M + α (P_m − P_M), with this α. */
function formulaOf(alpha) {
  const parts = [
    "F = ",
    ...probability("M"),
    ` + ${trimmed(alpha)} (`,
    ...probability("m"),
    " − ",
    ...probability("M"),
    ")",
  ];
  return element("span", { className: "formula" }, ...parts);
}

/** P with the model's letter below it. */
function probability(letter) {
  return [element("i", { text: "P" }), element("sub", { text: letter })];
}

/** What the end of a bin decided, and why then. */
function binOf(line, config) {
  const threshold = trimmed(line.threshold),
    matched = `${matchesOf(line)} of ${line.bin_tokens}`;
  const beta = `β = ${matchesOf(line)}/${line.bin_tokens}`,
    alarmed = line.decided === "alarm";
  const after = alarmed ? "alarm" : "no alarm";
  const next = line.retracted
    ? "It is taken back and decoded again in Union."
    : line.ends
      ? ""
      : `What follows is decoded in ${alarmed ? "Union" : "Intersection"}.`;
  if (line.bin_tokens === config.bin_size)
    return `Its bin ends: ${beta} ${alarmed ? "<" : "≥"} ${threshold}, ${after}. ${next}`;
  if (!line.ends)
    return `Its bin cannot reach the threshold ${threshold} any more (${matched} matched): ${after}. ${next}`;
  return `The answer ends within its bin: ${beta} ${alarmed ? "<" : "≥"} ${threshold}, ${after}. ${next}`;
}

/** A number with at most three digits after the point. */
function trimmed(value) {
  return String(Number(value.toFixed(3)));
}

/** Draw the chosen token into its section. */
function drawToken(section, line, config, text, prefill) {
  if (!line) {
    section.replaceChildren(
      element("p", { className: "hint", text: "Choose a token of the answer: a click, or arrow keys." }),
    );
    return;
  }
  const head = element("h2", {}, `Token ${line.position} `, element("bdi", { text: quoted(line.text) }));
  const why = element("p", { className: "why" }, ...whyOf(line, config, text, prefill));
  section.replaceChildren(head, why, tableOf(line, text));
}

function tableOf(line, text) {
  const inside = line.candidates.filter((candidate) => candidate.inside);
  const likelier = (one, other) => Math.max(other.target, other.draft) - Math.max(one.target, one.draft);
  const outside = line.candidates.filter((candidate) => !candidate.inside).sort(likelier);
  const must = outside.filter(
    ({ token }) => token === line.token || token === line.proposal || token === line.favourite,
  );
  const shown = [...inside, ...new Set([...must, ...outside.slice(0, LEFT_OUT)])];
  const heads = [
    [element("span", { className: "hidden", text: "mark" }), ""],
    ["token", ""],
    ["V", "in the sample space"],
    ["target ", "target", "M"],
    ["draft ", "draft", "m"],
    ["composite F", "mixed"],
  ];
  const row = element(
    "tr",
    {},
    ...heads.map(([name, className, letter]) =>
      element("th", { className }, name, ...(letter ? probability(letter) : [])),
    ),
  );
  for (const head of row.children) head.scope = "col";
  const body = element("tbody", {}, ...shown.map((candidate) => rowOf(candidate, line, text)));
  const table = element(
    "table",
    {},
    element("caption", {
      text: "▶ emitted · ◇ the draft’s proposal · ∈ in the sample space V · bars from 10⁻⁶ to 1, a line each power of ten",
    }),
    element("thead", {}, row),
    body,
  );
  const scroll = element("div", { className: "scroll" }, table);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Candidates");
  return scroll;
}

function rowOf({ token, target, draft, composite, inside }, line, text) {
  const emitted = token === line.token,
    signs = (emitted ? "▶" : "") + (token === line.proposal ? "◇" : "");
  const row = element(
    "tr",
    { className: `${emitted ? "emitted" : ""} ${inside ? "" : "outside"}` },
    element("td", { text: signs }),
  );
  row.append(
    element("th", {}, element("bdi", { text: text(token).replaceAll(" ", "␣") })),
    element("td", { text: inside ? "∈" : "" }),
  );
  row.children[1].scope = "row";
  row.append(barOf(target, "target"), barOf(draft, "draft"), barOf(composite, "mixed"));
  return row;
}

function barOf(value, className) {
  const bar = element("i", { className: "bar" }),
    length = value > 0 ? 1 + Math.log10(Math.max(value, 1e-30)) / DECADES : 0;
  bar.style.setProperty("--length", Math.max(0, Math.min(1, length)));
  return element(
    "td",
    { className: `number ${className}`, title: String(value) },
    element("span", { className: "scale" }, bar),
    numberOf(value),
  );
}

/** 0.123, or 2e-5 where three digits would show nothing. */
function numberOf(value) {
  const small = value !== 0 && Math.abs(value) < 0.0005;
  return (small ? value.toExponential(0) : value.toFixed(3)).replace("-", value < 0 && !small ? "−" : "-");
}
