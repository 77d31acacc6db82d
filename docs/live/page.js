"use strict";

/** The page: controls, the answer that they ask for, and what was chosen of it. Every change decodes anew. */

const at = (id) => document.getElementById(id);
const GROUPS = { forbidden: "forbidden", benign: "harmless", scary: "harmless, sounds forbidden" };
const REST = 80; // milliseconds without a change before the page decodes
const SLOW = 150; // milliseconds a token in slow motion
const still = matchMedia("(prefers-reduced-motion: reduce)");

const strip = new Strip(at("strip"), (number) => choose(number));
let settings = firstSettings();
let wantedToken = null; // the token that the address asks for
let session = null;
let newest = null; // the answer that was asked for last
let decoding = null; // when it has been decoded
let answer = null; // the answer that is drawn
let shownConfig = null; // the settings that it was decoded with
let steps = []; // what is still to be drawn of it
let drawing = 0; // the timer or frame that will draw

// ------------------------------------------------------------------------------------------------ controls

function range(name) {
  return [Number(at(name).min), Number(at(name).max)];
}

function fillExamples() {
  const select = at("example");
  for (const [group, label] of Object.entries(GROUPS)) {
    const options = SSD_WORLD.examples
      .map((example, index) => [example, index])
      .filter(([example]) => example.group === group);
    const box = document.createElement("optgroup");
    box.label = label;
    box.append(...options.map(([{ question }, index]) => new Option(question, index)));
    select.append(box);
  }
  select.append(new Option("your own question", "own"));
}

/** Make the controls say what the settings are. */
function showSettings() {
  const index = SSD_WORLD.examples.findIndex(({ question }) => question === settings.question);
  at("example").value = index < 0 ? "own" : index;
  for (const name of ["question", "answer"]) if (at(name).value !== settings[name]) at(name).value = settings[name];
  for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === settings.mode;
  for (const name of NUMBERS) {
    at(name).value = settings[name];
    document.querySelector(`output[for=${name}]`).value = /alpha|threshold/.test(name)
      ? settings[name].toFixed(2)
      : settings[name];
  }
}

function changed(values) {
  settings = { ...settings, ...values };
  wantedToken = null;
  showSettings();
  soon();
}

let resting = 0;
function soon() {
  clearTimeout(resting);
  at("answering").setAttribute("aria-busy", "true");
  resting = setTimeout(decode, REST);
}

function wire() {
  at("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    decode();
  });
  at("example").addEventListener("change", ({ target }) => {
    const example = SSD_WORLD.examples[target.value];
    if (example) changed({ question: example.question, answer: example.answer });
    else {
      changed({ question: "", answer: "" });
      at("question").focus();
    }
  });
  for (const name of ["question", "answer"])
    at(name).addEventListener("input", ({ target }) => changed({ [name]: target.value }));
  for (const name of NUMBERS)
    at(name).addEventListener("input", ({ target }) => changed({ [name]: Number(target.value) }));
  for (const radio of document.getElementsByName("mode"))
    radio.addEventListener("change", ({ target }) =>
      changed({ mode: target.value, alpha_union: ownSettings(target.value).alpha_union }),
    );
  at("stop").addEventListener("click", stop);
  at("reset").addEventListener("click", () => changed(ownSettings(settings.mode)));
  at("compare").addEventListener("click", compare);
  at("link").addEventListener("click", () => copyText(location.href, at("link"), "A link to this page"));
  at("python").addEventListener("click", () => showText("These tokens, with ssd_lib", asPython(settings)));
  at("copy").addEventListener("click", () =>
    copyText(at("lines").textContent, at("copy"), at("code_title").textContent),
  );
  at("theme").addEventListener("click", () => useTheme(savedTheme(otherTheme()) ?? otherTheme()));
  at("folder").addEventListener("change", ({ target }) => openPair(() => pairFrom(chosenFile(target.files))));
  addEventListener("hashchange", readAddress);
}

function showText(title, text) {
  at("code_title").textContent = title;
  at("lines").textContent = text;
  if (!at("code").open) at("code").showModal();
}

