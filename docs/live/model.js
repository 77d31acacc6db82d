"use strict";

/**
 * A small Llama, read from safetensors and run in plain JavaScript.
 *
 * Weights and activations are float32, as in the library (the files hold float16). Sums run in JavaScript's own doubles, always
 * from the first product to the last: a token's logits are the same to the last bit however many tokens are read with it, so
 * the answer cannot depend on the lookahead.
 *
 * The function around it lets the page hand this source to a Web Worker, which `file://` allows in no other way.
 */
function modelLibrary() {
  // ---------------------------------------------------------------------------------------------- safetensors

  /** Bytes of a base64 text. */
  function bytesOf(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  }

  /** Every float16 as a number: sign, five bits of exponent, ten of fraction. */
  const HALVES = Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1,
      exponent = (bits >> 10) & 31,
      fraction = (bits & 1023) / 1024;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });

  /** The tensors of a safetensors file by name: eight bytes with the header's length, a JSON header, the numbers. */
  function tensorsOf(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    delete header.__metadata__;
    const tensors = {};
    for (const [
      name,
      {
        dtype,
        data_offsets: [start, end],
      },
    ] of Object.entries(header)) {
      const bytes = buffer.slice(8 + length + start, 8 + length + end);
      if (dtype === "F16") tensors[name] = Float32Array.from(new Uint16Array(bytes), (bits) => HALVES[bits]);
      else if (dtype === "F32") tensors[name] = new Float32Array(bytes);
      else throw new Error(`${name} is stored as ${dtype}: this page reads F16 and F32`);
    }
    return tensors;
  }

  // ---------------------------------------------------------------------------------------------- arithmetic

  /** A weight matrix [outer, inner], laid out anew so that the weights of eight neighbouring outputs stand side by side. */
  function packed(weight, inner) {
    const out = new Float32Array(weight.length),
      outer = weight.length / inner;
    if (outer % 8) throw new Error(`this page multiplies eight rows at once, and a matrix has ${outer}`);
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < inner; i++) out[(o - (o % 8)) * inner + 8 * i + (o % 8)] = weight[o * inner + i];
    return out;
  }

  /**
   * out[r, o] = Σ_i x[r, i] · weight[o, i] for `rows` tokens at once, with a packed weight: what eight outputs need stays in the
   * fastest cache while all tokens use it. Nearly all the time is spent here.
   */
  function matmul(out, x, weight, rows, inner, outer) {
    for (let o = 0; o < outer; o += 8)
      for (let r = 0; r < rows; r++) {
        let a = 0,
          b = 0,
          c = 0,
          d = 0,
          e = 0,
          f = 0,
          g = 0,
          h = 0;
        for (let i = r * inner, end = i + inner, w = o * inner; i < end; i++, w += 8) {
          const value = x[i];
          a += value * weight[w];
          b += value * weight[w + 1];
          c += value * weight[w + 2];
          d += value * weight[w + 3];
          e += value * weight[w + 4];
          f += value * weight[w + 5];
          g += value * weight[w + 6];
          h += value * weight[w + 7];
        }
        const at = r * outer + o;
        out[at] = a;
        out[at + 1] = b;
        out[at + 2] = c;
        out[at + 3] = d;
        out[at + 4] = e;
        out[at + 5] = f;
        out[at + 6] = g;
        out[at + 7] = h;
      }
  }

  /** Every row divided by the root of its mean square, times the layer's weights. */
  function rmsNorm(out, x, weight, rows, epsilon) {
    const width = weight.length;
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += x[r * width + i] ** 2;
      const scale = Math.fround(1 / Math.sqrt(sum / width + epsilon));
      for (let i = 0; i < width; i++) out[r * width + i] = weight[i] * Math.fround(x[r * width + i] * scale);
    }
  }

  function addTo(x, y, count) {
    for (let i = 0; i < count; i++) x[i] += y[i];
  }

  // ---------------------------------------------------------------------------------------------- the model

  class Llama {
    /**
     * @param {object} config What config.json holds.
     * @param {ArrayBuffer} file What model.safetensors holds.
     */
    constructor(config, file) {
      const { hidden_size: width, num_attention_heads: heads, num_hidden_layers: layers } = config;
      if (config.model_type !== "llama" || !config.tie_word_embeddings || config.attention_bias || config.mlp_bias)
        throw new Error("this page runs a Llama with tied embeddings and without biases");
      this.config = config;
      this.heads = heads;
      this.size = config.head_dim ?? width / heads; // of a head
      this.sharing = heads / config.num_key_value_heads; // heads that read the same keys
      this.context = config.max_position_embeddings;
      const tensors = tensorsOf(file);
      this.parameters = Object.values(tensors).reduce((sum, { length }) => sum + length, 0);
      const named = (name) => tensors[`model.${name}.weight`];
      this.embeddings = named("embed_tokens");
      this.output = packed(this.embeddings, width); // tied: the embeddings are the output matrix, too
      this.norm = named("norm");
      this.layers = Array.from({ length: layers }, (_, index) => {
        const own = (name) => named(`layers.${index}.${name}`);
        const matrix = (name, inner = width) => packed(own(name), inner);
        return {
          before: own("input_layernorm"),
          after: own("post_attention_layernorm"),
          query: matrix("self_attn.q_proj"),
          key: matrix("self_attn.k_proj"),
          value: matrix("self_attn.v_proj"),
          out: matrix("self_attn.o_proj", heads * this.size),
          gate: matrix("mlp.gate_proj"),
          up: matrix("mlp.up_proj"),
          down: matrix("mlp.down_proj", config.intermediate_size),
          keys: new Float32Array(this.context * config.num_key_value_heads * this.size), // the cache: one row a token read
          values: new Float32Array(this.context * config.num_key_value_heads * this.size),
        };
      });
      this.read = []; // the token ids that the cache holds
      this.forwards = 0;
      this.rotations = this.rotationTable(config.rope_parameters?.rope_theta ?? config.rope_theta);
    }

    /** Cosine and sine of every position's angle for every pair of a head's numbers (RoPE). */
    rotationTable(theta) {
      const half = this.size / 2,
        table = new Float32Array(this.context * this.size);
      for (let place = 0; place < this.context; place++)
        for (let i = 0; i < half; i++) {
          const angle = Math.fround(place * Math.fround(1 / theta ** (i / half)));
          table[place * this.size + i] = Math.cos(angle);
          table[place * this.size + half + i] = Math.sin(angle);
        }
      return table;
    }

    /** Forget all but the first `length` tokens: rejection costs nothing. */
    rewind(length) {
      this.read.length = Math.min(length, this.read.length);
    }

    /** Make the cache hold exactly these tokens; the beginning that it shares with what it holds is not read again. */
    hold(ids) {
      let shared = 0;
      while (shared < this.read.length && shared < ids.length && this.read[shared] === ids[shared]) shared++;
      this.rewind(shared);
      if (shared < ids.length) this.forward(ids.slice(shared), ids.length - shared);
    }

    /**
     * Read tokens after those in the cache.
     *
     * @param {number[]} ids
     * @param {number} from Logits are computed from this one on; `ids.length` for none.
     * @returns {Float32Array[]} A row of logits a token: the model's scores for what comes next.
     */
    forward(ids, from = 0) {
      const { config, size } = this,
        rows = ids.length,
        start = this.read.length;
      const width = config.hidden_size,
        inner = config.intermediate_size,
        epsilon = config.rms_norm_eps;
      const across = this.heads * size,
        narrow = across / this.sharing;
      if (start + rows > this.context) throw new Error(`the text has more than ${this.context} tokens: shorten it`);
      const x = new Float32Array(rows * width),
        normed = new Float32Array(rows * width),
        change = new Float32Array(rows * width);
      const query = new Float32Array(rows * across),
        mixed = new Float32Array(rows * across);
      const gate = new Float32Array(rows * inner),
        up = new Float32Array(rows * inner);
      ids.forEach((id, r) => x.set(this.embeddings.subarray(id * width, (id + 1) * width), r * width));
      for (const layer of this.layers) {
        const keys = layer.keys.subarray(start * narrow),
          values = layer.values.subarray(start * narrow);
        rmsNorm(normed, x, layer.before, rows, epsilon);
        matmul(query, normed, layer.query, rows, width, across);
        matmul(keys, normed, layer.key, rows, width, narrow);
        matmul(values, normed, layer.value, rows, width, narrow);
        this.rotate(query, rows, across, start);
        this.rotate(keys, rows, narrow, start);
        this.attend(mixed, query, layer, rows, start);
        matmul(change, mixed, layer.out, rows, across, width);
        addTo(x, change, x.length);
        rmsNorm(normed, x, layer.after, rows, epsilon);
        matmul(gate, normed, layer.gate, rows, width, inner);
        matmul(up, normed, layer.up, rows, width, inner);
        for (let i = 0; i < gate.length; i++) gate[i] = Math.fround(gate[i] / (1 + Math.exp(-gate[i]))) * up[i]; // SwiGLU
        matmul(change, gate, layer.down, rows, inner, width);
        addTo(x, change, x.length);
      }
      this.read.push(...ids);
      this.forwards += 1;
      const asked = rows - from,
        last = x.subarray(from * width),
        vocabulary = config.vocab_size;
      const logits = new Float32Array(asked * vocabulary);
      rmsNorm(normed, last, this.norm, asked, epsilon);
      matmul(logits, normed, this.output, asked, width, vocabulary);
      return Array.from({ length: asked }, (_, r) => logits.subarray(r * vocabulary, (r + 1) * vocabulary));
    }

    /** Turn each head's pairs of numbers (i, i + half) by the angle of their position. In place. */
    rotate(x, rows, across, start) {
      const { size, rotations } = this,
        half = size / 2;
      for (let r = 0; r < rows; r++) {
        const angles = (start + r) * size;
        for (let head = r * across; head < (r + 1) * across; head += size)
          for (let i = 0; i < half; i++) {
            const cos = rotations[angles + i],
              sin = rotations[angles + half + i];
            const one = x[head + i],
              other = x[head + half + i];
            x[head + i] = Math.fround(one * cos) - Math.fround(other * sin);
            x[head + half + i] = Math.fround(other * cos) + Math.fround(one * sin);
          }
      }
    }

    /** Every token looks at itself and all before it: softmax(q · k / √size) over the cache, then that mean of the values. */
    attend(out, query, layer, rows, start) {
      const { size, heads, sharing } = this,
        across = heads * size,
        narrow = across / sharing;
      const { keys, values } = layer,
        weights = new Float32Array(start + rows),
        scale = 1 / Math.sqrt(size);
      for (let r = 0; r < rows; r++)
        for (let h = 0; h < heads; h++) {
          const q = r * across + h * size,
            head = Math.floor(h / sharing) * size,
            seen = start + r + 1;
          for (let place = 0; place < seen; place++) {
            const k = place * narrow + head;
            let sum = 0;
            for (let i = 0; i < size; i++) sum += query[q + i] * keys[k + i];
            weights[place] = sum * scale;
          }
          softmax(weights, seen);
          for (let i = 0; i < size; i++) {
            let sum = 0;
            for (let place = 0; place < seen; place++) sum += weights[place] * values[place * narrow + head + i];
            out[q + i] = sum;
          }
        }
    }
  }

  /** Scores to probabilities, the first `count` of them, in place. */
  function softmax(scores, count = scores.length) {
    let highest = -Infinity,
      sum = 0;
    for (let i = 0; i < count; i++) if (scores[i] > highest) highest = scores[i];
    for (let i = 0; i < count; i++) sum += scores[i] = Math.exp(scores[i] - highest);
    for (let i = 0; i < count; i++) scores[i] /= sum;
    return scores;
  }

  return { Llama, softmax, bytesOf };
}
