"""Models: chat templates, pairs, batched greedy answers, training, refusal phrases."""
