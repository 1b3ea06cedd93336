"""The same model, computed faster: `speed_up` gives modules another `forward`, and `plain` takes it away again.

transformers' models and peft's layers stay what they are, and parameters keep their names, so that every architecture,
method and stored file stays plain. What changes is how a linear layer, a LoRA layer, a normalisation, an activation, a
dropout or attention is computed. With fp32 outputs and gradients are those of the plain modules but for rounding.

    forward.py     the one place where a module gets another `forward`, and the way back
    switch.py      `speed_up` and `plain`: which module gets which
    layers.py      linear and LoRA layers, layer normalisation, GELU
    recompute.py   outputs that the backward pass recomputes, so that they are not kept
    dropout.py     dropout whose masks are drawn beforehand
    attention.py   attention as batched matrix products, for CPUs
    causal.py      the same for the causal attention of decoders in training
    packing.py     windows packed without padding, for GPUs
    bypass.py      an encoder whose output was computed beforehand
"""

from src.model.fast.bypass import bypass_encoder
from src.model.fast.switch import plain, plain_attention, speed_up

__all__ = ["bypass_encoder", "plain", "plain_attention", "speed_up"]
