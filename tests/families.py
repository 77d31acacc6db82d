"""A micro-model of every family of causal language models that transformers knows, and what its own `generate` answers.

Sizes are those of a configuration's fields of these names; what a family needs beyond them is in OWN.
"""

import copy
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    embedding_size=32,
    d_embed=32,
    word_embed_proj_dim=32,
    intermediate_size=48,
    ffn_hidden_size=48,
    d_ff=48,
    d_inner=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    global_head_dim=8,
    kv_channels=8,
    d_kv=8,
    max_position_embeddings=64,
    sliding_window=8,
    attention_chunk_size=8,
    num_local_experts=4,
    num_experts=4,
    n_routed_experts=4,
    n_group=1,
    topk_group=1,
    moe_intermediate_size=16,
    expert_ffn_hidden_size=16,
    shared_expert_intermediate_size=16,
    moe_shared_expert_intermediate_size=16,
    num_experts_per_tok=2,
    moe_topk=2,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    index_head_dim=8,
    index_n_heads=2,
    index_topk=8,
    mamba_d_state=8,
    mamba_n_heads=4,
    mamba_d_head=16,
    mamba_d_conv=4,
    mamba_expand=2,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    encoder_layers=2,
    decoder_layers=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    num_encoder_attention_heads=4,
    num_decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=64,
    laurel_rank=8,
    ngram_vocab_size_ratio=2,
    tie_word_embeddings=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
OWN = {
    "ministral": dict(head_dim=8),
    "hunyuan_v1_dense": dict(head_dim=8),
    "hunyuan_v1_moe": dict(head_dim=8),
    "gemma3n_text": dict(
        layer_types=["sliding_attention", "full_attention"] * 2, num_hidden_layers=4, num_kv_shared_layers=2
    ),
    "gemma4_text": dict(
        layer_types=["sliding_attention", "full_attention"] * 2, num_hidden_layers=4, num_kv_shared_layers=2
    ),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "qwen3_moe": dict(use_sliding_window=True, sliding_window=8),
    "minimax_m3_vl_text": dict(layer_types=["full_attention", "minimax_m3_sparse"], index_topk=8),
    "gemma4_assistant": dict(hidden_size_per_layer_input=0),
    "gemma4_unified_assistant": dict(hidden_size_per_layer_input=0),
    "recurrent_gemma": dict(
        num_hidden_layers=3, block_types=["recurrent", "recurrent", "attention"], attention_window_size=8
    ),
    "xlnet": dict(d_head=8),
    "qwen4_exp_text": dict(
        indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=8, indexer_compress_ratio=2
    ),
    "zamba2": dict(hybrid_layer_ids=[1], layers_block_type=["mamba", "hybrid"]),
    "cohere_compass_text": dict(
        rope_parameters={
            k: dict(rope_type="default", rope_theta=10000.0) for k in ("sliding_attention", "full_attention")
        }
    ),
    "bamba": dict(attn_layer_indices=[1]),
    "codegen": dict(rotary_dim=4),
    "dbrx": dict(
        d_model=32,
        n_heads=4,
        n_layers=2,
        max_seq_len=64,
        attn_config=dict(kv_n_heads=2, rope_theta=1e4, clip_qkv=8.0),
        ffn_config=dict(hidden_size=32, ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2),
    ),
    "dots1": dict(num_experts_per_tok=2, n_shared_experts=1, n_routed_experts=4, first_k_dense_replace=1),
    "falcon_h1": dict(mamba_d_ssm=64),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], window_size=8),
    "gptj": dict(rotary_dim=4),
    "granitemoehybrid": dict(layer_types=["linear_attention", "full_attention"]),
    "jamba": dict(attn_layer_offset=1, attn_layer_period=2),
    "lfm2": dict(layer_types=["conv", "full_attention"]),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"], num_dense_layers=1),
    "mamba2": dict(num_heads=8, head_dim=8, state_size=8, n_groups=1),
    "nemotron": dict(num_key_value_heads=2, head_dim=8),
    "reformer": dict(
        is_decoder=True, axial_pos_shape=[8, 8], axial_pos_embds_dim=[16, 16], attn_layers=["local", "lsh"]
    ),
    "xmod": dict(languages=["en_XX"], default_language="en_XX"),
    "zamba": dict(num_hidden_layers=3),
    "zaya": dict(num_experts_per_tok=1),
}


