"use strict";

/**
 * Where the pair comes from: the generated script `pair.js` beside this page (`python -m docs.live`); else the repository's own
 * files in ../../data/toy, over http or, where the page was opened from a folder, in a folder that the reader chooses.
 */
const PAIR_FOLDER = "../../data/toy/";
const ROLES = ["target", "draft"];

/** The generated script's `SSD_PAIR`, or null where there is none. */
function generatedPair() {
  return new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = "pair.js";
    script.onload = () => resolve(SSD_PAIR);
    script.onerror = () => resolve(null);
    document.head.append(script);
  });
}

/** The same from files. `bytes` gives a file's bytes by its path within data/toy. */
async function pairFrom(bytes) {
  const json = async (path) => JSON.parse(new TextDecoder().decode(await bytes(path)));
  const pair = { tokenizer: await json("target/tokenizer.json") };
  for (const role of ROLES)
    pair[role] = { config: await json(`${role}/config.json`), weights: await bytes(`${role}/model.safetensors`) };
  return pair;
}

async function fetched(path) {
  const response = await fetch(PAIR_FOLDER + path);
  if (!response.ok) throw new Error(`${PAIR_FOLDER}${path} is not there (${response.status})`);
  return response.arrayBuffer();
}

/** @param {FileList} files Of the chosen folder. */
function chosenFile(files) {
  return async (path) => {
    const found = Array.from(files).find((file) => `/${file.webkitRelativePath}`.endsWith(`/${path}`));
    if (!found) throw new Error(`the chosen folder has no ${path}: choose data/toy of the repository`);
    return found.arrayBuffer();
  };
}
