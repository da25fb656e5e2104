"""The captioner: building, keeping and asking a vision-language model (LLaVA, Qwen2.5-VL).

    policy = load_policy("models/base")
    captions = generate_captions(policy, images, temperature=1.0, max_new_tokens=112, seed=0, batch_size=64)

A policy folder is a plain transformers folder (weights as safetensors only) plus ``balcap.json``. Supervised training
lives in ``balcap.warmstart``, reinforcement learning in ``balcap.training``. Importing this package is light; torch
and transformers are imported by the modules that need them.
"""
