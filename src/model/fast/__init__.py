"""Faster computation of the same model: `speed_up` replaces the `forward` of modules, and `plain` restores it.

The modules of transformers and peft stay the same, and parameters keep their names, so that architectures, methods and
stored files are not affected. Only the computation of linear layers, LoRA layers, normalisation, activations, dropout
and attention changes. In fp32, outputs and gradients are those of the plain modules except for rounding.

    forward.py     replaces and restores the `forward` of a module
    switch.py      `speed_up` and `plain`: which module gets which `forward`
    layers.py      linear and LoRA layers, layer normalisation, GELU
    recompute.py   outputs that the backward pass recomputes, so that they need not be kept
    dropout.py     dropout with masks that are drawn in advance
    attention.py   attention as batched matrix products, for CPUs
    causal.py      the same for the causal attention of decoders in training
    packing.py     windows packed without padding, for GPUs
    bypass.py      an encoder whose output was computed in advance
"""

from src.model.fast.bypass import bypass_encoder
from src.model.fast.switch import plain, plain_attention, speed_up

__all__ = ["bypass_encoder", "plain", "plain_attention", "speed_up"]
