"use strict";

/**
 * Both models in a Web Worker, so that the page stays responsive while they decode. `startWorker` runs in the page; the function
 * `workerMain` is the worker's program. Its source, and the libraries', go there as text: a page that was opened from a folder
 * (`file://`) may load a worker from nowhere else.
 */

/** @returns {Worker} It answers "load" with "ready", "decode" and "alone" with "round" until "done" or "stopped"; or "error". */
function startWorker() {
  const source = [modelLibrary, decoderLibrary, workerMain].map(String).join("\n");
  const url = URL.createObjectURL(new Blob([`"use strict";\n${source}\nworkerMain();`], { type: "text/javascript" }));
  const worker = new Worker(url);
  URL.revokeObjectURL(url);
  return worker;
}

function workerMain() {
  const { Llama, softmax, bytesOf } = modelLibrary();
  const { decode, alone } = decoderLibrary({ softmax });
  let pair = null,
    wanted = 0; // the number of the newest request: older ones stop

  /** Let waiting messages in: a new request or "stop" ends the running one. */
  const { port1, port2 } = new MessageChannel(),
    waiting = [];
  port1.onmessage = () => waiting.shift()();
  const breath = () =>
    new Promise((resolve) => {
      waiting.push(resolve);
      port2.postMessage(null);
    });

  function load({ target, draft }) {
    const model = ({ config, weights }) =>
      new Llama(config, typeof weights === "string" ? bytesOf(weights).buffer : weights);
    pair = { target: model(target), draft: model(draft) };
    const parameters = Object.fromEntries(Object.entries(pair).map(([role, { parameters }]) => [role, parameters]));
    postMessage({ kind: "ready", parameters, context: Math.min(pair.target.context, pair.draft.context) });
  }

  async function run({ id, prompt, prefilled, config, longest, model }) {
    wanted = id;
    await breath();
    if (wanted !== id) return postMessage({ kind: "stopped", id });
    const begun = performance.now(),
      [targets, drafts] = [pair.target.forwards, pair.draft.forwards];
    const rounds = model ? alone(pair[model], prompt, longest) : decode(pair, prompt, prefilled, config, longest);
    let first = null; // the time when the prompt was read
    for (const round of rounds) {
      first ??= performance.now();
      postMessage({ kind: "round", id, round });
      await breath();
      if (wanted !== id) return postMessage({ kind: "stopped", id });
    }
    const now = performance.now(),
      forwards = { target: pair.target.forwards - targets, draft: pair.draft.forwards - drafts };
    postMessage({ kind: "done", id, seconds: (now - begun) / 1000, decoding: (now - first) / 1000, forwards });
  }

  onmessage = async ({ data }) => {
    try {
      if (data.kind === "load") load(data);
      else if (data.kind === "stop") wanted = 0;
      else await run(data);
    } catch (error) {
      postMessage({ kind: "error", id: data.id, message: error.message });
    }
  };
}