NOT_MICRO = {
    "blt": "96 million weights of hash tables",
    "dots3_note": "layers that differ from each other, by number",
    "dots3_note_text": "47 million weights",
    "gemma3n": "its vision tower needs timm",
    "gemma4_assistant": "continues another model's cache",
    "gemma4_unified_assistant": "continues another model's cache",
    "musicgen": "text to audio, three models in one",
    "musicgen_melody": "text to audio, three models in one",
    "qwen4_exp": "qwen4_exp_text is its decoder",
    "xlstm": "its recurrent state has fixed sizes",
}


def small(default, own) -> dict[str, Any]:
    """The arguments that make this configuration, and those inside it, small; windows of 8 wherever there may be one."""
    values: dict[str, Any] = {name: value for name, value in SIZES.items() if may_be_set(default, name, value)}
    if "kv_lora_rank" in values:
        values["num_key_value_heads"] = values["num_attention_heads"]
    for sub in getattr(type(default), "sub_configs", {}):
        inner = vars(default).get(sub)
        if inner is not None and not isinstance(inner, dict):
            values[sub] = small(inner, own)
    if vars(default).get("layer_types") and may_be_set(default, "layer_types", default.layer_types):
        values["layer_types"] = spread(default.layer_types)
        values["num_hidden_layers"] = len(values["layer_types"])
        if hasattr(default, "sliding_window") and set(values["layer_types"]) == {"full_attention"}:
            values |= dict(layer_types=["sliding_attention", "full_attention"], sliding_window=8)
            values |= dict(use_sliding_window=True) if hasattr(default, "use_sliding_window") else {}
    elif hasattr(default, "sliding_window") and may_be_set(default, "sliding_window", 8, even_none=True):
        values["sliding_window"] = 8
    return values | own


def may_be_set(default, name, value, even_none=False):
    try:
        if getattr(default, name, None) is None and not even_none:
            return False
        setattr(copy.deepcopy(default), name, value)
    except Exception:  # a field that is derived from others, or one that differs from layer to layer
        return False
    return True


def spread(types):
    """One layer of every type, and at least two."""
    kinds = list(dict.fromkeys(types))
    return kinds if len(kinds) > 1 else kinds * 2


def micro_model(name, seed=0, **own):
    """A random model of this family whose next-token distributions are sharp; `own`: fields of its configuration."""
    torch.manual_seed(seed)
    kind = CONFIG_MAPPING[name]
    config = kind(**small(kind(), OWN.get(name, {}) | own))
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    assert size < 20_000_000, f"{name} is not micro: {size} weights"
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(std=0.3)
        if (out := model.get_output_embeddings()) is not None:
            out.weight.normal_(std=1.0)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def answer(model, prompt, new):
    """The greedy answer of the model's own `generate`, and the narrowest gap between a best and a second-best logit."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=new,
        return_dict_in_generate=True,
        output_logits=True,
    )
    gaps = [float(-logits[0].float().topk(2).values.diff()) for logits in output.logits]
    return output.sequences[0, len(prompt) :].tolist(), min(gaps)


def sharp_model(name, lengths, new, **own):
    """A micro-model, prompts of these lengths and its answers, none of which hangs on a near-tie."""
    for seed in range(6):
        model = micro_model(name, seed, **own)
        generator = torch.Generator().manual_seed(seed)
        vocabulary = model.config.get_text_config().vocab_size
        prompts = [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in lengths]
        answers, gaps = zip(*(answer(model, prompt, new) for prompt in prompts), strict=True)
        if min(gaps) > 1e-3 and len(set(answers[0])) > 3:
            return model, prompts, list(answers)
    raise AssertionError(f"six micro-models of {name} had near-ties or said one thing only")