/** Copy a text, and say so on the button. Where the browser forbids it, the text is shown to be copied by hand. */
async function copyText(text, button, title) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    showText(title, text);
    getSelection().selectAllChildren(at("lines"));
    return;
  }
  button.dataset.label ??= button.textContent; // a second click finds "Copied" there
  button.textContent = at("spoken").textContent = "Copied";
  setTimeout(() => (button.textContent = button.dataset.label), 1200);
}

// ------------------------------------------------------------------------------------------------ the address

let written = null; // the address that this page has read or written last

function readAddress() {
  if (location.hash === written) return;
  written = location.hash;
  const found = fromHash(location.hash, range);
  settings = found.settings;
  wantedToken = found.token;
  showSettings();
  soon();
}

function writeAddress(token) {
  if (location.hash !== written) return; // the reader has gone elsewhere, and the event that says so is on its way
  written = toHash(settings, token);
  try {
    history.replaceState(null, "", written);
  } catch {
    location.replace(written);
  }
  written = location.hash;
}

// ------------------------------------------------------------------------------------------------ decoding

async function decode() {
  clearTimeout(resting);
  resting = 0;
  if (!session) return at("missing").hidden || finish();
  const asked = settings,
    now = new Answer(session, session.written(asked));
  let first = true,
    outcome;
  newest = now;
  stopDrawing();
  steps = [];
  for (const role of ROLES) at(`${role}_alone`).textContent = "";
  if (wantedToken === null) writeAddress(null);
  at("answering").setAttribute("aria-busy", "true");
  at("stop").disabled = false;
  try {
    decoding = session.decode(asked, (round) => {
      if (newest !== now) return; // late news of an older answer
      if (first) begin(now, asked, round.prefill);
      else takeIn(round);
      first = false;
    });
    outcome = await decoding;
  } catch (error) {
    if (newest === now) failed(error);
    return;
  }
  if (newest === now) {
    answer = now;
    steps.push({ outcome });
    draw();
  }
}

function begin(now, asked, prefill) {
  answer = Object.assign(now, { prefill });
  shownConfig = configOf(asked);
  strip.clear(session.pieces(answer.prefix), prefill);
  drawToken(at("token"), null);
}

function takeIn(round) {
  answer.add(round);
  steps.push(...round.lines.map((line) => ({ line })));
  if (round.taken_back) steps.push({ back: round.taken_back });
  draw();
}

/** End the decoding; in slow motion, what was decoded already is drawn at once. */
function stop() {
  session?.stop();
  clearTimeout(resting);
  stopDrawing();
  for (const step of steps.splice(0)) drawStep(step);
}

function failed(error) {
  stopDrawing();
  answer = null;
  strip.clear();
  drawToken(at("token"), null);
  finish();
  at("status").textContent = error.message;
  at("status").className = "error";
  at("spoken").textContent = error.message;
}

function finish() {
  at("answering").removeAttribute("aria-busy");
  at("stop").disabled = true;
}

// ------------------------------------------------------------------------------------------------ drawing

function stopDrawing() {
  clearTimeout(drawing);
  cancelAnimationFrame(drawing);
  drawing = 0;
}

/** Draw soon what came: with every frame all of it, in slow motion a token at a time. Else, with less motion, at the end at once. */
function draw() {
  const slow = at("slow").checked;
  if (drawing || !steps.length || (still.matches && !slow && !steps.at(-1).outcome)) return;
  const paint = () => {
    drawing = 0;
    for (const step of steps.splice(0, slow ? 1 : steps.length)) drawStep(step);
    draw();
  };
  drawing = slow ? setTimeout(paint, SLOW) : requestAnimationFrame(paint);
}

function drawStep({ line, back, outcome }) {
  if (line) strip.add(line);
  if (back) strip.takeBack(back);
  if (outcome) ended(outcome);
}

