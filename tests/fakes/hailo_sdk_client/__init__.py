"""A strict fake of the vendor's Dataflow Compiler, `hailo_sdk_client`, backed by ONNX Runtime.

The package is closed source. What the fake does comes from FACTS sections 1 and 2 ("FACTS"), from the public
reference flow hailocs/hailo-whisper ("reference flow"), from public sources, scripts and tracebacks of its users
("public ..."), or, where nothing is published, from our own choice ("documented only": stricter where in doubt). Each
place says which. Known to be stricter than the real thing:
- a model script cannot be loaded once the model is quantised (the public model zoo does so before it compiles);
- a calibration or fine-tuning size beyond the rows always fails (by one public note, calibset_size is cut silently);
- callables and TensorFlow datasets as calibration data are not taken; comments in scripts need a line of their own.

Configuration: the JSON file that the environment variable FAKE_HAILO names, read at every call. Keys of this fake:
- "dfc": version, "3.33.0" by default. 3.x compiles for hailo8, hailo8l, hailo8r; 5.x for hailo10h, hailo15h.
- "dfc_log": list of lines that `optimize` prints besides its own, as "[info] <line>".
- "dfc_original_names": false leaves `original_names` of every layer of the network empty; a HEF keeps its names.
- "dfc_demote_outputs": true reproduces the 16-bit output that is compiled to 8 bits with its 16-bit zero point.
- "dfc_reverse_outputs": true makes `infer` return the outputs in reverse; their order is documented nowhere.
- "faults": {"ClientRunner.<method>": {"raise": text, "sleep": seconds, "at": n}} for __init__, translate_onnx_model,
  save_har, load_har, load_model_script, optimize_full_precision, optimize, compile and infer. "sleep" holds the method
  in the middle of its work (in save_har with half a file written), "raise" then raises an exception of no documented
  type, and "at" limits both to the n-th call of the process, from 1.
The other top-level keys of the file belong to the fake of hailo_platform. A key that neither knows is an error.

A run writes hailo_sdk.client.log into the current folder, as the real one does.
"""

from hailo_sdk_client import _config, _log
from hailo_sdk_client._runner import ClientRunner
from hailo_sdk_client.exposed_definitions import InferenceContext

__all__ = ["ClientRunner", "InferenceContext"]

# Public log: the first thing that an import of the package says on a machine without a GPU.
_log.tensorflow()
print("[info] No GPU chosen and no suitable GPU found, falling back to CPU.", flush=True)


def __getattr__(name: str) -> str:
    if name == "__version__":
        return _config.version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
