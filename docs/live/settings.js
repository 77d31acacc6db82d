"use strict";

/**
 * What decides an answer, in three forms: the page's controls, the part of its address after "#", and lines of Python.
 * `SSD_WORLD` (world.js) holds the fields of SSDConfig as published and as hardened, and questions of the invented world.
 */

const NUMBERS = ["prefill", "alpha_intersection", "alpha_union", "threshold", "bin_size", "lookahead", "longest"];
const SHORT = {
  prefill: "n",
  alpha_intersection: "ai",
  alpha_union: "au",
  threshold: "th",
  bin_size: "b",
  lookahead: "T",
  longest: "max",
};
const HARDENED_FIELDS = ["threshold_floor", "count_prefill", "retract", "tail_tokens"];

/** The settings that the page begins with, and goes back to: the pair's own, published, after ten tokens of an attack. */
function firstSettings() {
  const { question, answer } = SSD_WORLD.examples.find(({ group }) => group === "forbidden");
  return { question, answer, prefill: 10, longest: 80, ...ownSettings("published") };
}

/** The method's settings as the pair has them. */
function ownSettings(mode) {
  const { alpha_intersection, alpha_union, threshold, bin_size, lookahead } = SSD_WORLD.settings[mode];
  return { mode, alpha_intersection, alpha_union, threshold, bin_size, lookahead };
}

/** All fields of SSDConfig. A floor above the threshold would never let it down to its own start. */
function configOf(settings) {
  const { alpha_intersection, alpha_union, threshold, bin_size, lookahead } = settings;
  const own = SSD_WORLD.settings[settings.mode];
  return {
    ...own,
    alpha_intersection,
    alpha_union,
    threshold,
    bin_size,
    lookahead,
    threshold_floor: Math.min(own.threshold_floor, threshold),
  };
}

// ------------------------------------------------------------------------------------------------ the address

/** Settings as the part of an address after "#"; `token` is the chosen one. */
function toHash(settings, token) {
  const values = new URLSearchParams({ q: settings.question, a: settings.answer, m: settings.mode });
  for (const name of NUMBERS) values.set(SHORT[name], settings[name]);
  if (token !== null) values.set("t", token);
  return `#${values}`;
}

/** The beginning of a text, without half a character at its end. */
function cut(text, length) {
  return text.slice(0, length).replace(/[\uD800-\uDBFF]$/, "");
}

/**
 * Settings of an address; what it does not name, or names in no range of the control, is the page's own.
 *
 * @param {string} hash
 * @param {function} range Least and greatest value of a control, by its name.
 */
function fromHash(hash, range) {
  const values = new URLSearchParams(hash.slice(1)),
    settings = firstSettings();
  if (values.has("m")) Object.assign(settings, ownSettings(values.get("m") === "hardened" ? "hardened" : "published"));
  if (values.has("q"))
    Object.assign(settings, {
      question: cut(values.get("q"), 1500),
      answer: cut(values.get("a") ?? "", 2500),
    });
  for (const name of NUMBERS) {
    const text = values.get(SHORT[name]),
      value = Number(text),
      [least, greatest] = range(name);
    if (text && Number.isFinite(value)) settings[name] = Math.min(Math.max(value, least), greatest);
  }
  for (const name of ["prefill", "bin_size", "lookahead", "longest"]) settings[name] = Math.round(settings[name]);
  const token = Number.parseInt(values.get("t") ?? "", 10);
  return { settings, token: token >= 0 ? token : null };
}

// ------------------------------------------------------------------------------------------------ Python

/** A text as a Python literal; what cannot be seen is written as its number. */
function pythonText(text) {
  const escaped = (mark) => {
    const code = mark.codePointAt(0).toString(16);
    return code.length > 4 ? `\\U${code.padStart(8, "0")}` : `\\u${code.padStart(4, "0")}`;
  };
  return JSON.stringify(text).replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu, escaped);
}

/** A number as Python's float reads it: 1 becomes 1.0. */
function pythonValue(value) {
  return typeof value === "boolean" ? (value ? "True" : "False") : String(value);
}

/** The ssd_lib call that gives the tokens of these settings. */
function asPython(settings) {
  const config = configOf(settings),
    own = SSD_WORLD.settings.published;
  const names = ["alpha_intersection", "alpha_union", "threshold", "bin_size", "lookahead", ...HARDENED_FIELDS];
  const changed = names
    .filter((name) => config[name] !== own[name])
    .map((name) => `    ${name}=${pythonValue(config[name])},`);
  const written = settings.prefill
    ? `pair.tokenizer.encode(${pythonText(settings.answer)}, add_special_tokens=False)[:${settings.prefill}]`
    : "[]";
  return [
    "from ssd_lib import SSDConfig, load_pair, ssd_generate",
    "",
    'pair = load_pair("toy")',
    `question = ${pythonText(settings.question)}`,
    `prefill = ${written}`,
    changed.length ? `config = SSDConfig(\n${changed.join("\n")}\n)` : "config = SSDConfig()",
    "output = ssd_generate(",
    "    pair.target,",
    "    pair.draft,",
    "    **pair.encode([question], [prefill]),",
    "    prefilled=len(prefill),",
    "    config=config,",
    `    max_new_tokens=${settings.longest},`,
    "    trace=True,",
    ")",
    "print(output.sequences[0].tolist())",
    "print(pair.tokenizer.decode(output.sequences[0]))",
    "",
  ].join("\n");
}