function ended(outcome) {
  finish();
  const { lines, tokens } = answer,
    count = (all, some) => `${all} ${some}${all === 1 ? "" : "s"}`;
  const taken = lines.length - tokens.length,
    alarms = lines.filter(({ decided }) => decided === "alarm").length + answer.prefill.alarmed;
  const accepted = lines.filter(({ match, retracted }) => match && !retracted).length;
  const words = [
    count(tokens.length, "token"),
    `${accepted} accepted`,
    count(alarms, "alarm"),
    ...(taken ? [`${taken} taken back`] : []),
  ];
  const cost = [`${outcome.forwards?.target ?? 0} target and ${outcome.forwards?.draft ?? 0} draft forwards`];
  if (outcome.decoding > 0) cost.push(`${Math.round(lines.length / outcome.decoding)} tokens a second`);
  at("status").className = "";
  at("status").replaceChildren(
    element("b", { text: outcome.stopped ? "Stopped" : shownConfig?.retract ? "Hardened SSD" : "SSD" }),
    ` · ${[...words, ...(outcome.stopped ? [] : cost)].join(" · ")}`,
  );
  at("spoken").textContent = `Answer finished: ${words.join(", ")}. It says: ${answer.text}`;
  if (!lines.length) return;
  const turn = lines.findIndex(({ scheme, retracted }) => scheme === "union" && !retracted);
  choose(Math.min(wantedToken ?? Math.max(turn, 0), lines.length - 1), wantedToken !== null);
}

/** Look at a token: draws, and never decodes. `named`: the address says which. */
function choose(number, named = true) {
  strip.choose(number);
  const line = strip.lines[number];
  drawToken(at("token"), line, shownConfig, (id) => session.tokenizer.piece(id, line.before), answer?.prefill);
  if (named) writeAddress(number);
}

// ------------------------------------------------------------------------------------------------ each model alone

/** What each model says alone, after the answer that is being decoded; a newer answer ends it. */
async function compare() {
  at("compare").disabled = true;
  if (resting) decode();
  const now = newest;
  try {
    await decoding;
    for (const role of ROLES) {
      if (newest !== now) return;
      const said = new Answer(session, session.written(settings)),
        box = at(`${role}_alone`);
      const prefix = element("bdi", {
        className: "given",
        text: visible(session.tokenizer.decode(said.prefix, { skipSpecial: true })),
      });
      const own = element("bdi");
      box.replaceChildren(prefix, own);
      const { stopped } = await session.alone(role, settings, (token) => {
        said.tokens.push(token);
        own.textContent = visible(said.text);
      });
      if (stopped) return;
    }
    at("spoken").textContent = ROLES.map((role) => `The ${role} alone says: ${at(`${role}_alone`).textContent}`).join(
      " ",
    );
  } catch (error) {
    at("status").textContent = error.message;
  } finally {
    at("compare").disabled = false;
  }
}

// ------------------------------------------------------------------------------------------------ the beginning

/** Load a pair and decode the first answer. */
async function openPair(load) {
  at("missing").hidden = true;
  at("status").textContent = "Loading the pair …";
  try {
    const opened = new Session(await load());
    const { parameters } = await opened.ready;
    session = opened;
    at("compare").disabled = false;
    const millions = (role) => (parameters[role] / 1e6).toFixed(1);
    at("about").textContent =
      `Speculative Safety-Aware Decoding in your browser · target ${millions("target")} M, draft ${millions("draft")} M parameters · an invented world · nothing is sent`;
    decode();
  } catch (error) {
    missing(error);
  }
}

function missing(error) {
  at("status").textContent = "";
  at("why_missing").textContent =
    `The pair’s weights are not here: ${error.message}. Write them into one folder with this page by “python -m docs.live” and open build/live/index.html; or`;
  at("missing").hidden = false;
  finish();
}

async function begun() {
  fillExamples();
  wire();
  readAddress();
  showSettings();
  drawToken(at("token"), null);
  const pair = await generatedPair();
  if (pair) return openPair(() => pair);
  if (location.protocol === "file:") return missing(new Error("a page in a folder may not read its neighbours"));
  return openPair(() => pairFrom(fetched));
}

begun();
