"""The cache: continuing, rewinding and ragged rows give what full forwards give."""

import gc
import weakref
from unittest import mock

import pytest
import torch
from conftest import micro_llama, perturbed

from ssd_lib.config import SSDConfig
from ssd_lib.decoding import kv_cache, ssd_generate
from ssd_lib.decoding.kv_cache import VISIBLE_STEP, CachedModel, RowCache


def full(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.inference_mode()
def test_ragged_rows_continue_and_rewind_like_full_forwards(kv_heads, attention):
    model = micro_llama(0, layers=2, kv_heads=kv_heads)
    model.set_attn_implementation(attention)
    rows = [[3, 4, 5, 6, 7], [8, 9]]
    cached = CachedModel(model, rows, 40)
    cached.cache.show_up_to(12)
    cached.forward(torch.tensor([[7, 11, 12], [9, 13, 14]]))
    cached.cache.advance(3)
    cached.cache.rewind(torch.tensor([2, 1]))  # keeps 7 | 9 13
    logits = cached.forward(torch.tensor([[15, 16], [17, 18]]))
    torch.testing.assert_close(logits[0], full(model, [*rows[0], 15, 16])[-2:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[1], full(model, [*rows[1], 13, 17, 18])[-2:], atol=1e-5, rtol=1e-4)


def test_the_mask_shows_each_token_its_own_past():
    cache = RowCache(1, 2, 8, "cpu")
    cache.advance(torch.tensor([3, 1]))
    mask = cache.mask(cache.positions(2))
    assert mask.shape == (2, 1, 2, 8)
    assert mask[0, 0].sum(-1).tolist() == [4, 5] and mask[1, 0].sum(-1).tolist() == [2, 3]


def test_the_visible_part_grows_in_steps_and_never_beyond_the_slots():
    cache = RowCache(1, 1, 100, "cpu")
    cache.show_up_to(1)
    assert cache.visible == VISIBLE_STEP
    cache.show_up_to(99)
    assert cache.visible == 100


@pytest.mark.parametrize("hardened", [False, True])
def test_an_answer_leaves_no_keys_and_values_for_the_garbage_collector(hardened):
    """In a cycle they would stay until it comes by: gigabytes of a real pair, a memory that grows of a server."""
    target = micro_llama(0, layers=2)
    config = (SSDConfig.hardened if hardened else SSDConfig)(candidates=5, bin_size=4, lookahead=3)
    made = []
    gc.collect()
    gc.disable()
    try:
        with mock.patch.object(kv_cache, "RowCache", side_effect=lambda *args: remembered(RowCache(*args), made)):
            ssd_generate(
                target, perturbed(target, 1, 0.3), [[3, 4], [5], [8, 9, 3]], config=config, max_new_tokens=16, rows=2
            )
        assert len(made) > 2 and not any(cache() for cache in made)
    finally:
        gc.enable()


def remembered(cache, made):
    """The cache itself; of it and its layers only a weak reference is kept."""
    made += map(weakref.ref, [cache, *cache.row_layers])
    return cache
