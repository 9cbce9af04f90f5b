"""The ladder of rungs, from stock Whisper to the device: what each is compared with, and what is new in it.

A rung is an encoder and a decoder. The runtime measures what a bundle holds (`device`, `device+host`, or `emulated`,
`emulated+host`); the toolchain measures the others as well.
"""

# What each rung is compared with: the first of these that was measured.
LADDER = {
    "stock": (),
    "float": ("stock",),
    "float+host": ("float",),
    "dfc-native": ("float", "stock"),
    "dfc-optimised": ("dfc-native", "float", "stock"),
    "dfc-quantised+float": ("float", "stock"),
    "float+dfc-quantised": ("float", "stock"),
    "dfc-quantised": ("dfc-optimised", "dfc-native", "float", "stock"),
    "emulated+float": ("float", "stock"),
    "float+emulated": ("float", "stock"),
    "emulated": ("float", "stock"),
    "emulated+host": ("emulated+float", "float+host", "float", "stock", "emulated"),
    "device+float": ("float", "stock"),
    "device": ("float", "stock"),
    "device+host": ("device+float", "float+host", "float", "stock", "device"),
}
CHANGED = {
    "float": "the window, the slots and our decoding",
    "float+host": "the int8 decoder for the host",
    "dfc-native": "the networks as Hailo's compiler parsed them",
    "dfc-optimised": "what Hailo's compiler changes before it quantises",
    "dfc-quantised+float": "the encoder as Hailo's compiler quantised it",
    "float+dfc-quantised": "the decoder as Hailo's compiler quantised it, or the bundle's embeddings",
    "dfc-quantised": "both networks as Hailo's compiler quantised them",
    "emulated+float": "the quantised encoder",
    "float+emulated": "the quantised decoder or the bundle's embeddings",
    "emulated": "the quantised encoder with the quantised decoder",
    "emulated+host": "the decoder for the host behind the quantised encoder",
    "device+float": "the encoder on the device",
    "device": "the encoder with the decoder on the device",
    "device+host": "the decoder for the host behind the device",
}
EMULATED, DEVICE, HOST = "emulated", "device", "host"


def position(rung: str) -> int:
    """Where a rung stands in the ladder; behind it for a mixture that is none of its rungs."""
    names = list(LADDER)
    return names.index(rung) if rung in LADDER else len(names)


def on_device(rung: str) -> bool:
    """Whether any part of a rung runs on a Hailo device."""
    return DEVICE in rung.split("+")
